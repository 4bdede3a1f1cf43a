"""Comparisons of two sets of runs, paired by seed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_records import record, save, save_grid

from pruning.errors import PruningError
from pruning.report import Comparison, compare, comparison_notes, comparison_table, select_runs, verdict
from pruning.report.runs import Target


def sides(folder: Path, a: str, b: str) -> Comparison:
    return compare(select_runs(a, folder), select_runs(b, folder))


def verdicts(comparison: Comparison) -> list[str]:
    return [verdict(comparison, row) for row in comparison.rows]


def test_differences_and_intervals_are_those_of_a_paired_t_test(tmp_path: Path) -> None:
    save_grid(tmp_path)
    comparison = sides(tmp_path, "global_mag", "random")
    assert [row.target.value for row in comparison.rows] == [0.5, 0.9, 0.98]
    found = [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]
    for row in comparison.rows:
        top1 = {
            (one["config"]["method"], one["config"]["seed"]): one["final"]["top1"]
            for one in found
            if one["config"]["sparsity"] == row.target.value
        }
        differences = [top1["global_mag", seed] - top1["random", seed] for seed in range(3)]
        margin = (
            4.302653 * np.std(differences, ddof=1) / np.sqrt(3)
        )  # Student's t, 2 degrees of freedom, 95 %
        assert row.difference is not None
        assert row.interval is not None
        assert row.difference.mean == pytest.approx(np.mean(differences))
        assert row.interval.low == pytest.approx(np.mean(differences) - margin, abs=1e-5)
        assert row.interval.high == pytest.approx(np.mean(differences) + margin, abs=1e-5)
        assert row.pairs == 3


def test_a_significant_difference_names_the_winner_on_either_side(tmp_path: Path) -> None:
    save_grid(tmp_path)
    assert verdicts(sides(tmp_path, "global_mag", "random"))[-1] == "global_mag is better"
    assert verdicts(sides(tmp_path, "random", "global_mag"))[-1] == "global_mag is better"


def test_a_difference_that_is_not_significant_names_no_winner(tmp_path: Path) -> None:
    for seed, (one, other) in enumerate(((80.0, 80.5), (81.0, 80.2), (80.4, 80.3))):
        save(tmp_path, record(one, seed=seed))
        save(tmp_path, record(other, seed=seed, method="layer_mag"))
    assert verdicts(sides(tmp_path, "global_mag", "layer_mag")) == ["not significantly different"]


def test_one_seed_has_no_interval_and_no_winner(tmp_path: Path) -> None:
    save_grid(tmp_path, seeds=(4,))
    comparison = sides(tmp_path, "global_mag", "random")
    assert set(verdicts(comparison)) == {"inconclusive: only one common seed"}
    assert all(row.interval is None for row in comparison.rows)


def test_two_sides_without_a_common_seed_have_no_difference_and_no_winner(tmp_path: Path) -> None:
    for seed in range(6):
        save(tmp_path / ("a" if seed < 3 else "b"), record(80.0 if seed < 3 else 85.0, seed=seed))
    comparison = sides(tmp_path, "a", "b")
    assert verdicts(comparison) == ["inconclusive: no common seed"]
    assert (comparison.rows[0].difference, comparison.rows[0].pairs) == (None, 0)
    assert (comparison.rows[0].a.mean, comparison.rows[0].b.mean) == (80.0, 85.0)


def test_equal_runs_in_two_folders_are_not_significantly_different(tmp_path: Path) -> None:
    for seed in range(3):
        for folder in ("a", "b"):
            save(tmp_path / folder, record(80.0 + seed, seed=seed))
    assert verdicts(sides(tmp_path, "a", "b")) == ["not significantly different"]


def test_a_run_on_both_sides_is_refused(tmp_path: Path) -> None:
    save_grid(tmp_path)
    with pytest.raises(PruningError, match=r"9 runs .* random and global_random"):
        sides(tmp_path, "random", "global_random")


def test_a_seed_that_one_side_lacks_is_no_pair(tmp_path: Path) -> None:
    for seed in range(4):
        save(tmp_path, record(80.0 + seed, seed=seed))
        if seed:
            save(tmp_path, record(79.0 + 1.1 * seed, seed=seed, method="random"))
    (row,) = sides(tmp_path, "global_mag", "random").rows
    assert (row.pairs, row.a.n, row.b.n) == (3, 4, 3)
    assert row.difference is not None
    assert row.difference.mean == pytest.approx(np.mean([1 - 0.1 * seed for seed in (1, 2, 3)]))


def test_methods_are_compared_only_where_all_other_options_agree(tmp_path: Path) -> None:
    for seed in range(2):
        save(tmp_path, record(80, seed=seed, finetune_lr=0.05))
        save(tmp_path, record(70, seed=seed, method="random", finetune_lr=0.01))
    with pytest.raises(PruningError, match=r"global_mag and random .* finetune_lr \(0.05, 0.01\)"):
        sides(tmp_path, "global_mag", "random")


def test_folders_are_compared_in_the_options_that_separate_them(tmp_path: Path) -> None:
    for seed in range(3):
        for folder, policy, top1 in (("a", "continue", 80.0), ("b", "reinit", 82.0)):
            for method in ("global_mag", "layer_mag"):
                save(tmp_path / folder, record(top1 + 0.1 * seed, seed=seed, finetune=policy, method=method))
    comparison = sides(tmp_path, "a", "b")
    assert comparison.differing_options == {"finetune": ["continue", "reinit"]}
    assert [row.label for row in comparison.rows] == ["global_mag", "layer_mag"]
    assert set(verdicts(comparison)) == {"b is better"}
    assert "finetune (continue, reinit)" in comparison_notes(comparison)[0]


def test_records_with_the_old_policy_name_go_on_are_compared_as_continue(tmp_path: Path) -> None:
    for seed in range(3):
        save(tmp_path, record(80, seed=seed, finetune="go_on"))
        save(tmp_path, record(70 + seed, seed=seed, finetune="continue", method="random"))
    comparison = sides(tmp_path, "global_mag", "random")
    assert comparison.differing_options == {"method": ["global_mag", "random"]}
    assert comparison.rows[0].pairs == 3


def test_rounds_that_grow_with_the_target_do_not_appear_in_the_rows(tmp_path: Path) -> None:
    for compression, rounds in ((2, 1), (16, 4), (4, 2)):
        for method in ("global_mag", "random"):
            save(tmp_path, record(80, method=method, compression=compression, rounds=rounds))
    table = comparison_table(sides(tmp_path, "global_mag", "random"))
    assert [row[0] for row in table[2]] == ["compression 2x", "compression 4x", "compression 16x"]


def test_two_spellings_of_a_method_are_compared_as_one_method(tmp_path: Path) -> None:
    for seed in range(3):
        for folder, method, policy in (("a", "global_snip", "continue"), ("b", "snip", "reinit")):
            save(tmp_path / folder, record(80 + seed, seed=seed, method=method, finetune=policy))
    assert sides(tmp_path, "a", "b").differing_options == {"finetune": ["continue", "reinit"]}


def test_different_architectures_are_never_paired(tmp_path: Path) -> None:
    save(tmp_path / "a", record(80, arch="my"))
    save(tmp_path / "b", record(80, arch="lenet5"))
    with pytest.raises(PruningError, match=r"arch \(my, lenet5\)"):
        sides(tmp_path, "a", "b")


def test_sides_without_a_common_target_are_refused_with_the_targets_of_both(tmp_path: Path) -> None:
    save(tmp_path, record(80, sparsity=0.5))
    save(tmp_path, record(80, sparsity=0.9, method="random"))
    with pytest.raises(PruningError, match=r"global_mag .*50 %.*random .*90 %"):
        sides(tmp_path, "global_mag", "random")


def test_a_name_selects_a_method_before_a_folder_and_then_a_pattern(tmp_path: Path) -> None:
    save_grid(tmp_path / "runs", seeds=(0,))
    save(tmp_path / "runs" / "random", record(80, seed=9))
    save(tmp_path / "other", record(81, seed=8))
    runs_dir = tmp_path / "runs"
    assert {run.method for run in select_runs("random", runs_dir).runs} == {"random"}
    assert [run.seed for run in select_runs("./random", runs_dir).runs] == [9]
    assert [run.seed for run in select_runs(str(tmp_path / "other"), runs_dir).runs] == [8]
    assert {run.method for run in select_runs("*_mag", runs_dir).runs} == {"global_mag", "layer_mag"}
    assert {run.target for run in select_runs("*sparsity0.98*", runs_dir).runs} == {Target("sparsity", 0.98)}


@pytest.mark.parametrize("name", ["glbal_mag", "nothing*", "no/such/folder"])
def test_a_name_that_selects_nothing_is_refused_with_the_known_methods(tmp_path: Path, name: str) -> None:
    save_grid(tmp_path, seeds=(0,))
    with pytest.raises(PruningError, match=rf"{re.escape(name)}.*global_mag, layer_mag, random"):
        select_runs(name, tmp_path)


def test_a_missing_records_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PruningError, match=re.escape(str(tmp_path / "runs"))):
        select_runs("random", tmp_path / "runs")


def test_different_hardware_gives_a_warning(tmp_path: Path) -> None:
    save_grid(tmp_path, seeds=(0, 1))
    other = record(70, seed=1, method="random", sparsity=0.9)
    other["environment"]["device_name"] = "another processor"
    save(tmp_path, other)
    (warning,) = sides(tmp_path, "global_mag", "random").warnings
    assert "device_name (a processor, another processor)" in warning


def test_every_row_of_the_table_ends_in_its_verdict(tmp_path: Path) -> None:
    save_grid(tmp_path)
    comparison = sides(tmp_path, "global_mag", "random")
    title, columns, rows = comparison_table(comparison)
    assert title.startswith("global_mag and random")
    assert columns == [
        "target",
        "top-1 global_mag",
        "top-1 random",
        "difference",
        "95 % interval",
        "pairs",
        "verdict",
    ]
    assert [row[0] for row in rows] == ["sparsity 50 %", "sparsity 90 %", "sparsity 98 %"]
    last = comparison.rows[-1]
    assert last.difference is not None
    assert last.interval is not None
    assert rows[-1][3:] == [
        f"{last.difference.mean:+.2f}",
        f"{last.interval.low:+.2f} to {last.interval.high:+.2f}",
        "3",
        "global_mag is better",
    ]
