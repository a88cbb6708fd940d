"""Losses on the router alone. One family per file; every atom reads a `RouterOutput` and returns a scalar to minimise."""
