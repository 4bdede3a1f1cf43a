"""One run: its algorithm, its state, its files and its record."""
