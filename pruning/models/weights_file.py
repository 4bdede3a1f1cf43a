"""Weights files of any origin: safetensors, or torch files read without running anything in them."""

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

TORCH_ENDINGS = (".pt", ".pth", ".th")
WRAPPINGS = ("state_dict", "model_state_dict", "model", "net")


def load(model: nn.Module, path: Path, arch: str) -> None:
    """Fill `model` with the weights of the file `path`; `arch` names it in errors.

    Prefixes that data parallelism (`module.`) and compilation (`_orig_mod.`) put before names are taken off.
    Raises PruningError for a file that `read` refuses, and unless names and shapes are exactly the model's
    and all values finite in its precision; only `num_batches_tracked`, which old files lack, may be missing.
    """
    own = model.state_dict()
    given = {_bare(key, own): value for key, value in read(path).items()}
    common = [key for key in own if key in given]
    faults = {
        "missing": [key for key in own if key not in given and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in given if key not in own],
        "of another shape": [
            f"{key} ({_times(given[key])} in the file, {_times(own[key])} in the network)"
            for key in common
            if given[key].shape != own[key].shape
        ],
    }
    if not any(faults.values()):
        finite = {key: bool(given[key].to(own[key].dtype).isfinite().all()) for key in common}
        faults = {"not finite": [key for key in common if not finite[key]]}
    told = [f"{what} are {_first(keys)}" for what, keys in faults.items() if keys]
    if told:
        raise PruningError(f"The weights of {path} do not fit {arch}: {'; '.join(told)}.")
    own.update(given)
    model.load_state_dict(own)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, out of the usual wrappings (`state_dict`, `model`, ...).

    `.safetensors`, or `.pt`, `.pth`, `.th` as torch saves them. Nothing in the file is executed: one that
    would need that is refused. Raises PruningError for it, and for what is missing, damaged, or no weights.
    """
    if not path.is_file():
        raise PruningError(f"There is no weights file {path}.")
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return _read_safetensors(path)
    if ending in TORCH_ENDINGS:
        return _unwrapped(_read_torch(path), path)
    raise PruningError(
        f"{path} is no weights file: its name must end in .safetensors, {', '.join(TORCH_ENDINGS)}."
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # a file of any origin can be damaged in any way
        raise PruningError(f"{path} is damaged or no safetensors file ({error}).") from error


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on files that are refused anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader fails in as many ways as files can be damaged
        raise PruningError(
            f"{path} is refused: {_why_refused(error)}. "
            "A weights file is what torch.save(model.state_dict(), path) writes."
        ) from error


def _why_refused(error: Exception) -> str:
    named = re.search(r"GLOBAL ([\w.]+)", str(error))
    if named:
        return f"besides tensors it holds {named[1]}, and reading that would run code"
    if "TorchScript" in str(error):
        return "it is a TorchScript archive, which holds code"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, pickle.UnpicklingError):
        return "it is damaged or was not saved by torch, and reading such a pickle could run code"
    return "it is damaged or was not saved by torch"


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    while isinstance(content, dict):
        inner = next((content[key] for key in WRAPPINGS if isinstance(content.get(key), dict)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, dict) or not content or not all(map(_is_plain, content.values())):
        raise PruningError(
            f"{path} holds no plain set of named tensors, as torch.save(model.state_dict(), path) writes."
        )
    return {str(key): value for key, value in content.items()}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not (value.is_quantized or value.is_complex())
    )


def _bare(key: str, own: Container[str]) -> str:
    return key if key in own else re.sub(r"^((module|_orig_mod)\.)+", "", key)


def _first(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"


def _times(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "a single number"
