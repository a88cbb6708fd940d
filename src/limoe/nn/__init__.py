"""Small extensions of `torch.nn` that every room may use."""
