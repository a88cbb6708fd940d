"""What runs over several processes."""
