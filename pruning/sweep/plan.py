"""Plan a sweep: the rounds and dense trainings that runs share, the dependencies between runs, and the cost."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pruning import data, models
from pruning.config.options import TARGET_OPTIONS
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError
from pruning.experiment import records
from pruning.experiment.run_files import SweepFiles
from pruning.experiment.shared_rounds import chain_key
from pruning.registry import DATASETS, SCHEDULES
from pruning.sweep.grid import GridRun, choices_label
from pruning.utils.digests import digest

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    Attributes:
        config: its whole configuration.
        choices: the options that distinguish it from the other runs, by name.
        dense_key: equal for runs that share a dense training (not the name of its folder); None with --epochs 0.
        round_keys: a key for the network after each round; two runs with the same key share that network.
        depends_on: names of the runs that compute rounds which this run reuses.
    """

    config: RunConfig
    choices: Mapping[str, Any]
    dense_key: str | None
    round_keys: tuple[str, ...]
    depends_on: frozenset[str]

    @cached_property
    def name(self) -> str:
        return self.config.run_name()

    @property
    def label(self) -> str:
        return choices_label(self.choices)

    @property
    def files(self) -> SweepFiles:
        return SweepFiles(records.folder_of(self.config))


@dataclass(frozen=True)
class SweepPlan:
    """The runs of a sweep, fewest rounds first, and the records of the finished ones by name."""

    runs: tuple[PlannedRun, ...]
    records: Mapping[str, Mapping[str, Any]]

    @property
    def finished(self) -> list[PlannedRun]:
        return [run for run in self.runs if run.name in self.records]

    @property
    def unfinished(self) -> list[PlannedRun]:
        return [run for run in self.runs if run.name not in self.records]

    def failed(self) -> list[PlannedRun]:
        """Return the unfinished runs whose latest process failed."""
        endings = [(run, run.files.read_ending()) for run in self.unfinished]
        return [run for run, ending in endings if ending is not None and ending["code"] != 0]

    def shard(self, number: int, count: int) -> SweepPlan:
        """Return shard `number` (from 1) of `count` shards of similar size; runs that share rounds stay together."""
        names = {run.name for group in group_by_first_round(self.runs)[number - 1 :: count] for run in group}
        runs = tuple(run for run in self.runs if run.name in names)
        return SweepPlan(runs, {name: record for name, record in self.records.items() if name in names})


@dataclass(frozen=True)
class Cost:
    """Amount of work: numbers of runs, dense trainings, pruning rounds and training epochs."""

    runs: int
    dense_trainings: int
    rounds: int
    epochs: int


def make_plan(grid_runs: Sequence[GridRun]) -> SweepPlan:
    """Return the plan for these runs. Writes nothing.

    Raises:
        PruningError: a run is impossible on its network, or its folder holds another run or a damaged record.
    """
    rounds = _planned_rounds(grid_runs)
    keys_per_run = [_round_keys(run, steps) for run, steps in zip(grid_runs, rounds, strict=True)]
    uses = Counter(key for round_keys in keys_per_run for key in round_keys)
    shared = {key for key, count in uses.items() if count > 1}
    computed_by: dict[str, str] = {}  # key of a round -> name of the first run that has it
    runs = []
    for grid_run, round_keys in sorted(
        zip(grid_runs, keys_per_run, strict=True), key=lambda pair: len(pair[1])
    ):
        depends_on = frozenset(computed_by[key] for key in round_keys if key in computed_by)
        config = grid_run.config
        if shared & set(round_keys):
            config = config.model_copy(update={"share_rounds": True})
        dense_key = digest(config.dense_config_key())[:16] if config.epochs else None
        run = PlannedRun(config, grid_run.choices, dense_key, round_keys, depends_on)
        computed_by |= {key: run.name for key in round_keys if key not in computed_by}
        runs.append(run)
    found = {run.name: _finished_record(run.config) for run in runs}
    return SweepPlan(tuple(runs), {name: record for name, record in found.items() if record is not None})


def group_by_first_round(runs: Iterable[PlannedRun]) -> list[list[PlannedRun]]:
    """Group the runs that share their first round, and so every round that they share at all."""
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(run.round_keys[0], []).append(run)
    return list(groups.values())


