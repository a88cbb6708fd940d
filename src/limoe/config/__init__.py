"""Composition, checks and instantiation of configs."""
