"""Reads finished run folders and writes what people look at."""
