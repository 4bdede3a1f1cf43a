"""Side-by-side timings on this machine: the pruning step, a fine-tuning step, an epoch, start-up; ours and others.

Everything in one section is timed in turns (A B C, C A B, ...), so that a machine that slows down slows all of them,
and nobody always comes after the one that leaves caches in the worst state. Times are medians with quartiles.

The pruning step and the epochs are done by processes of their own: what one contender leaves in its memory is no gift
to the next. They have PyTorch's and the allocator's settings as they come, our epoch those of a run. Before each turn
of the pruning step free memory is given back to the system, for a process that prunes once has none to spare. Extra
memory is the peak of a fresh process above what it held before.
"""

from __future__ import annotations

import copy
import ctypes
import importlib.util
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune as torch_prune

from pruning import data, models
from pruning.core.layers import prunable_layers
from pruning.core.prune import PruneOptions, compute_masks, prune
from pruning.measure import shrink
from pruning.measure.macs import count_macs
from pruning.training.device import configure_process
from pruning.training.fused_sgd import FusedSGD
from pruning.training.loop import train
from pruning.training.packed_layout import training_forward
from pruning.training.recipe import MOMENTUM, Recipe
from pruning.training.state import TrainingState

SPARSITY = 0.9
BATCH = 128
PAUSE = 0.1  # seconds before a process is asked, in which the threads of the one before fall asleep
EPOCH_IMAGES = 60_000  # as many as Fashion-MNIST has; the bundled images, several times over

Action = Callable[[], Any]
Contender = Callable[[], float]  # does its job once and says how many seconds that took


@dataclass(frozen=True)
class Timing:
    """Seconds: median and quartiles; `ratio` is the median of this / the section's first, turn by turn."""

    name: str
    median: float
    lower: float
    upper: float
    ratio: float
    turns: int
    extra_bytes: int | None = None


@dataclass(frozen=True)
class Section:
    """Timings that may be compared with one another."""

    title: str
    timings: list[Timing]


def bench(*, quick: bool, tell: Callable[[str], None]) -> Iterator[Section]:
    """All sections, one after the other. `quick` takes fewer turns and smaller jobs, and measures no memory."""
    configure_process(torch.device("cpu"), None, False)
    for arch, turns in (("resnet18", 2),) if quick else (("resnet50", 11), ("vit_b_16", 3)):
        tell(f"timing the pruning step of {arch}")
        yield pruning_step(arch, turns, memory=not quick)
    for arch, shape, turns in (("my", (1, 28, 28), 100), ("resnet20", (3, 32, 32), 8)):
        tell(f"timing a fine-tuning step of {arch}")
        yield finetuning_step(arch, shape, turns if quick else 5 * turns)
    tell("timing an epoch of my")
    yield epoch(EPOCH_IMAGES // 20, 2) if quick else epoch(EPOCH_IMAGES, 5)
    if importlib.util.find_spec("torch_pruning") is not None:
        tell("timing a shrunk resnet18")
        yield shrunk_network("resnet18", 2 if quick else 20)
    else:
        tell("no timing of a shrunk network: it needs torch-pruning, pip install 'pruning[shrink]'")
    tell("timing start-up")
    yield start_up(2 if quick else 9)


def pruning_step(arch: str, turns: int, *, memory: bool) -> Section:
    """A global magnitude mask at 90 % of all a network's weights, and the floor: one pass of abs() over them."""
    with ExitStack() as processes:
        contenders = {
            name: processes.enter_context(_served(f"serve_mask({arch!r}, {name!r})")) for name in MASK_MAKERS
        }
        times = _in_turns(contenders, turns)
    extra = {name: _extra_memory_in_fresh_process(arch, name) if memory else None for name in contenders}
    total = sum(weight.numel() for weight in _weights(arch).values())
    return _section(f"global magnitude mask at 90 %, {arch} ({total / 1e6:.1f} M weights)", times, extra)


def finetuning_step(arch: str, shape: tuple[int, int, int], turns: int) -> Section:
    """A run's step on a batch of 128: dense, with masks held, and with torch.nn.utils.prune's parametrisation."""
    images = torch.randn(BATCH, *shape).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (BATCH,))

    def step(prepare: Callable[[nn.Module], Callable[[torch.optim.Optimizer], Any]]) -> Contender:
        torch.manual_seed(0)
        model = models.build(arch, classes=10, shape=shape)
        hold = prepare(model)
        model.to(memory_format=torch.channels_last)
        optimizer = FusedSGD(model.parameters(), lr=0.01, momentum=MOMENTUM, weight_decay=5e-4)
        hold(optimizer)
        forward = training_forward(model, "fp32", images.device)

        def action() -> None:
            optimizer.zero_grad()
            functional.cross_entropy(forward(images), targets).backward()
            optimizer.step()

        return _timed(action)

    def dense(model: nn.Module) -> Callable[[torch.optim.Optimizer], Any]:
        return lambda optimizer: None

    def held(model: nn.Module) -> Callable[[torch.optim.Optimizer], Any]:
        return prune(model, "global_mag", SPARSITY).hold

    def parametrised(model: nn.Module) -> Callable[[torch.optim.Optimizer], Any]:
        _torch_global_unstructured(model)
        return lambda optimizer: None

    contenders = {
        "dense": step(dense),
        "masks held": step(held),
        "torch.nn.utils.prune": step(parametrised),
    }
    return _section(f"fine-tuning step, {arch}, batch {BATCH}", _in_turns(contenders, turns))


