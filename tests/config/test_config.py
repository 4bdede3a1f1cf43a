"""A run's options: what is not said follows from what is, what goes together, and the name that they give the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError


def test_without_an_amount_nine_tenths_are_removed() -> None:
    assert resolve({}).sparsity == 0.9


def test_rounds_follow_the_schedule() -> None:
    assert resolve({}).rounds == 3
    assert resolve({"schedule": "one_shot"}).rounds == 1
    with pytest.raises(PruningError, match="one_shot has 1 round, but --rounds is 4"):
        resolve({"schedule": "one_shot", "rounds": 4})


@pytest.mark.parametrize("policy", ["rewind", "rewind_lr"])
def test_policies_that_replay_the_dense_training_last_as_long_as_it_did(policy: str) -> None:
    config = resolve({"finetune": policy, "epochs": 12, "rewind_epoch": 4})
    assert (config.finetune_epochs, config.finetune_lr) == (8, None)
    assert resolve({"finetune": policy, "finetune_epochs": 9}).finetune_epochs == 9
    for contradiction, sentence in (
        ({"finetune_epochs": 3}, "from epoch 4 on, 8 of its 12 epochs, but --finetune-epochs is 3"),
        ({"finetune_lr": 0.01}, "at its learning rates, but --finetune-lr is 0.01; leave"),
    ):
        with pytest.raises(PruningError, match=sentence):
            resolve({"finetune": policy, "epochs": 12, "rewind_epoch": 4, **contradiction})


def test_a_structure_that_fixes_the_amount_is_one_round_of_it() -> None:
    config = resolve({"structure": "1:4", "method": "layer_mag"})
    assert (config.sparsity, config.rounds) == (0.75, 1)
    assert resolve({"structure": "2:4", "method": "layer_mag", "sparsity": "0.50"}).sparsity == 0.5
    assert resolve(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"structure": "2:4", "method": "global_mag"},
            "Structure 2:4 goes with the allocation layer only, not with global_mag",
        ),
        (
            {"structure": "2:4", "sparsity": "0.9"},
            "--structure 2:4 removes exactly 0.5, which --sparsity 0.9 contradicts",
        ),
        (
            {"structure": "2:4", "count": 3},
            "--structure 2:4 removes exactly 0.5, which --count 3 contradicts",
        ),
        ({"structure": "2:4", "rounds": "3"}, "in one round; leave --rounds out"),
        ({"structure": "4:2"}, "4:2 keeps 4 of every 2 weights"),
        ({"structure": "block"}, "block needs numbers: write block4x4"),
        ({"structure": "filter", "method": "lamp"}, "Method lamp goes with the structure weight only"),
        ({"layer_sparsity": "conv"}, "write conv=0.2 linear=0.4"),
        ({"layer_sparsity": "conv=0.2", "count": 3}, "--count and --layer-sparsity both say how much"),
        ({"floor": 2}, "--floor 2"),
    ],
)
def test_structures_and_fractions_that_make_no_run(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PruningError, match=sentence):
        resolve({"method": "layer_mag", **options})


def test_a_drop_is_searched_for_in_eight_rounds() -> None:
    config = resolve({"max_drop": "1.0"})
    assert (config.schedule, config.rounds, config.sparsity, config.max_drop) == ("until", 8, None, 1.0)
    assert resolve({"max_drop": 0, "rounds": 3}).rounds == 3
    assert "max_drop1" in config.run_name()
    assert resolve(config.to_dict()) == config


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sparsity": 0.9}, "--sparsity and --max-drop both say how much to remove"),
        ({"schedule": "linear"}, "which --schedule linear contradicts; leave --schedule out"),
        ({"max_drop": None, "schedule": "until"}, "--schedule until needs --max-drop"),
        ({"max_drop": -1}, "--max-drop -1: should be greater than or equal to 0"),
        ({"floor": 0.1}, "which --floor 0.1 does not allow"),
        ({"epochs": 0}, "with --epochs 0 nothing is trained"),
        ({"share_rounds": True}, "no common beginning to share"),
        (
            {"structure": "2:4", "method": "layer_mag"},
            "--structure 2:4 removes exactly 0.5, which --max-drop",
        ),
    ],
)
def test_searches_that_make_no_run(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PruningError, match=sentence):
        resolve({"max_drop": 1, **options})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"finetune": "none"}, "with --finetune none --finetune-epochs 3 there is none"),
        ({"finetune_epochs": 0}, "with --finetune continue --finetune-epochs 0 there is none"),
        ({"prune_until": 4}, r"--prune-until 4 is beyond the fine-tuning; give at most 3"),
        ({"prune_every": 0}, "--prune-every 0: should be greater than or equal to 1"),
        ({"schedule": "cubic", "prune_every": 5}, "--prune-every is for prunings inside the fine-tuning"),
        ({"rounds": 2}, "gradual has 1 round, but --rounds is 2"),
        ({"structure": "2:4", "method": "layer_mag"}, "--structure 2:4 removes all at once"),
        ({"share_rounds": True}, "gradual goes to its own end .* no common beginning to share"),
    ],
)
def test_prunings_inside_a_training_that_make_no_run(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PruningError, match=sentence):
        resolve({"schedule": "gradual", **options})


def test_a_folder_of_images_is_the_data_set_unless_one_is_named(tmp_path: Path) -> None:
    assert resolve({"data": tmp_path}).dataset == "folder"
    assert resolve({"data": tmp_path, "dataset": "fashion_mnist"}).dataset == "fashion_mnist"
    assert resolve({}).dataset == "fashion_mini"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"sparsity": 1.5},
            r"--sparsity 1.5: should be less than or equal to 1 \(fraction of the prunable weights",
        ),
        ({"epochs": -1}, "--epochs -1: should be greater than or equal to 0"),
        ({"lr": 0}, "--lr 0: should be greater than 0"),
        ({"lr": float("nan")}, "--lr nan: should be a finite number"),
        ({"sparsity": 0.5, "count": 3}, "--sparsity and --count both say how much to remove"),
        ({"max_lr": 0.01}, r"--max-lr 0.01 is below --lr 0.1"),
        (
            {"finetune": "rewind", "rewind_epoch": 11},
            r"--rewind-epoch 11 is beyond the dense training; give 0 to 10",
        ),
        ({"name": "../elsewhere"}, "--name '../elsewhere'"),
        ({"name": ".dense"}, "--name '.dense'"),
        ({"data": Path("/nowhere/at/all")}, "--data /nowhere/at/all: no such folder"),
        ({"device": "gpu"}, "Unknown device 'gpu'"),
        ({"precision": "fp8"}, "--precision fp8: should be 'fp32' or 'bf16'"),
        ({"save_path": Path("net.pkl")}, "must end in .safetensors or .pt"),
    ],
)
def test_what_is_not_possible_is_refused_in_one_sentence(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PruningError, match=sentence) as refused:
        resolve(options)
    assert "\n" not in str(refused.value)


def test_a_run_is_named_after_what_determines_its_result() -> None:
    base = resolve({})
    assert resolve({"log_interval": 7, "quiet": True, "checkpoint_interval": 5}).run_name() == base.run_name()
    for changed in (
        {"lr": 0.2},
        {"seed": 1},
        {"exclude": ("conv1",)},
        {"finetune_epochs": 4},
        {"dry_run": True},
    ):
        assert resolve(changed).run_name() != base.run_name()


def test_a_name_from_options_stays_in_the_runs_folder(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("def make(): ...")
    name = resolve({"arch": f"{net}:make"}).run_name()
    assert "/" not in name
    assert not name.startswith(".")


def test_a_configuration_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolve({}).epochs = 3  # type: ignore[misc]
    assert RunConfig.model_config["extra"] == "forbid"
