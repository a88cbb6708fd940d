"""Who computes a token: routers, the order in which tokens sit down, and the way to an expert and back."""
