"""Checkpoints and exports: writing, finding, loading, and initialisation from them."""
