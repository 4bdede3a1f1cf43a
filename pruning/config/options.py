"""Every option of a run once, with its default, its bounds and the sentence that the help shows.

A field here is at once the command-line option (`max_lr` is `--max-lr`), the YAML key and the entry in a record's
`config`. The parts group the fields by what they determine: `Data`, `Network`, `DenseTraining` and `Machine` together
determine the dense network; all but `Record` together determine the result. Here is checked what one part can tell;
`config.RunConfig` puts them together.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from pruning import models
from pruning.axes import methods
from pruning.axes.allocation import DEFAULT_SPARSITY, read_by_layer
from pruning.axes.structure import check_floor, fixed_sparsity
from pruning.errors import PruningError
from pruning.registry import DATASETS, FINETUNINGS, SCHEDULES, STRUCTURES, unknown

TARGET_OPTIONS = ("sparsity", "compression", "count", "layer_sparsity", "max_drop")
DEFAULT_ROUNDS = 3


class OptionGroup(BaseModel):
    """A group of options; unknown fields are errors, and a configuration never changes once it is resolved."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _truth_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("should be a value, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _path_can_be(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, Path):
            try:
                value.lstat()
            except (FileNotFoundError, NotADirectoryError):
                pass
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else error
                raise PruningError(
                    f"{flag(str(info.field_name))} {str(value)!r} cannot be reached ({reason}); give another path."
                ) from None
        return value