def count_trajectories(runs: Iterable[PlannedRun]) -> int:
    """Count the distinct sequences of rounds; a run whose last round is an earlier round of another adds none."""
    sequences = [run.round_keys for run in runs]
    passed = {key for keys in sequences for key in keys[:-1]}
    return len({keys[-1] for keys in sequences} - passed)


def cost_without_sharing(runs: Sequence[PlannedRun]) -> Cost:
    """Return the cost of computing each run separately."""
    rounds = sum(len(run.round_keys) for run in runs)
    epochs = sum(run.config.epochs + len(run.round_keys) * run.config.round_epochs for run in runs)
    return Cost(len(runs), sum(run.dense_key is not None for run in runs), rounds, epochs)


def cost_with_sharing(runs: Sequence[PlannedRun], finished: Sequence[PlannedRun] = ()) -> Cost:
    """Return the cost of the runs when shared work is done once and the work of `finished` runs is reused."""
    epochs = epochs_per_run([*finished, *runs])
    reused = {key for run in finished for key in run.round_keys}
    rounds = {key for run in runs for key in run.round_keys} - reused
    dense = {run.dense_key for run in runs} - {run.dense_key for run in finished} - {None}
    return Cost(len(runs), len(dense), len(rounds), sum(epochs[run.name] for run in runs))


def epochs_per_run(runs: Iterable[PlannedRun]) -> dict[str, int]:
    """Return the epochs that each run computes, by name, when runs are done in this order and reuse earlier work."""
    computed: set[str] = set()
    epochs = {}
    for run in runs:
        new = [key for key in run.round_keys if key not in computed]
        trains_dense = run.dense_key is not None and run.dense_key not in computed
        epochs[run.name] = len(new) * run.config.round_epochs + (run.config.epochs if trains_dense else 0)
        computed.update(new, [] if run.dense_key is None else [run.dense_key])
    return epochs


def parse_shard(text: str) -> tuple[int, int]:
    """Return the number and the count of `3/10`. PruningError for any other text."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise PruningError(f"--shard {text} is not a shard. Write NUMBER/COUNT, from 1/10 to 10/10 for ten.")
    return int(number), int(count)


def _finished_record(config: RunConfig) -> dict[str, Any] | None:
    try:
        return records.finished(config)
    except PruningError as error:
        folder = records.folder_of(config).path
        raise PruningError(f"{error} (In a sweep, remove {folder} to compute the run again.)") from None


def _round_keys(run: GridRun, rounds: Sequence[Any]) -> tuple[str, ...]:
    """Return a digest for each round of everything that determines its network.

    Two kinds of schedules share no round with other runs: a search depends on its own results, and pruning during
    fine-tuning depends on the final target.
    """
    spec = SCHEDULES.entry(run.config.schedule).spec
    shares_none = spec.searches or spec.during_finetuning
    key = digest(run.config.config_key()) if shares_none else chain_key(run.config)
    values = [asdict(one) for one in rounds]
    return tuple(digest([key, values[: number + 1]])[:16] for number in range(len(values)))


def _planned_rounds(grid_runs: Sequence[GridRun]) -> list[Any]:
    """Return the rounds of each run, computed on its network; equal networks are built once."""
    from pruning.experiment.round_plan import plan_rounds

    networks: dict[str, tuple[nn.Module, Shape]] = {}
    known: dict[str, Any] = {}
    found = []
    for run in grid_runs:
        config = run.config
        network = json.dumps([config.arch, config.dataset, str(config.data)])
        targets = [getattr(config, name) for name in TARGET_OPTIONS]
        same_rounds = chain_key(config.model_copy(update={"seed": 0})) + json.dumps([config.rounds, *targets])
        try:
            if config.pretrained:
                models.check_pretrained(config.arch)
            if network not in networks:
                networks[network] = _build_network(config)
            if same_rounds not in known:
                known[same_rounds] = plan_rounds(config, *networks[network])
        except PruningError as error:
            raise PruningError(f"the run with {run.label}: {error}") from None
        found.append(known[same_rounds])
    return found


def _build_network(config: RunConfig) -> tuple[nn.Module, Shape]:
    """Return an untrained network and the shape of its images. Reads the data only where the registry has no shape."""
    spec = DATASETS.entry(config.dataset).spec
    classes, shape = spec.classes, spec.input_shape
    if classes is None or shape is None:
        images = data.load(config.dataset, folder=config.data, validation=config.validation)
        classes, shape = len(images.classes), images.shape
    return models.build(config.arch, classes=classes, shape=shape), shape
