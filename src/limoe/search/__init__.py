"""Adaptive search: optuna proposes values of config keys, and the trials of `limoe.studies` try them."""
