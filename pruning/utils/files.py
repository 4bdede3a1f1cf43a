"""Files written whole or not at all, and read without running anything in them.

A file is written beside its place, synced, then renamed, so that a reader finds either the old or the new one.
Tensors are safetensors files; nothing is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import PruningError, RunStoppedError, first_line

if TYPE_CHECKING:
    from torch import Tensor


def check_writable(folder: Path, option: str) -> None:
    """PruningError unless files can be made in `folder`, which `option` named; creates nothing."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise PruningError(
            f"{option} {folder}: {place} is not a folder; give a folder that can be written to."
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise PruningError(f"{option} {folder}: {place} cannot be written to; give another folder.")


def check_savable(path: Path) -> None:
    """PruningError unless the final network can be written to `path`; creates nothing."""
    folder = path.parent
    if not folder.is_dir():
        raise PruningError(
            f"--save-path {path}: there is no folder {folder}; make it first.", options=("save_path",)
        )
    if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PruningError(
            f"--save-path {path}: no file can be written there; give another path.", options=("save_path",)
        )


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place, sync it, rename it. RunStoppedError if the disk does not take it."""

    def write(beside: Path) -> None:
        beside.write_bytes(content)

    write_atomically(path, write)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file like `write_bytes`; tensors are copied to the CPU first."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    on_cpu = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}

    def write(beside: Path) -> None:
        try:
            save_file(on_cpu, beside, metadata=dict(about or {}))
        except SafetensorError as error:
            raise OSError(str(error)) from error  # that is how it reports a full disk
        beside.chmod(0o666 & ~_umask())  # safetensors makes files that nobody else can read

    write_atomically(path, write)


def write_network(path: Path, state: Mapping[str, Tensor]) -> None:
    """A network's state as a safetensors file, or, with suffix .pt, as one for torch.load."""
    if path.suffix == ".safetensors":
        write_tensors(path, state)
        return
    import torch

    on_cpu = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def write(beside: Path) -> None:
        try:
            torch.save(on_cpu, beside)
        except RuntimeError as error:
            raise OSError(first_line(error)) from error  # that is how it reports a full disk

    write_atomically(path, write)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on the CPU. OSError if it is missing, ValueError if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"damaged, or no safetensors file: {error}") from error


def end_of_file(path: Path, size: int) -> bytes:
    """The last `size` bytes of a file at most; none if it is not there."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read()
    except OSError:
        return b""


def cannot_write(path: Path, reason: str) -> RunStoppedError:
    """The error for a file that the disk did not take, for a `reason` in a few words."""
    return RunStoppedError(
        f"{path} could not be written ({reason}). What was saved before is whole: "
        "make room, or restore the folder, and give the same command to go on."
    )


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary path, sync that file, then rename it to `path`.

    Raises:
        RunStoppedError: if the file cannot be written; an old file at `path` is unchanged.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            _sync(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        _sync(path.parent)
    except OSError as error:
        raise cannot_write(path, error.strerror or str(error)) from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
