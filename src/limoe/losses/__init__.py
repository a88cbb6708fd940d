"""Losses: contrastive, and those on the routers."""
