"""Data sources: image folders, tables, Hugging Face datasets, mixtures."""
