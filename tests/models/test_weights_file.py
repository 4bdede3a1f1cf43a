"""Weights files: the usual formats are read, anything else is refused in one line, and no code runs."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pruning import models
from pruning.errors import PruningError
from pruning.models import weights_file

State = dict[str, torch.Tensor]


@pytest.fixture
def state() -> State:
    torch.manual_seed(3)
    return models.build("resnet20", classes=10, shape=(3, 32, 32)).state_dict()


def load(path: Path) -> State:
    torch.manual_seed(4)
    return models.build("resnet20", classes=10, shape=(3, 32, 32), weights=path).state_dict()


def refused(path: Path) -> str:
    with pytest.raises(PruningError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and path.name in message
    return message


FORMATS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "best_prec1": 91.7},
    "model": lambda state: {"model": state, "optimizer": {"state": {}}},
    "nested": lambda state: {"model": {"state_dict": state}},
    "data parallel": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    "compiled": lambda state: {f"_orig_mod.{key}": value for key, value in state.items()},
    "both": lambda state: {f"module._orig_mod.{key}": value for key, value in state.items()},
    "before batches were counted": lambda state: {k: v for k, v in state.items() if "num_batches" not in k},
    "double precision": lambda state: {key: value.double() for key, value in state.items()},
}


@pytest.mark.parametrize("wrap", FORMATS.values(), ids=FORMATS)
def test_torch_files_are_read_in_their_usual_formats(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "weights.pt")
    read = load(tmp_path / "weights.pt")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)


@pytest.mark.parametrize("ending", ["pt", "pth", "th", "PTH"])
def test_torch_files_are_read_with_their_usual_suffixes(tmp_path, ending):
    torch.save({"weight": torch.arange(3)}, tmp_path / f"weights.{ending}")
    assert weights_file.read(tmp_path / f"weights.{ending}")["weight"].tolist() == [0, 1, 2]


def test_the_old_format_of_torch_is_read(tmp_path, state):
    torch.save({"state_dict": state}, tmp_path / "old.th", _use_new_zipfile_serialization=False)
    assert torch.equal(load(tmp_path / "old.th")["linear.weight"], state["linear.weight"])


def test_a_safetensors_file_is_read(tmp_path, state):
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    read = load(tmp_path / "weights.safetensors")
    assert all(torch.equal(read[key], state[key]) for key in state)


def test_a_layer_named_module_is_not_stripped_as_a_prefix(tmp_path):
    model, other = (nn.ModuleDict({"module": nn.Linear(2, 3)}) for _ in range(2))
    torch.save(other.state_dict(), tmp_path / "weights.pt")
    weights_file.load(model, tmp_path / "weights.pt", "mine")
    assert torch.equal(model["module"].weight, other["module"].weight)


def test_a_network_with_versioned_state_dicts_is_read_from_safetensors(tmp_path):
    build = {"classes": 10, "shape": (3, 64, 64)}
    model = models.build("mnasnet0_5", **build)
    safetensors.torch.save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = models.build("mnasnet0_5", weights=tmp_path / "weights.safetensors", **build)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_missing_unexpected_and_misshapen_weights_are_named(tmp_path, state):
    path = tmp_path / "weights.pt"
    wrong = {key: value for key, value in state.items() if not key.startswith("layer3.2.")}
    wrong["fc.weight"] = torch.zeros(2)
    wrong["linear.weight"] = torch.zeros(100, 64)
    torch.save(wrong, path)
    message = refused(path)
    assert "resnet20" in message
    assert "missing are layer3.2.conv1.weight, layer3.2.bn1.weight, layer3.2.bn1.bias and 7 more" in message
    assert "unexpected are fc.weight" in message
    assert "linear.weight (100x64 in the file, 10x64 in the network)" in message


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_weights_that_are_not_finite_in_single_precision_are_refused(tmp_path, state, value):
    state["conv1.weight"] = state["conv1.weight"].double()
    state["conv1.weight"][0, 0, 0, 0] = value
    torch.save(state, tmp_path / "weights.pt")
    assert "not finite are conv1.weight" in refused(tmp_path / "weights.pt")


def test_a_refused_file_does_not_change_the_network(tmp_path, state):
    model = models.build("resnet20", classes=10, shape=(3, 32, 32))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    torch.save({**state, "linear.bias": torch.zeros(3)}, tmp_path / "weights.pt")
    with pytest.raises(PruningError):
        weights_file.load(model, tmp_path / "weights.pt", "resnet20")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("ending", ["pt", "pth", "th"])
@pytest.mark.parametrize("how", ["zip", "old", "plain 0", "plain 2", "plain 4"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path, ending, how):
    path, trace = tmp_path / f"bomb.{ending}", tmp_path / "exploded"
    content = {"state_dict": {"conv1.weight": Bomb(trace)}}
    if how.startswith("plain"):
        path.write_bytes(pickle.dumps(content, protocol=int(how[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    refused(path)
    assert not trace.exists()


def test_a_pickled_module_is_refused_by_the_name_of_its_class(tmp_path):
    torch.save(nn.Linear(2, 3), tmp_path / "whole.pt")
    assert "torch.nn.modules.linear.Linear" in refused(tmp_path / "whole.pt")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_a_torchscript_file_is_refused_as_torchscript(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 3)), tmp_path / "script.pt")
    assert "TorchScript" in refused(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.pt", b"", "torch"),
        ("text.pt", b"hello world", "torch"),
        ("text.safetensors", b"hello world", "safetensors"),
        ("empty.safetensors", b"", "safetensors"),
        ("weights.bin", b"hello", ".safetensors, .pt, .pth, .th"),
        ("weights", b"hello", ".safetensors, .pt, .pth, .th"),
    ],
)
def test_a_file_that_has_no_weights_is_refused(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    assert reason in refused(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {},
        {"state_dict": {}},
        {"epoch": 3, "lr": 0.1},
        {"conv1.weight": torch.zeros(3).to_sparse()},
        {"conv1.weight": torch.zeros(3, device="meta")},
        {"conv1.weight": torch.zeros(3, dtype=torch.complex64)},
    ],
    ids=["tensor", "list", "empty", "empty inside", "no tensors", "sparse", "meta", "complex"],
)
def test_a_torch_file_without_plain_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    assert "state_dict()" in refused(tmp_path / "weights.pt")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    for name in ("missing.pt", "folder.pt"):
        assert str(tmp_path / name) in refused(tmp_path / name)


@pytest.mark.parametrize("ending", ["pt", "old.pt", "safetensors"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, ending):
    path = tmp_path / f"cut.{ending}"
    state = {"conv1.weight": torch.ones(16, 3, 3, 3), "conv1.bias": torch.ones(16)}
    if ending == "safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=ending == "pt")
    whole = path.read_bytes()
    for size in range(0, len(whole), 37):
        path.write_bytes(whole[:size])
        with pytest.raises(PruningError):
            weights_file.read(path)


@given(noise=st.binary(max_size=300), ending=st.sampled_from(["pt", "safetensors"]), pickled=st.booleans())
def test_random_bytes_raise_only_pruning_error(tmp_path_factory, noise, ending, pickled):
    path = tmp_path_factory.mktemp("noise") / f"noise.{ending}"
    path.write_bytes(b"\x80\x02" + noise if pickled else noise)
    with pytest.raises(PruningError):
        weights_file.read(path)
