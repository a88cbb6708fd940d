"""Tar shards: indexing, random access and streaming."""
