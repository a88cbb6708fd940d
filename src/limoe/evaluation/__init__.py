"""What a model can do: zero-shot classification and retrieval, from features and from whole tasks."""
