"""What a run is: all its options together, what they determine, and the checks that concern several of them.

`config_reading` merges what the command line and a YAML file say over the defaults of `options`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from pruning.axes import methods
from pruning.axes.structure import fixed_sparsity
from pruning.config.options import (
    DENSE_GROUPS,
    GROUPS,
    TARGET_OPTIONS,
    DataOptions,
    DenseTrainingOptions,
    FinetuningOptions,
    MachineOptions,
    ModelOptions,
    OptionGroup,
    OutputOptions,
    PruningOptions,
    as_number,
    flag,
)
from pruning.errors import PruningError
from pruning.registry import FINETUNINGS, SCHEDULES
from pruning.utils.digests import digest, file_digest

FINETUNE_LR = 0.05


class RunConfig(
    OutputOptions,
    MachineOptions,
    FinetuningOptions,
    PruningOptions,
    DenseTrainingOptions,
    ModelOptions,
    DataOptions,
):
    """One run, fully resolved. Raises PruningError (through `resolve`) for values that make no run."""

    @model_validator(mode="after")
    def _rewind_within_training(self) -> Self:
        spec = FINETUNINGS.entry(self.finetune).spec
        goes_back = spec.needs_rewind_state or spec.replays_dense_training
        if goes_back and self.rewind_epoch > self.epochs:
            raise PruningError(
                f"--rewind-epoch {self.rewind_epoch} is beyond the dense training; give 0 to {self.epochs} (--epochs)."
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _finetuning_of_policy(cls, values: dict[str, Any]) -> dict[str, Any]:
        """How long and how fast, where the policy says so; what is given must not contradict it."""
        given = {**{name: cls.model_fields[name].default for name in ("epochs", "rewind_epoch")}, **values}
        if not replays_training(values.get("finetune")):
            return values if values.get("finetune_lr") is not None else {**values, "finetune_lr": FINETUNE_LR}
        epochs, rewind_epoch = as_number(given["epochs"]), as_number(given["rewind_epoch"])
        if epochs is None or rewind_epoch is None or rewind_epoch > epochs:
            return values  # refused by the checks of these fields
        left = epochs - rewind_epoch
        says = f"--finetune {values['finetune']} does the dense training again from epoch {rewind_epoch:g} on"
        if values.get("finetune_epochs") is not None and as_number(values["finetune_epochs"]) != left:
            raise PruningError(
                f"{says}, {left:g} of its {epochs:g} epochs, but --finetune-epochs is {values['finetune_epochs']}; "
                "leave --finetune-epochs out, or move --rewind-epoch."
            )
        if values.get("finetune_lr") is not None:
            raise PruningError(
                f"{says}, at its learning rates, but --finetune-lr is {values['finetune_lr']}; leave --finetune-lr out."
            )
        return {**values, "finetune_epochs": left}

    @model_validator(mode="after")
    def _search_from_a_trained_network(self) -> Self:
        if self.max_drop is not None and not (self.epochs or self.pretrained or self.weights):
            raise PruningError(
                "--max-drop compares with the trained network, but with --epochs 0 nothing is trained; "
                "give --epochs, --pretrained or --weights."
            )
        return self

    @model_validator(mode="after")
    def _training_to_go_by(self) -> Self:
        """Where something adds up over training, every pruning needs some training before it."""
        names = methods.accumulates(self.method)
        if not names or SCHEDULES.entry(self.schedule).spec.during_finetuning:
            return self
        goes_by = f"--method {self.method} goes by the {' and '.join(names)} over training"
        if not self.epochs:
            raise PruningError(
                f"{goes_by}, and with --epochs 0 there is none before the first pruning; give --epochs (from --weights "
                "or --pretrained that is a fine-tuning), or --schedule gradual."
            )
        if self.rounds > 1 and not self.round_epochs:
            raise PruningError(
                f"{goes_by}, and with --finetune {self.finetune} --finetune-epochs {self.finetune_epochs} there is "
                "none between the rounds; give --rounds 1, or fine-tune."
            )
        return self

    @model_validator(mode="after")
    def _pruning_inside_training(self) -> Self:
        if not SCHEDULES.entry(self.schedule).spec.during_finetuning:
            for name in ("prune_every", "prune_until"):
                if getattr(self, name) is not None:
                    raise PruningError(
                        f"{flag(name)} is for prunings inside the fine-tuning, and --schedule {self.schedule} has "
                        "none; add --schedule gradual."
                    )
            return self
        if not self.round_epochs:
            raise PruningError(
                f"--schedule {self.schedule} prunes inside the fine-tuning, but with --finetune {self.finetune} "
                f"--finetune-epochs {self.finetune_epochs} there is none."
            )
        if self.prune_until is not None and self.prune_until > self.finetune_epochs:
            raise PruningError(
                f"--prune-until {self.prune_until:g} is beyond the fine-tuning; give at most {self.finetune_epochs} "
                "(--finetune-epochs)."
            )
        if fixed_sparsity(self.structure) is not None:
            raise PruningError(
                f"--structure {self.structure} removes all at once, which --schedule {self.schedule} does not."
            )
        return self

    @model_validator(mode="after")
    def _rounds_to_share(self) -> Self:
        within = SCHEDULES.entry(self.schedule).spec.during_finetuning
        if self.share_rounds and (within or self.max_drop is not None):
            why = (
                f"--schedule {self.schedule} goes to its own end from the first pruning on"
                if within
                else "--max-drop decides on each round by the one before"
            )
            raise PruningError(f"{why}, so there is no common beginning to share; leave --share-rounds out.")
        return self

    @property
    def round_epochs(self) -> int:
        """Epochs of fine-tuning in each round, 0 where the policy trains nothing."""
        return self.finetune_epochs if FINETUNINGS.entry(self.finetune).spec.trains else 0

    @property
    def round_first_epoch(self) -> int:
        """The number of epochs that a round's training counts as done when it begins."""
        return self.rewind_epoch if replays_training(self.finetune) else 0

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON and YAML hold them."""
        return self.model_dump(mode="json")

    def values_of(self, parts: Iterable[type[OptionGroup]]) -> dict[str, Any]:
        """The fields of some parts only, as JSON holds them."""
        names = {name for part in parts for name in part.model_fields}
        return {name: value for name, value in self.to_dict().items() if name in names}

    def config_key(self) -> dict[str, Any]:
        """The fields that determine the result, and so which run this is."""
        parts = [part for part in GROUPS if part is not OutputOptions]
        return {**self.values_of(parts), "dry_run": self.dry_run, **self.plugin_digest()}

    def plugin_digest(self) -> dict[str, Any]:
        """A digest of the plugin, which may be another with every call; empty without one."""
        return {} if self.plugin is None else {"plugin_contents": file_digest(self.plugin)}

    def file_digests(self) -> dict[str, str]:
        """Digests of the files of the user's own that the run depends on and that are at hand: option -> contents."""
        where = self.arch.rpartition(":")[0]
        given = {
            "arch": Path(where).expanduser() if where.endswith(".py") else None,
            "plugin": self.plugin,
            "weights": self.weights,
        }
        at_hand = {name: file for name, file in given.items() if file is not None and file.is_file()}
        return {name: file_digest(file) for name, file in at_hand.items()}

    def accumulation_key(self) -> dict[str, Any]:
        """What the method has added up over training, with all that says of which layers and how; empty if nothing."""
        names = methods.accumulates(self.method)
        where = ("include", "exclude", "prune_classifier")
        if not names:
            return {}
        return {
            "accumulates": names,
            **{name: self.to_dict()[name] for name in where},
            **self.plugin_digest(),
        }

    def dense_config_key(self) -> dict[str, Any]:
        """The fields that determine the dense network and what adds up on the way to it; who agrees shares both."""
        fields = {**self.values_of(DENSE_GROUPS), "dry_run": self.dry_run, **self.accumulation_key()}
        return {name: value for name, value in fields.items() if name != "test_batch_size"}

    def run_name(self) -> str:
        """The folder's name: --name, or the main choices and eight digits of a hash over all that matter."""
        if self.name is not None:
            return self.name
        kind, value = next(
            (kind, getattr(self, kind)) for kind in TARGET_OPTIONS if getattr(self, kind) is not None
        )
        amount = (
            re.sub(r"[^A-Za-z0-9._=]+", "_", value)[:40] if isinstance(value, str) else f"{kind}{value:g}"
        )
        words = [self.dataset, self.arch_slug(), self.method, amount, f"seed{self.seed}"]
        if self.structure != "weight":
            words.insert(3, self.structure.replace(":", "of"))
        words.append(digest(self.config_key())[:8])
        if self.dry_run:
            words.insert(0, "dry-run")
        return "-".join(words)

    def saved_model_path(self) -> Path | None:
        """Where --save-model and --save-path put the final network; None if neither is given."""
        if self.save_path is None and self.save_model:
            return Path(f"{self.arch_slug()}-pruned.safetensors")
        return self.save_path

    def arch_slug(self) -> str:
        """The architecture as a part of a file's name: the end of a path, and no characters that mean something."""
        return re.sub(r"[^A-Za-z0-9._]+", "_", self.arch)[-40:].strip("._")


def replays_training(policy: Any) -> bool:
    """Does fine-tuning by the policy of this name follow the dense training's recipe? False for an unknown name."""
    entry = FINETUNINGS.entries().get(FINETUNINGS.canonical(str(policy)))
    return entry is not None and entry.spec.replays_dense_training
