"""Studies: variants of a run over seeds, every trial in its own process, with one row per trial in the results."""
