"""`python -m pruning` is the same as `python main.py`."""

from pruning.cli.app import main

main()
