"""Which runs prune along the same way, and differ only in how far they go. No torch in here."""

from __future__ import annotations

from pruning.config import AMOUNTS, RunConfig, digest

HOW_FAR = {*AMOUNTS, "rounds"}


def chain_key(config: RunConfig) -> str:
    """A digest of all that determines a run's result but how far it prunes.

    Of two runs with equal keys the one whose rounds' amounts begin with those of the other goes through the same
    networks, to the bit.
    """
    return digest({name: value for name, value in config.identity().items() if name not in HOW_FAR})
