"""Resolving a configuration: command line over file over defaults, and defaults that depend on other options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pruning.config.options import TARGET_OPTIONS
from pruning.config.resolution import differences, resolve
from pruning.errors import PruningError


def write(path: Path, values: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


# --- merge ------------------------------------------------------------------------------------------------------


def test_the_command_line_overrides_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"epochs": 5, "lr": 0.2})
    config = resolve({"epochs": 7}, file)
    assert (config.epochs, config.lr, config.batch_size) == (7, 0.2, 128)


def test_a_target_on_the_command_line_replaces_the_one_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"sparsity": 0.5})
    config = resolve({"compression": 4.0}, file)
    assert (config.sparsity, config.compression, config.count) == (None, 4.0, None)


def test_a_schedule_on_the_command_line_replaces_the_rounds_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"schedule": "linear", "rounds": 5})
    assert resolve({"schedule": "one_shot"}, file).rounds == 1
    assert resolve({"schedule": "geometric", "rounds": 4}, file).rounds == 4


@pytest.mark.parametrize("policy", ["rewind", "rewind_lr"])
def test_finetuning_epochs_of_a_replay_follow_the_command_line(policy: str, tmp_path: Path) -> None:
    config = resolve({"finetune": policy, "epochs": 12, "rewind_epoch": 4})
    file = write(tmp_path / "run.yaml", config.to_dict())
    assert resolve({}, file) == config
    assert resolve({"epochs": 6}, file).finetune_epochs == 2
    assert resolve({"rewind_epoch": 0}, file).finetune_epochs == 12
    other = resolve({"finetune": "reinit", "finetune_epochs": 2}, file)
    assert (other.finetune_epochs, other.finetune_lr) == (2, 0.05)
    default = write(tmp_path / "default.yaml", resolve({}).to_dict())
    assert resolve({"finetune": policy}, default).finetune_epochs == 9


def test_the_old_policy_name_go_on_in_a_file_or_option_is_read_as_continue(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {**resolve({}).to_dict(), "finetune": "go_on"})
    expected = resolve({"finetune": "continue"})
    assert expected.finetune == "continue"
    assert resolve({}, file) == resolve({"finetune": "go_on"}) == expected
    assert resolve({}, file).run_name() == expected.run_name()


def test_an_error_in_a_value_from_the_file_names_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"epochs": -1})
    with pytest.raises(PruningError, match=r"run.yaml: --epochs -1"):
        resolve({}, file)
    with pytest.raises(PruningError, match=r"^--epochs -2"):
        resolve({"epochs": -2}, file)


def test_an_unknown_option_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"'epochz'.* epochs"):
        resolve({"epochz": 3})
    file = write(tmp_path / "run.yaml", {"epochz": 3})
    with pytest.raises(PruningError, match=r"run.yaml: .*'epochz'"):
        resolve({}, file)


# --- defaults ---------------------------------------------------------------------------------------------------


def test_the_default_target_is_sparsity_90_percent() -> None:
    assert resolve({}).sparsity == 0.9
    assert resolve({"count": 5}).sparsity is None


def test_the_default_number_of_rounds_depends_on_the_schedule() -> None:
    rounds = {name: resolve({"schedule": name}).rounds for name in ("geometric", "one_shot", "gradual")}
    assert rounds == {"geometric": 3, "one_shot": 1, "gradual": 1}


def test_max_drop_selects_a_search_of_eight_rounds() -> None:
    config = resolve({"max_drop": "1.0"})
    assert (config.schedule, config.rounds, config.sparsity, config.max_drop) == ("until", 8, None, 1.0)
    assert resolve({"max_drop": 0, "rounds": 3}).rounds == 3


def test_a_structure_of_fixed_sparsity_sets_target_and_rounds() -> None:
    config = resolve({"structure": "1:4", "method": "layer_mag"})
    assert (config.sparsity, config.rounds) == (0.75, 1)
    assert resolve({"structure": "2:4", "method": "layer_mag", "sparsity": "0.50"}).sparsity == 0.5


@pytest.mark.parametrize("policy", ["rewind", "rewind_lr"])
def test_a_replay_fine_tunes_for_the_rest_of_the_dense_training(policy: str) -> None:
    config = resolve({"finetune": policy, "epochs": 12, "rewind_epoch": 4})
    assert (config.finetune_epochs, config.finetune_lr) == (8, None)
    assert resolve({"finetune": policy, "finetune_epochs": 9}).finetune_epochs == 9


def test_a_folder_of_images_is_the_data_set_unless_one_is_named(tmp_path: Path) -> None:
    assert resolve({"data": tmp_path}).dataset == "folder"
    assert resolve({"data": tmp_path, "dataset": "fashion_mnist"}).dataset == "fashion_mnist"
    assert resolve({}).dataset == "fashion_mini"


# --- the whole --------------------------------------------------------------------------------------------------


def test_a_dry_run_trains_for_at_most_one_epoch() -> None:
    dry = resolve({"epochs": 4, "finetune_epochs": 2, "batch_size": 32, "dry_run": True})
    assert (dry.epochs, dry.finetune_epochs, dry.test_batch_size) == (1, 1, 32)
    assert resolve({"epochs": 0, "finetune_epochs": 0, "dry_run": True}).epochs == 0
    for policy in ("rewind", "rewind_lr"):
        replayed = resolve({"finetune": policy, "dry_run": True})
        assert (replayed.epochs, replayed.rewind_epoch, replayed.finetune_epochs) == (1, 0, 1)


@st.composite
def options(draw: st.DrawFn) -> dict[str, Any]:
    values = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "epochs": st.integers(1, 50),
                "lr": st.floats(1e-6, 1),
                "method": st.sampled_from(["global_mag", "layer_grad", "random"]),
                "rounds": st.integers(1, 9),
                "seed": st.integers(0, 2**63 - 1),
                "exclude": st.lists(st.sampled_from(["conv*", "fc1.weight"]), max_size=2).map(tuple),
                "dry_run": st.booleans(),
            },
        )
    )
    targets = {
        "sparsity": st.floats(0, 1),
        "compression": st.floats(1, 1e6),
        "count": st.integers(0, 10**12),
        "layer_sparsity": st.sampled_from(["conv=0.2 linear=0.4", "*=0.5"]),
        "max_drop": st.floats(0, 100),
    }
    target = draw(st.sampled_from(TARGET_OPTIONS))
    return {**values, target: draw(targets[target])}


@given(options())
def test_a_configuration_written_as_yaml_resolves_to_itself(values: dict[str, Any]) -> None:
    config = resolve(values)
    again = resolve(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    assert again == config
    assert again.run_name() == config.run_name()


def test_differences_name_the_options() -> None:
    saved, requested = resolve({}).config_key(), resolve({"lr": 0.2, "seed": 4}).config_key()
    assert differences(saved, requested) == ["--lr was 0.1, now 0.2", "--seed was 0, now 4"]


def test_differences_show_other_values_without_dashes() -> None:
    assert differences({"network_source": "a", "lr": 1}, {"network_source": "b", "lr": 1}) == [
        "network source was 'a', now 'b'"
    ]
