"""Images: decoded, checked and transformed."""
