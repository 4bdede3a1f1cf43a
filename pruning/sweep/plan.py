"""What the runs of a sweep share, which of them waits for which, and what there is to compute."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pruning import data, models
from pruning.config.options import TARGET_OPTIONS
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError
from pruning.experiment import records
from pruning.experiment.run_files import SweepFiles
from pruning.experiment.shared_rounds import chain_key
from pruning.registry import DATASETS, SCHEDULES
from pruning.sweep.grid import Chosen, words
from pruning.utils.digests import digest

if TYPE_CHECKING:
    from torch import nn

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    `choices` is what tells it from the others. `dense` tells dense trainings apart (None: it starts from given weights
    and trains none). `rounds` has a digest for every round; where two runs have the same one, they go through the same
    network. `after` names the runs whose rounds this one takes over.
    """

    config: RunConfig
    choices: Mapping[str, Any]
    dense: str | None
    rounds: tuple[str, ...]
    after: frozenset[str]

    @property
    def name(self) -> str:
        return self.config.run_name()

    @property
    def words(self) -> str:
        return words(self.choices)

    @property
    def files(self) -> SweepFiles:
        return SweepFiles(records.folder_of(self.config))


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep in the order in which they are best started, and the records of those that are finished."""

    runs: tuple[Run, ...]
    finished: Mapping[str, Mapping[str, Any]]

    @property
    def done(self) -> list[Run]:
        return [run for run in self.runs if run.name in self.finished]

    @property
    def unfinished(self) -> list[Run]:
        return [run for run in self.runs if run.name not in self.finished]

    def failed(self) -> list[Run]:
        """The unfinished runs whose latest process failed."""
        endings = [(run, run.files.read_ending()) for run in self.unfinished]
        return [run for run, ending in endings if ending is not None and ending["code"] != 0]

    def shard(self, number: int, of: int) -> Plan:
        """The part `number` (from 1) of `of`, as even as they can be where runs that share rounds stay together."""
        chosen = {run.name for group in groups(self.runs)[number - 1 :: of] for run in group}
        runs = tuple(run for run in self.runs if run.name in chosen)
        return Plan(runs, {name: record for name, record in self.finished.items() if name in chosen})


@dataclass(frozen=True)
class Costs:
    """What there is to compute, counted."""

    runs: int
    dense_trainings: int
    rounds: int
    epochs: int


def make(chosen: Sequence[Chosen]) -> Plan:
    """The plan for these runs.

    PruningError, naming the run, for what cannot be done with its network, before anything is written or trained; and
    for a folder that holds another run or a damaged record.
    """
    paths = [_path(one, steps) for one, steps in zip(chosen, _steps(chosen), strict=True)]
    shared = {node for node, users in Counter(node for path in paths for node in path).items() if users > 1}
    first: dict[str, str] = {}  # who computes a round
    runs = []
    for one, path in sorted(zip(chosen, paths, strict=True), key=lambda pair: len(pair[1])):
        after = frozenset(first[node] for node in path if node in first)
        config = _sharing(one.config) if shared & set(path) else one.config
        dense = digest(config.dense_config_key())[:16] if config.epochs else None
        run = Run(config, one.choices, dense, path, after)
        first |= {node: run.name for node in path if node not in first}
        runs.append(run)
    found = {run.name: _finished(run.config) for run in runs}
    return Plan(tuple(runs), {name: record for name, record in found.items() if record is not None})


def groups(runs: Iterable[Run]) -> list[list[Run]]:
    """The runs, those together that share a round (and so their first)."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.rounds[0], []).append(run)
    return list(found.values())


def trajectories(runs: Iterable[Run]) -> int:
    """How many ways of pruning there are: runs that no other run goes through to its own end."""
    paths = [run.rounds for run in runs]
    passed = {node for path in paths for node in path[:-1]}
    return len({path[-1] for path in paths} - passed)


