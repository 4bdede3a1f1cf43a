"""The options of a run and how they are resolved."""
