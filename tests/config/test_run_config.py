"""Keys and names that follow from a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pruning.config.resolution import differences, resolve
from pruning.config.run_config import LATER_OPTIONS, RunConfig
from pruning.utils.digests import digest


@pytest.mark.parametrize("option", [{"log_interval": 7}, {"quiet": True}, {"checkpoint_interval": 5}])
def test_output_options_leave_the_run_name_unchanged(option: dict[str, Any]) -> None:
    assert resolve(option).run_name() == resolve({}).run_name()


@pytest.mark.parametrize(
    "option",
    [{"lr": 0.2}, {"seed": 1}, {"exclude": ("conv1",)}, {"finetune_epochs": 4}, {"dry_run": True}],
)
def test_options_that_determine_the_result_change_the_run_name(option: dict[str, Any]) -> None:
    assert resolve(option).run_name() != resolve({}).run_name()


def test_the_run_name_holds_data_set_architecture_method_target_and_seed() -> None:
    config = resolve({"method": "layer_grad", "compression": 4, "seed": 3})
    assert config.run_name().startswith("fashion_mini-my-layer_grad-compression4-seed3-")


@pytest.mark.parametrize(
    ("options", "key", "dense_key"),
    [
        ({"finetune": "none"}, "64add908", "9bfad29b"),
        ({"finetune": "rewind", "epochs": 12}, "f88f00f5", "c67d9d76"),
    ],
)
def test_keys_are_those_of_earlier_versions(options: dict[str, Any], key: str, dense_key: str) -> None:
    """Run names and cached dense networks depend on them; a new option belongs in `LATER_OPTIONS`."""
    config = resolve(options)
    assert digest(config.config_key())[:8] == key
    assert digest(config.dense_config_key())[:8] == dense_key


def test_the_run_name_of_an_architecture_by_path_has_no_slash_and_no_leading_dot(tmp_path: Path) -> None:
    net = tmp_path / "net.py"
    net.write_text("def make(): ...")
    name = resolve({"arch": f"{net}:make"}).run_name()
    assert "/" not in name
    assert not name.startswith(".")


def test_the_dense_key_ignores_how_the_network_is_pruned() -> None:
    pruned_otherwise = resolve({"method": "layer_grad", "sparsity": 0.5, "finetune_epochs": 7, "rounds": 2})
    assert pruned_otherwise.dense_config_key() == resolve({}).dense_config_key()


def test_the_dense_key_of_a_score_that_accumulates_depends_on_its_layers() -> None:
    movement = {"method": "global_movement"}
    keys = [
        resolve(options).dense_config_key()
        for options in ({}, movement, {**movement, "exclude": ("conv1.weight",)})
    ]
    assert all(keys.count(key) == 1 for key in keys)


def test_a_resolved_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        resolve({}).epochs = 3  # type: ignore[misc]


def test_a_configuration_refuses_unknown_fields() -> None:
    with pytest.raises(ValueError, match="epochz"):
        RunConfig.model_validate({"epochz": 3})


@pytest.mark.parametrize(
    ("options", "digest"),
    [({}, "7b6707b9"), ({"finetune": "go_on"}, "7b6707b9"), ({"finetune": "rewind"}, "a273fea3")],
)
def test_a_command_has_the_run_name_that_the_first_version_gave_it(
    options: dict[str, Any], digest: str
) -> None:
    assert resolve(options).run_name() == f"fashion_mini-my-global_mag-sparsity0.9-seed0-{digest}"


def test_a_later_option_with_its_earlier_value_is_left_out_of_all_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LATER_OPTIONS, "weight_decay", 5e-4)
    default, other = resolve({}), resolve({"weight_decay": 0.1})
    assert "weight_decay" not in default.config_key()
    assert "weight_decay" not in default.dense_config_key()
    assert other.config_key()["weight_decay"] == 0.1
    assert differences(default.config_key(), other.config_key()) == ["--weight-decay was 0.0005, now 0.1"]
