"""Published results for the same data set and network: 31 papers, from the survey of Blalock et al. 2020."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

CITATION = (
    "Blalock, Gonzalez Ortiz, Frankle and Guttag 2020, What is the state of neural network pruning? "
    "(arXiv 2003.03033); data from ShrinkBench's public analysis, MIT licence"
)
# Names of the survey by our names.
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "imagenet": "ImageNet"}
# Only networks that are exactly the same. For example, our VGG-16 with batch norm is not the survey's VGG-16.
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
class PublishedResult:
    """One published operating point; None where the paper has no value. Accuracies in percent."""

    paper: str
    method: str
    compression_ratio: float | None
    theoretical_speedup: float | None
    top1: float | None
    top5: float | None


def published_results(dataset: str, arch: str) -> list[PublishedResult]:
    """Return the survey's results for a data set and an architecture (our names), in the survey's order."""
    if (dataset, arch) not in NETWORKS:
        return []
    wanted = DATASETS[dataset], NETWORKS[dataset, arch]
    return [_parse_row(row) for row in _read_rows() if (row["dataset"], row["model"]) == wanted]


@cache
def _read_rows() -> list[dict[str, str]]:
    text = files("pruning.report").joinpath("survey_results.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


def _parse_row(row: dict[str, str]) -> PublishedResult:
    def number(name: str) -> float | None:
        return float(row[name]) if row[name] else None

    return PublishedResult(
        row["paper"],
        row["method"],
        number("compression_ratio"),
        number("theoretical_speedup"),
        number("top1"),
        number("top5"),
    )
