"""The user's own networks: factories in files and modules, and errors in one line."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from model_helpers import COLOUR, count, refused

from pruning import models
from pruning.errors import PruningError

NET = """
from torch import nn

def small(num_classes, in_channels=3):
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * 32 * 32, num_classes))

def other_words(*, classes, channels):
    return small(classes, channels)

def fixed():
    return small(10)

def thousand():
    return small(1000)

def keywords(**options):
    return small(10)

def pair(classes):
    class Pair(nn.Module):
        def forward(self, images):
            return images, images
    return Pair()

class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, classes))

def needs_depth(depth):
    return small(10)

def number():
    return 7

def fails():
    raise ValueError("no luck\\ntoday")

def leaves():
    raise SystemExit(3)

def lazy(classes):
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(classes))

instance = small(10)
LIMIT = 3
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    path = tmp_path / "net.py"
    path.write_text(NET)
    return path


@pytest.mark.parametrize("factory", ["small", "other_words", "fixed", "keywords", "Net", "lazy"])
def test_a_factory_is_called_with_the_arguments_of_its_signature(net, factory):
    model = models.build(f"{net}:{factory}", classes=10, shape=COLOUR)
    assert model(torch.randn(2, *COLOUR)).shape == (2, 10)


def test_a_factory_is_called_with_the_classes_and_channels_of_the_data(net):
    model = models.build(f"{net}:other_words", classes=7, shape=(1, 32, 32))
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 7)


def test_a_factory_of_an_importable_module_is_called(net, monkeypatch):
    (net.parent / "nets_of_mine").mkdir()
    (net.parent / "nets_of_mine" / "__init__.py").touch()
    net.rename(net.parent / "nets_of_mine" / "one.py")
    monkeypatch.syspath_prepend(net.parent)
    assert count(models.build("nets_of_mine.one:small", classes=10, shape=COLOUR)) == 30_730
    assert "small" in refused("nets_of_mine.one:smal")
    assert "nets_of_mine.two" in refused("nets_of_mine.two:small")


def test_a_file_can_import_files_in_its_folder_and_sys_path_is_restored(net):
    (net.parent / "sibling.py").write_text("from net import small\ndef made(): return small(10)\n")
    before = list(sys.path)
    assert count(models.build(f"{net.parent / 'sibling.py'}:made", classes=10, shape=COLOUR)) == 30_730
    assert sys.path == before


def test_a_changed_file_is_loaded_again(net):
    assert len(models.build(f"{net}:fixed", classes=10, shape=COLOUR)) == 2
    net.write_text(NET.replace("return small(10)", "return small(10).append(nn.ReLU())", 1))
    assert len(models.build(f"{net}:fixed", classes=10, shape=COLOUR)) == 3


@pytest.mark.parametrize(
    ("factory", "pattern"),
    [
        ("smal", "net.py 'smal'.* small"),
        ("LIMIT", "LIMIT .*int"),
        ("instance", "instance .*Sequential"),
        ("number", "number .*int"),
        ("fails", r"ValueError: no luck today \(line 36\)"),
        ("leaves", "SystemExit: 3"),
        ("needs_depth", "'depth'"),
        ("thousand", "2x1000 .*not 2x10"),
        ("pair", "tuple.* 10 logits"),
        ("", "net.py: "),
    ],
)
def test_an_unusable_factory_is_refused_in_one_line(net, factory, pattern):
    assert re.search(pattern, refused(f"{net}:{factory}"))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (b"def net(:\n", "line 1 of broken.py"),
        (b"\nimport no_such_library\n", "ModuleNotFoundError: No module named 'no_such_library' (line 2)"),
        (b"raise SystemExit\n", "SystemExit"),
        (b"\x00\x80\xff", "broken.py"),
        (b"", "Known: none"),
    ],
)
def test_an_unusable_file_is_refused_in_one_line(tmp_path, source, text):
    path = tmp_path / "broken.py"
    path.write_bytes(source)
    assert text in refused(f"{path}:net")


@pytest.mark.parametrize(
    ("arch", "pattern"),
    [
        ("nowhere/net.py:small", "file nowhere/net.py"),
        ("nowhere/net.py", "nowhere/net.py .*function"),
        (":small", ":small .*function"),
        ("no_such_package.net:small", "no_such_package"),
        ("../net:small", "../net "),
    ],
)
def test_a_path_without_file_or_factory_is_refused_before_loading(arch, pattern):
    with pytest.raises(PruningError, match=pattern):
        models.check_known(arch)
