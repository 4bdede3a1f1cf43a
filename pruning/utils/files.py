"""Atomic file writes, and safetensors files.

A file is written under a temporary name in the same folder, synced, then renamed: readers see the old file or the
whole new one. Tensors are stored as safetensors; nothing is unpickled.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pruning.errors import PruningError, RunStoppedError, first_line

if TYPE_CHECKING:
    from torch import Tensor


def check_folder_writable(folder: Path, option: str) -> None:
    """Raise PruningError, naming `option`, unless files can be created in `folder`. Creates nothing."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise PruningError(f"{option} {folder}: {existing} is not a folder. Choose another folder.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PruningError(f"{option} {folder}: {existing} is not writable. Choose another folder.")


def check_file_writable(path: Path, option: str) -> None:
    """Raise PruningError, naming `option`, unless a file can be created at `path`. Creates nothing."""
    folder = path.parent
    if not folder.is_dir():
        raise PruningError(f"{option} {path}: the folder {folder} does not exist. Create it first.")
    if path.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise PruningError(f"{option} {path}: no file can be created there. Choose another path.")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; on success, sync that file and rename it to `path`.

    On an error the temporary file is deleted and `path` is unchanged. Parent folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def write_bytes_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically. Raises RunStoppedError if the disk is full or the folder is not writable."""
    with _run_stopped_on_error(path), atomic_file(path) as temporary:
        temporary.write_bytes(content)


def write_tensors_atomic(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file atomically, with the errors of `write_bytes_atomic`; tensors may be on any device."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    on_cpu = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    with _run_stopped_on_error(path), atomic_file(path) as temporary:
        try:
            save_file(on_cpu, temporary, metadata=dict(metadata or {}))
        except SafetensorError as error:  # raised when the disk is full
            raise OSError(str(error)) from error
        temporary.chmod(0o666 & ~_umask())  # safetensors creates files that only their owner can read


def write_state_dict_atomic(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write a state dict atomically: as safetensors for the suffix .safetensors, otherwise with torch.save."""
    if path.suffix == ".safetensors":
        write_tensors_atomic(path, state)
        return
    import torch

    on_cpu = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
    with _run_stopped_on_error(path), atomic_file(path) as temporary:
        try:
            torch.save(on_cpu, temporary)
        except RuntimeError as error:  # raised when the disk is full
            raise OSError(first_line(error)) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file to the CPU. Raises OSError if it is missing, ValueError if it is damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"damaged, or not a safetensors file: {error}") from error


def read_tail(path: Path, size: int) -> bytes:
    """Return the last `size` bytes of a file, fewer if it is shorter, none if it cannot be read."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - size))
            return file.read()
    except OSError:
        return b""


def write_error(path: Path, reason: str) -> RunStoppedError:
    """Return the error for a file that could not be written."""
    return RunStoppedError(
        f"{path} could not be written ({reason}). Earlier files are complete. "
        "Free disk space or restore the folder, then run the same command again."
    )


@contextmanager
def _run_stopped_on_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(path, error.strerror or str(error)) from error


def _umask() -> int:
    mask = os.umask(0)  # the only way to read it is to set it
    os.umask(mask)
    return mask


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
