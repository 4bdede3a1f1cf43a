"""Finding a run's record, without importing torch: is it finished, and is it the run that was asked for?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pruning.config import RunConfig, differences, resolve
from pruning.errors import PruningError
from pruning.run_files import RunFolder, run_folder


def folder_of(config: RunConfig) -> RunFolder:
    return run_folder(config.runs_dir, config.run_name())


def folder_at(path: Path) -> RunFolder:
    """The run whose folder the user named. PruningError if there is no such folder."""
    if not path.is_dir():
        raise PruningError(f"{path}: no such folder; give the folder of a run, such as runs/NAME.")
    return RunFolder(path.absolute())


def finished(config: RunConfig) -> dict[str, Any] | None:
    """The record of this run, if it is complete. PruningError if the folder holds another run."""
    folder = folder_of(config)
    refuse_other_run(config)
    return folder.read_result()


def refuse_other_run(config: RunConfig) -> None:
    """A folder belongs to one run: PruningError, naming the options, if it was begun with others."""
    folder = folder_of(config)
    if not folder.config.exists():
        return
    different = differences(resolve(folder.read_config()).identity(), config.identity())
    if different:
        raise PruningError(
            f"{folder.path} is another run: {'; '.join(different)}. Choose another --name, or replace it with --fresh."
        )


def saved_options(path: Path) -> dict[str, Any]:
    """The options with which the run in folder `path` was started, so that it can be continued there."""
    folder = folder_at(path)
    return {**folder.read_config(), "runs_dir": folder.path.parent, "name": folder.path.name}
