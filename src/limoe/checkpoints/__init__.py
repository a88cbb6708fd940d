"""Checkpoints and exports: writing, finding, loading, and initialising other models from them."""
