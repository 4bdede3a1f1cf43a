"""Accumulated statistics: against hand computation and naive loops, and bit-identical in runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import (
    SilentObserver,
    events,
    fork,
    masks_of,
    reproducible_result,
    run_with_interruptions,
    small_mnist,
    wait_for_event,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

import pruning
from pruning import Masks, PruningError
from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.core.accumulation import Accumulated, accumulate
from pruning.core.layers import prunable_layers
from pruning.experiment.dense_cache import DenseStates
from pruning.experiment.events import Event, ScoringStarted
from pruning.experiment.rounds import accept, finetune_plan, prune_network, roll_back
from pruning.experiment.runner import run
from pruning.experiment.setup import prepare

# The sums


def test_movement_by_hand_over_two_steps() -> None:
    """The loss w . x has gradient x: steps of 0.1 from (2, -1), with x = (1, 2) and then (3, 0)."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[2.0, -1.0]])
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    accumulated = accumulate(net, optimizer, "global_movement")
    assert accumulated["movement"]["weight"].tolist() == [[0, 0]]
    for x, expected in (([1.0, 2.0], [-2.0, 2.0]), ([3.0, 0.0], [-2.0 - 1.9 * 3, 2.0])):
        optimizer.zero_grad()
        net(torch.tensor([x])).sum().backward()
        optimizer.step()
        torch.testing.assert_close(accumulated["movement"]["weight"], torch.tensor([expected]))
    accumulated.clear()
    assert accumulated["movement"]["weight"].tolist() == [[0, 0]]


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train(net: nn.Module, optimizer: torch.optim.Optimizer, precision: str = "fp32") -> None:
    """Three steps of two batches each."""
    draw = torch.Generator().manual_seed(1)
    dtype = next(net.parameters()).dtype
    for batch in range(6):
        inputs, targets = torch.randn(5, 2, 6, 6, generator=draw), torch.randint(3, (5,), generator=draw)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
            functional.cross_entropy(net(inputs.to(dtype)), targets).backward()
        if batch % 2:
            optimizer.step()
            optimizer.zero_grad()


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    """SGD with everything besides the gradient that moves weights."""
    return torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)


@pytest.mark.parametrize("precision", ["fp32", "autocast", "bf16 weights"])
def test_movement_equals_a_naive_sum_over_weights_and_gradients(precision: str) -> None:
    net = convolutional().to(torch.bfloat16 if precision == "bf16 weights" else torch.float32)
    optimizer = sgd(net)
    accumulated = accumulate(net, optimizer, "global_movement")
    masks = pruning.prune(net, "global_mag", 0.3)
    masks.hold(optimizer)
    expected = {name: torch.zeros(mask.shape, dtype=torch.float64) for name, mask in masks.items()}

    def add(*_: Any) -> None:
        for name, total in expected.items():
            weight = net.get_parameter(name)
            assert weight.grad is not None
            for where in torch.cartesian_prod(*map(torch.arange, weight.shape)):
                at = tuple(where.tolist())
                total[at] -= float(weight.detach()[at]) * float(weight.grad[at])

    optimizer.register_step_pre_hook(add)
    train(net, optimizer, precision)
    assert accumulated["movement"].keys() == expected.keys() == {"0.weight", "3.weight"}
    for name, total in expected.items():
        found = accumulated["movement"][name]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), total, rtol=1e-5, atol=1e-6)
        assert not found[~masks[name]].any()


def test_an_optimizer_step_with_a_closure_is_refused() -> None:
    """The closure computes gradients inside the step, after the accumulator has read the earlier ones."""
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    accumulate(net, optimizer, "global_movement")
    for step in (lambda closure: optimizer.step(closure), lambda closure: optimizer.step(closure=closure)):
        with pytest.raises(PruningError, match=r"step\(closure\)"):
            step(lambda: net(torch.ones(1, 2)).sum())
    optimizer.step(None)


