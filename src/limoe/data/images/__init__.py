"""Decoding, checking and transforming images."""
