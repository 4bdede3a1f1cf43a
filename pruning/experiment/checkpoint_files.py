"""Numbered checkpoint files in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.utils.digests import digest, file_digest
from pruning.utils.files import read_tensors, write_bytes_atomic, write_error, write_tensors_atomic

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2  # checkpoints in a folder


class CheckpointFiles:
    """Numbered checkpoints, each a safetensors file and a JSON file that is written after it.

    The JSON file holds the SHA-256 of both, so that a damaged or incomplete checkpoint is skipped.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Write a checkpoint, then delete all but the newest two.

        Raises:
            RunStoppedError: The file cannot be written, or the folder of the run was removed.
        """
        try:
            self.folder.mkdir(exist_ok=True)  # without its parents: a removed run is not created again
        except OSError as error:
            raise write_error(self.folder, error.strerror or str(error)) from error
        number = max(self._numbers(), default=0) + 1
        write_tensors_atomic(self._tensors(number), tensors)
        sealed = {
            "values": dict(values),
            "values_sha256": digest(values),
            "tensors_sha256": file_digest(self._tensors(number)),
        }
        write_bytes_atomic(self._values(number), json.dumps(sealed, allow_nan=False).encode())
        for old in sorted(self._numbers())[:-KEPT]:
            self._values(old).unlink(missing_ok=True)
            self._tensors(old).unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return tensors and values of the newest intact checkpoint; None if there is none."""
        for number in sorted(self._numbers(), reverse=True):
            try:
                sealed = json.loads(self._values(number).read_text(encoding="utf-8"))
                values = sealed["values"]
                if digest(values) != sealed["values_sha256"]:
                    continue
                if file_digest(self._tensors(number)) == sealed["tensors_sha256"]:
                    return read_tensors(self._tensors(number)), values
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return None

    def _numbers(self) -> list[int]:
        return [int(path.stem) for path in self.folder.glob("*.safetensors") if path.stem.isdigit()]

    def _tensors(self, number: int) -> Path:
        return self.folder / f"{number:08d}.safetensors"

    def _values(self, number: int) -> Path:
        return self.folder / f"{number:08d}.json"
