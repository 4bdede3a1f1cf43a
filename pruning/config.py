"""What a run is: every option once, with its default, its bounds and the sentence that the help shows.

A field here is at once the command-line option (`max_lr` is `--max-lr`), the YAML key and the entry in a record's
`config`. `config_reading` merges what the command line and a YAML file say over the defaults here.

The parts group the fields by what they determine: `Data`, `Network`, `DenseTraining` and `Machine` together determine
the dense network; all but `Record` together determine the result.
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

from pruning import methods, models
from pruning.allocation import DEFAULT_SPARSITY, read_by_layer
from pruning.digests import digest, file_digest
from pruning.errors import PruningError
from pruning.registry import DATASETS, FINETUNINGS, SCHEDULES, STRUCTURES, unknown
from pruning.structure import check_floor, fixed_sparsity

AMOUNTS = ("sparsity", "compression", "count", "layer_sparsity", "max_drop")
DEFAULT_ROUNDS = 3
FINETUNE_LR = 0.05


class Part(BaseModel):
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
                    f"{option(str(info.field_name))} {str(value)!r} cannot be reached ({reason}); give another path."
                ) from None
        return value


class Data(Part):
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
        if folder is not None and not folder.is_dir() and info.context != "recorded":
            what = " is no folder" if folder.exists() else ": no such folder"
            raise PruningError(f"--data {folder}{what}; give the folder that holds the images.")
        return folder

    @model_validator(mode="before")
    @classmethod
    def _default_dataset(cls, values: dict[str, Any]) -> dict[str, Any]:
        if values.get("dataset") is None:
            values = {**values, "dataset": "fashion_mini" if values.get("data") is None else "folder"}
        return values


class Network(Part):
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
        if file is not None and not file.is_file() and info.context != "recorded":
            what = " is no file" if file.exists() else ": no such file"
            raise PruningError(f"--weights {file}{what}; give a .safetensors, .pt, .pth or .th file.")
        return file

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.pretrained and self.weights is not None:
            raise PruningError(
                "--pretrained and --weights both name the weights to start from; give one of them."
            )
        return self


class DenseTraining(Part):
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


class Pruning(Part):
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
        searches = SCHEDULES.entry(self.schedule).about.get("searches", False)
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
        given = [name for name in AMOUNTS if values.get(name) is not None]
        if len(given) > 1:
            raise PruningError(f"{_options(given)} both say how much to remove; give one of them.")
        return values if given else {**values, "sparsity": DEFAULT_SPARSITY}

    @model_validator(mode="before")
    @classmethod
    def _rounds_of_schedule(cls, values: dict[str, Any]) -> dict[str, Any]:
        schedule = values.get("schedule", "geometric")
        about = SCHEDULES.entries()[schedule].about if schedule in SCHEDULES.names() else {}
        fixed = about.get("rounds")
        if values.get("rounds") is None:
            return {**values, "rounds": fixed or about.get("usual_rounds", DEFAULT_ROUNDS)}
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
        for name in AMOUNTS:
            given = values.get(name)
            if given is not None and (name != "sparsity" or _number(given) != fixed):
                raise PruningError(
                    f"--structure {structure} removes exactly {fixed:g}, which {option(name)} {given} contradicts; "
                    f"leave {option(name)} out."
                )
        if _number(values.get("rounds", 1)) != 1:
            raise PruningError(
                f"--structure {structure} removes all it removes in one round; leave --rounds out."
            )
        return {**values, "sparsity": fixed, "rounds": 1}


class Finetuning(Part):
    """Fine-tuning"""

    finetune: str = Field("go_on", description="What follows each pruning (see `list finetunings`).")
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
        4.0, gt=0, description="Temperature that softens what the dense network teaches in `distill`."
    )

    @field_validator("finetune")
    @classmethod
    def _known_policy(cls, name: str) -> str:
        return FINETUNINGS.entry(name).name


class Machine(Part):
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


class Record(Part):
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


PARTS: tuple[type[Part], ...] = (Data, Network, DenseTraining, Pruning, Finetuning, Machine, Record)
DENSE_PARTS = (Data, Network, DenseTraining, Machine)


class RunConfig(Record, Machine, Finetuning, Pruning, DenseTraining, Network, Data):
    """One run, fully resolved. Raises PruningError (through `resolve`) for values that make no run."""

    @model_validator(mode="after")
    def _rewind_within_training(self) -> Self:
        about = FINETUNINGS.entry(self.finetune).about
        goes_back = about.get("rewinds", False) or about.get("replays", False)
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
        epochs, rewind_epoch = _number(given["epochs"]), _number(given["rewind_epoch"])
        if epochs is None or rewind_epoch is None or rewind_epoch > epochs:
            return values  # refused by the checks of these fields
        left = epochs - rewind_epoch
        says = f"--finetune {values['finetune']} does the dense training again from epoch {rewind_epoch:g} on"
        if values.get("finetune_epochs") is not None and _number(values["finetune_epochs"]) != left:
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
        if not names or SCHEDULES.entry(self.schedule).about.get("within", False):
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
        if not SCHEDULES.entry(self.schedule).about.get("within", False):
            for name in ("prune_every", "prune_until"):
                if getattr(self, name) is not None:
                    raise PruningError(
                        f"{option(name)} is for prunings inside the fine-tuning, and --schedule {self.schedule} has "
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
        within = SCHEDULES.entry(self.schedule).about.get("within", False)
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
        return self.finetune_epochs if FINETUNINGS.entry(self.finetune).about.get("trains", True) else 0

    @property
    def round_first_epoch(self) -> int:
        """The number of epochs that a round's training counts as done when it begins."""
        return self.rewind_epoch if replays_training(self.finetune) else 0

    def plain(self) -> dict[str, Any]:
        """All fields as JSON and YAML hold them."""
        return self.model_dump(mode="json")

    def of_parts(self, parts: Iterable[type[Part]]) -> dict[str, Any]:
        """The fields of some parts only, as JSON holds them."""
        names = {name for part in parts for name in part.model_fields}
        return {name: value for name, value in self.plain().items() if name in names}

    def identity(self) -> dict[str, Any]:
        """The fields that determine the result, and so which run this is."""
        parts = [part for part in PARTS if part is not Record]
        return {**self.of_parts(parts), "dry_run": self.dry_run, **self.plugin_contents()}

    def plugin_contents(self) -> dict[str, Any]:
        """A digest of the plugin, which may be another with every call; empty without one."""
        return {} if self.plugin is None else {"plugin_contents": file_digest(self.plugin)}

    def accumulation(self) -> dict[str, Any]:
        """What the method has added up over training, with all that says of which layers and how; empty if nothing."""
        names = methods.accumulates(self.method)
        where = ("include", "exclude", "prune_classifier")
        if not names:
            return {}
        return {
            "accumulates": names,
            **{name: self.plain()[name] for name in where},
            **self.plugin_contents(),
        }

    def dense_identity(self) -> dict[str, Any]:
        """The fields that determine the dense network and what adds up on the way to it; who agrees shares both."""
        fields = {**self.of_parts(DENSE_PARTS), "dry_run": self.dry_run, **self.accumulation()}
        return {name: value for name, value in fields.items() if name != "test_batch_size"}

    def run_name(self) -> str:
        """The folder's name: --name, or the main choices and eight digits of a hash over all that matter."""
        if self.name is not None:
            return self.name
        kind, value = next((kind, getattr(self, kind)) for kind in AMOUNTS if getattr(self, kind) is not None)
        amount = (
            re.sub(r"[^A-Za-z0-9._=]+", "_", value)[:40] if isinstance(value, str) else f"{kind}{value:g}"
        )
        words = [self.dataset, self.arch_word(), self.method, amount, f"seed{self.seed}"]
        if self.structure != "weight":
            words.insert(3, self.structure.replace(":", "of"))
        words.append(digest(self.identity())[:8])
        if self.dry_run:
            words.insert(0, "dry-run")
        return "-".join(words)

    def network_path(self) -> Path | None:
        """Where --save-model and --save-path put the final network; None if neither is given."""
        if self.save_path is None and self.save_model:
            return Path(f"{self.arch_word()}-pruned.safetensors")
        return self.save_path

    def arch_word(self) -> str:
        """The architecture as a part of a file's name: the end of a path, and no characters that mean something."""
        return re.sub(r"[^A-Za-z0-9._]+", "_", self.arch)[-40:].strip("._")


def replays_training(policy: Any) -> bool:
    """Does fine-tuning by the policy of this name follow the dense training's recipe? False for an unknown name."""
    entry = FINETUNINGS.entries().get(str(policy))
    return entry is not None and bool(entry.about.get("replays", False))


def option(name: str) -> str:
    """A field's spelling on the command line: max_lr -> --max-lr."""
    return "--" + name.replace("_", "-")


def _number(given: Any) -> float | None:
    """An option's value as a number; None if it is none, which its own check will say."""
    try:
        return float(given)
    except (TypeError, ValueError):
        return None


def _options(names: Iterable[str]) -> str:
    return " and ".join(option(name) for name in names)
