"""Routers: which experts compute a token, which tokens get a slot, and how tokens travel there and back."""