def epoch(images: int, turns: int) -> Section:
    """One epoch of `my`: images held in memory and indexed, and torchvision's FashionMNIST in a DataLoader."""
    with ExitStack() as processes:
        contenders = {
            "images held in memory": processes.enter_context(
                _served(f"serve_epoch({images})", of_a_run=True)
            ),
            "DataLoader, no workers": processes.enter_context(_served(f"serve_loader({images}, 0)")),
            "DataLoader, 2 workers": processes.enter_context(_served(f"serve_loader({images}, 2)")),
        }
        times = _in_turns(contenders, turns)
    return _section(f"epoch of my, {images:,} images, batch {BATCH}", times)


def shrunk_network(arch: str, turns: int, batch: int = 8) -> Section:
    """torchvision's `arch`, half of each layer's filters removed by their L1 norms: dense, masked, and taken out."""
    shape = (3, 224, 224)
    torch.manual_seed(0)
    dense = models.build(arch, classes=1000, shape=shape).eval().to(memory_format=torch.channels_last)
    images = torch.randn(batch, *shape).contiguous(memory_format=torch.channels_last)
    masked = copy.deepcopy(dense)
    prune(masked, "layer_l1", 0.5, structure="filter", batches=[(images, torch.zeros(batch))])
    small = shrink.shrink(masked, images).model
    networks = {"dense": dense, "masked": masked, "shrunk": small}
    speedup = count_macs(dense, shape).macs / count_macs(small, shape).macs

    def contender(network: nn.Module) -> Contender:
        return _timed(torch.inference_mode()(lambda: network(images)))

    times = _in_turns({name: contender(network) for name, network in networks.items()}, turns)
    return _section(
        f"{arch} without half of its filters, batch {batch}, {speedup:.2f}x fewer multiply-adds", times
    )


def start_up(turns: int) -> Section:
    """Whole processes: Python and torch alone, for scale; what answers without torch; a run up to its first batch."""

    def process(*arguments: str) -> Contender:
        return _timed(lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))

    def first_batch() -> None:
        with tempfile.TemporaryDirectory() as folder:
            options = ("--epochs", "1", "--log-interval", "1", "--runs-dir", folder)
            run = [sys.executable, "-m", "pruning", *options]
            with subprocess.Popen(run, stdout=subprocess.PIPE, text=True) as started:
                assert started.stdout is not None
                next(line for line in started.stdout if line.startswith("dense") and "batch" in line)
                started.kill()

    contenders = {
        "import torch": process("-c", "import torch"),
        "--help": process("-m", "pruning", "--help"),
        "list methods": process("-m", "pruning", "list", "methods"),
        "a run's first batch": _timed(first_batch),
    }
    return _section("start-up, whole processes", _in_turns(contenders, turns, warm=True))