class DataOptions(OptionGroup):
    """Data"""

    dataset: str = Field(
        "fashion_mini", description="Data set (see `list datasets`); --data alone means `folder`."
    )
    data: Path | None = Field(
        None,
        description="Folder of images, one sub-folder a class; or, with --dataset, where that data set lies.",
    )
    validation: float = Field(0.1, gt=0, lt=1, description="Fraction of the training set held out, by seed.")

    @field_validator("dataset")
    @classmethod
    def _known_dataset(cls, name: str) -> str:
        return DATASETS.entry(name).name

    @field_validator("data")
    @classmethod
    def _data_exists(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        if folder is not None and not folder.is_dir():
            _refuse_missing(folder, "folder", "give the folder that holds the images", info)
        return folder

    @model_validator(mode="before")
    @classmethod
    def _default_dataset(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("dataset") is None:
            values = {**values, "dataset": "fashion_mini" if values.get("data") is None else "folder"}
        return values


class ModelOptions(OptionGroup):
    """Network"""

    arch: str = Field(
        "my", description="Architecture (see `list architectures`), or your own: path/to/net.py:factory."
    )
    pretrained: bool = Field(False, description="Start from torchvision's published weights.")
    weights: Path | None = Field(
        None, description="Start from the weights in this file (.safetensors, .pt, .pth, .th)."
    )

    @field_validator("arch")
    @classmethod
    def _known_architecture(cls, arch: str) -> str:
        models.known(arch)
        return arch

    @field_validator("weights")
    @classmethod
    def _weights_exist(cls, file: Path | None, info: ValidationInfo) -> Path | None:
        if file is not None and not file.is_file():
            _refuse_missing(file, "file", "give a .safetensors, .pt, .pth or .th file", info)
        return file

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise PruningError(
                "--pretrained and --weights both name the weights to start from; give one of them."
            )
        return self


class DenseTrainingOptions(OptionGroup):
    """Dense training"""

    epochs: int = Field(10, ge=0, description="Epochs of dense training.")
    lr: float = Field(0.1, gt=0, description="Base learning rate; the peak too, unless --max-lr is given.")
    max_lr: float | None = Field(
        None, gt=0, description="Peak of the one-cycle learning rate (default: --lr)."
    )
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty on all parameters.")
    batch_size: int = Field(128, ge=1, description="Images in a training batch.")
    test_batch_size: int = Field(1000, ge=1, description="Images in an evaluation batch.")

    @model_validator(mode="after")
    def _peak_above_base(self) -> Self:
        if self.max_lr is not None and self.max_lr < self.lr:
            raise PruningError(
                f"--max-lr {self.max_lr:g} is below --lr {self.lr:g}; the peak must be at least the base."
            )
        return self


class PruningOptions(OptionGroup):
    """Pruning"""

    method: str = Field(
        "global_mag", description="Pruning method, {allocation}_{score} (see `list methods`)."
    )
    sparsity: float | None = Field(
        None, ge=0, le=1, description="Fraction of the prunable weights to remove in the end (default: 0.9)."
    )
    compression: float | None = Field(
        None, ge=1, description="Instead: all parameters / non-zero parameters to reach in the end."
    )
    count: int | None = Field(
        None,
        ge=0,
        description="Instead: how many weights to remove (from each layer, for layerwise methods).",
    )
    layer_sparsity: str | None = Field(
        None, description='Instead: fractions by kind or name of layer, such as "conv=0.2 linear=0.4".'
    )
    max_drop: float | None = Field(
        None,
        ge=0,
        le=100,
        description="Instead: points of validation top-1 that pruning may cost (--schedule until).",
    )
    floor: float = Field(0.0, ge=0, le=1, description="Fraction of its weights that every layer keeps.")
    rounds: int = Field(
        DEFAULT_ROUNDS, ge=1, description="Prune and fine-tune steps; one_shot has 1, until usually 8."
    )
    schedule: str = Field(
        "geometric", description="How the amount grows over the rounds (see `list schedules`)."
    )
    prune_every: int | None = Field(
        None,
        ge=1,
        description="Batches between two prunings of --schedule gradual (default: about 20 prunings).",
    )
    prune_until: float | None = Field(
        None,
        gt=0,
        description="Epoch of fine-tuning until which gradual prunes (default: two thirds of them).",
    )
    structure: str = Field("weight", description="What is removed together (see `list structures`).")
    include: tuple[str, ...] = Field((), description="Prune these parameters too (pattern; may be repeated).")
    exclude: tuple[str, ...] = Field(
        (), description="Leave these parameters alone (pattern; may be repeated)."
    )
    prune_classifier: bool = Field(False, description="Prune the last layer too.")
    score_batches: int = Field(8, ge=1, description="Training batches that scores which need data look at.")
    plugin: Path | None = Field(None, description="Python file that registers scores, ... of your own.")

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        methods.split(name)
        return name

    @field_validator("schedule")
    @classmethod
    def _known_schedule(cls, name: str) -> str:
        return SCHEDULES.entry(name).name

    @field_validator("structure")
    @classmethod
    def _known_structure(cls, name: str) -> str:
        STRUCTURES.get(name)
        fixed_sparsity(name)
        return name

    @field_validator("layer_sparsity")
    @classmethod
    def _fractions_by_layer(cls, text: str | None) -> str | None:
        if text is not None:
            read_by_layer(text)
        return text

    @model_validator(mode="after")
    def _method_goes_with_structure(self) -> Self:
        methods.check(self.method, self.structure)
        return self

    @model_validator(mode="after")
    def _floor_goes_with_structure(self) -> Self:
        check_floor(self.structure, self.floor)
        return self

    @model_validator(mode="after")
    def _search_is_free(self) -> Self:
        searches = SCHEDULES.entry(self.schedule).spec.searches
        if self.max_drop is not None and not searches:
            raise PruningError(
                f"--max-drop finds out by itself how far to prune, which --schedule {self.schedule} contradicts; "
                "leave --schedule out."
            )
        if self.max_drop is None and searches:
            raise PruningError(
                f"--schedule {self.schedule} needs --max-drop, the points of validation top-1 that may be lost."
            )
        if self.max_drop is not None and self.floor:
            raise PruningError(
                f"--max-drop may go as far as any sparsity, which --floor {self.floor:g} does not allow; "
                "leave --floor out."
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _one_amount(cls, values: dict[str, Any]) -> dict[str, Any]:
        given = [name for name in TARGET_OPTIONS if values.get(name) is not None]
        if len(given) > 1:
            raise PruningError(f"{_options(given)} both say how much to remove; give one of them.")
        return values if given else {**values, "sparsity": DEFAULT_SPARSITY}

    @model_validator(mode="before")
    @classmethod
    def _rounds_of_schedule(cls, values: dict[str, Any]) -> dict[str, Any]:
        schedule = values.get("schedule", "geometric")
        entry = SCHEDULES.entries().get(schedule)
        fixed = entry.spec.rounds if entry is not None else None
        default = entry.spec.default_rounds if entry is not None else None
        if values.get("rounds") is None:
            return {**values, "rounds": fixed or default or DEFAULT_ROUNDS}
        if fixed is not None and str(values["rounds"]) != str(fixed):
            raise PruningError(
                f"--schedule {schedule} has {fixed} round, but --rounds is {values['rounds']}; "
                "leave --rounds out, or choose geometric or linear."
            )
        return values

    @model_validator(mode="before")
    @classmethod
    def _schedule_of_search(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("max_drop") is not None and values.get("schedule") is None:
            return {**values, "schedule": "until"}
        return values

    @model_validator(mode="before")
    @classmethod
    def _amount_of_structure(cls, values: dict[str, Any]) -> dict[str, Any]:
        structure = values.get("structure")
        fixed = fixed_sparsity(structure) if isinstance(structure, str) else None
        if fixed is None:
            return values
        for name in TARGET_OPTIONS:
            given = values.get(name)
            if given is not None and (name != "sparsity" or as_number(given) != fixed):
                raise PruningError(
                    f"--structure {structure} removes exactly {fixed:g}, which {flag(name)} {given} contradicts; "
                    f"leave {flag(name)} out."
                )
        if as_number(values.get("rounds", 1)) != 1:
            raise PruningError(
                f"--structure {structure} removes all it removes in one round; leave --rounds out."
            )
        return {**values, "sparsity": fixed, "rounds": 1}


class FinetuningOptions(OptionGroup):
    """Fine-tuning"""

    finetune: str = Field("continue", description="What follows each pruning (see `list finetunings`).")
    finetune_epochs: int = Field(
        3,
        ge=0,
        description="Epochs of fine-tuning in each round (rewind, rewind_lr: --epochs less --rewind-epoch).",
    )
    finetune_lr: float | None = Field(
        None,
        gt=0,
        description="Peak of the one-cycle learning rate in each round (default: 0.05; rewind, rewind_lr: as dense).",
    )
    rewind_epoch: int = Field(
        1, ge=0, description="Epoch of the dense training that `rewind` and `rewind_lr` go back to."
    )
    distill_weight: float = Field(
        0.9, ge=0, le=1, description="How much of the loss `distill` takes from the dense network."
    )
    distill_temperature: float = Field(
        4.0, gt=0, description="Temperature that softens what the dense network needs_teacher in `distill`."
    )

    @field_validator("finetune")
    @classmethod
    def _known_policy(cls, name: str) -> str:
        return FINETUNINGS.entry(name).name


class MachineOptions(OptionGroup):
    """Machine"""

    seed: int = Field(0, ge=0, lt=2**63, description="Determines everything that is drawn at random.")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="Arithmetic of training and evaluation.")
    threads: int | None = Field(None, ge=1, description="CPU threads (default: one a core).")
    deterministic: bool = Field(
        False, description="Bit-identical repetition on GPUs too, at some cost in speed."
    )

    @field_validator("device")
    @classmethod
    def _device_spelling(cls, device: str) -> str:
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", device):
            raise unknown("device", device, ["auto", "cpu", "cuda", "cuda:0", "mps"])
        return device


class OutputOptions(OptionGroup):
    """Record"""

    runs_dir: Path = Field(Path("runs"), description="Folder that holds the records.")
    name: str | None = Field(None, description="Name of the run's folder (default: made from the options).")
    log_interval: int = Field(100, ge=1, description="Batches between two lines of the log.")
    checkpoint_interval: float = Field(30.0, gt=0, description="Seconds between two checkpoints.")
    share_rounds: bool = Field(
        False, description="Share rounds with runs that begin with the same and prune farther, or less far."
    )
    measure_seconds: float = Field(
        0.5, ge=0, description="Seconds of timing dense against pruned at each batch size; 0: no timing."
    )
    save_model: bool = Field(False, description="Also save the final network at --save-path.")
    save_path: Path | None = Field(
        None, description="File for --save-model, .safetensors or .pt (default: ARCH-pruned.safetensors)."
    )
    tensorboard: bool = Field(
        False, description="Also write curves for TensorBoard into the run's folder (extra `tensorboard`)."
    )
    dry_run: bool = Field(
        False, description="Pass once through everything in seconds; the numbers mean nothing."
    )
    quiet: bool = Field(False, description="Print warnings and errors only.")

    @field_validator("name")
    @classmethod
    def _name_stays_in_folder(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}", name):
            raise PruningError(
                f"--name {name!r}: give letters, digits and . _ = + -, a letter or digit first."
            )
        return name

    @field_validator("save_path")
    @classmethod
    def _save_path_suffix(cls, path: Path | None) -> Path | None:
        if path is not None and path.suffix not in (".safetensors", ".pt"):
            raise PruningError(f"--save-path {path}: the file's name must end in .safetensors or .pt.")
        return path


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
    """A field's spelling on the command line: max_lr -> --max-lr."""
    return "--" + name.replace("_", "-")


def _refuse_missing(path: Path, kind: str, advice: str, info: ValidationInfo) -> None:
    """PruningError for a path that is no `kind`; not for a record's, which is read after its files are gone, too."""
    if info.context != "recorded":
        what = f" is no {kind}" if path.exists() else f": no such {kind}"
        raise PruningError(f"{flag(str(info.field_name))} {path}{what}; {advice}.")


def as_number(given: Any) -> float | None:
    """An option's value as a number; None if it is none, which its own check will say."""
    try:
        return float(given)
    except (TypeError, ValueError):
        return None


def _options(names: Iterable[str]) -> str:
    return " and ".join(flag(name) for name in names)
