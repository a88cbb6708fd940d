"""The training step, and what moves the weights."""
