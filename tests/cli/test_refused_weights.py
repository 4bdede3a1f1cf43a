"""Wrong weight files are refused in one sentence, before anything is written and without running their code."""

from __future__ import annotations

import io
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import Case, assert_refused, case
from safetensors.torch import save as safetensors_bytes


def weights_case(content: bytes, *mentions: str, name: str = "net.pt") -> Case:
    return case("--weights", name, mentions=(name, *mentions), files={name: content})


SHAPES = {
    "conv1.weight": (6, 1, 3, 3),
    "conv1.bias": (6,),
    "conv2.weight": (16, 6, 3, 3),
    "conv2.bias": (16,),
    "fc1.weight": (120, 400),
    "fc1.bias": (120,),
    "fc2.weight": (84, 120),
    "fc2.bias": (84,),
    "fc3.weight": (10, 84),
    "fc3.bias": (10,),
}  # of the architecture `my`


def weights(*, without: str = "", value: float = 0.1, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    named = {**SHAPES, **{name.replace("__", "."): shape for name, shape in shapes.items()}}
    return {name: torch.full(shape, value) for name, shape in named.items() if name != without}


def checkpoint(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Executes:
    """Creates the file `executed` when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


CASES = {
    "weights missing": case("--weights", "none.pt", mentions="--weights none.pt"),
    "weights of another kind": weights_case(b"", ".safetensors", ".pth", name="net.bin"),
    "weights without a layer": weights_case(checkpoint(weights(without="fc1.weight")), "fc1.weight"),
    "weights of another shape": weights_case(
        checkpoint(weights(fc3__weight=(1000, 84))), "fc3.weight", "1000x84", "10x84"
    ),
    "weights with a layer more": weights_case(checkpoint(weights(fc4__weight=(2, 2))), "fc4.weight"),
    "weights not finite": weights_case(checkpoint(weights(value=float("nan"))), "finite"),
    "weights no tensors": weights_case(checkpoint({"epoch": 3})),
    "weights a whole network": weights_case(checkpoint(torch.nn.Linear(2, 2))),
    "weights no checkpoint": weights_case(b"hello, world"),
    "weights cut short": weights_case(checkpoint(weights())[:-3000]),
    "weights empty": weights_case(b""),
    "weights that would run code": weights_case(checkpoint({"fc1.weight": Executes()})),
    "weights a bare pickle that would run code": weights_case(pickle.dumps(Executes(), 2)),
    "safetensors cut short": weights_case(safetensors_bytes(weights())[:-9], name="net.safetensors"),
    "safetensors empty": weights_case(b"", name="net.safetensors"),
    "safetensors a pickle": weights_case(checkpoint(weights()), name="net.safetensors"),
    "safetensors with a false header": weights_case(struct.pack("<Q", 2**40) + b"{}", name="net.safetensors"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_weights_file_is_refused_and_nothing_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(CASES[name], tmp_path, monkeypatch, capsys)
