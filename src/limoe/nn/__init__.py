"""Small extensions of `torch.nn` that every package may use."""
