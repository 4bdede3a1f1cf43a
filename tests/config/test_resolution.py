"""Options: merged from command line, file and defaults; refused in one sentence; written out so that they repeat."""

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


def test_command_line_over_file_over_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"epochs": 5, "lr": 0.2})
    config = resolve({"epochs": 7}, file)
    assert (config.epochs, config.lr, config.batch_size) == (7, 0.2, 128)


def test_an_amount_on_the_command_line_replaces_the_files(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"sparsity": 0.5})
    config = resolve({"compression": 4.0}, file)
    assert (config.sparsity, config.compression, config.count) == (None, 4.0, None)


def test_a_schedule_on_the_command_line_brings_its_own_rounds(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"schedule": "linear", "rounds": 5})
    assert resolve({"schedule": "one_shot"}, file).rounds == 1
    assert resolve({"schedule": "geometric", "rounds": 4}, file).rounds == 4


@pytest.mark.parametrize("policy", ["rewind", "rewind_lr"])
def test_how_long_a_policy_trains_is_reckoned_anew_when_the_command_line_moves_its_ends(
    policy: str, tmp_path: Path
) -> None:
    config = resolve({"finetune": policy, "epochs": 12, "rewind_epoch": 4})
    file = write(tmp_path / "run.yaml", config.to_dict())
    assert resolve({}, file) == config
    assert resolve({"epochs": 6}, file).finetune_epochs == 2
    assert resolve({"rewind_epoch": 0}, file).finetune_epochs == 12
    other = resolve({"finetune": "continue", "finetune_epochs": 2}, file)
    assert (other.finetune_epochs, other.finetune_lr) == (2, 0.05)
    usual = write(tmp_path / "usual.yaml", resolve({}).to_dict())
    assert resolve({"finetune": policy}, usual).finetune_epochs == 9


def test_the_old_policy_name_go_on_in_a_file_or_option_is_read_as_continue(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {**resolve({}).to_dict(), "finetune": "go_on"})
    expected = resolve({"finetune": "continue"})
    assert expected.finetune == "continue"
    assert resolve({}, file) == resolve({"finetune": "go_on"}) == expected
    assert resolve({}, file).run_name() == expected.run_name()


def test_a_dry_run_is_one_epoch_of_everything() -> None:
    dry = resolve({"epochs": 4, "finetune_epochs": 2, "batch_size": 32, "dry_run": True})
    assert (dry.epochs, dry.finetune_epochs, dry.test_batch_size) == (1, 1, 32)
    assert resolve({"epochs": 0, "finetune_epochs": 0, "dry_run": True}).epochs == 0
    for policy in ("rewind", "rewind_lr"):
        replayed = resolve({"finetune": policy, "dry_run": True})
        assert (replayed.epochs, replayed.rewind_epoch, replayed.finetune_epochs) == (1, 0, 1)


def test_the_file_is_named_when_its_value_is_wrong(tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", {"epochs": -1})
    with pytest.raises(PruningError, match=r"run.yaml: --epochs -1"):
        resolve({}, file)


@pytest.mark.parametrize("value", ["", "\n", "8\r\n16"])
def test_a_value_that_cannot_be_seen_or_breaks_the_line_is_quoted(value: str) -> None:
    with pytest.raises(PruningError) as refused:
        resolve({"batch_size": value})
    assert f"--batch-size {value!r}: should be a whole number" in str(refused.value)


def test_an_unknown_option_is_answered_with_what_was_meant(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=r"^Unknown option 'epochz'. Did you mean epochs"):
        resolve({"epochz": 3})
    file = write(tmp_path / "run.yaml", {"epochz": 3})
    with pytest.raises(PruningError, match=r"run.yaml: Unknown option 'epochz'"):
        resolve({}, file)


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
    amounts = {
        "sparsity": st.floats(0, 1),
        "compression": st.floats(1, 1e6),
        "count": st.integers(0, 10**12),
        "layer_sparsity": st.sampled_from(["conv=0.2 linear=0.4", "*=0.5"]),
        "max_drop": st.floats(0, 100),
    }
    amount = draw(st.sampled_from(TARGET_OPTIONS))
    return {**values, amount: draw(amounts[amount])}


@given(options())
def test_what_is_written_out_resolves_to_the_same_run(values: dict[str, Any]) -> None:
    config = resolve(values)
    again = resolve(yaml.safe_load(yaml.safe_dump(config.to_dict())))
    assert again == config
    assert again.run_name() == config.run_name()


def test_differences_name_the_options() -> None:
    saved, asked = resolve({}).config_key(), resolve({"lr": 0.2, "seed": 4}).config_key()
    assert differences(saved, asked) == ["--lr was 0.1, now 0.2", "--seed was 0, now 4"]


def test_what_is_no_option_is_not_told_as_one() -> None:
    assert differences({"network_source": "a", "lr": 1}, {"network_source": "b", "lr": 1}) == [
        "network source was 'a', now 'b'"
    ]
