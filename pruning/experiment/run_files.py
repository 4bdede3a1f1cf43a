"""The files of a run: every path, and what is written there: options, record, log, checkpoints, seals.

A records folder (`runs`) holds::

    <name>/config.yaml, events.jsonl, result.json, model.safetensors, masks.safetensors
    <name>/state/              checkpoints: what resuming needs; gone when the run is complete
    .dense/<key>/              dense trainings, shared by all runs that need the same one
    .rounds/<key>/             states after a round, shared by all runs that begin with the same rounds (--share-rounds)
    .sweeps/<name>.*           what sweeps keep of a run: its options, its process' output, how that ended
    .locks/                    one file per run and dense training; a process that writes holds it
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pruning.errors import PruningError
from pruning.experiment.checkpoint_files import CheckpointFiles
from pruning.utils.digests import digest, file_digest
from pruning.utils.files import read_tail, write_bytes_atomic
from pruning.utils.yaml_files import read_yaml

if TYPE_CHECKING:
    pass

SCHEMA_VERSION = 1
RECORD = {
    "name": str,
    "config": dict,
    "environment": dict,
    "dense": dict,
    "rounds": list,
    "final": dict,
    "layers": list,
    "timing": dict,
    "warnings": list,
}
TAIL = 16_384  # bytes of a log's end, enough for its last lines
EXPORT_SUFFIXES = {"torch-export": ".pt2", "onnx": ".onnx"}  # the others are safetensors


@dataclass(frozen=True)
class RunFolder:
    """The places of one run's files."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def model(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def masks(self) -> Path:
        return self.path / "masks.safetensors"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def checkpoints(self) -> CheckpointFiles:
        return CheckpointFiles(self.state)

    @property
    def curves(self) -> Path:
        """Where TensorBoard looks for this run."""
        return self.path / "tensorboard"

    def export(self, to: str) -> Path:
        """Where an export in the format `to` goes unless the user says otherwise."""
        return self.path / f"exported-{to}{EXPORT_SUFFIXES.get(to, '.safetensors')}"

    @property
    def lock(self) -> Path:
        return self.path.parent / ".locks" / f"{self.path.name}.lock"

    def keeps_from(self, path: Path) -> Path:
        """`path`, where something else is to be written; PruningError if a file of the record lies there."""
        record = (self.config, self.events, self.result, self.model, self.masks)
        if path.resolve() in {file.resolve() for file in record}:
            raise PruningError(f"{path} belongs to the run's record and stays as it is; give another file.")
        return path

    def read_result(self) -> dict[str, Any] | None:
        """The record of a complete run; None while there is none. PruningError if it is not readable JSON."""
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise PruningError(
                f"{self.result} is damaged ({error}); the run's own command does it anew with --fresh."
            ) from None
        if not isinstance(result, dict) or result.get("schema_version") != SCHEMA_VERSION:
            raise PruningError(
                f"{self.result} is no record of schema version {SCHEMA_VERSION}, the one that is read here; "
                "the run's own command does it anew with --fresh."
            )
        missing = [key for key, kind in RECORD.items() if not isinstance(result.get(key), kind)]
        if missing:
            raise PruningError(f"{self.result} is damaged: it holds no {missing[0]}; try --fresh.")
        return result

    def require_result(self) -> dict[str, Any]:
        """Return the record of a complete run. Raises PruningError if there is none."""
        result = self.read_result()
        if result is None:
            raise PruningError(
                f"{self.path} holds no complete run: {self.result.name} is missing. Finish the run first."
            )
        return result

    def read_config(self) -> dict[str, Any]:
        """The options that the run was started with. PruningError if the folder holds no run."""
        try:
            return read_yaml(self.config)
        except PruningError as error:
            raise PruningError(f"{self.path} holds no run: {error}") from None

    def latest_events(self) -> list[dict[str, Any]]:
        """The events at the end of the log, oldest first; none if there is no log. A torn line is passed over."""
        events = []
        for line in read_tail(self.events, TAIL).splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return [event for event in events if isinstance(event, dict)]

    def write_config(self, values: Mapping[str, Any]) -> None:
        header = "# The whole resolved configuration; `main.py --config` on this file repeats the run.\n"
        write_bytes_atomic(self.config, (header + yaml.safe_dump(dict(values), sort_keys=False)).encode())

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record, sealed with the digests of network, masks and of itself, and return it.

        Last of all: its presence means that the run is complete. NaN and infinity are refused.
        """
        files = {path.name: file_digest(path) for path in (self.model, self.masks)}
        sealed = {**result, "sha256": files}
        sealed["sha256"] = {**files, self.result.name: record_digest(sealed)}
        write_bytes_atomic(self.result, (json.dumps(sealed, indent=2, allow_nan=False) + "\n").encode())
        shutil.rmtree(self.state, ignore_errors=True)
        return sealed

    def clear(self) -> None:
        """Remove everything the run left, for a fresh start.

        The result first, so that no half of it looks complete; the options last, by which the folder is known as a run.
        """
        self.result.unlink(missing_ok=True)
        for path in self.path.glob("*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.config:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def check_free(self) -> None:
        """PruningError if something else than a run is in this place: it would be lost with the next --fresh."""
        if self.path.is_dir():
            others = [path for path in self.path.iterdir() if not path.name.startswith(".")]
            free = not others or self.config.is_file()
        else:
            free = not (self.path.exists() or self.path.is_symlink())
        if not free:
            raise PruningError(f"{self.path} is there already and is no run; choose another --name.")


@dataclass(frozen=True)
class DenseFolder:
    """The places of one cached dense training, shared by all runs whose options determine the same one."""

    path: Path

    @property
    def network(self) -> Path:
        return self.path / "network.safetensors"

    @property
    def accumulated(self) -> Path:
        """What was added up over the training, where a score goes by that."""
        return self.path / "accumulated.safetensors"

    @property
    def facts(self) -> Path:
        return self.path / "dense.json"

    def rewind_state(self, epoch: int) -> Path:
        """The network's state after `epoch` epochs."""
        return self.path / f"epoch-{epoch}.safetensors"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def checkpoints(self) -> CheckpointFiles:
        return CheckpointFiles(self.state)

    @property
    def lock(self) -> Path:
        return self.path.parent.parent / ".locks" / f"dense-{self.path.name}.lock"

    def read_facts(self) -> dict[str, Any] | None:
        """What is known of the finished training; None while it is not finished (or its files are damaged)."""
        try:
            facts = json.loads(self.facts.read_text(encoding="utf-8"))
            sealed = {name: facts[name] for name in facts if name.endswith("_sha256")}
            return facts if sealed == self._seals() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Last of all: from then on the training is used."""
        sealed = {**facts, **self._seals()}
        write_bytes_atomic(self.facts, json.dumps(sealed, indent=2, allow_nan=False).encode())
        shutil.rmtree(self.state, ignore_errors=True)

    def _seals(self) -> dict[str, str]:
        """Digests of the files of a finished training. OSError if it has no network."""
        added_up = {"accumulated_sha256": file_digest(self.accumulated)} if self.accumulated.exists() else {}
        return {"network_sha256": file_digest(self.network), **added_up}

    def clear(self) -> None:
        self.facts.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class SweepFiles:
    """The places of what sweeps keep of one run beside its folder."""

    run: RunFolder

    @property
    def config(self) -> Path:
        """The options that the run's process is started with."""
        return self._place(".yaml")

    @property
    def log(self) -> Path:
        """What the run's latest process said."""
        return self._place(".log")

    @property
    def ending(self) -> Path:
        """How that process ended, and after how long."""
        return self._place(".json")

    @property
    def lock(self) -> Path:
        return self.run.lock.with_name(f"sweep-{self.run.lock.name}")

    def read_ending(self) -> dict[str, Any] | None:
        """Exit code and seconds of the latest process; None if there was none (or it left nothing readable)."""
        try:
            ending = json.loads(self.ending.read_text(encoding="utf-8"))
            return {"code": int(ending["code"]), "seconds": float(ending["seconds"])}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_ending(self, code: int, seconds: float) -> None:
        write_bytes_atomic(self.ending, json.dumps({"code": code, "seconds": seconds}).encode())

    def write_config(self, values: Mapping[str, Any]) -> None:
        write_bytes_atomic(self.config, yaml.safe_dump(dict(values), sort_keys=False).encode())

    def end_of_log(self, lines: int) -> list[str]:
        """The last lines that are not empty; none if there is no log."""
        said = read_tail(self.log, TAIL).decode(errors="replace").splitlines()
        return [line for line in said if line.strip()][-lines:]

    def _place(self, suffix: str) -> Path:
        return self.run.path.parent / ".sweeps" / (self.run.path.name + suffix)


