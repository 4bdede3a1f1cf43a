"""What 31 papers published for the same data set and network: the survey of Blalock et al. 2020 (arXiv 2003.03033)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SOURCE = (
    "Blalock, Gonzalez Ortiz, Frankle and Guttag 2020, What is the state of neural network pruning? "
    "(arXiv 2003.03033); data from ShrinkBench's public analysis, MIT licence"
)
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
# The survey's name of a network that is exactly one of ours. VGG-16 with batch norm is not its VGG-16, say.
NETWORKS = {
    ("cifar10", "resnet20"): "ResNet-20",
    ("cifar10", "resnet32"): "ResNet-32",
    ("cifar10", "resnet56"): "ResNet-56",
    ("cifar10", "resnet110"): "ResNet-110",
    ("imagenet", "alexnet"): "AlexNet",
    ("imagenet", "resnet18"): "ResNet-18",
    ("imagenet", "resnet34"): "ResNet-34",
    ("imagenet", "resnet50"): "ResNet-50",
    ("imagenet", "resnet101"): "ResNet-101",
    ("imagenet", "vgg16"): "VGG-16",
}


@dataclass(frozen=True)
class Published:
    """One operating point as published; None where the paper does not say. Accuracies in percent."""

    paper: str
    method: str
    compression_ratio: float | None
    theoretical_speedup: float | None
    top1: float | None
    top5: float | None


def published(dataset: str, arch: str) -> list[Published]:
    """The survey's results for this data set and architecture (our names), in the survey's order; often none."""
    if (dataset, arch) not in NETWORKS:
        return []
    wanted = DATASETS[dataset], NETWORKS[dataset, arch]
    return [_published(row) for row in _rows() if (row["dataset"], row["model"]) == wanted]


@cache
def _rows() -> list[dict[str, str]]:
    text = files("pruning.report").joinpath("survey_results.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _published(row: dict[str, str]) -> Published:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return Published(
        row["paper"],
        row["method"],
        number("compression_ratio"),
        number("theoretical_speedup"),
        number("top1"),
        number("top5"),
    )
