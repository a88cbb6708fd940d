"""Losses on the router alone. One family per file; every atom maps a `RouterOutput` to a scalar to minimise."""
