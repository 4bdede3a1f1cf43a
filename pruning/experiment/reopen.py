"""Reopen a complete run from its files."""

from __future__ import annotations

from typing import Any

from pruning.core.masks import Masks
from pruning.errors import PruningError, first_line
from pruning.experiment import records
from pruning.experiment.events import Observer
from pruning.experiment.networks import without_first_weights
from pruning.experiment.run_files import RunFolder
from pruning.experiment.session import Session
from pruning.experiment.setup import prepare
from pruning.utils import files


class DamagedRecordError(PruningError):
    """The network or masks of a record are missing, damaged, or of another record."""


def reopen(folder: RunFolder, observer: Observer) -> tuple[Session, dict[str, Any]]:
    """Return the session of a complete run with its final network and masks, and its record.

    Raises:
        PruningError: The folder holds no complete run, or its data or code are missing.
        DamagedRecordError: The network or the masks are damaged or of another record.
    """
    result = folder.require_result()
    session = prepare(without_first_weights(records.recorded(folder)), observer)
    try:
        session.model.load_state_dict(files.read_tensors(folder.model))
    except (OSError, RuntimeError, ValueError) as error:
        raise DamagedRecordError(
            f"{folder.model} does not hold this run's network ({first_line(error).rstrip('.:')})."
        ) from None
    try:
        session.masks = Masks.load(folder.masks)
    except PruningError as error:
        raise DamagedRecordError(str(error)) from None
    return session, result
