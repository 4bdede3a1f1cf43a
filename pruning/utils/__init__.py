"""Files, locks, digests and statistics that know nothing of pruning."""
