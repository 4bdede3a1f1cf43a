"""What every architecture weighs, without importing torch: a table beside this file, counted once.

After a new architecture, or another version of torchvision, count again::

    python -m pruning.models.model_stats

(half a minute); a test compares the table with the networks.
"""

from __future__ import annotations

import csv
from pathlib import Path

COLUMNS = ("architecture", "input", "parameters", "macs")
TABLE = Path(__file__).with_suffix(".csv")


def model_stats() -> dict[str, dict[str, str]]:
    """Architecture -> `input` ("3x32x32"), `parameters` and `macs` (multiply-adds for one image); no user's own."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        return {row.pop("architecture"): row for row in csv.DictReader(file)}


def write() -> None:
    """Count every network anew, and write the table."""
    from pruning.models import meta_model, names

    with TABLE.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for name in names():
            table.writerow({"architecture": name, **meta_model.facts(name)})


if __name__ == "__main__":
    write()
