"""The folder of a run: its files, its record, and how it is read."""