def run_folder(runs_dir: Path, name: str) -> RunFolder:
    return RunFolder(runs_dir / name)


def dense_folder(runs_dir: Path, key: str) -> DenseFolder:
    return DenseFolder(runs_dir / ".dense" / key)


def shared_round(runs_dir: Path, key: str) -> CheckpointFiles:
    """Where the state after a round is kept for all runs that begin with the same rounds."""
    return CheckpointFiles(runs_dir / ".rounds" / key)


def complete_runs(folder: Path) -> list[RunFolder]:
    """The complete runs in `folder` and below it, in the order of their paths; `folder` may be a run itself.

    Dry runs, and what lies in folders whose names begin with a dot, are left out. PruningError for a damaged record.
    """
    found = []
    for place, below, _ in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith("."))
        run = RunFolder(Path(place))
        result = run.read_result()
        if result is not None:
            below.clear()
            config = result.get("config")
            if not (isinstance(config, dict) and config.get("dry_run")):
                found.append(run)
    return found


def record_digest(result: Mapping[str, Any]) -> str:
    """Hexadecimal SHA-256 of everything in a record but the digest of the record itself."""
    digests = {name: value for name, value in result["sha256"].items() if name.endswith(".safetensors")}
    return digest({**result, "sha256": digests})


def is_sealed(folder: RunFolder, result: Mapping[str, Any]) -> bool:
    """Whether a record is as it was written, by its own digest."""
    digests = result.get("sha256")
    return isinstance(digests, dict) and digests.get(folder.result.name) == record_digest(result)
