"""Tar shards: built, indexed, read in any order or as a stream."""
