"""Checkpoints and exports: written, found, read and changed into other models."""
