"""Every option of a run: its type, default, bounds and help text.

A field here is the command-line option (`max_lr` is `--max-lr`), the YAML key and the entry in a record's `config`:
adding a field makes a new option. If the option determines the result, also enter the value that earlier versions used
in `run_config.LATER_OPTIONS`, which keeps the names, dense networks and records of earlier runs valid. `DataOptions`,
`ModelOptions`, `DenseTrainingOptions` and `MachineOptions` together determine the dense network; all groups but
`OutputOptions` determine the result.

Defaults that depend on other options are in `resolution`, rules between options in `checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from pruning import models
from pruning.axes import methods
from pruning.axes.structure import fixed_sparsity
from pruning.registry import DATASETS, FINETUNINGS, SCHEDULES, STRUCTURES

TARGET_OPTIONS = ("sparsity", "compression", "count", "layer_sparsity", "max_drop")


@dataclass(frozen=True)
class Choice:
    """Annotation of an option whose value is a name.

    `check` raises PruningError for an unknown name. `names` returns the names that the help lists; None if they are
    too many (the help then refers to `list`).
    """

    check: Callable[[str], object]
    names: Callable[[], list[str]] | None = None


def structure_names() -> list[str]:
    """Return the name of every structure, with an example for names with numbers: weight, filter, block4x4, 2:4."""
    return [entry.spec.example or entry.name for entry in STRUCTURES.entries().values()]


def check_structure(name: str) -> None:
    """Raise PruningError for an unknown structure or for invalid numbers in its name."""
    STRUCTURES.get(name)
    fixed_sparsity(name)


DatasetName = Annotated[str, Choice(DATASETS.entry)]
ArchName = Annotated[str, Choice(models.check_known)]
MethodName = Annotated[str, Choice(methods.split)]
ScheduleName = Annotated[str, Choice(SCHEDULES.entry, SCHEDULES.names)]
StructureName = Annotated[str, Choice(check_structure, structure_names)]
FinetuneName = Annotated[str, Choice(FINETUNINGS.entry, FINETUNINGS.names)]


class OptionGroup(BaseModel):
    """A group of options. Unknown fields are errors, and a configuration never changes once it is resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool_for_value(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic reads true as 1, which YAML's `epochs: true` cannot have meant."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise PydanticCustomError("bool_for_value", "must be a value, not true or false")
        return value


class DataOptions(OptionGroup):
    """Data"""

    dataset: DatasetName = Field(
        "fashion_mini", description="Data set, see `list datasets`; --data alone selects `folder`."
    )
    data: Path | None = Field(
        None, description="Folder of images, one sub-folder per class, or of the files of --dataset."
    )
    validation: float = Field(
        0.1, gt=0, lt=1, description="Fraction of the training set used for validation."
    )


class ModelOptions(OptionGroup):
    """Network"""

    arch: ArchName = Field(
        "my", description="Architecture, see `list architectures`, or path/to/net.py:function."
    )
    pretrained: bool = Field(False, description="Start from torchvision's published weights.")
    weights: Path | None = Field(
        None, description="Start from the weights in this file (.safetensors, .pt, .pth, .th)."
    )


class DenseTrainingOptions(OptionGroup):
    """Dense training"""

    epochs: int = Field(10, ge=0, description="Epochs of dense training.")
    lr: float = Field(0.1, gt=0, description="Peak learning rate; with --max-lr, the initial learning rate.")
    max_lr: float | None = Field(
        None, gt=0, description="Peak of the one-cycle learning rate (default: --lr)."
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty on all parameters.")
    batch_size: int = Field(128, ge=1, description="Images per training batch.")
    test_batch_size: int = Field(1000, ge=1, description="Images per evaluation batch.")


class PruningOptions(OptionGroup):
    """Pruning"""

    method: MethodName = Field(
        "global_mag", description="Pruning method {allocation}_{score}, see `list methods`."
    )
    sparsity: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Final sparsity: fraction of the prunable weights removed (default: 0.9).",
    )
    compression: float | None = Field(
        None, ge=1, description="Instead of --sparsity: final ratio of all parameters to non-zero ones."
    )
    count: int | None = Field(
        None,
        ge=0,
        description="Instead of --sparsity: number of weights removed (per layer with layer_* methods).",
    )
    layer_sparsity: str | None = Field(
        None,
        description='Instead of --sparsity: sparsity per layer type or layer name, such as "conv=0.2 linear=0.4".',
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Instead of --sparsity: maximum drop in validation top-1 accuracy, in percentage points.",
    )
    floor: float = Field(0.0, ge=0, le=1, description="Minimum fraction of weights kept in each layer.")
    rounds: int = Field(
        3,
        ge=1,
        description="Number of prune-and-fine-tune rounds; one_shot and gradual use 1, until uses 8 by default.",
    )
    schedule: ScheduleName = Field("geometric", description="How the sparsity grows over the rounds.")
    prune_every: int | None = Field(
        None,
        ge=1,
        description="Batches between pruning steps of --schedule gradual (default: about 20 pruning steps in all).",
    )
    prune_until: float | None = Field(
        None,
        gt=0,
        description="Fine-tuning epoch of the last pruning step of --schedule gradual "
        "(default: two thirds of the fine-tuning epochs).",
    )
    structure: StructureName = Field("weight", description="Unit of pruning.")
    include: tuple[str, ...] = Field(
        (), description="Also prune parameters that match this pattern (may be repeated)."
    )
    exclude: tuple[str, ...] = Field(
        (), description="Do not prune parameters that match this pattern (may be repeated)."
    )
    prune_classifier: bool = Field(False, description="Also prune the last layer.")
    score_batches: int = Field(8, ge=1, description="Training batches for scores that need data.")
    plugin: Path | None = Field(
        None, description="Python file that registers your own scores, schedules or other choices."
    )


class FinetuningOptions(OptionGroup):
    """Fine-tuning"""

    finetune: FinetuneName = Field("continue", description="Fine-tuning policy after each pruning step.")
    finetune_epochs: int = Field(
        3,
        ge=0,
        description="Fine-tuning epochs per round; rewind and rewind_lr: --epochs minus --rewind-epoch.",
    )
    finetune_lr: float | None = Field(
        None,
        gt=0,
        description="Peak of the one-cycle learning rate per round (default: 0.05; rewind, rewind_lr: as dense).",
    )
    rewind_epoch: int = Field(
        1, ge=0, description="Epoch of the dense training to which rewind and rewind_lr return."
    )
    distill_weight: float = Field(0.9, ge=0, le=1, description="Weight of the distillation loss.")
    distill_temperature: float = Field(4.0, gt=0, description="Softmax temperature of the distillation loss.")


class MachineOptions(OptionGroup):
    """Machine"""

    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random draws.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Precision of training and evaluation.")
    threads: int | None = Field(None, ge=1, description="CPU threads (default: one per core).")
    deterministic: bool = Field(
        False, description="Bit-identical results on GPUs too, at some cost in speed."
    )


class OutputOptions(OptionGroup):
    """Output"""

    runs_dir: Path = Field(Path("runs"), description="Folder for all runs.")
    name: str | None = Field(None, description="Name of the run's folder (default: made from the options).")
    log_interval: int = Field(100, ge=1, description="Batches between two lines of the log.")
    checkpoint_interval: float = Field(30.0, gt=0, description="Seconds between two checkpoints.")
    share_rounds: bool = Field(
        False,
        description="Share rounds with runs that differ only in the final sparsity and number of rounds.",
    )
    measure_seconds: float = Field(
        0.5, ge=0, description="Seconds of latency measurement per batch size; 0 skips it."
    )
    save_model: bool = Field(False, description="Also save the final network at --save-path.")
    save_path: Path | None = Field(
        None, description="File for --save-model, .safetensors or .pt (default: ARCH-pruned.safetensors)."
    )
    tensorboard: bool = Field(
        False, description="Also write TensorBoard curves into the run's folder (extra `tensorboard`)."
    )
    dry_run: bool = Field(False, description="Smoke test on two batches; metrics are meaningless.")
    quiet: bool = Field(False, description="Print warnings and errors only.")


GROUPS: tuple[type[OptionGroup], ...] = (
    DataOptions,
    ModelOptions,
    DenseTrainingOptions,
    PruningOptions,
    FinetuningOptions,
    MachineOptions,
    OutputOptions,
)
DENSE_GROUPS = (DataOptions, ModelOptions, DenseTrainingOptions, MachineOptions)


def flag(name: str) -> str:
    """The command-line spelling of a field: max_lr -> --max-lr."""
    return "--" + name.replace("_", "-")