def test_a_frozen_layer_has_no_movement() -> None:
    net = convolutional()
    net.get_parameter("0.weight").requires_grad_(False)
    optimizer = sgd(net)
    accumulated = accumulate(net, optimizer, "global_movement")
    train(net, optimizer)
    assert not accumulated["movement"]["0.weight"].any()
    assert accumulated["movement"]["3.weight"].all()


def test_accumulation_continues_from_saved_sums() -> None:
    whole, net = convolutional(), convolutional()
    accumulated = accumulate(whole, optimizer := sgd(whole), "global_movement")
    train(whole, optimizer)
    train(whole, optimizer)
    first = accumulate(net, optimizer := sgd(net), "global_movement")
    train(net, optimizer)
    second = Accumulated(["movement"], prunable_layers(net))
    second.load({name: sums.clone() for name, sums in first.tensors().items()})
    second.follow(optimizer)
    train(net, optimizer)
    assert second.tensors().keys() == {"movement.0.weight", "movement.3.weight"}
    for name, sums in accumulated["movement"].items():
        assert torch.equal(second["movement"][name], sums)


def test_a_score_without_accumulators_adds_no_hook_to_the_optimizer() -> None:
    net = convolutional()
    optimizer = sgd(net)
    accumulated = Accumulated([], prunable_layers(net))
    accumulated.follow(optimizer)
    optimizer.step(lambda: 0.0)  # a closure, which an accumulator refuses
    assert not accumulated
    with pytest.raises(PruningError, match="global_mag accumulates nothing"):
        accumulate(net, optimizer, "global_mag")
    with pytest.raises(PruningError, match="Did you mean movement"):
        Accumulated(["movment"], prunable_layers(net))


# Pruning by them


def test_weights_that_moved_towards_zero_are_removed_first() -> None:
    net = convolutional()
    optimizer = sgd(net)
    accumulated = accumulate(net, optimizer, "global_movement")
    train(net, optimizer)
    masks = pruning.prune(net, "global_movement", 0.4, accumulated=accumulated)
    scores = torch.cat([accumulated["movement"][name].flatten() for name in masks])
    kept = torch.cat([mask.flatten() for mask in masks.values()])
    assert masks.removed == round(0.4 * (72 + 72))
    assert scores[~kept].max() <= scores[kept].min()


def test_pruning_by_movement_without_its_sums_is_refused() -> None:
    net = convolutional()
    with pytest.raises(PruningError, match=r"global_movement needs the movement of 0\.weight"):
        masks_of(net, "global_movement")
    sums = {name: torch.zeros(3) for name in ("0.weight", "3.weight")}
    with pytest.raises(PruningError, match=r"needs the movement of 0\.weight"):
        masks_of(net, "global_movement", accumulated={"movement": sums})


# In a run


def small(runs: Path, **options: Any) -> RunConfig:
    images = runs / ".images" if (runs / ".images").is_dir() else small_mnist(runs / ".images")
    values = {
        "method": "global_movement", "dataset": "mnist", "data": images, "epochs": 1, "finetune_epochs": 1,
        "rounds": 2, "batch_size": 50, "measure_seconds": 0, "runs_dir": runs, "name": "run",
    }  # fmt: skip
    return resolve({**values, **options})