def costs_alone(runs: Sequence[Run]) -> Costs:
    """What it would take to compute each of these runs by itself."""
    rounds = sum(len(run.rounds) for run in runs)
    epochs = sum(run.config.epochs + len(run.rounds) * run.config.round_epochs for run in runs)
    return Costs(len(runs), sum(run.dense is not None for run in runs), rounds, epochs)


def costs_shared(runs: Sequence[Run], done: Sequence[Run] = ()) -> Costs:
    """What it takes when dense trainings and rounds are computed once, and those of the runs `done` are there."""
    epochs = epochs_each([*done, *runs])
    rounds = {node for run in runs for node in run.rounds} - {node for run in done for node in run.rounds}
    dense = {run.dense for run in runs} - {run.dense for run in done} - {None}
    return Costs(len(runs), len(dense), len(rounds), sum(epochs[run.name] for run in runs))


def epochs_each(runs: Iterable[Run]) -> dict[str, int]:
    """The epochs that each run has to compute when the runs come in this order and share what they can."""
    done: set[str] = set()
    epochs = {}
    for run in runs:
        new = [node for node in run.rounds if node not in done]
        trains = run.dense is not None and run.dense not in done
        epochs[run.name] = len(new) * run.config.round_epochs + (run.config.epochs if trains else 0)
        done.update(new, [] if run.dense is None else [run.dense])
    return epochs


def _finished(config: RunConfig) -> dict[str, Any] | None:
    try:
        return records.finished(config)
    except PruningError as error:
        folder = records.folder_of(config).path
        raise PruningError(f"{error} (In a sweep: remove {folder}, and it is done anew.)") from None


def _sharing(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"share_rounds": True})


def _path(one: Chosen, steps: Sequence[Any]) -> tuple[str, ...]:
    """A digest for every round, of all that led to it.

    What a search does depends on what it finds, and what is pruned inside fine-tuning on the end that it is going to:
    such runs have no round in common with any other.
    """
    spec = SCHEDULES.entry(one.config.schedule).spec
    alone = spec.searches or spec.during_finetuning
    key = digest(one.config.config_key()) if alone else chain_key(one.config)
    plain = [asdict(step) for step in steps]
    return tuple(digest([key, plain[: number + 1]])[:16] for number in range(len(plain)))


def _steps(chosen: Sequence[Chosen]) -> list[Any]:
    """Every run's rounds, found on its network; which is built once for all runs that have the same."""
    from pruning.experiment.setup import rounds_of

    networks: dict[str, tuple[nn.Module, Shape]] = {}
    known: dict[str, Any] = {}
    found = []
    for one in chosen:
        config = one.config
        network = json.dumps([config.arch, config.dataset, str(config.data)])
        question = chain_key(config.model_copy(update={"seed": 0})) + json.dumps(
            [config.rounds, *_amount(config)]
        )
        try:
            if config.pretrained:
                models.check_published(config.arch)
            if network not in networks:
                networks[network] = _network(config)
            if question not in known:
                known[question] = rounds_of(config, *networks[network])
        except PruningError as error:
            raise PruningError(f"the run with {words(one.choices)}: {error}") from None
        found.append(known[question])
    return found


def _amount(config: RunConfig) -> list[Any]:
    return [getattr(config, name) for name in TARGET_OPTIONS]


def _network(config: RunConfig) -> tuple[nn.Module, Shape]:
    """A network of this architecture, and the shape of its images; with data read only where nothing else tells."""
    spec = DATASETS.entry(config.dataset).spec
    classes, shape = spec.classes, spec.input_shape
    if classes is None or shape is None:
        images = data.load(config.dataset, folder=config.data, validation=config.validation)
        classes, shape = len(images.classes), images.shape
    return models.build(config.arch, classes=classes, shape=shape), shape


def read_shard(text: str) -> tuple[int, int]:
    """`3/10` as numbers. PruningError if it is not such."""
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise PruningError(
            f"--shard {text}: give the part and how many parts there are, from 1/10 to 10/10, say."
        )
    return int(number), int(of)
