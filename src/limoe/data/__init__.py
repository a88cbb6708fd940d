"""Data sources, transforms, tokenizers and the data module that turns them into batches."""
