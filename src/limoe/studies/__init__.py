"""Studies: variants of a run over seeds, every trial in its own process."""
