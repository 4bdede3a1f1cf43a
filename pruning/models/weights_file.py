"""Weights files from any source: safetensors, or torch files, read without running code."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Container
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from pruning.errors import PruningError
from pruning.utils.text import format_shape

TORCH_ENDINGS = (".pt", ".pth", ".th")
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "net")


def load(model: nn.Module, path: Path, arch: str) -> None:
    """Load the weights in the file `path` into `model`, which errors call `arch`.

    The prefixes of DataParallel (`module.`) and torch.compile (`_orig_mod.`) are removed from names.
    `num_batches_tracked` may be missing, because old files do not have it.

    Raises:
        PruningError: for a file that `read` refuses; unless names and shapes are the model's; and for values
            that are not finite in the model's precision.
    """
    own = model.state_dict()
    given = {_strip_prefixes(key, own): value for key, value in read(path).items()}
    common = [key for key in own if key in given]
    faults = {
        "missing": [key for key in own if key not in given and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} ({format_shape(given[key].shape)} in the file, {format_shape(own[key].shape)} in the network)"
            for key in common
            if given[key].shape != own[key].shape
        ],
    }
    if not any(faults.values()):
        finite = {key: bool(given[key].to(own[key].dtype).isfinite().all()) for key in common}
        faults = {"not finite": [key for key in common if not finite[key]]}
    described = [f"{what} are {_shorten(keys)}" for what, keys in faults.items() if keys]
    if described:
        raise PruningError(f"The weights of {path} do not fit {arch}: {'; '.join(described)}.")
    own.update(given)
    model.load_state_dict(own)


def read(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weights file by name, also from inside `state_dict`, `model` and the like.

    The file is `.safetensors`, or a state_dict saved by torch as `.pt`, `.pth` or `.th`.

    Raises:
        PruningError: for a file that is missing, damaged, has no weights, or would run code.
    """
    if not path.is_file():
        raise PruningError(f"The weights file {path} does not exist.")
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return _read_safetensors(path)
    if ending in TORCH_ENDINGS:
        return _unwrap(_read_torch(path), path)
    raise PruningError(
        f"{path} is not a weights file: its name must end in .safetensors, {', '.join(TORCH_ENDINGS)}."
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # files can be damaged in any way
        raise PruningError(f"{path} is damaged or not a safetensors file ({error}).") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on files that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader fails in as many ways as files can be damaged
        raise PruningError(
            f"{path} is refused: {_why_refused(error)}. "
            "Write weights files with torch.save(model.state_dict(), path)."
        ) from error


def _why_refused(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"besides tensors it has {named[1]}, and reading that would run code"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive, which contains code"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged or was not saved by torch, and reading such a pickle could run code"
    return "it is damaged or was not saved by torch"


def _unwrap(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPER_KEYS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content or not all(map(_is_plain, content.values())):
        raise PruningError(
            f"{path} is not a dict of tensors. Write it with torch.save(model.state_dict(), path)."
        )
    return {str(key): value for key, value in content.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )


def _strip_prefixes(key: str, own: Container[str]) -> str:
    return key if key in own else re.sub(r"^((module|_orig_mod)\.)+", "", key)


def _shorten(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