class Watching(SilentObserver):
    """Sums the movement over the steps of all optimizers, by the shape of the weights, up to every pruning step."""

    def __init__(self) -> None:
        self.sums: dict[tuple[int, ...], Tensor] = {}
        self.at_pruning_steps: list[dict[tuple[int, ...], Tensor]] = []

    def event(self, event: Event) -> None:
        if isinstance(event, ScoringStarted):
            self.at_pruning_steps.append(self.sums)
            self.sums = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        def add(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            for parameter in optimizer.param_groups[0]["params"]:
                moved = parameter.detach().double() * parameter.grad.double()
                self.sums[parameter.shape] = self.sums.get(parameter.shape, 0) - moved

        handle = register_optimizer_step_pre_hook(add)
        try:
            yield
        finally:
            handle.remove()


@pytest.mark.parametrize(
    "options",
    [
        {"finetune": "rewind", "epochs": 2},
        {"schedule": "gradual", "rounds": None, "epochs": 0, "finetune_epochs": 2, "prune_every": 4},
    ],
)
def test_a_run_prunes_by_the_movement_since_the_last_pruning_step(
    options: dict[str, Any], tmp_path: Path
) -> None:
    """Removed weights have less movement than kept ones, and weights that were removed before stay removed."""
    config = small(tmp_path, checkpoint_interval=1e-9, **options)
    watch = Watching()
    with watch.watching():
        run(config, watch)
    removed = [event["removed"] for event in events(tmp_path / "run") if event["event"] == "pruning"]
    final = Masks.load(tmp_path / "run/masks.safetensors")
    pruned = torch.zeros(final.total, dtype=torch.bool)
    assert len(removed) == len(watch.at_pruning_steps) > 1
    for count, sums in zip(removed, watch.at_pruning_steps, strict=True):
        scores = torch.cat([sums[mask.shape].flatten() for mask in final.values()]).masked_fill(
            pruned, -torch.inf
        )
        pruned = torch.zeros_like(pruned).index_fill_(0, scores.argsort(stable=True)[:count], True)
    found = ~torch.cat([mask.flatten() for mask in final.values()])
    # Where scores differ by no more than float32 resolves, either may go.
    assert int((found != pruned).sum()) <= 2


STOPPED = {
    "rewind": {"finetune": "rewind", "epochs": 2},
    "gradual": {"schedule": "gradual", "rounds": None, "finetune_epochs": 2, "prune_every": 4},
    "until": {"max_drop": 5, "rounds": 4, "epochs": 2, "batch_size": 25, "lr": 0.05, "finetune_lr": 0.01},
}


@pytest.mark.parametrize("kind", STOPPED)
def test_a_movement_run_that_is_interrupted_repeatedly_has_a_bit_identical_result(
    kind: str, tmp_path: Path
) -> None:
    run(small(tmp_path / "whole", **STOPPED[kind]), SilentObserver())
    config = small(tmp_path / "stopped", checkpoint_interval=1e-9, **STOPPED[kind])
    assert run_with_interruptions(13, lambda observer: run(config, observer)) > 2
    assert reproducible_result(tmp_path / "stopped/run") == reproducible_result(tmp_path / "whole/run")


def test_a_movement_run_that_is_killed_in_every_training_has_a_bit_identical_result(tmp_path: Path) -> None:
    config = small(tmp_path, epochs=2, batch_size=5, log_interval=1, checkpoint_interval=0.01)
    run(config, SilentObserver())
    arguments = ("--config", tmp_path / "run/config.yaml", "--runs-dir", tmp_path / "killed")
    for phase in ({"phase": "dense", "epoch": 2}, {"phase": "finetune", "round": 1}):
        process = fork(*arguments, cwd=tmp_path)
        wait_for_event(tmp_path / "killed/run", process, event="batch", batch=40, **phase)
        process.kill()
        process.wait()
    assert fork(*arguments, cwd=tmp_path).wait(timeout=120) == 0
    assert reproducible_result(tmp_path / "killed/run") == reproducible_result(tmp_path / "run")


def test_cached_dense_trainings_do_not_change_a_movement_run(tmp_path: Path) -> None:
    """Neither the dense training of another method, nor one of its own, whole or damaged."""
    run(small(tmp_path / "alone"), SilentObserver())
    expected = reproducible_result(tmp_path / "alone/run")
    runs = tmp_path / "shared"
    run(small(runs, method="global_mag", name="magnitude"), SilentObserver())
    run(small(runs, name="first"), SilentObserver())
    networks = [load_file(file) for file in (runs / ".dense").glob("*/network.safetensors")]
    assert len(networks) == 2
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])
    run(small(runs, name="second"), SilentObserver())
    (sums,) = (runs / ".dense").glob("*/accumulated.safetensors")
    content = bytearray(sums.read_bytes())
    content[-100] ^= 1
    sums.write_bytes(content)
    run(small(runs, name="third"), SilentObserver())
    cached = [
        [event["cached"] for event in events(runs / name) if event["event"] == "dense"]
        for name in ("magnitude", "first", "second", "third")
    ]
    assert cached == [[False], [False], [True], [False]]
    assert [reproducible_result(runs / name) for name in ("first", "second", "third")] == [expected] * 3


