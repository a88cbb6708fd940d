"""The folder of a run: layout, record and reading."""
