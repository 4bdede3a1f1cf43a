"""python -m pruning does what main.py does."""

from pruning.cli import main

main()
