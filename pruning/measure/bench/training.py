"""Benchmarks of training: a fine-tuning step with masks, and an epoch from memory or from a DataLoader."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pruning import data, models
from pruning.core.prune import prune
from pruning.measure.bench.processes import worker
from pruning.measure.bench.pruning_step import SPARSITY, prune_with_torch
from pruning.measure.bench.timing import Action, Contender, Section, run_in_turns, summarize, timed
from pruning.training.fused_sgd import FusedSGD
from pruning.training.loop import train
from pruning.training.packed_layout import training_forward
from pruning.training.recipe import MOMENTUM, Recipe
from pruning.training.state import TrainingState

BATCH = 128
LEARNING_RATE, WEIGHT_DECAY = 0.01, 5e-4
EPOCH_IMAGES = 60_000  # the size of Fashion-MNIST

Hold = Callable[[torch.optim.Optimizer], Any]
Prepare = Callable[[nn.Module], Hold]


def time_finetuning_step(arch: str, shape: tuple[int, int, int], turns: int) -> Section:
    """Time a step of a run: dense, with `masks.hold`, and with the parametrisation of torch.nn.utils.prune."""
    images = torch.randn(BATCH, *shape).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(0, 10, (BATCH,))
    contenders = {
        "dense": _step(arch, images, targets, _keep_dense),
        "masks held": _step(arch, images, targets, _prune_and_hold),
        "torch.nn.utils.prune": _step(arch, images, targets, _parametrise),
    }
    return summarize(f"fine-tuning step, {arch}, batch {BATCH}", run_in_turns(contenders, turns))


def _step(arch: str, images: Tensor, targets: Tensor, prepare: Prepare) -> Contender:
    torch.manual_seed(0)
    channels, height, width = images.shape[1:]
    model = models.build(arch, classes=10, shape=(channels, height, width))
    hold = prepare(model)
    model.to(memory_format=torch.channels_last)
    optimizer = FusedSGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    hold(optimizer)
    forward = training_forward(model, "fp32", images.device)

    def action() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(forward(images), targets).backward()
        optimizer.step()

    return timed(action)


def _keep_dense(model: nn.Module) -> Hold:
    return lambda optimizer: None


def _prune_and_hold(model: nn.Module) -> Hold:
    return prune(model, "global_mag", SPARSITY).hold


def _parametrise(model: nn.Module) -> Hold:
    prune_with_torch(model)
    return lambda optimizer: None


def time_epoch(images: int, turns: int) -> Section:
    """Time an epoch of `my`: images indexed in memory, and torchvision's FashionMNIST in a DataLoader."""
    with ExitStack() as processes:
        contenders = {
            "images held in memory": worker("epoch", str(images), settings_of_run=True),
            "DataLoader, no workers": worker("loader", str(images), "0"),
            "DataLoader, 2 workers": worker("loader", str(images), "2"),
        }
        started = {name: processes.enter_context(contender) for name, contender in contenders.items()}
        times = run_in_turns(started, turns)
    return summarize(f"epoch of my, {images:,} images, batch {BATCH}", times)


def repeated_dataset(images: int) -> data.Dataset:
    """Return the bundled data set with its training images repeated up to the given number."""
    bundled = data.load("fashion_mini", validation=0)
    assert isinstance(bundled.train, data.Split)
    rows = torch.arange(images) % len(bundled.train)
    train = replace(bundled.train, inputs=bundled.train.inputs[rows], targets=bundled.train.targets[rows])
    return replace(bundled, train=train)


def epoch_from_memory(images: data.Dataset) -> Action:
    """Return an epoch of `my` as a run trains it."""
    model = models.build("my", classes=10, shape=(1, 28, 28)).to(memory_format=torch.channels_last)
    recipe = Recipe(1, BATCH, LEARNING_RATE, None, WEIGHT_DECAY, "fp32", seed=0)
    return lambda: train(model, images, TrainingState(model, recipe, len(images.train)))


def epoch_from_loader(split: data.Split | data.StreamedSplit, workers: int) -> Action:
    """Return an epoch of `my` as a plain PyTorch script trains it: torchvision data set, DataLoader, torch.optim."""
    from torchvision import transforms

    from pruning.measure.bench.in_memory_fashion_mnist import InMemoryFashionMNIST

    assert isinstance(split, data.Split)
    to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(0.2860, 0.3530)])
    dataset = InMemoryFashionMNIST(split.inputs[:, 0], split.targets, to_input)
    loader = torch.utils.data.DataLoader[Any](dataset, BATCH, shuffle=True, num_workers=workers)
    model = models.build("my", classes=10, shape=(1, 28, 28))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True, weight_decay=WEIGHT_DECAY
    )

    def action() -> None:
        for batch, labels in loader:
            optimizer.zero_grad()
            functional.cross_entropy(model(batch), labels).backward()
            optimizer.step()

    return action
