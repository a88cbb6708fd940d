"""Measurements that tests must not make: how long things take and how much memory they need."""
