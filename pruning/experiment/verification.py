"""Verify a record: load its network and masks, count and evaluate again, and compare with what it holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pruning.config.resolution import differences
from pruning.errors import PruningError, RunStoppedError
from pruning.experiment.events import Observer
from pruning.experiment.metrics import layer_table, measure_network
from pruning.experiment.records import changed_files, final_network
from pruning.experiment.records import recorded as recorded_options
from pruning.experiment.reopen import DamagedRecordError, reopen
from pruning.experiment.run_files import RunFolder, record_digest
from pruning.experiment.session import Session
from pruning.measure.parameters import count_parameters
from pruning.registry import canonical_options
from pruning.utils.digests import file_digest

# Another machine sums in another order, so metrics may differ by this much there. Counts may not differ at all.
TOP_TOLERANCE = 0.1  # percentage points
LOSS_TOLERANCE = 1e-3  # relative


@dataclass(frozen=True)
class Check:
    """One comparison: its subject, the recorded value, the value found, and whether they agree."""

    what: str
    recorded: str
    found: str
    agrees: bool


def verify(folder: RunFolder, observer: Observer) -> list[Check]:
    """Return every check of the complete run in `folder`.

    Raises:
        PruningError: The folder holds no complete run, or its data or code are missing.
    """
    result = folder.require_result()
    checks = [*_check_digests(folder, result), _check_options(folder, result), *_check_files(folder, result)]
    try:
        session, _ = reopen(folder, observer)
        checks += _check_metrics(session, result)
    except DamagedRecordError as error:
        checks.append(Check("files", "fit this network", str(error), False))
    except RunStoppedError:
        checks.append(Check("loss", _text(result["final"].get("loss")), "not a finite number", False))
    return checks


def _check_digests(folder: RunFolder, result: dict[str, Any]) -> list[Check]:
    """Compare the SHA-256 of the record, the network and the masks."""
    recorded = result.get("sha256")
    if not isinstance(recorded, dict):
        raise PruningError(
            f"{folder.result} holds no digests: another program wrote it, or it was altered. Run it again with --fresh."
        )
    found = {folder.result.name: record_digest(result)}
    for path in (folder.model, folder.masks):
        found[path.name] = file_digest(path) if path.exists() else "no such file"
    return [
        Check(f"SHA-256 of {name}", str(recorded.get(name))[:16], digest[:16], recorded.get(name) == digest)
        for name, digest in found.items()
    ]


def _check_options(folder: RunFolder, result: dict[str, Any]) -> Check:
    """Compare the options in the record with those in the file that repeats the run."""
    in_file = recorded_options(folder).config_key()
    in_file.pop("plugin_contents", None)  # not an option; see _check_files
    in_record = {
        name: value for name, value in canonical_options(result["config"]).items() if name in in_file
    }
    different = "; ".join(differences(in_record, in_file))
    return Check("options", f"as in {folder.config.name}", different or "the same", not different)


def _check_files(folder: RunFolder, result: dict[str, Any]) -> list[Check]:
    """Compare the user's own code and weights with those that the run was given, if it was given any."""
    if not result.get("files"):
        return []
    changed = ", ".join(changed_files(result, recorded_options(folder)))
    return [Check("files given", "the same", f"changed: {changed}" if changed else "the same", not changed)]


def _check_metrics(session: Session, result: dict[str, Any]) -> list[Check]:
    """Compare everything that can be counted and evaluated again on the final network."""
    nonzero_removed = _zero_removed_weights(session)
    checks = [Check("removed weights that are not zero", "0", str(nonzero_removed), nonzero_removed == 0)]
    found = measure_network(session, "verified")
    checks += [_compare(name, result["final"].get(name), value, name) for name, value in found.items()]
    last = final_network(result["dense"], result["rounds"])
    which = "last accepted round" if session.config.max_drop is not None else "last round"
    others = [
        _compare(f"{name} of the {which}", last.get(name), value, name) for name, value in found.items()
    ]
    layers = {layer.get("name"): layer for layer in result["layers"] if isinstance(layer, dict)}
    for layer in layer_table(session):
        recorded = layers.get(layer["name"], {})
        others += [
            _compare(f"{key} of {layer['name']}", recorded.get(key), value, key)
            for key, value in layer.items()
        ]
    return checks + [check for check in others if not check.agrees]


def _zero_removed_weights(session: Session) -> int:
    """Set removed weights to zero; return how many were not. Raises DamagedRecordError if the masks do not fit."""
    assert session.masks is not None
    before = count_parameters(session.model).nonzero_parameters
    try:
        session.masks.apply(session.model)
    except PruningError as error:
        raise DamagedRecordError(str(error)) from None
    return before - count_parameters(session.model).nonzero_parameters


def _compare(what: str, recorded: object, found: object, metric: str) -> Check:
    """Compare two values with the tolerance of `metric`."""
    if not isinstance(recorded, int | float) or not isinstance(found, int | float):
        agrees = recorded == found
    elif metric in ("top1", "top5", "validation_top1"):
        agrees = abs(recorded - found) <= TOP_TOLERANCE
    elif metric == "loss":
        agrees = abs(recorded - found) <= LOSS_TOLERANCE * max(abs(recorded), 1)
    else:
        agrees = recorded == found
    return Check(what, _text(recorded), _text(found), agrees)


def _text(value: object) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
