"""Built-in data: synthetic scenes of shapes."""
