"""Training and evaluation: the learning rate's curve, exact accuracies, and going on where one left off, to the bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn

from pruning.data import Dataset, Split
from pruning.training.loop import (
    COUNTED_AT_ONCE,
    NotFiniteError,
    Recipe,
    TrainingState,
    batches_an_epoch,
    cross_entropy,
    evaluate,
    one_cycle,
    train,
)
from pruning.training.machine import derive_seed, seed_everything

RECIPE = Recipe(
    epochs=2, batch_size=8, peak_lr=0.1, base_lr=None, weight_decay=5e-4, precision="fp32", seed=3
)


def images(count: int = 50, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randint(0, 256, (count, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return Split(inputs, torch.randint(0, 3, (count,), generator=generator), (0.5,), (0.25,))


def dataset() -> Dataset:
    parts = {"train": images(), "validation": images(10, 1), "test": images(10, 2)}
    return Dataset("small", ("a", "b", "c"), (1, 4, 4), **parts, mean=(0.5,), std=(0.25,), augmentation=None)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 3))


def training(model: nn.Module, state: TrainingState, recipe: Recipe = RECIPE, **hooks: Any) -> None:
    quiet = {name: lambda *_: None for name in ("on_log", "on_epoch", "after_batch")}
    train(model, dataset(), recipe, state, **{"log_interval": 3, **quiet, **hooks})


@pytest.mark.parametrize(("steps", "base"), [(10, None), (100, None), (37, 0.02)])
def test_one_cycle_is_torchs(steps: int, base: float | None) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1)
    factor = 25 if base is None else 0.1 / base
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.1, total_steps=steps, div_factor=factor, cycle_momentum=False
    )
    for step in range(steps):
        assert one_cycle(step, steps, 0.1, base) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_one_cycle_is_a_learning_rate_for_the_shortest_trainings(steps: int) -> None:
    assert all(0 < one_cycle(step, steps, 0.1) <= 0.1 for step in range(steps))


def test_accuracy_is_correct_over_seen_with_a_partial_last_batch() -> None:
    class Known(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[3.0, 2.0, 1.0]]).expand(len(inputs), 3)

    split = images(50)
    found = evaluate(Known(), split, batch_size=16, precision="fp32")
    assert found.top1 == 100 * int((split.targets == 0).sum()) / 50
    assert found.top5 == 100
    log_softmax = torch.tensor([3.0, 2.0, 1.0]).log_softmax(0)
    assert found.loss == pytest.approx(-float(log_softmax[split.targets].mean()), rel=1e-5)


def test_evaluation_leaves_the_network_as_it_was() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    evaluate(model, images(), 8, "fp32")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.training


def test_the_last_partial_batch_counts() -> None:
    assert batches_an_epoch(images(50), 8) == 7
    assert batches_an_epoch(images(50), 8, limit=2) == 2


def test_training_again_gives_the_same_bits() -> None:
    first, second = network(), network()
    training(first, TrainingState(first, RECIPE))
    torch.rand(7)  # what others draw meanwhile does not matter
    training(second, TrainingState(second, RECIPE))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("stop_after", [1, 5, 7, 8, 13, 14])
def test_a_training_continued_anywhere_ends_with_the_same_bits(stop_after: int) -> None:
    whole, model = network(), network()
    logged: list[dict[str, Any]] = []
    training(whole, TrainingState(whole, RECIPE), on_log=logged.append)
    state = TrainingState(model, RECIPE)
    again: list[dict[str, Any]] = []
    done = 0

    def after_batch() -> None:
        nonlocal done
        done += 1
        if done == stop_after:
            raise Stop

    with pytest.raises(Stop):
        training(model, state, on_log=again.append, after_batch=after_batch)
    tensors, numbers = state.pack()
    taken_up = network()
    taken_up.load_state_dict(model.state_dict())
    continued = TrainingState(taken_up, RECIPE)
    continued.unpack({name: tensor.clone() for name, tensor in tensors.items()}, numbers)
    training(taken_up, continued, on_log=again.append)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), taken_up.parameters(), strict=True))
    assert again == logged


def test_part_of_a_training_is_its_beginning() -> None:
    snapshots: list[torch.Tensor] = []
    whole, part = network(), network()
    training(
        whole,
        TrainingState(whole, RECIPE),
        on_epoch=lambda _: snapshots.append(whole[1].weight.detach().clone()),
    )
    training(part, TrainingState(part, RECIPE), epochs=1)
    assert torch.equal(part[1].weight, snapshots[0])
    assert not torch.equal(part[1].weight, snapshots[1])


def test_a_training_may_begin_at_a_later_epoch_with_that_epochs_learning_rates_and_another_loss() -> None:
    logged: list[dict[str, Any]] = []
    later = dataclasses.replace(RECIPE, first_epoch=1)
    model, again = network(), network()
    training(model, TrainingState(model, later), recipe=later, on_log=logged.append)
    assert [(entry["epoch"], entry["batch"]) for entry in logged] == [(2, 3), (2, 6), (2, 7)]
    assert [entry["lr"] for entry in logged] == [one_cycle(7 + step, 14, 0.1) for step in (2, 5, 6)]
    quadrupled: list[dict[str, Any]] = []

    def loss(inputs: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert len(inputs) == len(outputs) == len(targets)
        return cross_entropy(inputs, outputs, targets) * 0 + 4

    training(again, TrainingState(again, later), recipe=later, on_log=quadrupled.append, loss=loss)
    assert {entry["loss"] for entry in quadrupled} == {4.0}


def test_a_loss_that_is_not_finite_stops_the_training() -> None:
    model = network()
    with torch.no_grad():
        model[1].weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="nan in epoch 1"):
        training(model, TrainingState(model, RECIPE))


def test_the_log_tells_mean_loss_and_accuracy_of_the_images_so_far() -> None:
    """Over more batches than are counted at once, and with a last one that is smaller than the others."""
    split, logged, losses, hits = images(165), [], [], []
    assert len(split) // RECIPE.batch_size > COUNTED_AT_ONCE
    model = network()

    def loss(inputs: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        of_each = nn.functional.cross_entropy(outputs, targets, reduction="none")
        losses.extend(of_each.tolist())
        hits.extend((outputs.argmax(1) == targets).tolist())
        return of_each.mean()

    data = dataclasses.replace(dataset(), train=split)
    recipe = dataclasses.replace(RECIPE, epochs=1)
    state = TrainingState(model, recipe)
    quiet = {name: lambda *_: None for name in ("on_epoch", "after_batch")}
    train(model, data, recipe, state, loss=loss, log_interval=19, on_log=logged.append, **quiet)
    assert [entry["batch"] for entry in logged] == [19, 21]
    for entry, seen in zip(logged, (19 * 8, 165), strict=True):
        assert entry["loss"] == pytest.approx(sum(losses[:seen]) / seen, rel=1e-5)
        assert entry["accuracy"] == 100 * sum(hits[:seen]) / seen


class HasBlocks(nn.Module):
    """Keeps whether its images came in oneDNN's layout."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 3)
        self.blocked: list[bool] = []

    def to_blocks(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs.to_mkldnn()

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.blocked.append(inputs.is_mkldnn)
        return self.linear((inputs.to_dense() if inputs.is_mkldnn else inputs).flatten(1))


@pytest.mark.parametrize(("precision", "blocked"), [("fp32", True), ("bf16", False)])
def test_images_come_in_blocks_where_these_help_but_for_evaluation(precision: str, blocked: bool) -> None:
    model = HasBlocks()
    help_here = torch.backends.cpu.get_cpu_capability() == "AVX512" and torch.backends.mkldnn.is_available()
    recipe = dataclasses.replace(RECIPE, precision=precision, epochs=1)
    training(model, TrainingState(model, recipe), recipe=recipe)
    assert set(model.blocked) == {blocked and help_here}
    model.blocked.clear()
    evaluate(model, images(), 8, precision)
    assert not any(model.blocked)


def test_every_image_is_seen_once_an_epoch() -> None:
    seen: list[int] = []

    class Watching(nn.Linear):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.extend(inputs.flatten(1).sum(1).mul(1e4).round().long().tolist())
            return super().forward(inputs.flatten(1))

    model = Watching(16, 3)
    training(model, TrainingState(model, RECIPE), recipe=RECIPE, epochs=1)
    (whole,) = [inputs for inputs, _ in images().batches(50)]
    assert sorted(seen) == sorted(whole.flatten(1).sum(1).mul(1e4).round().long().tolist())


def test_seeds_for_different_purposes_differ() -> None:
    seeds = {derive_seed(0, "shuffle", epoch) for epoch in range(1000)} | {
        derive_seed(0, "augment", 0),
        derive_seed(1),
    }
    assert len(seeds) == 1002
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_seeding_reaches_torch_python_and_numpy() -> None:
    import random

    import numpy

    drawn = []
    for _ in range(2):
        seed_everything(derive_seed(5), torch.device("cpu"))
        drawn.append((float(torch.rand(1)), random.random(), numpy.random.rand()))
    assert drawn[0] == drawn[1]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_training_on_a_gpu_does_not_wait_for_it_between_logs() -> None:
    model, done = network().cuda(), 0
    split = images(50 * COUNTED_AT_ONCE)
    on_gpu = dataclasses.replace(split, inputs=split.inputs.cuda(), targets=split.targets.cuda())

    def after_batch() -> None:
        nonlocal done
        done += 1
        torch.cuda.set_sync_debug_mode("error")  # from the second batch on; the first one sets the epoch up
        if done == 2 * COUNTED_AT_ONCE:
            raise Stop

    quiet = {name: lambda *_: None for name in ("on_log", "on_epoch")}
    data = dataclasses.replace(dataset(), train=on_gpu)
    state = TrainingState(model, RECIPE)
    try:
        with pytest.raises(Stop):
            train(model, data, RECIPE, state, log_interval=1000, after_batch=after_batch, **quiet)
    finally:
        torch.cuda.set_sync_debug_mode("default")
