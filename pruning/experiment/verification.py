"""Checking a record: network and masks loaded afresh, counted and evaluated again, compared with what it says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pruning.config.resolution import differences
from pruning.errors import PruningError, RunStoppedError
from pruning.experiment.events import Observer
from pruning.experiment.records import changed_files, final_network
from pruning.experiment.records import recorded as recorded_options
from pruning.experiment.run_files import RunFolder, record_digest
from pruning.experiment.session import Session
from pruning.experiment.setup import DamagedRecordError, reopen
from pruning.measure.parameters import count_parameters
from pruning.registry import canonical_options
from pruning.utils.digests import file_digest

# Another machine adds up in another order: as much may differ there, and nothing at all may in what is counted.
TOP_TOLERANCE = 0.1  # percentage points
LOSS_TOLERANCE = 1e-3  # relative


@dataclass(frozen=True)
class Check:
    """One comparison: what the record says, what was found, and whether that agrees."""

    what: str
    recorded: str
    found: str
    agrees: bool


def verify(folder: RunFolder, observer: Observer) -> list[Check]:
    """Every check of the complete run in `folder`. PruningError if there is none, or its data or code are missing."""
    result = folder.read_result()
    if result is None:
        raise PruningError(f"{folder.path} holds no complete run: there is no {folder.result.name} in it.")
    checks = [*_digests(folder, result), _options(folder, result), *_files(folder, result)]
    try:
        session, _ = reopen(folder, observer)
        checks += _measured(session, result)
    except DamagedRecordError as error:
        checks.append(Check("files", "fit this network", str(error), False))
    except RunStoppedError:
        checks.append(Check("loss", _show(result["final"].get("loss")), "not a finite number", False))
    return checks


def _digests(folder: RunFolder, result: dict[str, Any]) -> list[Check]:
    """The files as they were when the run ended, by their SHA-256."""
    recorded = result.get("sha256")
    if not isinstance(recorded, dict):
        raise PruningError(
            f"{folder.result} holds no digests: it was not written by this program, or was altered."
        )
    found = {folder.result.name: record_digest(result)}
    for path in (folder.model, folder.masks):
        found[path.name] = file_digest(path) if path.exists() else "no such file"
    return [
        Check(f"SHA-256 of {name}", str(recorded.get(name))[:16], digest[:16], recorded.get(name) == digest)
        for name, digest in found.items()
    ]


def _options(folder: RunFolder, result: dict[str, Any]) -> Check:
    """The options that determine the result, in the record and in the file that repeats the run."""
    beside = recorded_options(folder).config_key()
    beside.pop("plugin_contents", None)  # no option; see _files
    recorded = canonical_options({name: value for name, value in result["config"].items() if name in beside})
    different = "; ".join(differences(recorded, beside))
    return Check("options", f"as in {folder.config.name}", different or "the same", not different)


def _files(folder: RunFolder, result: dict[str, Any]) -> list[Check]:
    """The user's own code and weights that the run was given, where it was given any."""
    if not result.get("files"):
        return []
    changed = ", ".join(changed_files(result, recorded_options(folder)))
    return [Check("files given", "the same", f"changed: {changed}" if changed else "the same", not changed)]


def _measured(session: Session, result: dict[str, Any]) -> list[Check]:
    """What is counted and evaluated again on the network as it was saved."""
    removed_and_nonzero = _removed_and_nonzero(session)
    checks = [
        Check("removed weights that are not zero", "0", str(removed_and_nonzero), removed_and_nonzero == 0)
    ]
    found = session.measured("verified")
    checks += [_compare(name, result["final"].get(name), value, name) for name, value in found.items()]
    entry = final_network(result["dense"], result["rounds"])
    again = [
        _compare(
            f"{name} of the last round that held"
            if session.config.max_drop is not None
            else f"{name} of the last round",
            entry.get(name),
            value,
            name,
        )
        for name, value in found.items()
    ]
    layers = {layer.get("name"): layer for layer in result["layers"] if isinstance(layer, dict)}
    for layer in session.layer_table():
        recorded = layers.get(layer["name"], {})
        again += [
            _compare(f"{key} of {layer['name']}", recorded.get(key), value, key)
            for key, value in layer.items()
        ]
    return checks + [check for check in again if not check.agrees]


def _removed_and_nonzero(session: Session) -> int:
    """How many weights the masks remove that are not zero; they are afterwards. DamagedRecordError for other masks."""
    assert session.masks is not None
    before = count_parameters(session.model).nonzero_parameters
    try:
        session.masks.apply(session.model)
    except PruningError as error:
        raise DamagedRecordError(str(error)) from None
    return before - count_parameters(session.model).nonzero_parameters


def _compare(what: str, recorded: object, found: object, name: str) -> Check:
    """`name` is the metric's: it says how much may differ."""
    if not isinstance(recorded, int | float) or not isinstance(found, int | float):
        agrees = recorded == found
    elif name in ("top1", "top5", "validation_top1"):
        agrees = abs(recorded - found) <= TOP_TOLERANCE
    elif name == "loss":
        agrees = abs(recorded - found) <= LOSS_TOLERANCE * max(abs(recorded), 1)
    else:
        agrees = recorded == found
    return Check(what, _show(recorded), _show(found), agrees)


def _show(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
