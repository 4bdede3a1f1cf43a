"""Rules that a configuration must keep, one function per rule. They read a resolved configuration, in any order.

Each raises PruningError with what is wrong, the value and the fix, and names the options concerned as data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from pruning.axes import methods
from pruning.axes.allocation import read_by_layer
from pruning.axes.structure import check_floor, fixed_sparsity
from pruning.config.options import TARGET_OPTIONS, Choice, flag
from pruning.config.run_config import RunConfig
from pruning.errors import PruningError, concerning
from pruning.registry import FINETUNINGS, SCHEDULES, unknown

DEVICES = ("auto", "cpu", "cuda", "cuda:0", "mps")
NETWORK_SUFFIXES = (".safetensors", ".pt")


def check(config: RunConfig, *, recorded: bool = False) -> None:
    """Apply every rule. The input files of a `recorded` run may be missing."""
    for rule in RULES:
        rule(config)
    if not recorded:
        input_files_exist(config)


# --- single options ---------------------------------------------------------------------------------------------


def check_names(config: RunConfig) -> None:
    """Options that name a method, schedule, data set, ... name an existing one."""
    for name, field in RunConfig.model_fields.items():
        for choice in field.metadata:
            if isinstance(choice, Choice):
                with concerning(name):
                    choice.check(getattr(config, name))


def paths_are_possible(config: RunConfig) -> None:
    """The operating system accepts every path: no NUL, no part that is too long."""
    for name in RunConfig.model_fields:
        path = getattr(config, name)
        if not isinstance(path, Path):
            continue
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise PruningError(
                f"{flag(name)} {str(path)!r} cannot be accessed ({reason}). Give another path.",
                options=(name,),
            ) from None


def input_files_exist(config: RunConfig) -> None:
    """--data is a folder and --weights a file."""
    if config.data is not None and not config.data.is_dir():
        problem = "is not a folder" if config.data.exists() else "does not exist"
        raise PruningError(
            f"--data {config.data} {problem}. Give the folder that holds the images.", options=("data",)
        )
    if config.weights is not None and not config.weights.is_file():
        problem = "is not a file" if config.weights.exists() else "does not exist"
        raise PruningError(
            f"--weights {config.weights} {problem}. Give a .safetensors, .pt, .pth or .th file.",
            options=("weights",),
        )


def device_is_known(config: RunConfig) -> None:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", config.device):
        with concerning("device"):
            raise unknown("device", config.device, DEVICES)


def name_is_one_folder(config: RunConfig) -> None:
    if config.name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}", config.name):
        raise PruningError(
            f"--name {config.name!r} is not a folder name: use letters, digits and . _ = + -, starting with a letter "
            "or digit.",
            options=("name",),
        )


def save_path_has_a_format(config: RunConfig) -> None:
    if config.save_path is not None and config.save_path.suffix not in NETWORK_SUFFIXES:
        raise PruningError(
            f"--save-path {config.save_path} must end in {' or '.join(NETWORK_SUFFIXES)}.",
            options=("save_path",),
        )


def layer_sparsities_are_readable(config: RunConfig) -> None:
    if config.layer_sparsity is not None:
        with concerning("layer_sparsity"):
            read_by_layer(config.layer_sparsity)


# --- network and dense training ---------------------------------------------------------------------------------


def weights_have_one_source(config: RunConfig) -> None:
    if config.pretrained and config.weights is not None:
        raise PruningError(
            f"--pretrained conflicts with --weights {config.weights}: both set the initial weights. Remove one.",
            options=("pretrained", "weights"),
        )


def peak_lr_is_not_below_base(config: RunConfig) -> None:
    if config.max_lr is not None and config.max_lr < config.lr:
        raise PruningError(
            f"--max-lr {config.max_lr:g} is below --lr {config.lr:g}. Give a peak of at least the base rate.",
            options=("max_lr", "lr"),
        )


# --- target -----------------------------------------------------------------------------------------------------


def target_is_given_once(config: RunConfig) -> None:
    given = [name for name in TARGET_OPTIONS if getattr(config, name) is not None]
    if len(given) > 1:
        raise PruningError(
            f"{' and '.join(_with_value(config, name) for name in given)} conflict: each sets how much to prune. "
            "Give one of them.",
            options=given,
        )


def structure_of_fixed_sparsity_is_pruned_once(config: RunConfig) -> None:
    """2:4 removes exactly half of the weights, in one pruning step."""
    fixed = fixed_sparsity(config.structure)
    if fixed is None:
        return
    for name in TARGET_OPTIONS:
        value = getattr(config, name)
        if value is not None and (name != "sparsity" or value != fixed):
            raise PruningError(
                f"{_with_value(config, name)} conflicts with --structure {config.structure} "
                f"(always sparsity {fixed:g}). Remove {flag(name)}.",
                options=(name, "structure"),
            )
    if config.rounds != 1:
        raise PruningError(
            f"--rounds {config.rounds} conflicts with --structure {config.structure} (always 1 round). "
            "Remove --rounds.",
            options=("rounds", "structure"),
        )
    if config.prunes_during_finetuning:
        raise PruningError(
            f"--schedule {config.schedule} conflicts with --structure {config.structure}, which is pruned in one step. "
            "Choose another schedule.",
            options=("schedule", "structure"),
        )


def method_fits_structure(config: RunConfig) -> None:
    with concerning("method", "structure"):
        methods.check(config.method, config.structure)


def floor_fits_structure(config: RunConfig) -> None:
    with concerning("floor", "structure"):
        check_floor(config.structure, config.floor)


# --- schedule ---------------------------------------------------------------------------------------------------


def schedule_has_its_rounds(config: RunConfig) -> None:
    fixed = SCHEDULES.entry(config.schedule).spec.rounds
    if fixed is not None and config.rounds != fixed:
        raise PruningError(
            f"--rounds {config.rounds} conflicts with --schedule {config.schedule} (always {fixed} round). "
            "Remove --rounds or choose geometric or linear.",
            options=("rounds", "schedule"),
        )


def search_has_its_schedule(config: RunConfig) -> None:
    """--max-drop and the schedules that search need each other."""
    if config.max_drop is not None and not config.searches:
        raise PruningError(
            f"--schedule {config.schedule} conflicts with --max-drop {config.max_drop:g}, which searches for the "
            "sparsity. Remove --schedule.",
            options=("schedule", "max_drop"),
        )
    if config.max_drop is None and config.searches:
        raise PruningError(
            f"--schedule {config.schedule} needs --max-drop, the points of validation top-1 that pruning may cost.",
            options=("schedule",),
        )


def search_has_no_floor(config: RunConfig) -> None:
    if config.max_drop is not None and config.floor:
        raise PruningError(
            f"--floor {config.floor:g} conflicts with --max-drop {config.max_drop:g}, which may reach any sparsity. "
            "Remove --floor.",
            options=("floor", "max_drop"),
        )


def search_starts_from_a_trained_network(config: RunConfig) -> None:
    if config.max_drop is not None and not (config.epochs or config.pretrained or config.weights):
        raise PruningError(
            f"--max-drop {config.max_drop:g} compares with a trained network, but --epochs 0 trains none. "
            "Give --epochs, --pretrained or --weights.",
            options=("max_drop", "epochs"),
        )


def gradual_pruning_has_finetuning(config: RunConfig) -> None:
    if config.prunes_during_finetuning and not config.round_epochs:
        raise PruningError(
            f"--schedule {config.schedule} prunes during fine-tuning, but --finetune {config.finetune} "
            f"--finetune-epochs {config.finetune_epochs} trains for 0 epochs. Fine-tune or choose another schedule.",
            options=("schedule", "finetune", "finetune_epochs"),
        )


def gradual_pruning_ends_with_finetuning(config: RunConfig) -> None:
    if config.prune_until is not None and config.prune_until > config.finetune_epochs:
        raise PruningError(
            f"--prune-until {config.prune_until:g} is after the end of fine-tuning. Give at most "
            f"{config.finetune_epochs} (--finetune-epochs).",
            options=("prune_until", "finetune_epochs"),
        )


def steps_of_gradual_pruning_have_its_schedule(config: RunConfig) -> None:
    for name in ("prune_every", "prune_until"):
        if getattr(config, name) is not None and not config.prunes_during_finetuning:
            raise PruningError(
                f"{_with_value(config, name)} conflicts with --schedule {config.schedule}, which does not prune during "
                "fine-tuning. Add --schedule gradual.",
                options=(name, "schedule"),
            )


def shared_rounds_have_a_common_prefix(config: RunConfig) -> None:
    if not config.share_rounds:
        return
    if config.prunes_during_finetuning:
        raise PruningError(
            f"--share-rounds conflicts with --schedule {config.schedule}, whose first pruning step depends on the "
            "last. Remove --share-rounds.",
            options=("share_rounds", "schedule"),
        )
    if config.max_drop is not None:
        raise PruningError(
            f"--share-rounds conflicts with --max-drop {config.max_drop:g}, which chooses each round from the one "
            "before. Remove --share-rounds.",
            options=("share_rounds", "max_drop"),
        )


# --- fine-tuning ------------------------------------------------------------------------------------------------


def rewind_epoch_is_within_dense_training(config: RunConfig) -> None:
    spec = FINETUNINGS.entry(config.finetune).spec
    if (spec.needs_rewind_state or spec.replays_dense_training) and config.rewind_epoch > config.epochs:
        raise PruningError(
            f"--rewind-epoch {config.rewind_epoch} is after the end of dense training. Give 0 to {config.epochs} "
            "(--epochs).",
            options=("rewind_epoch", "epochs"),
        )


def replayed_training_keeps_its_recipe(config: RunConfig) -> None:
    """rewind and rewind_lr repeat the dense training from --rewind-epoch on, with its learning rates."""
    if not config.replays_training:
        return
    left = config.epochs - config.rewind_epoch
    if config.finetune_epochs != left:
        raise PruningError(
            f"--finetune-epochs {config.finetune_epochs} conflicts with --finetune {config.finetune}, which repeats "
            f"{left} of {config.epochs} epochs (from --rewind-epoch {config.rewind_epoch}). Remove --finetune-epochs "
            "or change --rewind-epoch.",
            options=("finetune_epochs", "finetune", "rewind_epoch"),
        )
    if config.finetune_lr is not None:
        raise PruningError(
            f"--finetune-lr {config.finetune_lr:g} conflicts with --finetune {config.finetune}, which repeats the "
            "learning rates of the dense training. Remove --finetune-lr.",
            options=("finetune_lr", "finetune"),
        )


def accumulated_scores_have_training(config: RunConfig) -> None:
    """A score that accumulates over training needs some before every pruning step."""
    names = methods.accumulates(config.method)
    if not names or config.prunes_during_finetuning:
        return
    needs = f"--method {config.method} accumulates {' and '.join(names)} during training"
    if not config.epochs:
        raise PruningError(
            f"{needs}, but --epochs 0 trains nothing before the first pruning step. Give --epochs (with --weights or "
            "--pretrained they fine-tune) or --schedule gradual.",
            options=("method", "epochs"),
        )
    if config.rounds > 1 and not config.round_epochs:
        raise PruningError(
            f"{needs}, but --finetune {config.finetune} --finetune-epochs {config.finetune_epochs} trains nothing "
            f"between the rounds. Fine-tune or replace --rounds {config.rounds} by --rounds 1.",
            options=("method", "finetune", "finetune_epochs", "rounds"),
        )


RULES: tuple[Callable[[RunConfig], None], ...] = (
    paths_are_possible,
    device_is_known,
    name_is_one_folder,
    save_path_has_a_format,
    layer_sparsities_are_readable,
    weights_have_one_source,
    peak_lr_is_not_below_base,
    target_is_given_once,
    structure_of_fixed_sparsity_is_pruned_once,
    method_fits_structure,
    floor_fits_structure,
    schedule_has_its_rounds,
    search_has_its_schedule,
    search_has_no_floor,
    search_starts_from_a_trained_network,
    gradual_pruning_has_finetuning,
    gradual_pruning_ends_with_finetuning,
    steps_of_gradual_pruning_have_its_schedule,
    shared_rounds_have_a_common_prefix,
    rewind_epoch_is_within_dense_training,
    replayed_training_keeps_its_recipe,
    accumulated_scores_have_training,
)


def _with_value(config: RunConfig, name: str) -> str:
    """An option as the user types it: --sparsity 0.9."""
    value = getattr(config, name)
    return f"{flag(name)} {value:g}" if isinstance(value, int | float) else f"{flag(name)} {value}"
