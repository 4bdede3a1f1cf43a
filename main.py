"""Train a network, prune it in rounds, measure it: python main.py --arch my --method global_mag --sparsity 0.9"""

from pruning.cli.app import main

main()
