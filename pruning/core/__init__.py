"""Pruning of any `nn.Module`: layers, masks, exact selection, statistics that scores need, groups."""
