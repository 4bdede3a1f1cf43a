"""Options that make no run are refused: the message names the options and their values."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from pruning.config import checks
from pruning.config.resolution import fill_defaults, merge, parse, resolve
from pruning.errors import PruningError

N_OF_M = {"structure": "2:4", "method": "layer_mag"}
GRADUAL = {"schedule": "gradual"}
REWIND = {"finetune": "rewind", "epochs": 12, "rewind_epoch": 4}


def refusal(options: dict[str, Any]) -> PruningError:
    with pytest.raises(PruningError) as refused:
        resolve(options)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize(
    ("options", "requirement"),
    [
        ({"sparsity": 1.5}, "--sparsity 1.5: must be at most 1"),
        ({"epochs": -1}, "--epochs -1: must be at least 0"),
        ({"epochs": "many"}, "--epochs many: must be a whole number"),
        ({"epochs": 1.5}, "--epochs 1.5: must be a whole number"),
        ({"epochs": True}, "--epochs True: must be a value"),
        ({"lr": 0}, "--lr 0: must be greater than 0"),
        ({"lr": float("nan")}, "--lr nan: must be a finite number"),
        ({"lr": "fast"}, "--lr fast: must be a number"),
        ({"validation": 1}, "--validation 1: must be less than 1"),
        ({"max_drop": -1}, "--max-drop -1: must be at least 0"),
        ({"prune_every": 0, **GRADUAL}, "--prune-every 0: must be at least 1"),
        ({"floor": 2}, "--floor 2: must be at most 1"),
        ({"precision": "fp8"}, "--precision fp8: must be 'fp32' or 'bf16'"),
        ({"dry_run": "perhaps"}, "--dry-run perhaps: must be true or false"),
        ({"method": 3}, "--method 3: must be a string"),
        ({"exclude": "conv1"}, "--exclude conv1: must be a list"),
        ({"data": 3}, "--data 3: must be a path"),
    ],
)
def test_a_value_of_a_wrong_type_or_out_of_bounds_is_refused(
    options: dict[str, Any], requirement: str
) -> None:
    assert str(refusal(options)).startswith(requirement)


@pytest.mark.parametrize("value", ["", "\n", "8\r\n16"])
def test_a_value_that_is_invisible_or_breaks_the_line_is_quoted(value: str) -> None:
    assert f"--batch-size {value!r}:" in str(refusal({"batch_size": value}))


@pytest.mark.parametrize(
    ("options", "nearest"),
    [
        ({"method": "global_magg"}, "global_mag"),
        ({"dataset": "fashion_minni"}, "fashion_mini"),
        ({"arch": "resnet2O"}, "resnet20"),
        ({"schedule": "geometrik"}, "geometric"),
        ({"structure": "wieght"}, "weight"),
        ({"finetune": "rewindd"}, "rewind"),
        ({"device": "cudda"}, "cuda"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_one(options: dict[str, Any], nearest: str) -> None:
    ((name, value),) = options.items()
    error = refusal(options)
    assert value in str(error)
    assert nearest in str(error).split("Did you mean")[1].split("Known:")[0]
    assert error.options == (name,)


# Options, and what the message must mention of them; the options that it mentions are also data of the error.
CONFLICTS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"max_lr": 0.01}, ("--max-lr 0.01", "--lr 0.1")),
    ({"pretrained": True, "weights": Path(__file__)}, ("--pretrained", "--weights")),
    ({"sparsity": 0.5, "count": 3}, ("--sparsity 0.5", "--count 3")),
    ({"layer_sparsity": "conv=0.2", "count": 3}, ("--count 3", "--layer-sparsity conv=0.2")),
    ({"max_drop": 1, "sparsity": 0.9}, ("--sparsity 0.9", "--max-drop 1")),
    ({"schedule": "one_shot", "rounds": 4}, ("--rounds 4", "--schedule one_shot")),
    ({**GRADUAL, "rounds": 2}, ("--rounds 2", "--schedule gradual")),
    ({**N_OF_M, "sparsity": "0.9"}, ("--sparsity 0.9", "--structure 2:4")),
    ({**N_OF_M, "count": 3}, ("--count 3", "--structure 2:4")),
    ({**N_OF_M, "max_drop": 1}, ("--max-drop 1", "--structure 2:4")),
    ({**N_OF_M, "rounds": "3"}, ("--rounds 3", "--structure 2:4")),
    ({**N_OF_M, **GRADUAL}, ("--schedule gradual", "--structure 2:4")),
    ({"max_drop": 1, "schedule": "linear"}, ("--schedule linear", "--max-drop 1")),
    ({"max_drop": 1, "floor": 0.1}, ("--floor 0.1", "--max-drop 1")),
    ({"max_drop": 1, "epochs": 0}, ("--max-drop 1", "--epochs 0")),
    ({"max_drop": 1, "share_rounds": True}, ("--share-rounds", "--max-drop 1")),
    ({**GRADUAL, "share_rounds": True}, ("--share-rounds", "--schedule gradual")),
    ({**GRADUAL, "finetune": "none"}, ("--schedule gradual", "--finetune none", "--finetune-epochs 3")),
    ({**GRADUAL, "finetune_epochs": 0}, ("--schedule gradual", "--finetune ", "--finetune-epochs 0")),
    ({**GRADUAL, "prune_until": 4}, ("--prune-until 4", "--finetune-epochs")),
    ({"schedule": "cubic", "prune_every": 5}, ("--prune-every 5", "--schedule cubic")),
    ({"schedule": "cubic", "prune_until": 2}, ("--prune-until 2", "--schedule cubic")),
    ({"finetune": "rewind", "rewind_epoch": 11}, ("--rewind-epoch 11", "--epochs")),
    ({**REWIND, "finetune_epochs": 3}, ("--finetune-epochs 3", "--finetune rewind", "--rewind-epoch 4")),
    ({**REWIND, "finetune_lr": 0.01}, ("--finetune-lr 0.01", "--finetune rewind")),
    ({"method": "global_movement", "epochs": 0}, ("--method global_movement", "--epochs 0")),
    (
        {"method": "global_movement", "finetune": "none"},
        ("--method global_movement", "--finetune none", "--finetune-epochs 3", "--rounds 3"),
    ),
]


@pytest.mark.parametrize(("options", "mentioned"), CONFLICTS)
def test_conflicting_options_are_refused_by_name_and_value(
    options: dict[str, Any], mentioned: tuple[str, ...]
) -> None:
    error = refusal(options)
    for words in mentioned:
        assert words in str(error)
    assert {words.split()[0].removeprefix("--").replace("-", "_") for words in mentioned} == set(
        error.options
    )


@pytest.mark.parametrize(
    ("options", "mentioned"),
    [
        ({"schedule": "until"}, "--max-drop"),
        ({"structure": "2:4", "method": "global_mag"}, "global_mag"),
        ({"structure": "filter", "method": "lamp"}, "lamp"),
        ({"structure": "4:2", "method": "layer_mag"}, "4:2"),
        ({"structure": "block"}, "block4x4"),
        ({**N_OF_M, "floor": 0.6}, "0.6"),
        ({"layer_sparsity": "conv"}, "'conv'"),
        ({"name": "../elsewhere"}, "--name '../elsewhere'"),
        ({"name": ".dense"}, "--name '.dense'"),
        ({"name": "x" * 300}, "--name"),
        ({"save_path": Path("net.pkl")}, "--save-path net.pkl"),
        ({"data": Path("/nowhere/at/all")}, "--data /nowhere/at/all"),
        ({"data": Path(__file__)}, f"--data {__file__}"),
        ({"weights": Path("/nowhere/net.pt")}, "--weights /nowhere/net.pt"),
        ({"runs_dir": "a\0b"}, "--runs-dir 'a\\x00b'"),
    ],
)
def test_an_option_that_makes_no_run_is_refused_by_name_or_value(
    options: dict[str, Any], mentioned: str
) -> None:
    error = refusal(options)
    assert mentioned in str(error)
    assert set(error.options) & set(options)


@pytest.mark.parametrize("rule", checks.RULES, ids=lambda rule: rule.__name__)
def test_every_rule_accepts_the_default_run(rule: Any) -> None:
    rule(resolve({}))


def test_every_rule_of_the_module_is_applied() -> None:
    functions = [value for value in vars(checks).values() if inspect.isfunction(value)]
    rules = {
        function
        for function in functions
        if function.__module__ == checks.__name__
        and list(inspect.signature(function).parameters) == ["config"]
    }
    assert rules == {*checks.RULES, checks.check_names, checks.input_files_exist}


@pytest.mark.parametrize("options", [options for options, _ in CONFLICTS], ids=str)
def test_the_order_of_the_rules_does_not_matter(options: dict[str, Any]) -> None:
    """Each rule alone accepts or refuses a wrong configuration; none relies on an earlier one having refused it."""
    config = fill_defaults(parse(merge(options, None), options, None))
    refusing = []
    for rule in checks.RULES:
        try:
            rule(config)
        except PruningError:
            refusing.append(rule)
    assert refusing


def test_a_recorded_run_needs_no_input_files(tmp_path: Path) -> None:
    missing = {"data": tmp_path / "images", "weights": tmp_path / "net.pt"}
    config = resolve(missing, recorded=True)
    assert (config.data, config.weights) == (missing["data"], missing["weights"])