def _weights(arch: str) -> dict[str, Tensor]:
    """Every convolution's and linear layer's weight of a network with random weights."""
    torch.manual_seed(0)
    model = models.build(arch, classes=1000, shape=(3, 224, 224))
    return {layer.name: layer.parameter.detach() for layer in prunable_layers(model, prune_classifier=True)}


class _Weights(nn.Module):
    """Just these weights, each in a linear layer's place, so that any pruner takes them all."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        for index, weight in enumerate(weights.values()):
            layer = nn.Linear(1, 1, bias=False)
            layer.weight = nn.Parameter(weight)
            self.add_module(str(index), layer)


def _abs(weights: dict[str, Tensor]) -> Action:
    return lambda: [weight.abs() for weight in weights.values()]


def _ours(weights: dict[str, Tensor]) -> Action:
    model = _Weights(weights)
    options = PruneOptions(method="global_mag", sparsity=SPARSITY, prune_classifier=True)
    return lambda: compute_masks(model, options)


def _partition(weights: dict[str, Tensor]) -> Action:
    """As a script of one's own does it: all scores in one NumPy array, partitioned at the threshold."""
    import numpy

    def action() -> list[Any]:
        scores = [weight.abs().numpy() for weight in weights.values()]
        every = numpy.concatenate([score.ravel() for score in scores])
        threshold = numpy.partition(every, round(SPARSITY * every.size))[round(SPARSITY * every.size)]
        return [score >= threshold for score in scores]

    return action


def _global_unstructured(weights: dict[str, Tensor]) -> Action:
    def action() -> None:
        _torch_global_unstructured(_Weights(weights))

    return action


def _torch_global_unstructured(model: nn.Module) -> None:
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    named = [(module, "weight") for module in layers]
    torch_prune.global_unstructured(named, pruning_method=torch_prune.L1Unstructured, amount=SPARSITY)


MASK_MAKERS: dict[str, Callable[[dict[str, Tensor]], Action]] = {
    "pruning": _ours,
    "abs() of the weights": _abs,
    "numpy.partition": _partition,
    "torch.nn.utils.prune": _global_unstructured,
}


def _our_epoch(images: data.Dataset) -> Action:
    model = models.build("my", classes=10, shape=(1, 28, 28)).to(memory_format=torch.channels_last)
    recipe = Recipe(1, BATCH, 0.01, None, 5e-4, "fp32", seed=0)

    def action() -> None:
        train(model, images, TrainingState(model, recipe, len(images.train)))

    return action


def _repeated(images: int) -> data.Dataset:
    """The bundled images, one after the other and again, until there are so many."""
    bundled = data.load("fashion_mini", validation=0)
    assert isinstance(bundled.train, data.Split)
    which = torch.arange(images) % len(bundled.train)
    train = replace(bundled.train, inputs=bundled.train.inputs[which], targets=bundled.train.targets[which])
    return replace(bundled, train=train)


@contextmanager
def _served(call: str, *, of_a_run: bool = False) -> Iterator[Contender]:
    """What another process does each time it is asked, with the settings of a run or as they come.

    `call` is of this module.
    """
    code = f"from pruning.measure import bench; bench.{call}"
    usual = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=None if of_a_run else usual,
        text=True,
    ) as process:
        asks, answers = process.stdin, process.stdout
        assert asks is not None and answers is not None

        def contender() -> float:
            time.sleep(PAUSE)
            asks.write("again\n")
            asks.flush()
            answer = answers.readline()
            if not answer:
                raise RuntimeError(f"{call} ended with exit code {process.wait()}")
            return float(answer)

        try:
            yield contender
        finally:
            process.kill()  # it has nothing to save, and ending by itself takes most of a second


