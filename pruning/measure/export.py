"""Export of a network to a file format, verified on real images.

A format is a pair of functions: one writes a network, the other reads the file back as a function from images to
outputs. `export` calls both and compares outputs and accuracy with the network's before the file gets its final name.
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
class ExportResult:
    """An exported file and its comparison with the network.

    Attributes:
        format: Name of the format.
        bytes: Size of the file.
        images: Number of compared images.
        difference: Largest absolute difference between the outputs.
        top1, file_top1: Accuracy in percent of the network, and of the file read back.
        details: Values of the format, for JSON.
    """

    format: str
    path: Path
    bytes: int
    images: int
    difference: float
    top1: float
    file_top1: float
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportFormat:
    """A file format.

    Attributes:
        write: Writes (network, example images, path); returns details.
        read: Reads (network, example images, path); returns a function from images to outputs.
        packages: Packages that the format imports.
        extra: The extra of this project that installs them.
    """

    write: Callable[[nn.Module, Tensor, Path], dict[str, Any]]
    read: Callable[[nn.Module, Tensor, Path], Outputs]
    packages: tuple[str, ...] = ()
    extra: str = ""


def export(
    model: nn.Module, to: str, path: Path, batches: Iterable[Batch], masks: Mapping[str, Tensor] | None = None
) -> ExportResult:
    """Write `model` to `path` in a format of FORMATS, read it back and compare both on every batch.

    Args:
        to: Name of the format.
        batches: At least one of (images (N, channels, H, W), targets (N,)), on the model's device.
        masks: If given, weights that they remove must be zero in this network.

    Raises:
        PruningError: Unknown format, missing packages, a network that the format cannot represent, masks of another
            network, or outputs that differ by more than 1e-4 (times the largest output, if that is above 1). No file
            is written.
    """
    chosen = _find_format(to)
    _check_masks(model, masks or {})
    model = copy.deepcopy(model).eval()
    remaining = iter(batches)
    first = next(remaining, None)
    if first is None:
        raise PruningError(
            "An export is verified on real images, but `batches` is empty. Give at least one batch."
        )
    try:
        with files.atomic_file(path) as temporary:
            details = chosen.write(model, first[0], temporary)
            outputs = chosen.read(model, first[0], temporary)
            compared = _compare(model, outputs, chain([first], remaining), to)
    except OSError as error:
        raise PruningError(
            f"{path} cannot be written ({error.strerror or error}). Choose another path."
        ) from error
    return ExportResult(format=to, path=path, bytes=path.stat().st_size, details=details, **compared)


def _find_format(to: str) -> ExportFormat:
    if to not in FORMATS:
        raise unknown("export format", to, FORMATS)
    chosen = FORMATS[to]
    missing = [package for package in chosen.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise PruningError(
            f"Export to {to} needs {', '.join(missing)}, which is not installed: "
            f"pip install 'pruning[{chosen.extra}]'."
        )
    return chosen


def _check_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.shape != mask.shape:
            raise PruningError(
                f"The mask of {name} does not fit this network. Give the masks of the same run."
            )
        if bool(parameter.detach()[~mask.to(parameter.device)].any()):
            raise PruningError(
                f"{name} has nonzero weights that its mask removes. Apply the masks before the export."
            )


def _compare(model: nn.Module, outputs: Outputs, batches: Iterable[Batch], to: str) -> dict[str, Any]:
    """Return the comparison fields of ExportResult. Raises PruningError if the outputs differ."""
    differences: list[float] = []
    largest, correct, file_correct, images = 1.0, 0, 0, 0
    with eval_mode(model):
        for inputs, targets in batches:
            expected, found = model(inputs), outputs(inputs).to(inputs.device)
            differences.append(float((expected - found).abs().max()))
            largest = max(largest, float(expected.abs().max()))
            correct += int((expected.argmax(1) == targets).sum())
            file_correct += int((found.argmax(1) == targets).sum())
            images += len(inputs)
    wrong = [difference for difference in differences if not difference <= TOLERANCE * largest]  # NaN as well
    if wrong:
        raise PruningError(
            f"The exported file ({to}) differs from the network: its outputs differ by {wrong[0]:.2g}."
        )
    top1, file_top1 = 100 * correct / images, 100 * file_correct / images
    return {"images": images, "difference": max(differences), "top1": top1, "file_top1": file_top1}


def _write_dense(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    files.write_tensors_atomic(path, model.state_dict())
    return {}


def _read_dense(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    return _with_tensors(model, files.read_tensors(path))


def _write_sparse(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    """Write the sparse file; return its sizes, and the measured speed of its network at batch size 1."""
    stored = dataclasses.asdict(storage.save(model.state_dict(), path))
    if not any(type(module) is nn.Linear for module in model.modules()):
        return {**stored, "layers": {}}
    fast = sparse_inference.use_sparse_layers(model, images[:1])
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
    return sparse_inference.use_sparse_layers(loaded, images[:1]).model


def _with_tensors(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    loaded = copy.deepcopy(model)
    loaded.load_state_dict(tensors)
    return loaded


def _write_shrunk(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    shrunk = shrink.shrink(model, images)
    shrink.save(shrunk.model, path)
    return {"widths": shrunk.widths, "remaining_zero_filters": shrunk.remaining_zero_filters}


def _read_shrunk(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    return shrink.load(model, path)


def _write_torch_export(model: nn.Module, images: Tensor, path: Path) -> dict[str, Any]:
    program = _traced(
        "torch-export",
        lambda example, shapes: torch.export.export(
            _contiguous_cpu_copy(model), (example,), dynamic_shapes=(shapes,)
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
            _contiguous_cpu_copy(model),
            (example,),
            dynamo=True,
            dynamic_shapes=(shapes,),
            input_names=["images"],
            output_names=["outputs"],
            verbose=False,
        ),
        images,
    )
    assert program is not None  # None only for dynamo=False
    program.save(path)
    return {"input": "images", "output": "outputs"}


def _read_onnx(model: nn.Module, images: Tensor, path: Path) -> Outputs:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(["outputs"], {"images": inputs.cpu().numpy()})[0])


def _traced(to: str, trace: Callable[[Tensor, dict[int, Any]], T], images: Tensor) -> T:
    """Trace the network for batches of any size; any error of the tracer is a PruningError."""
    # Two images, because a batch of one is traced as a constant; zeros, because the file may contain its example.
    example = torch.zeros(2, *images.shape[1:], dtype=images.dtype)
    try:
        with _without_warnings():
            return trace(example, {0: torch.export.Dim.DYNAMIC})
    except Exception as error:  # tracing runs the network's own code, which may raise any error
        raise PruningError(f"The network cannot be exported to {to}: {first_line(error)}") from error


def _contiguous_cpu_copy(model: nn.Module) -> nn.Module:
    """A copy for images on the CPU with channels first, as consumers of the file expect."""
    return copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Suppress the warnings and logs of tracers, which are about their internals; errors are exceptions."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


FORMATS = {
    "dense": ExportFormat(_write_dense, _read_dense),
    "sparse": ExportFormat(_write_sparse, _read_sparse),
    "shrunk": ExportFormat(_write_shrunk, _read_shrunk, ("torch_pruning",), "shrink"),
    "torch-export": ExportFormat(_write_torch_export, _read_torch_export),
    "onnx": ExportFormat(_write_onnx, _read_onnx, ("onnx", "onnxruntime", "onnxscript"), "onnx"),
}
