"""The command line: `limoe <command>`."""