def test_repeating_the_dense_training_for_its_rewind_state_does_not_accumulate(tmp_path: Path) -> None:
    options = {"finetune": "rewind", "epochs": 2}
    run(small(tmp_path / "alone", **options), SilentObserver())
    run(small(tmp_path, name="first", epochs=2), SilentObserver())
    assert not list(tmp_path.glob(".dense/*/epoch-1.safetensors"))
    run(small(tmp_path, name="second", **options), SilentObserver())
    assert (
        len(list(tmp_path.glob(".dense/*"))) == len(list(tmp_path.glob(".dense/*/epoch-1.safetensors"))) == 1
    )
    assert reproducible_result(tmp_path / "second") == reproducible_result(tmp_path / "alone/run")


def test_shared_rounds_include_the_sums_of_their_fine_tuning(tmp_path: Path) -> None:
    def to(ratio: int, **options: Any) -> RunConfig:
        return small(tmp_path, compression=ratio, rounds=ratio.bit_length() - 1, **options)

    run(to(8, name="alone"), SilentObserver())
    run(to(4, name="less", share_rounds=True), SilentObserver())
    run(to(8, name="more", share_rounds=True), SilentObserver())
    assert [event["rounds"] for event in events(tmp_path / "more") if event["event"] == "shared"] == [2]
    assert reproducible_result(tmp_path / "more") == reproducible_result(tmp_path / "alone")


@pytest.mark.parametrize("policy", ["continue", "rewind", "rewind_lr", "reinit"])
def test_sums_are_cleared_when_fine_tuning_starts_from_other_weights(policy: str, tmp_path: Path) -> None:
    """With rewind and reinit, the steps of the replaced weights do not count."""
    replays = policy.startswith("rewind")
    options = {"schedule": "gradual", "rounds": None, "prune_every": 4, "finetune": policy, "epochs": 2}
    config = small(tmp_path, finetune_epochs=None if replays else 1, **options)
    session = prepare(config, SilentObserver())
    session.log.open()
    session.accumulated.load({name: torch.ones_like(x) for name, x in session.accumulated.tensors().items()})
    state = session.model.state_dict()
    prune_network(session, 1, finetune_plan(session, 1, DenseStates(rewind_state=state)))
    old = policy in ("continue", "rewind_lr")
    assert all(bool((sums == old).all()) for sums in session.accumulated["movement"].values())


def test_rolling_back_a_round_restores_its_sums(tmp_path: Path) -> None:
    session = prepare(small(tmp_path, rounds=None, max_drop=5), SilentObserver())
    session.accumulated.load({name: torch.ones_like(x) for name, x in session.accumulated.tensors().items()})
    accept(session)
    session.accumulated.clear()
    roll_back(session)
    assert all(bool((sums == 1).all()) for sums in session.accumulated["movement"].values())


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epochs": 0}, "--epochs 0"),
        ({"finetune": "none"}, "--finetune none"),
        ({"finetune_epochs": 0}, "--finetune-epochs 0"),
        ({"finetune": "rewind", "finetune_epochs": None}, "--finetune rewind"),
    ],
)
def test_a_pruning_without_training_before_it_is_refused(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with pytest.raises(PruningError, match=f"--method global_movement .*{named}"):
        small(tmp_path, **options)
    assert small(tmp_path, **{**options, "method": "global_grad"})
    if "epochs" not in options:
        assert small(tmp_path, **{**options, "rounds": 1})
