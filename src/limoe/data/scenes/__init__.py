"""Built-in data: scenes of shapes."""
