"""The files of a run: their paths (in this module only), and writing and reading of record and options.

A folder of runs (`runs`) holds::

    <name>/config.yaml, events.jsonl, result.json, model.safetensors, masks.safetensors
    <name>/state/              checkpoints; removed when the run is complete
    .dense/<key>/              dense trainings, shared by all runs that need the same dense network
    .rounds/<key>/             states after a round, shared by runs with the same first rounds (--share-rounds)
    .sweeps/<name>.*           per run of a sweep: options, output and exit code of its process
    .locks/                    one lock file per run and dense training, held by the process that writes it
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pruning.errors import PruningError
from pruning.experiment.checkpoint_files import CheckpointFiles
from pruning.utils.digests import digest, file_digest
from pruning.utils.files import read_tail, write_bytes_atomic
from pruning.utils.yaml_files import read_yaml

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
    """The paths of one run's files, and its record."""

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
        """Folder of the TensorBoard curves."""
        return self.path / "tensorboard"

    def export(self, to: str) -> Path:
        """Return the default path of an export in the format `to`."""
        return self.path / f"exported-{to}{EXPORT_SUFFIXES.get(to, '.safetensors')}"

    @property
    def lock(self) -> Path:
        return self.path.parent / ".locks" / f"{self.path.name}.lock"

    def keeps_from(self, path: Path) -> Path:
        """Return `path`, an output of another command. Raises PruningError if it is a file of the record."""
        record = (self.config, self.events, self.result, self.model, self.masks)
        if path.resolve() in {file.resolve() for file in record}:
            raise PruningError(
                f"{path} belongs to the run's record and is not overwritten. Choose another file."
            )
        return path

    def read_result(self) -> dict[str, Any] | None:
        """Return the record; None if the run is not complete. Raises PruningError if the record is damaged."""
        try:
            result = json.loads(self.result.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise PruningError(
                f"{self.result} is damaged ({error}). Run the command again with --fresh."
            ) from None
        if not isinstance(result, dict) or result.get("schema_version") != SCHEMA_VERSION:
            raise PruningError(
                f"{self.result} is not a record of schema version {SCHEMA_VERSION}, which this version reads. "
                "Run the command again with --fresh."
            )
        missing = [key for key, kind in RECORD.items() if not isinstance(result.get(key), kind)]
        if missing:
            raise PruningError(
                f"{self.result} is damaged: {missing[0]!r} is missing. Run the command again with --fresh."
            )
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
        """Return the options of the run. Raises PruningError if the folder holds no run."""
        try:
            return read_yaml(self.config)
        except PruningError as error:
            raise PruningError(f"{self.path} holds no run: {error}") from None

    def latest_events(self) -> list[dict[str, Any]]:
        """Return the last events of the log, oldest first; none without a log. Incomplete lines are skipped."""
        events = []
        for line in read_tail(self.events, TAIL).splitlines():
            with contextlib.suppress(ValueError):
                events.append(json.loads(line))
        return [event for event in events if isinstance(event, dict)]

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Write all resolved options."""
        header = "# The whole resolved configuration; `main.py --config` on this file repeats the run.\n"
        write_bytes_atomic(self.config, (header + yaml.safe_dump(dict(values), sort_keys=False)).encode())

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Write the record with the SHA-256 of network, masks and itself, and return it.

        It is written last, because its presence means that the run is complete. Raises ValueError for NaN or infinity.
        """
        files = {path.name: file_digest(path) for path in (self.model, self.masks)}
        sealed = {**result, "sha256": files}
        sealed["sha256"] = {**files, self.result.name: record_digest(sealed)}
        write_bytes_atomic(self.result, (json.dumps(sealed, indent=2, allow_nan=False) + "\n").encode())
        shutil.rmtree(self.state, ignore_errors=True)
        return sealed

    def clear(self) -> None:
        """Remove all files of the run.

        The record first, so that an incomplete folder never looks like a complete run; the options last, because they
        mark the folder as a run.
        """
        self.result.unlink(missing_ok=True)
        for path in self.path.glob("*"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            elif path != self.config:
                path.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)

    def check_free(self) -> None:
        """Raise PruningError if the path is taken by something that is not a run, which --fresh would delete."""
        if self.path.is_dir():
            others = [path for path in self.path.iterdir() if not path.name.startswith(".")]
            free = not others or self.config.is_file()
        else:
            free = not (self.path.exists() or self.path.is_symlink())
        if not free:
            raise PruningError(f"{self.path} exists and is not a run. Choose another --name.")


@dataclass(frozen=True)
class DenseFolder:
    """The paths of one cached dense training."""

    path: Path

    @property
    def network(self) -> Path:
        return self.path / "network.safetensors"

    @property
    def accumulated(self) -> Path:
        """Statistics accumulated over the training, for scores that need them."""
        return self.path / "accumulated.safetensors"

    @property
    def facts(self) -> Path:
        return self.path / "dense.json"

    def rewind_state(self, epoch: int) -> Path:
        """Return the path of the state dict after `epoch` epochs."""
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
        """Return seconds and fingerprint of the complete training; None if it is incomplete or damaged."""
        try:
            facts = json.loads(self.facts.read_text(encoding="utf-8"))
            sealed = {name: facts[name] for name in facts if name.endswith("_sha256")}
            return facts if sealed == self._seals() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write_facts(self, facts: Mapping[str, Any]) -> None:
        """Write seconds and fingerprint. Written last, because its presence means that the training is complete."""
        sealed = {**facts, **self._seals()}
        write_bytes_atomic(self.facts, json.dumps(sealed, indent=2, allow_nan=False).encode())
        shutil.rmtree(self.state, ignore_errors=True)

    def _seals(self) -> dict[str, str]:
        """SHA-256 of the files of a complete training. Raises OSError without a network."""
        optional = {"accumulated_sha256": file_digest(self.accumulated)} if self.accumulated.exists() else {}
        return {"network_sha256": file_digest(self.network), **optional}

    def clear(self) -> None:
        """Remove all files of the training."""
        self.facts.unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


@dataclass(frozen=True)
class SweepFiles:
    """The paths of the files that a sweep writes for one run, and the exit code of its process."""

    run: RunFolder

    @property
    def config(self) -> Path:
        """Options of the run's process."""
        return self._path(".yaml")

    @property
    def log(self) -> Path:
        """Output of the run's latest process."""
        return self._path(".log")

    @property
    def ending(self) -> Path:
        """Exit code and seconds of the run's latest process."""
        return self._path(".json")

    @property
    def lock(self) -> Path:
        return self.run.lock.with_name(f"sweep-{self.run.lock.name}")

    def read_ending(self) -> dict[str, Any] | None:
        """Return exit code and seconds of the latest process; None if there was none or the file is damaged."""
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
        """Return the last lines of the output that are not empty."""
        output = read_tail(self.log, TAIL).decode(errors="replace").splitlines()
        return [line for line in output if line.strip()][-lines:]

    def _path(self, suffix: str) -> Path:
        return self.run.path.parent / ".sweeps" / (self.run.path.name + suffix)


def run_folder(runs_dir: Path, name: str) -> RunFolder:
    return RunFolder(runs_dir / name)


def dense_folder(runs_dir: Path, key: str) -> DenseFolder:
    return DenseFolder(runs_dir / ".dense" / key)


def shared_round(runs_dir: Path, key: str) -> CheckpointFiles:
    """Return the files of the state after a round, for all runs with the same first rounds."""
    return CheckpointFiles(runs_dir / ".rounds" / key)


def complete_runs(folder: Path) -> list[RunFolder]:
    """Return the complete runs in `folder` and below it, sorted by path; `folder` may be a run itself.

    Dry runs and hidden folders are left out. Raises PruningError for a damaged record.
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
    """Return the hexadecimal SHA-256 of everything in a record except the digest of the record itself."""
    digests = {name: value for name, value in result["sha256"].items() if name.endswith(".safetensors")}
    return digest({**result, "sha256": digests})


def is_sealed(folder: RunFolder, result: Mapping[str, Any]) -> bool:
    """Return whether a record is unchanged since it was written, by its own digest."""
    digests = result.get("sha256")
    return isinstance(digests, dict) and digests.get(folder.result.name) == record_digest(result)
