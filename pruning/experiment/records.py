"""Find the record of a run, and check that it belongs to the run with these options. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pruning.config.options import flag
from pruning.config.resolution import differences, resolve
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError
from pruning.experiment.run_files import RunFolder, is_sealed, run_folder


def folder_of(config: RunConfig) -> RunFolder:
    """Return the folder of the run with these options."""
    return run_folder(config.runs_dir, config.run_name())


def folder_at(path: Path) -> RunFolder:
    """Return the run in a folder that the user gave. Raises PruningError if the folder does not exist."""
    if not path.is_dir():
        raise PruningError(f"{path}: no such folder. Give the folder of a run, such as runs/NAME.")
    return RunFolder(path.absolute())


def finished(config: RunConfig) -> dict[str, Any] | None:
    """Return the record of the run with these options; None if it is not complete.

    Raises:
        PruningError: The folder holds another run, or the record or a file of the user's has changed since.
    """
    folder = folder_of(config)
    refuse_other_run(folder, config)
    result = folder.read_result()
    if result is not None and not is_sealed(folder, result):
        raise PruningError(
            f"{folder.result} was altered after it was written. Run the command again with --fresh."
        )
    changed = [] if result is None else changed_files(result, config)
    if changed:
        raise PruningError(
            f"{folder.path} used other contents of {' and '.join(changed)}. "
            "Choose another --name, or replace the run with --fresh."
        )
    return result


def changed_files(result: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Return the options whose files have changed since the record was written. Missing files are not included."""
    files = result.get("files")
    recorded = files if isinstance(files, dict) else {}
    return [
        f"{flag(name)} {getattr(config, name)}"
        for name, contents in config.file_digests().items()
        if recorded.get(name, contents) != contents
    ]


def final_network(dense: Mapping[str, Any], rounds: Sequence[Any]) -> Mapping[str, Any]:
    """Return the entry of the final network: of the last accepted round (without --max-drop, the last), or dense."""
    accepted = [entry for entry in rounds if isinstance(entry, Mapping) and entry.get("held", True)]
    return accepted[-1] if accepted else dense


def recorded(folder: RunFolder) -> RunConfig:
    """Return the options of the run in `folder`, which may have been moved. Raises PruningError if it holds no run."""
    folder.read_config()
    return resolve({"runs_dir": folder.path.parent, "name": folder.path.name}, folder.config, recorded=True)


def refuse_other_run(folder: RunFolder, config: RunConfig) -> None:
    """Raise PruningError, with the options that differ, if the folder belongs to a run with other options."""
    if not folder.config.exists():
        return
    different = differences(recorded(folder).config_key(), config.config_key())
    if different:
        raise PruningError(
            f"{folder.path} is another run: {'; '.join(different)}. "
            "Choose another --name, or replace the run with --fresh."
        )


def saved_options(path: Path) -> tuple[dict[str, Any], Path]:
    """Return the options that locate the run in folder `path`, and the file with all others, to resume it.

    Raises PruningError if the folder holds no run.
    """
    folder = folder_at(path)
    folder.read_config()
    return {"runs_dir": folder.path.parent, "name": folder.path.name}, folder.config
