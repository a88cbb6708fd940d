"""Adaptive search over config values by optuna, with trials of `limoe.studies`."""

import importlib

from limoe.errors import ConfigError

for package in ("optuna", "pandas"):  # optuna needs pandas for its table of trials, without depending on it
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"a search needs the package {package}: pip install {package}") from error
