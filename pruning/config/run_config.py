"""`RunConfig`: all options of one run, and the keys and names that follow from them. `resolution.resolve` makes one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pruning.axes import methods
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
)
from pruning.registry import FINETUNINGS, SCHEDULES
from pruning.utils.digests import digest, file_digest

# Spellings in the digest of a run's name: those of the first version, so that a command still finds its earlier run.
HASHED_SPELLINGS = {"continue": "go_on"}
# Options that the first version did not have, with the value that it used. Keys leave them out at that value, so that
# the names, dense networks and records of earlier runs stay valid.
LATER_OPTIONS: dict[str, Any] = {}


class RunConfig(
    OutputOptions,
    MachineOptions,
    FinetuningOptions,
    PruningOptions,
    DenseTrainingOptions,
    ModelOptions,
    DataOptions,
):
    """All options of one run. Only `resolve` fills the defaults that depend on others and checks the rules."""

    # --- facts of the chosen schedule and policy ----------------------------------------------------------------

    @property
    def searches(self) -> bool:
        """Whether each round's sparsity is chosen from the rounds before it (--max-drop)."""
        return SCHEDULES.entry(self.schedule).spec.searches

    @property
    def prunes_during_finetuning(self) -> bool:
        """Whether pruning steps are spread over the fine-tuning of one round (--schedule gradual)."""
        return SCHEDULES.entry(self.schedule).spec.during_finetuning

    @property
    def replays_training(self) -> bool:
        """Whether each round repeats the dense training from --rewind-epoch on."""
        return FINETUNINGS.entry(self.finetune).spec.replays_dense_training

    @property
    def round_epochs(self) -> int:
        """Epochs of fine-tuning in each round, 0 for a policy that trains nothing."""
        return self.finetune_epochs if FINETUNINGS.entry(self.finetune).spec.trains else 0

    @property
    def round_first_epoch(self) -> int:
        """Epoch of its recipe at which a round's training starts."""
        return self.rewind_epoch if self.replays_training else 0

    # --- values and keys ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON and YAML hold them."""
        return self.model_dump(mode="json")

    def values_of(self, groups: Iterable[type[OptionGroup]]) -> dict[str, Any]:
        """The fields of some groups as JSON holds them, without later options that have their earlier value."""
        names = {name for group in groups for name in group.model_fields}
        return {
            name: value
            for name, value in self.to_dict().items()
            if name in names and not (name in LATER_OPTIONS and value == LATER_OPTIONS[name])
        }

    def config_key(self) -> dict[str, Any]:
        """The options that determine the result: two configurations with equal keys are the same run."""
        groups = [group for group in GROUPS if group is not OutputOptions]
        return {**self.values_of(groups), "dry_run": self.dry_run, **self.plugin_digest()}

    def dense_config_key(self) -> dict[str, Any]:
        """The options that determine the dense network and the statistics that accumulate during its training."""
        fields = {**self.values_of(DENSE_GROUPS), "dry_run": self.dry_run, **self.accumulation_key()}
        return {name: value for name, value in fields.items() if name != "test_batch_size"}

    def accumulation_key(self) -> dict[str, Any]:
        """Return the accumulators of the method and the layers that they cover; empty for most methods."""
        names = methods.accumulates(self.method)
        if not names:
            return {}
        values = self.to_dict()
        return {
            "accumulates": names,
            **{name: values[name] for name in ("include", "exclude", "prune_classifier")},
            **self.plugin_digest(),
        }

    def plugin_digest(self) -> dict[str, Any]:
        """Digest of the plugin's current contents; empty without a plugin."""
        return {} if self.plugin is None else {"plugin_contents": file_digest(self.plugin)}

    def file_digests(self) -> dict[str, str]:
        """Digests of the user's own files that the run reads and that exist: option -> digest."""
        arch_file = self.arch.rpartition(":")[0]
        files = {
            "arch": Path(arch_file).expanduser() if arch_file.endswith(".py") else None,
            "plugin": self.plugin,
            "weights": self.weights,
        }
        existing = {name: file for name, file in files.items() if file is not None and file.is_file()}
        return {name: file_digest(file) for name, file in existing.items()}

    # --- names of files -----------------------------------------------------------------------------------------

    def run_name(self) -> str:
        """Name of the run's folder: --name, or the main options and eight digits of a digest of `config_key`."""
        if self.name is not None:
            return self.name
        words = [self.dataset, self.arch_slug(), self.method, self._target_slug(), f"seed{self.seed}"]
        if self.structure != "weight":
            words.insert(3, self.structure.replace(":", "of"))
        key = {**self.config_key(), "finetune": HASHED_SPELLINGS.get(self.finetune, self.finetune)}
        words.append(digest(key)[:8])
        if self.dry_run:
            words.insert(0, "dry-run")
        return "-".join(words)

    def saved_model_path(self) -> Path | None:
        """File for the final network (--save-model, --save-path); None if neither is given."""
        if self.save_path is None and self.save_model:
            return Path(f"{self.arch_slug()}-pruned.safetensors")
        return self.save_path

    def arch_slug(self) -> str:
        """The architecture as part of a file name: the end of a path, with other characters replaced by `_`."""
        return re.sub(r"[^A-Za-z0-9._]+", "_", self.arch)[-40:].strip("._")

    def _target_slug(self) -> str:
        """The target as part of a file name: sparsity0.9, or the text of --layer-sparsity."""
        name = next(name for name in TARGET_OPTIONS if getattr(self, name) is not None)
        value = getattr(self, name)
        return re.sub(r"[^A-Za-z0-9._=]+", "_", value)[:40] if isinstance(value, str) else f"{name}{value:g}"