def serve_mask(arch: str, contender: str) -> None:
    """Make a mask of a network's weights for every line that comes in; see `_serve`."""
    _serve(MASK_MAKERS[contender](_weights(arch)), before=_give_memory_back)


def serve_epoch(images: int) -> None:
    """Do an epoch as a run does it for every line that comes in; see `_serve`."""
    configure_process(torch.device("cpu"), None, False)
    _serve(_our_epoch(_repeated(images)))


def serve_loader(images: int, workers: int) -> None:
    """Do an epoch with a DataLoader for every line that comes in; see `_serve`."""
    _serve(_loader_epoch(_repeated(images).train, workers))


def _serve(action: Action, before: Callable[[], None] = lambda: None) -> None:
    """Does it for every line that comes in, and answers with a line: the seconds that it took, without `before`."""
    contender = _timed(action)
    for _ in sys.stdin:
        before()
        sys.stdout.write(f"{contender()}\n")
        sys.stdout.flush()


def _timed(action: Action) -> Contender:
    def contender() -> float:
        begin = time.perf_counter()
        action()
        return time.perf_counter() - begin

    return contender


def _loader_epoch(split: data.Split | data.StreamedSplit, workers: int) -> Action:
    from torchvision import transforms
    from torchvision.datasets import FashionMNIST

    assert isinstance(split, data.Split)
    images, targets = split.inputs[:, 0], split.targets

    class Images(FashionMNIST):
        """torchvision's own, but for where the images come from."""

        def _check_exists(self) -> bool:
            return True

        def _load_data(self) -> tuple[Tensor, Tensor]:
            return images, targets

    to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.2860, 0.3530)])
    dataset = Images("nowhere", transform=to_input)
    loader = torch.utils.data.DataLoader[Any](dataset, BATCH, shuffle=True, num_workers=workers)
    model = models.build("my", classes=10, shape=(1, 28, 28))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=MOMENTUM, nesterov=True, weight_decay=5e-4
    )

    def action() -> None:
        for batch, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()

    return action


def _in_turns(contenders: dict[str, Contender], turns: int, *, warm: bool = False) -> dict[str, list[float]]:
    """Seconds of every contender in every turn, after one turn that does not count unless all is warm already.

    Each turn has an order of its own, the same in every call.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    order = random.Random(0)
    for turn in range(0 if warm else -1, turns):
        for name in order.sample(list(contenders), len(contenders)):
            seconds = contenders[name]()
            if turn >= 0:
                times[name].append(seconds)
    return times


def _give_memory_back() -> None:
    """Free memory that the allocator keeps goes back to the system, where the allocator is glibc's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _section(
    title: str, times: dict[str, list[float]], extra: dict[str, int | None] | None = None
) -> Section:
    first = next(iter(times.values()))
    timings = []
    for name, seconds in times.items():
        lower, median, upper = statistics.quantiles(seconds, n=4, method="inclusive")
        ratio = statistics.median(own / reference for own, reference in zip(seconds, first, strict=True))
        timings.append(Timing(name, median, lower, upper, ratio, len(seconds), (extra or {}).get(name)))
    return Section(title, timings)


def _extra_memory_in_fresh_process(arch: str, contender: str) -> int | None:
    code = f"from pruning.measure.bench import extra_memory; print(extra_memory({arch!r}, {contender!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return None if done.stdout.strip() == "None" else int(done.stdout)


def extra_memory(arch: str, contender: str) -> int | None:
    """Bytes by which making a mask raises this process' peak above what it held before; None where Linux isn't."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    MASK_MAKERS[contender](
        {"some": torch.randn(100, 100)}
    )()  # what is imported and set up once does not count
    action = MASK_MAKERS[contender](_weights(arch))
    _give_memory_back()
    reset.write_text("5")  # the peak counts from here
    before = _resident("VmRSS")
    action()
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith(field))
    return 1024 * int(kilobytes)
