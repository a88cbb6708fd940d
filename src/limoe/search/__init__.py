"""Adaptive search: optuna proposes values of config keys, and the trials of `limoe.studies` try them."""

import importlib

from limoe.errors import ConfigError

for package in ("optuna", "pandas"):  # optuna makes its table of trials with pandas, and does not require it
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f"a search needs the package {package}: pip install {package}") from error
