"""From YAML to checked settings and objects."""
