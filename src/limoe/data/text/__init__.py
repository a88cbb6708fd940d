"""Captions, prompts and tokenizers."""
