"""Evaluation tasks: kinds, factories and files."""
