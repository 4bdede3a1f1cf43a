"""CIFAR-100 (Krizhevsky 2009, "Learning multiple layers of features from tiny images"), fine labels."""

from __future__ import annotations

from pathlib import Path

from pruning.data.cifar import find_cifar, read_cifar
from pruning.data.images import Progress, Source
from pruning.registry import DATASETS

# fmt: off
CLASSES = (
    "apple", "aquarium_fish", "baby", "bear", "beaver", "bed", "bee", "beetle", "bicycle", "bottle", "bowl",
    "boy", "bridge", "bus", "butterfly", "camel", "can", "castle", "caterpillar", "cattle", "chair",
    "chimpanzee", "clock", "cloud", "cockroach", "couch", "crab", "crocodile", "cup", "dinosaur", "dolphin",
    "elephant", "flatfish", "forest", "fox", "girl", "hamster", "house", "kangaroo", "keyboard", "lamp",
    "lawn_mower", "leopard", "lion", "lizard", "lobster", "man", "maple_tree", "motorcycle", "mountain",
    "mouse", "mushroom", "oak_tree", "orange", "orchid", "otter", "palm_tree", "pear", "pickup_truck",
    "pine_tree", "plain", "plate", "poppy", "porcupine", "possum", "rabbit", "raccoon", "ray", "road",
    "rocket", "rose", "sea", "seal", "shark", "shrew", "skunk", "skyscraper", "snail", "snake", "spider",
    "squirrel", "streetcar", "sunflower", "sweet_pepper", "table", "tank", "telephone", "television", "tiger",
    "tractor", "train", "trout", "tulip", "turtle", "wardrobe", "whale", "willow_tree", "wolf", "woman",
    "worm",
)
# fmt: on
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)


@DATASETS.register("cifar100", classes=100, input="3x32x32")
def load(folder: Path | None, on_progress: Progress) -> Source:
    """CIFAR-100: 50,000 training and 10,000 test photographs of 100 kinds of things."""
    paths = find_cifar("CIFAR100", "cifar-100-python", ["train", "test"], folder, on_progress)
    train, test = (read_cifar([path], "fine_labels", len(CLASSES)) for path in paths)
    return Source(CLASSES, train, test, MEAN, STD, augmentation="crop_and_flip")
