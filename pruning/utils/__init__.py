"""General helpers without knowledge of pruning: atomic files, locks, digests, YAML, PyTorch modules, statistics."""
