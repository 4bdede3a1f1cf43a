"""python -m pruning does what main.py does."""

from pruning.cli.app import main

main()
