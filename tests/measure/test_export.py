"""Export: every file computes the same outputs as its network, or there is an error and no file."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from pruning.cli.measurement_tables import show_export
from pruning.cli.terminal import Terminal
from pruning.errors import PruningError
from pruning.measure import export as exporting
from pruning.measure.export import FORMATS, ExportResult, export
from pruning.models import build


@pytest.fixture
def model() -> nn.Module:
    """A LeNet without a quarter of its filters and nine tenths of its linear weights."""
    torch.manual_seed(0)
    lenet = build("my", classes=10, shape=(1, 28, 28))
    for parameter in lenet.conv2.parameters():
        parameter.data[[0, 4, 8, 12]] = 0
    for layer in (lenet.fc1, lenet.fc2):
        layer.weight.data.masked_fill_(torch.rand_like(layer.weight) < 0.9, 0)
    return lenet


@pytest.fixture
def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    sizes = (100, 5, 3)  # the last batch of a test set is a smaller one
    return [
        (
            torch.randn(size, 1, 28, 28, generator=generator),
            torch.randint(0, 10, (size,), generator=generator),
        )
        for size in sizes
    ]


def needs(to: str) -> None:
    for package in FORMATS[to].packages:
        pytest.importorskip(package)


@pytest.mark.parametrize("to", FORMATS)
def test_a_file_of_every_format_computes_the_same_outputs(
    to: str, model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    needs(to)
    before = copy.deepcopy(model.state_dict())
    model.train()
    path = tmp_path / "new folder" / "network.pt2"
    done = export(model, to, path, batches)
    assert (done.format, done.path, done.images) == (to, path, 108)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in before.values())
    assert 0 < done.bytes == path.stat().st_size < weights + 50_000, "the file contains no image"
    assert done.difference <= 1e-4
    correct = sum(int((model.eval()(images).argmax(1) == targets).sum()) for images, targets in batches)
    assert done.top1 == done.file_top1 == 100 * correct / 108
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    json.dumps(done.details, allow_nan=False)


def test_a_sparse_export_reports_its_sizes_and_measured_speed(
    model: nn.Module,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    done = export(model, "sparse", tmp_path / "sparse", batches)
    assert done.details["stored_bytes"] == (tmp_path / "sparse").stat().st_size < done.details["dense_bytes"]
    assert set(done.details["layers"]) == {"fc1", "fc2", "fc3"}
    assert done.details["measured"]["batches"][0]["networks"]["sparse"]["measured_speedup"] > 0
    show_export(Terminal(), done)
    output = capsys.readouterr().out
    assert ("times as fast as with dense tensors" in output) != ("there is no speedup" in output)


@pytest.mark.parametrize(
    ("times", "output"),
    [
        ((2.0, 3.0, 1.0, 1.9), "2.00 times as fast"),
        ((2.0, 3.0, 1.0, 2.1), "no speedup beyond the spread"),
        ((2.0, 3.0, 4.0, 5.0), "no speedup beyond the spread"),
    ],
)
def test_a_speedup_within_the_spread_of_the_times_is_not_reported(
    times: tuple[float, float, float, float], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    networks = {
        name: {
            "median_ms": 1.0, "lower_quartile_ms": low, "upper_quartile_ms": high, "images_per_second": 1.0,
            "measured_speedup": 2.0, "peak_memory_bytes": 1,
        }
        for name, low, high in (("dense", *times[:2]), ("sparse", *times[2:]))
    }  # fmt: skip
    measured = {
        "device_name": "a machine", "threads": 1, "dtype": "float32",
        "batches": [{"batch_size": 1, "networks": networks}],
    }  # fmt: skip
    details = {"layers": {}, "measured": measured}
    show_export(Terminal(), ExportResult("sparse", Path("file"), 1, 1, 0.0, 1.0, 1.0, details))
    assert output in capsys.readouterr().out


def test_a_shrunk_export_reports_its_widths(
    model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    needs("shrunk")
    assert export(model, "shrunk", tmp_path / "small", batches).details["widths"]["conv2"] == (16, 12)


def test_a_network_without_linear_layers_is_exported_as_sparse(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(1, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    done = export(model, "sparse", tmp_path / "sparse", [(torch.randn(2, 1, 4, 4), torch.zeros(2).long())])
    assert done.details["layers"] == {}


def test_an_unknown_format_is_rejected_with_the_nearest_name(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"'onxx'.*\bonnx\?"):
        export(model, "onxx", tmp_path / "network", [])


def test_an_export_without_images_is_rejected(model: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(PruningError, match="batches"):
        export(model, "dense", tmp_path / "network", [])


def test_missing_packages_are_named_with_the_extra_that_installs_them(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name.startswith("onnxr") else find(name)
    )
    needed = exporting.FORMATS["onnx"].packages
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    with pytest.raises(PruningError, match=rf"{', '.join(missing)}.*pruning\[onnx\]"):
        export(model, "onnx", tmp_path / "network", [])


def test_a_network_that_cannot_be_traced_leaves_no_file(
    batches: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(28, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x.mean((1, 2))) if float(x.sum()) > 0 else self.layer(x.amax((1, 2)))

    with pytest.raises(PruningError, match="torch-export"):
        export(Branching(), "torch-export", tmp_path / "network.pt2", batches)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [0.01, float("nan")])
def test_a_file_with_other_outputs_is_deleted(
    error: float,
    model: nn.Module,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def write_other_weights(model: nn.Module, images: torch.Tensor, path: Path) -> dict[str, str]:
        other = copy.deepcopy(model)
        other.fc3.bias.data += error
        return FORMATS["torch-export"].write(other, images, path) and {}

    wrong = exporting.ExportFormat(write_other_weights, FORMATS["torch-export"].read)
    monkeypatch.setitem(FORMATS, "wrong", wrong)
    with pytest.raises(PruningError, match="differ by"):
        export(model, "wrong", tmp_path / "network.pt2", batches)
    assert list(tmp_path.iterdir()) == []


def test_masks_of_another_network_are_rejected_with_the_name_of_the_parameter(
    model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], tmp_path: Path
) -> None:
    mask = model.fc1.weight != 0
    assert export(model, "dense", tmp_path / "network", batches, {"fc1.weight": mask}).images == 108
    with pytest.raises(PruningError, match=r"fc1\.weight"):
        export(model, "dense", tmp_path / "network", batches, {"fc1.weight": ~mask})
    with pytest.raises(PruningError, match=r"fc9\.weight"):
        export(model, "dense", tmp_path / "network", batches, {"fc9.weight": mask})
