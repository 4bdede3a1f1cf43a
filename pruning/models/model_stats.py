"""Parameters and MACs of every architecture, from a table in this folder, so that `list` needs no torch.

After a new architecture or another version of torchvision, update the table (half a minute; a test compares
it with the networks)::

    python -m pruning.models.model_stats
"""

from __future__ import annotations

import csv
from pathlib import Path

COLUMNS = ("architecture", "input", "parameters", "macs")
TABLE = Path(__file__).with_suffix(".csv")


def model_stats() -> dict[str, dict[str, str]]:
    """Return `input` ("3x32x32"), `parameters` and `macs` (for one image) by architecture."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row.pop("architecture"): row for row in csv.DictReader(file)}


def update_table() -> None:
    """Count every network and write the table."""
    from pruning.models import meta_model, names

    with TABLE.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for name in names():
            table.writerow({"architecture": name, **meta_model.count_stats(name)})


if __name__ == "__main__":
    update_table()
