"""Finding a run's record, without importing torch: is it finished, and is it the run that was asked for?"""

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
    return run_folder(config.runs_dir, config.run_name())


def folder_at(path: Path) -> RunFolder:
    """The run whose folder the user named. PruningError if there is no such folder."""
    if not path.is_dir():
        raise PruningError(f"{path}: no such folder; give the folder of a run, such as runs/NAME.")
    return RunFolder(path.absolute())


def finished(config: RunConfig) -> dict[str, Any] | None:
    """The record of this run, if it is complete. PruningError if the folder's is another run, or one of other files."""
    folder = folder_of(config)
    refuse_other_run(config)
    result = folder.read_result()
    if result is not None and not is_sealed(folder, result):
        raise PruningError(f"{folder.result} was altered after it was written; run the command with --fresh.")
    changed = [] if result is None else changed_files(result, config)
    if changed:
        raise PruningError(
            f"{folder.path} was done with other contents of {' and '.join(changed)}. "
            "Choose another --name, or replace it with --fresh."
        )
    return result


def changed_files(result: Mapping[str, Any], config: RunConfig) -> list[str]:
    """Which files given to the record's run have other contents now, as one would type them; none that is gone."""
    files = result.get("files")
    recorded = files if isinstance(files, dict) else {}
    return [
        f"{flag(name)} {getattr(config, name)}"
        for name, contents in config.file_digests().items()
        if recorded.get(name, contents) != contents
    ]


def final_network(dense: Mapping[str, Any], rounds: Sequence[Any]) -> Mapping[str, Any]:
    """The entry of the network that a run ends with: the last round that held (without --max-drop all do), or dense."""
    held = [entry for entry in rounds if isinstance(entry, Mapping) and entry.get("held", True)]
    return held[-1] if held else dense


def recorded(folder: RunFolder) -> RunConfig:
    """The options of the run in `folder`, wherever that lies now. PruningError if it holds no run."""
    folder.read_config()
    return resolve({"runs_dir": folder.path.parent, "name": folder.path.name}, folder.config, recorded=True)


def refuse_other_run(config: RunConfig) -> None:
    """A folder belongs to one run: PruningError, naming the options, if it was begun with others."""
    folder = folder_of(config)
    if not folder.config.exists():
        return
    different = differences(recorded(folder).config_key(), config.config_key())
    if different:
        raise PruningError(
            f"{folder.path} is another run: {'; '.join(different)}. Choose another --name, or replace it with --fresh."
        )


def saved_options(path: Path) -> tuple[dict[str, Any], Path]:
    """To continue the run in folder `path`: the options that say where it is, and the file that holds the others.

    PruningError if the folder holds no run.
    """
    folder = folder_at(path)
    folder.read_config()
    return {"runs_dir": folder.path.parent, "name": folder.path.name}, folder.config
