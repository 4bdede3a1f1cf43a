"""A pruned network, handed over: written in a format of choice, read back, and compared before it counts
as done.

A format is a pair of functions: one writes the network, the other reads the file back as something that
turns images into outputs. `export` runs both, compares the outputs and the accuracy with the network's
own on real images, and only then puts the file in its place.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pruning.errors import PruningError, first_line
from pruning.measure import latency, shrink, sparse_inference, storage
from pruning.registry import unknown
from pruning.utils import files
from pruning.utils.modules import eval_mode

TOLERANCE = 1e-4
Batch = tuple[Tensor, Tensor]
Outputs = Callable[[Tensor], Tensor]
T = TypeVar("T")


@dataclass(frozen=True)
class Exported:
    """What was written and how it compares: top-1 in percent of the network and of the file read back.

    `difference` is the largest absolute difference of the outputs over all `images`; `details` is for JSON.
    """

    to: str
    path: Path
    bytes: int
    images: int
    difference: float
    top1: float
    top1_of_file: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """How to `write` a network, given some images, and to `read` it back as a function of images."""

    write: Callable[[nn.Module, Tensor, Path], dict[str, Any]]
    read: Callable[[nn.Module, Tensor, Path], Outputs]
    packages: tuple[str, ...] = ()
    extra: str = ""


def export(
    model: nn.Module, to: str, path: Path, batches: Iterable[Batch], masks: Mapping[str, Tensor] | None = None
) -> Exported:
    """Write `model` to `path` in the format `to` (see FORMATS), read it back and compare on every batch.

    batches: (images (N, channels, H, W), targets (N,)), like those of evaluation, on the model's device;
    at least one. With `masks` it is made sure first that what they removed is zero in this network.
    Raises PruningError for an unknown format, missing packages, a network that the format can't hold,
    masks of another network, and outputs that differ by more than 1e-4 (of the largest output, if that is
    above 1); then no file is left behind.
    """
    chosen = _format(to)
    _check_masks(model, masks or {})
    model = copy.deepcopy(model).eval()
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise PruningError(
            "An export is compared on real images, and there are none: give at least one batch."
        )
    beside = path.with_name(f".partial-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        details = chosen.write(model, first[0], beside)
        compared = _compare(model, chosen.read(model, first[0], beside), chain([first], remaining), to)
        beside.replace(path)
    except OSError as error:
        raise PruningError(f"{path} can't be written: {error.strerror or error}.") from error
    finally:
        beside.unlink(missing_ok=True)
    return Exported(to=to, path=path, bytes=path.stat().st_size, details=details, **compared)


def _format(to: str) -> Format:
    if to not in FORMATS:
        raise unknown("export format", to, FORMATS)
    chosen = FORMATS[to]
    missing = [package for package in chosen.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise PruningError(
            f"Export to {to} needs {', '.join(missing)}, not installed here: "
            f"pip install 'pruning[{chosen.extra}]'."
        )
    return chosen


def _check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.shape != mask.shape:
            raise PruningError(
                f"The mask of {name} does not fit this network: give the masks of the same run."
            )
        if bool(parameter.detach()[~mask.to(parameter.device)].any()):
            raise PruningError(f"{name} has weights that its mask removed: apply the masks before exporting.")


def _compare(model: nn.Module, outputs: Outputs, batches: Iterable[Batch], to: str) -> dict[str, Any]:
    differences: list[float] = []
    largest, correct, correct_of_file, images = 1.0, 0, 0, 0
    with eval_mode(model):
        for inputs, targets in batches:
            expected, found = model(inputs), outputs(inputs).to(inputs.device)
            differences.append(float((expected - found).abs().max()))
            largest = max(largest, float(expected.abs().max()))
            correct += int((expected.argmax(1) == targets).sum())
            correct_of_file += int((found.argmax(1) == targets).sum())
            images += len(inputs)
    wrong = [difference for difference in differences if not difference <= TOLERANCE * largest]  # NaN as well
    if wrong:
        raise PruningError(
            f"The file for {to} computes something else: its outputs differ by {wrong[0]:.2g}."
        )
    top1, top1_of_file = 100 * correct / images, 100 * correct_of_file / images
    return {"images": images, "difference": max(differences), "top1": top1, "top1_of_file": top1_of_file}


def _write_dense(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    files.write_tensors_atomic(path, model.state_dict())
    return {}


def _read_dense(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    return _with_tensors(model, files.read_tensors(path))


def _write_sparse(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    """The file, what it saves, and how much faster its network runs here at batch size 1."""
    stored = dataclasses.asdict(storage.save(model.state_dict(), path))
    if not any(type(module) is nn.Linear for module in model.modules()):
        return {**stored, "layers": {}}
    fast = sparse_inference.speed_up(model, images[:1])
    layers = {
        name: {**dataclasses.asdict(choice), "measured_speedup": choice.measured_speedup}
        for name, choice in fast.layers.items()
    }
    channels, height, width = images.shape[1:]
    networks = {"as dense tensors": model, "sparse": fast.model}
    measured = latency.compare(networks, (channels, height, width), (1,), seconds=1.0)
    return {**stored, "layers": layers, "measured": measured}


def _read_sparse(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    loaded = _with_tensors(model, storage.load(path))
    if not any(type(module) is nn.Linear for module in loaded.modules()):
        return loaded
    return sparse_inference.speed_up(loaded, images[:1]).model


def _with_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(tensors)
    return loaded


def _write_shrunk(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    shrunk = shrink.shrink(model, images)
    shrink.save(shrunk.model, path)
    return {"widths": shrunk.widths, "left": shrunk.left}


def _read_shrunk(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    return shrink.load(model, path)


def _write_torch_export(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    program = _traced(
        "torch-export",
        lambda example, shapes: torch.export.export(
            _laid_out_plainly(model), (example,), dynamic_shapes=(shapes,)
        ),
        images,
    )
    torch.export.save(program, path)
    return {}


def _read_torch_export(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    program = torch.export.load(path).module()
    return lambda inputs: program(inputs.cpu())


def _write_onnx(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    program = _traced(
        "onnx",
        lambda example, shapes: torch.onnx.export(
            _laid_out_plainly(model),
            (example,),
            dynamo=True,
            dynamic_shapes=(shapes,),
            input_names=["images"],
            output_names=["outputs"],
            verbose=False,
        ),
        images,
    )
    assert program is not None  # it is none only without dynamo
    program.save(path)
    return {"input": "images", "output": "outputs"}


def _read_onnx(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(["outputs"], {"images": inputs.cpu().numpy()})[0])


def _traced(to: str, trace: Callable[[Tensor, dict[int, Any]], T], images: Tensor) -> T:
    """What a tracing exporter makes of the network, for batches of any size."""
    # Two, as tracing takes a batch of one for a constant; and of zeros, as the file may keep its example.
    example = torch.zeros(2, *images.shape[1:], dtype=images.dtype)
    try:
        with _quiet():
            return trace(example, {0: torch.export.Dim.DYNAMIC})
    except Exception as error:  # whatever the tracer ran into in the network's own code
        raise PruningError(f"The network can't be exported to {to}: {first_line(error)}") from error


def _laid_out_plainly(model: nn.Module) -> nn.Module:
    """A copy on the CPU with channels first, as whoever reads the file will have its images."""
    return copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)


@contextmanager
def _quiet() -> Iterator[None]:
    """Tracers warn and log of their own insides; what concerns the user comes as an exception."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


FORMATS = {
    "dense": Format(_write_dense, _read_dense),
    "sparse": Format(_write_sparse, _read_sparse),
    "shrunk": Format(_write_shrunk, _read_shrunk, ("torch_pruning",), "shrink"),
    "torch-export": Format(_write_torch_export, _read_torch_export),
    "onnx": Format(_write_onnx, _read_onnx, ("onnx", "onnxruntime", "onnxscript"), "onnx"),
}
