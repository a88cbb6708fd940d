"""Evaluation tasks made from data."""
