"""Pruning of any `nn.Module`.

`prune` shows the algorithm from top to bottom: layers, budgets, groups, scores, masks, corrections. Each has a module.
"""
