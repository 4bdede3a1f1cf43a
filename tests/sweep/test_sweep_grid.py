"""Grid files: their expansion into runs, and the errors in them."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sweep_files import GRIDS, RUNS_DIR, SEEDS, Values, expanded, write_grid

from pruning.cli.app import execute
from pruning.errors import PruningError
from pruning.sweep.grid import expand_grid, read_grid

AXES = {
    "method": ["global_mag", "layer_mag", "random", "global_grad"],
    "sparsity": [0.5, 0.75, 0.9],
    "seed": [0, 1, 2, 3],
    "finetune_epochs": [0, 1],
}


@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_a_grid_expands_to_the_product_of_its_axes_without_the_exclusions(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    names = data.draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, unique=True))
    axes = {name: data.draw(st.lists(st.sampled_from(AXES[name]), min_size=1, unique=True)) for name in names}
    combinations = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    patterns = [
        {name: one[name] for name in data.draw(st.sets(st.sampled_from(names), min_size=1))}
        for one in data.draw(st.lists(st.sampled_from(combinations), max_size=2))
    ]
    kept = [one for one in combinations if not any(pattern.items() <= one.items() for pattern in patterns)]
    values = {"options": {"epochs": 0}, "grid": axes, "exclude": patterns}
    folder = tmp_path_factory.getbasetemp()
    if not kept:
        with pytest.raises(PruningError, match=f"exclude leaves 0 of {len(combinations)} runs"):
            expanded(folder, values)
        return
    found = [{name: getattr(run.config, name) for name in axes} for run in expanded(folder, values)]
    assert found == kept


def test_a_value_that_is_a_mapping_sets_several_options_and_is_labelled_by_its_axis(tmp_path: Path) -> None:
    values = {"grid": {"compression": [{"rounds": 1, "compression": 2}, {"rounds": 2, "compression": 4}]}}
    runs = expanded(tmp_path, values)
    assert [(run.config.compression, run.config.rounds) for run in runs] == [(2, 1), (4, 2)]
    assert [run.label for run in runs] == ["compression 2", "compression 4"]


def test_an_override_changes_only_the_runs_that_match(tmp_path: Path) -> None:
    values = {
        "options": {"finetune_epochs": 1},
        "grid": {"sparsity": [0.5, 0.9, 0.95], "seed": [0, 1]},
        "override": [{"when": {"sparsity": [0.9, 0.95], "seed": 1}, "set": {"finetune_epochs": 5}}],
    }
    assert [run.config.finetune_epochs for run in expanded(tmp_path, values)] == [1, 1, 1, 5, 1, 5]


def test_set_overrides_the_options_of_the_file(tmp_path: Path) -> None:
    values = {"options": {"epochs": 3}, "grid": {"seed": [0]}}
    (run,) = expanded(tmp_path, values, "epochs=7", "test-batch-size=50")
    assert (run.config.epochs, run.config.test_batch_size) == (7, 50)


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_shipped_grid_sets_threads_so_that_results_do_not_depend_on_the_cores(file: Path) -> None:
    assert all(run.config.threads for run in expand_grid(read_grid(file), RUNS_DIR))


REFUSED: dict[str, tuple[Values, str]] = {
    "no_grid": ({"options": {"arch": "my"}}, "grid is empty.* 0 runs"),
    "an_empty_grid": ({"grid": {}}, "grid is empty.* 0 runs"),
    "the_file_of_a_single_run": ({"arch": "my", "epochs": 1}, "'arch'.*--config"),
    "a_misspelt_section": ({"grid": SEEDS, "exlude": []}, "'exlude'.*exclude"),
    "an_axis_that_is_no_list": ({"grid": {"seed": 3}}, r"grid: seed is 3\b.*`seed: \[...\]`"),
    "an_axis_without_values": ({"grid": {"seed": []}}, "grid: seed .* 0 runs"),
    "a_misspelt_option": ({"options": {"epcohs": 1}, "grid": SEEDS}, "options: .*'epcohs'.*epochs"),
    "a_misspelt_axis": ({"grid": {"sead": [0]}}, "grid: .*'sead'.*seed"),
    "a_misspelt_value": ({"grid": {"method": ["globl_mag"]}}, "method globl_mag: .*global_mag"),
    "a_value_out_of_range": ({"grid": {"sparsity": [0.5, 1.5]}}, "sparsity 1.5: --sparsity 1.5"),
    "two_pruning_targets": (
        {"options": {"sparsity": 0.5}, "grid": {"compression": [2]}},
        "compression 2: .*--sparsity.*--compression",
    ),
    "an_option_that_is_also_an_axis": (
        {"options": {"seed": 1}, "grid": SEEDS},
        "seed is in both options and grid",
    ),
    "two_axes_that_set_one_option": (
        {"grid": {"rounds": [1, 2], "sparsity": [{"sparsity": 0.5, "rounds": 1}]}},
        "rounds and sparsity both set rounds",
    ),
    "a_mapping_without_its_axis": (
        {"grid": {"sparsity": [{"rounds": 1, "compression": 2}]}},
        "grid: sparsity: {compression: 2, rounds: 1} has no value of sparsity",
    ),
    "share_rounds": ({"options": {"share_rounds": False}, "grid": SEEDS}, "options: share_rounds"),
    "a_name_for_all_runs": ({"options": {"name": "x"}, "grid": SEEDS}, "options: name"),
    "a_repeated_run": ({"grid": {"seed": [1, 1]}}, "seed 1 is there twice"),
    "a_run_in_two_spellings": (
        {"grid": {"method": ["random", "global_mag"], "seed": [0, 0.0]}},
        "seed 0 and .*seed 0.0 are the same run",
    ),
    "an_exclusion_of_everything": ({"grid": SEEDS, "exclude": [{"seed": [0, 1]}]}, "0 of 2 runs"),
    "an_exclusion_of_nothing": ({"grid": SEEDS, "exclude": [{"seed": 7}]}, "exclude 1 .*seed 7"),
    "an_exclusion_by_an_option_that_is_not_set": (
        {"grid": SEEDS, "exclude": [{"lr": 1}]},
        "exclude 1: lr is in neither",
    ),
    "an_empty_exclusion": ({"grid": SEEDS, "exclude": [{}]}, "exclude 1 has no options"),
    "an_override_without_when": ({"grid": SEEDS, "override": [{"set": {"lr": 1}}]}, "override 1 .*`when"),
    "an_override_of_nothing": (
        {"grid": SEEDS, "override": [{"when": {"seed": 9}, "set": {"lr": 1}}]},
        "override 1 .*seed 9",
    ),
    "too_many_runs": ({"grid": {"seed": list(range(300)), "epochs": list(range(1, 301))}}, "90,000 runs"),
    "a_file_of_text": ("only words", ""),
    "an_unreachable_compression": (
        {"options": {"epochs": 0}, "grid": {"compression": [4, 64]}},
        "the run with compression 64: --compression 64",
    ),
    "pretrained_weights_that_do_not_exist": ({"options": {"pretrained": True}, "grid": SEEDS}, r"\bmy\b"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_grid_is_refused_in_one_line_before_anything_is_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    values, message = REFUSED[case]
    write_grid(tmp_path, values)
    assert execute(["sweep", "grid.yaml"]) == 2
    error = capsys.readouterr().err
    assert re.fullmatch(f"error: grid.yaml: .*{message}.*\n", error), error
    assert [path.name for path in tmp_path.iterdir()] == ["grid.yaml"]


INVALID_OPTIONS = {
    "shard_zero": (["--shard", "0/2"], "--shard 0/2"),
    "a_shard_beyond_the_last": (["--shard", "3/2"], "--shard 3/2"),
    "no_jobs": (["--jobs", "0"], "--jobs 0"),
    "a_setting_without_a_value": (["--set", "epochs"], "--set epochs"),
    "a_misspelt_setting": (["--set", "epcohs=1"], "--set epcohs=1: .*'epcohs'.*epochs"),
    "a_setting_of_an_axis": (["--set", "seed=1"], "--set seed=1"),
    "gpus_for_runs_on_the_cpu": (["--gpus", "0", "--set", "device=cpu"], "--gpus 0"),
    "jobs_per_gpu_without_a_gpu": (["--jobs-per-gpu", "2", "--set", "device=cpu"], "--jobs-per-gpu 2"),
}


@pytest.mark.parametrize("case", INVALID_OPTIONS)
def test_an_invalid_option_of_the_command_is_refused_with_its_value(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_grid(tmp_path, {"grid": SEEDS})
    arguments, message = INVALID_OPTIONS[case]
    assert execute(["sweep", "grid.yaml", "--plan", *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)
