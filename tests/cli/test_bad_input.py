"""What is wrong in options or files is refused in one sentence, before anything is written.

One table (`CASES`), one test: files to put in place, the command's arguments, and what the sentence must say.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import command, environment
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save as safetensors_bytes

from pruning.cli.app import execute
from pruning.config.resolution import resolve
from pruning.config.run_config import RunConfig
from pruning.core.masks import FORMAT as MASKS_FORMAT
from pruning.errors import PruningError

# --- contents of files --------------------------------------------------------------------------------------------


def png(size: int = 8, depth: int = 8, shade: int = 0) -> bytes:
    """A grey square, `size` pixels wide, of `depth` bits a pixel."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + bytes([shade]) * (size * depth // 8) for _ in range(size))
    header = struct.pack(">IIBBBBB", size, size, depth, 0, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def images(**more: bytes) -> dict[str, bytes]:
    """A folder of ten sound images in each of two classes, and what `more` puts among them."""
    sound = {f"photos/{name}/{i}.png": png(shade=i) for name in ("cat", "dog") for i in range(10)}
    return {**sound, **{f"photos/{name}": content for name, content in more.items()}}


def idx(*sizes: int, magic: int = 0x0800, content: bytes | None = None) -> bytes:
    product = 1
    for size in sizes:
        product *= size
    body = bytes(product) if content is None else content
    return struct.pack(f">I{len(sizes)}I", magic + len(sizes), *sizes) + body


def idx_files(**other: bytes) -> dict[str, bytes]:
    """The four files of a small data set like MNIST, those in `other` in place of the sound ones."""
    sound = {
        "train-images-idx3-ubyte": idx(20, 28, 28),
        "train-labels-idx1-ubyte": idx(20, content=bytes(range(10)) * 2),
        "t10k-images-idx3-ubyte": idx(10, 28, 28),
        "t10k-labels-idx1-ubyte": idx(10, content=bytes(range(10))),
    }
    named = {name.replace("_", "-"): content for name, content in other.items()}
    gone = {name.removesuffix(".gz") for name in named if name.endswith(".gz")}
    return {f"idx/{name}": content for name, content in {**sound, **named}.items() if name not in gone}


SHAPES = {
    "conv1.weight": (6, 1, 3, 3),
    "conv1.bias": (6,),
    "conv2.weight": (16, 6, 3, 3),
    "conv2.bias": (16,),
    "fc1.weight": (120, 400),
    "fc1.bias": (120,),
    "fc2.weight": (84, 120),
    "fc2.bias": (84,),
    "fc3.weight": (10, 84),
    "fc3.bias": (10,),
}  # of the architecture `my`


def weights(*, without: str = "", value: float = 0.1, **shapes: tuple[int, ...]) -> dict[str, torch.Tensor]:
    named = {**SHAPES, **{name.replace("__", "."): shape for name, shape in shapes.items()}}
    return {name: torch.full(shape, value) for name, shape in named.items() if name != without}


def checkpoint(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


class Executes:
    """Unpickled naively, this creates the file `executed`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("executed"),)


def masks(**shapes: tuple[int, ...]) -> bytes:
    tensors = {name.replace("__", "."): torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    return safetensors_bytes(tensors, metadata=MASKS_FORMAT)


NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.inner = nn.Linear(784, 20)
        self.outer = nn.Linear(20, classes)

    def forward(self, images):
        return self.outer(self.inner(images.flatten(1)).relu())


"""


def net(code: str) -> dict[str, str]:
    return {"net.py": NET + code}


ALIASES = "\n".join(
    ["a0: &a0 [x, x]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12))]
)

# --- the table ----------------------------------------------------------------------------------------------------

IDX = ("--dataset", "mnist", "--data", "idx")
PHOTOS = ("--data", "photos", "--arch", "net.py:Net")
OWN = ("--arch", "net.py:make")


@dataclass(frozen=True)
class Case:
    """`files` are put in place (None makes a folder, or takes a file of the finished run `runs/done` away)."""

    arguments: tuple[str, ...]
    says: tuple[str, ...]
    files: Mapping[str, bytes | str | None] = field(default_factory=dict)


def case(*arguments: str, says: str | tuple[str, ...], files: Mapping[str, Any] | None = None) -> Case:
    return Case(arguments, (says,) if isinstance(says, str) else says, files or {})


def yaml_case(content: bytes | str | None, *says: str) -> Case:
    return case("--config", "run.yaml", says=("run.yaml", *says), files={"run.yaml": content})


def weights_case(content: bytes, *says: str, name: str = "net.pt") -> Case:
    return case("--weights", name, says=(name, *says), files={name: content})


def run_case(*arguments: str, says: str | tuple[str, ...], **files: bytes | str | None) -> Case:
    """A command on the finished run, some of whose files are replaced."""
    named = {f"runs/done/{name.replace('_', '.')}": content for name, content in files.items()}
    return case(*arguments, says=says, files=named)


CASES = {
    # options
    "option unknown": case("--epocs", "3", says="--epochs"),
    "option without its value": case("--epochs", says="--epochs"),
    "word too many": case("train", says="train"),
    "epochs negative": case("--epochs", "-1", says="--epochs -1"),
    "epochs a fraction": case("--epochs", "1.5", says="--epochs 1.5: should be a whole number ("),
    "epochs a word": case("--epochs", "many", says="--epochs many: should be a whole number ("),
    "lr zero": case("--lr", "0", says="--lr 0"),
    "lr infinite": case("--lr", "inf", says=("--lr inf", "finite")),
    "lr not a number": case("--lr", "nan", says=("--lr nan", "finite")),
    "max-lr below lr": case("--max-lr", "0.01", says=("--max-lr 0.01", "--lr 0.1")),
    "batch size zero": case("--batch-size", "0", says="--batch-size 0"),
    "seed too large": case("--seed", str(2**63), says="--seed"),
    "validation all": case("--validation", "1", says="--validation 1"),
    "validation leaves nothing": case("--validation", "0.9999999", says=("0.9999999", "none to train on")),
    "validation empty": case("--validation", "1e-9", says=("1e-09", "none to validate on")),
    "sparsity above 1": case("--sparsity", "1.5", says="--sparsity 1.5"),
    "sparsity beyond the floor": case(
        "--floor", "0.5", says=("floor of 0.5", "leaves 29,499 weights", "lower the floor or the sparsity")
    ),
    "floor beyond the structure": case(
        "--structure", "2:4", "--method", "layer_mag", "--floor", "0.6", says="2:4 keeps 0.5 of every layer"
    ),
    "sparsity in percent": case("--sparsity", "90%", says=("--sparsity 90%", "number")),
    "two amounts": case("--sparsity", "0.5", "--count", "3", says=("--sparsity and --count", "one of them")),
    "compression below 1": case("--compression", "0.5", says="--compression 0.5"),
    "compression out of reach": case("--compression", "1e6", says=("--compression 1e+06", "at most")),
    "count negative": case("--count", "-3", says="--count -3"),
    "rounds of one_shot": case("--schedule", "one_shot", "--rounds", "3", says=("one_shot has 1 round", "3")),
    "rewind beyond the training": case(
        "--finetune", "rewind", "--rewind-epoch", "11", says=("--rewind-epoch 11", "0 to 10")
    ),
    "method unknown": case("--method", "global_magg", says=("global_magg", "Did you mean global_mag")),
    "architecture unknown": case("--arch", "resnet2O", says=("resnet2O", "Did you mean")),
    "data set unknown": case("--dataset", "../mnist", says=("../mnist", "Known: ")),
    "device that is not there": case("--device", "cuda:99", says=("--device cuda:99", "--device auto")),
    "device unknown": case("--device", "gpu", says=("gpu", "Known: auto, cpu")),
    "precision unknown": case("--precision", "fp8", says=("--precision fp8", "'fp32' or 'bf16'")),
    "exclude that matches nothing": case(
        "--exclude", "head*", says=("exclude pattern 'head*'", "conv1.weight")
    ),
    "include that matches nothing": case(
        "--include", "head*", says=("include pattern 'head*'", "conv1.weight")
    ),
    "everything excluded": case("--exclude", "*", says="prunable"),
    "pretrained and weights": case(
        "--pretrained", "--weights", "w.pt", says="--pretrained and --weights", files={"w.pt": b""}
    ),
    "pretrained without such weights": case("--pretrained", says=("my", "--pretrained")),
    "published weights of another net": case("--arch", "alexnet", says=("alexnet", "1x28x28")),
    "name that leaves the folder": case("--name", "../elsewhere", says="--name '../elsewhere'"),
    "name absolute": case("--name", "/elsewhere", says="--name '/elsewhere'"),
    "name hidden": case("--name", ".dense", says="--name '.dense'"),
    "name empty": case("--name", "", says="--name ''"),
    "name too long": case("--name", "x" * 300, says="--name"),
    "name of a folder that is no run": case(
        "--name", "mine", "--fresh", says=("runs/mine", "no run"), files={"runs/mine/thesis.txt": "precious"}
    ),
    "name of a file": case("--name", "mine", says=("runs/mine", "no run"), files={"runs/mine": "precious"}),
    "dry run in place of a finished one": case(
        "--name", "done", "--dry-run", says=("runs/done", "another run", "--fresh")
    ),
    "finished run, other options": case("--name", "done", "--lr", "0.3", says=("--lr was 0.1, now 0.3",)),
    "runs-dir a file": case("--runs-dir", "file", says="--runs-dir file", files={"file": ""}),
    "runs-dir too long": case("--runs-dir", "x" * 300, says=("--runs-dir", "name too long")),
    "save-path of another kind": case("--save-path", "net.onnx", says=(".safetensors or .pt",)),
    "save-path in no folder": case(
        "--save-path", "nowhere/net.pt", says=("--save-path nowhere/net.pt", "no folder")
    ),
    "save-path a folder": case("--save-path", "net.pt", says="--save-path net.pt", files={"net.pt": None}),
    "options with a command": case("--epochs", "1", "list", says="list"),
    "switch with a value": case("--pretrained", "False", says=("False", "--no-pretrained")),
    "unknown command": case("prune", says=("prune", "Known: list, verify, measure")),
    "part of a batch size": case("measure", "runs/done", "--batch-size", "1.5", says="whole number"),
    "blocks of nothing": case("--structure", "block0x4", says=("block0x4", "Did you mean block")),
    "export onto the record": case(
        "export",
        "runs/done",
        "--to",
        "sparse",
        "--out",
        "runs/done/masks.safetensors",
        says="the run's record",
    ),
    "report into a file": case(
        "report",
        "runs",
        "--out",
        "page/report",
        says=("--out page/report", "page is not a folder"),
        files={"page": b""},
    ),
    "weights a folder": case(
        "--weights", "net.pt", says="--weights net.pt is no file", files={"net.pt": None}
    ),
    "ImageNet without its parts": case(
        "--dataset", "imagenet", "--data", "photos", says=("no folder train", "class folders"), files=images()
    ),
    "list of nothing known": case("list", "method", says=("method", "Did you mean methods")),
    # YAML
    "yaml missing": case("--config", "none.yaml", says=("none.yaml", "no such file")),
    "yaml unknown key": yaml_case("epocs: 3", "epocs", "Did you mean epochs"),
    "yaml key no word": yaml_case("3: 4", "option: value"),
    "yaml word for a number": yaml_case("epochs: many", "--epochs many"),
    "yaml list for a number": yaml_case("epochs: [1, 2]", "--epochs [1, 2]"),
    "yaml mapping for a number": yaml_case("lr: {peak: 1}", "--lr"),
    "yaml truth for a number": yaml_case("epochs: true", "--epochs True", "not true or false"),
    "yaml nothing for a number": yaml_case("epochs:", "--epochs"),
    "yaml number for a word": yaml_case("method: 3", "--method 3", "string"),
    "yaml list for a word": yaml_case("schedule: [geometric]", "--schedule"),
    "yaml word for a list": yaml_case("exclude: conv1", "--exclude conv1"),
    "yaml word for truth": yaml_case("dry_run: perhaps", "--dry-run perhaps"),
    "yaml key twice": yaml_case("sparsity: 0.5\nsparsity: 0.9", "sparsity", "twice"),
    "yaml NUL in a path": case(
        "--config", "run.yaml", says="--runs-dir", files={"run.yaml": 'runs_dir: "a\\0b"'}
    ),
    "yaml aliases that explode": yaml_case(ALIASES, "aliases"),
    "yaml nested deeply": yaml_case("a: " + "[" * 1200, "not valid YAML"),
    "yaml tabs": yaml_case("epochs:\n\t- 3", "not valid YAML", ", line 2"),
    "yaml objects": yaml_case("epochs: !!python/object/apply:os.system ['touch executed']", "not valid YAML"),
    "yaml empty": yaml_case("", "holds no options"),
    "yaml a list": yaml_case("- epochs", "holds no options"),
    "yaml two documents": yaml_case("epochs: 1\n---\nepochs: 2", "not valid YAML"),
    "yaml binary": yaml_case(bytes(range(256)), "not a text file"),
    "yaml too large": yaml_case(b"#" * 1_000_001, "1,000,000 bytes"),
    "yaml a folder": yaml_case(None, "directory"),
    # folders of images
    "data no folder": case("--data", "none", says=("--data none", "no such folder")),
    "data a file": case("--data", "file", says="--data file is no folder", files={"file": ""}),
    "data folder not named": case("--dataset", "folder", says="--data DIR"),
    "images without class folders": case(
        "--data", "photos", says="no class folders", files={"photos/1.png": png()}
    ),
    "images of one class": case(
        "--data", "photos", says="one class folder", files={"photos/cat/1.png": png()}
    ),
    "images in train alone, one class": case(
        "--data", "photos", says="one class folder", files={"photos/train/cat/1.png": png()}
    ),
    "images: a class in test only": case(
        "--data",
        "photos",
        says=("photos/test/emu", "training images do not have"),
        files={
            **{f"photos/train/{name}/1.png": png() for name in ("cat", "dog")},
            "photos/test/emu/1.png": png(),
        },
    ),
    "images: a class without any": case(
        "--data", "photos", says="emu", files=images(**{"emu/readme.txt": b""})
    ),
    "images too few": case(
        "--data", "photos", says="too few", files={"photos/cat/1.png": png(), "photos/dog/1.png": png()}
    ),
    "image cut short": case(
        *PHOTOS, says=("bad.png",), files={**images(**{"cat/bad.png": png()[:40]}), **net("")}
    ),
    "image of another size": case(
        *PHOTOS, says=("bad.png is 9x9", "8x8"), files={**images(**{"dog/bad.png": png(9)}), **net("")}
    ),
    "image of 16 bits": case(
        *PHOTOS, says=("bad.png", "8 bits"), files={**images(**{"dog/bad.png": png(depth=16)}), **net("")}
    ),
    "text named .png": case(
        *PHOTOS, says="bad.png is not an image", files={**images(**{"dog/bad.png": b"hello"}), **net("")}
    ),
    "image empty": case(*PHOTOS, says="bad.png", files={**images(**{"dog/bad.png": b""}), **net("")}),
    "images that the network cannot take": case("--data", "photos", says=("my", "1x8x8"), files=images()),
    # idx files
    "idx of another kind": case(
        *IDX,
        says=("train-labels", "0x00000d01"),
        files=idx_files(train_labels_idx1_ubyte=idx(20, magic=0x0D00)),
    ),
    "idx cut short": case(
        *IDX,
        says=("t10k-images", "7,855 bytes", "7,856 bytes"),
        files=idx_files(t10k_images_idx3_ubyte=idx(10, 28, 28)[:-1]),
    ),
    "idx cut in its header": case(
        *IDX,
        says=("t10k-images", "0x000008030000000a00"),
        files=idx_files(t10k_images_idx3_ubyte=idx(10, 28, 28)[:9]),
    ),
    "idx empty": case(*IDX, says="t10k-images", files=idx_files(t10k_images_idx3_ubyte=b"")),
    "idx of no images": case(
        *IDX, says=("t10k-images", "0x28x28"), files=idx_files(t10k_images_idx3_ubyte=idx(0, 28, 28))
    ),
    "idx with more bytes": case(
        *IDX,
        says=("t10k-images", "7,857 bytes", "7,856 bytes"),
        files=idx_files(t10k_images_idx3_ubyte=idx(10, 28, 28) + b"x"),
    ),
    "idx that promises terabytes": case(
        *IDX,
        says=("train-images", "2147483648x28x28"),
        files=idx_files(train_images_idx3_ubyte=idx(2**31, 28, 28, content=b"")),
    ),
    "idx label out of range": case(
        *IDX,
        says=("train-labels", "label 10", "0 to 9"),
        files=idx_files(train_labels_idx1_ubyte=idx(20, content=bytes([10] * 20))),
    ),
    "idx counts differ": case(
        *IDX, says=("20 images", "19 labels"), files=idx_files(train_labels_idx1_ubyte=idx(19))
    ),
    "idx of other images": case(*IDX, says="28x27", files=idx_files(train_images_idx3_ubyte=idx(20, 28, 27))),
    "idx not gzipped": case(
        *IDX,
        says="train-labels-idx1-ubyte.gz",
        files=idx_files(**{"train_labels_idx1_ubyte.gz": idx(20)}),
    ),
    "idx gzip cut short": case(
        *IDX,
        says="train-labels-idx1-ubyte.gz",
        files=idx_files(**{"train_labels_idx1_ubyte.gz": gzip.compress(idx(20))[:-9]}),
    ),
    "idx one file missing": case(
        *IDX,
        says="t10k-labels",
        files={name: content for name, content in idx_files().items() if "t10k-labels" not in name},
    ),
    # weights
    "weights missing": case("--weights", "none.pt", says=("--weights none.pt", "no such file")),
    "weights of another kind": weights_case(b"", ".safetensors, .pt, .pth, .th", name="net.bin"),
    "weights without a layer": weights_case(
        checkpoint(weights(without="fc1.weight")), "missing are fc1.weight"
    ),
    "weights of another shape": weights_case(
        checkpoint(weights(fc3__weight=(1000, 84))), "fc3.weight (1000x84 in the file, 10x84 in the network)"
    ),
    "weights with a layer more": weights_case(
        checkpoint(weights(fc4__weight=(2, 2))), "unexpected are fc4.weight"
    ),
    "weights not finite": weights_case(checkpoint(weights(value=float("nan"))), "not finite"),
    "weights no tensors": weights_case(checkpoint({"epoch": 3}), "no plain set of named tensors"),
    "weights a whole network": weights_case(checkpoint(torch.nn.Linear(2, 2)), "would run code"),
    "weights no checkpoint": weights_case(b"hello, world", "refused"),
    "weights cut short": weights_case(checkpoint(weights())[:-3000], "damaged"),
    "weights empty": weights_case(b"", "refused"),
    "weights that would run code": weights_case(checkpoint({"fc1.weight": Executes()}), "would run code"),
    "weights a bare pickle that would run code": weights_case(pickle.dumps(Executes(), 2), "would run code"),
    "safetensors cut short": weights_case(
        safetensors_bytes(weights())[:-9], "damaged", name="net.safetensors"
    ),
    "safetensors empty": weights_case(b"", "damaged", name="net.safetensors"),
    "safetensors a pickle": weights_case(checkpoint(weights()), "no safetensors", name="net.safetensors"),
    "safetensors whose header lies": weights_case(
        struct.pack("<Q", 2**40) + b"{}", "damaged", name="net.safetensors"
    ),
    # architectures by path
    "net: no such file": case("--arch", "none.py:make", says="none.py"),
    "net: no such module": case("--arch", "no.such.module:make", says="no.such"),
    "net: no function named": case("--arch", "net.py", says="net.py:", files=net("")),
    "net: name too long": case("--arch", "x" * 300 + ".py:make", says="name too long"),
    "net: home of nobody": case("--arch", "~nobody-at-all/net.py:make", says="~nobody-at-all"),
    "net: syntax error": case(*OWN, says=("syntax error in line 1",), files={"net.py": "def make(:"}),
    "net: binary": case(*OWN, says="net.py", files={"net.py": bytes(range(256))}),
    "net: no such function": case(*OWN, says=("make", "Known: Net"), files=net("")),
    "net: fails to load": case(
        *OWN, says=("ImportError", "no such thing"), files=net("raise ImportError('no such thing')")
    ),
    "net: exits": case(*OWN, says="SystemExit", files=net("raise SystemExit(0)")),
    "net: function fails": case(
        *OWN, says=("ZeroDivisionError", "line"), files=net("def make():\n    1 / 0")
    ),
    "net: function wants more": case(*OWN, says=("TypeError", "width"), files=net("def make(width): ...")),
    "net: returns no module": case(
        *OWN, says=("returned dict", "torch.nn.Module"), files=net("def make():\n    return {}")
    ),
    "net: nothing prunable": case(
        *OWN,
        says="prunable",
        files=net(
            "def make():\n    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.AdaptiveAvgPool1d(10))"
        ),
    ),
    "net: a last batch of one image that its norm does not take": case(
        *(*OWN, "--batch-size", "10799"),
        says=("10,800", "1 image", "--batch-size", "more than 1 value per channel"),
        files=net("def make():\n    return nn.Sequential(Net(), nn.BatchNorm1d(10))"),
    ),
    "net: output of the wrong size": case(
        *OWN, says=("2x7", "10 classes"), files=net("def make():\n    return Net(7)")
    ),
    "net: output no tensor": case(
        *OWN,
        says="returns a tuple",
        files=net("class Two(Net):\n    def forward(self, x):\n        return x, x\n\n\nmake = Two"),
    ),
    "net: input of the wrong shape": case(
        *OWN, says="1x28x28", files=net("def make():\n    return nn.Conv2d(3, 10, 3)")
    ),
    # runs
    "resume: no folder": case("--resume", "runs/none", says=("runs/none", "no such folder")),
    "resume: no run": case("--resume", "runs", says=("runs", "holds no run")),
    "resume: and a configuration": case(
        "--resume",
        "runs/done",
        "--config",
        "run.yaml",
        says="leave --config out",
        files={"run.yaml": "lr: 1"},
    ),
    "resume: other options": case("--resume", "runs/done", "--seed", "5", says="--seed was 0, now 5"),
    "resume: configuration gone": run_case("--resume", "runs/done", says="holds no run", config_yaml=None),
    "resume: configuration garbage": run_case(
        "--resume", "runs/done", says="config.yaml", config_yaml=b"\xff\xfe\0"
    ),
    "resume: configuration empty": run_case("--resume", "runs/done", says="no options", config_yaml=""),
    "resume: configuration of a stranger": run_case(
        "--resume", "runs/done", says=("config.yaml", "lrr"), config_yaml="lrr: 1"
    ),
    "resume: configuration impossible": run_case(
        "--resume", "runs/done", says=("config.yaml", "--lr -1"), config_yaml="lr: -1"
    ),
    "resume: configuration explodes": run_case("--resume", "runs/done", says="aliases", config_yaml=ALIASES),
    "run again: configuration garbage": run_case("--name", "done", says="config.yaml", config_yaml="a: [b"),
    "run again: configuration of a stranger": run_case(
        "--name", "done", says=("config.yaml", "lrr"), config_yaml="lrr: 1"
    ),
    "run again: result garbage": run_case(
        "--resume", "runs/done", says=("result.json is damaged", "--fresh"), result_json="{"
    ),
    "run again: result of another version": run_case(
        "--resume", "runs/done", says="schema version 1", result_json='{"schema_version": 99}'
    ),
    "run again: result with little in it": run_case(
        "--resume", "runs/done", says=("result.json", "--fresh"), result_json='{"schema_version": 1}'
    ),
    "verify: no folder": case("verify", "runs/none", says=("runs/none", "no such folder")),
    "verify: no run": case("verify", "runs", says=("runs", "no complete run")),
    "verify: a file": case("verify", "runs/done/result.json", says="no such folder"),
    "verify: nothing named": case("verify", says="RUN"),
    "verify: result garbage": run_case(
        "verify", "runs/done", says="result.json is damaged", result_json=b"\xff"
    ),
    "verify: result a list": run_case("verify", "runs/done", says="no record", result_json="[]"),
    "verify: result with little in it": run_case(
        "verify", "runs/done", says="result.json", result_json='{"schema_version": 1}'
    ),
    "verify: configuration garbage": run_case("verify", "runs/done", says="config.yaml", config_yaml="a: [b"),
}

# --- the test -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done() -> Iterator[Path]:
    """A runs folder with one finished run in it, `done`, made with the default options but short."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        assert execute([*QUICKLY, "--runs-dir", str(runs), "--name", "done"]) == 0
        torch.set_flush_denormal(False)
        yield runs


QUICKLY = ("--epochs", "0", "--finetune", "none", "--rounds", "1", "--quiet", "--measure-seconds", "0")


def listing(folder: Path) -> dict[str, str]:
    """Everything in a folder, with the digests of files."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
        if "__pycache__" not in path.parts
    }


def put(files: Mapping[str, bytes | str | None], folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        if content is None and path.exists():
            path.unlink()
        elif content is None:
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture(autouse=True)
def denormals_as_before() -> Iterator[None]:
    """A run has the whole process flush denormal numbers; tests that follow in it need them."""
    yield
    torch.set_flush_denormal(False)


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_sentence_and_nothing_changes(
    name: str,
    done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = CASES[name]
    place = tmp_path / "place"
    shutil.copytree(done, place / "runs")
    put(bad.files, place)
    before = listing(place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    capsys.readouterr()
    code = execute(list(bad.arguments))
    said = capsys.readouterr().err
    assert code == 2, said
    assert listing(place) == before
    assert said.startswith("error: ")
    assert said.count("\n") == 1, said
    for words in bad.says:
        assert words.lower() in said.lower()


THROUGH_A_PROCESS = (
    "option unknown",
    "yaml aliases that explode",
    "weights that would run code",
    "net: function fails",
    "image cut short",
)


@pytest.mark.parametrize("name", THROUGH_A_PROCESS)
def test_so_it_is_through_a_process(name: str, tmp_path: Path) -> None:
    place, bad = tmp_path / "place", CASES[name]
    place.mkdir()
    put(bad.files, place)
    before = listing(place)
    done = subprocess.run(
        command(*bad.arguments),
        cwd=place,
        env=environment(XDG_CACHE_HOME=str(tmp_path / "cache")),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert listing(place) == before
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


# --- any options at all -------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("x" * 300),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.sampled_from(sorted(RunConfig.model_fields)) | st.text(max_size=10)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(NAMES, VALUES, max_size=4), st.booleans())
def test_any_options_are_a_run_or_refused(options: dict[str, Any], in_a_file: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        try:
            if in_a_file:
                file.write_text(yaml.safe_dump(options), encoding="utf-8")
                config = resolve({}, file)
            else:
                config = resolve(options)
        except PruningError as error:
            assert "\n" not in str(error)
        else:
            assert isinstance(config, RunConfig)
            assert "/" not in config.run_name()
