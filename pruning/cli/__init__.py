"""The command line: commands, what the terminal shows, signals and other outputs of a run."""
