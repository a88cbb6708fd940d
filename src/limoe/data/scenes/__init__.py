"""Built-in data: synthetic scenes of shapes, and emblems with names."""
