"""Wrong architectures by path are refused in one sentence, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusals import assert_refused, case, net

OWN = ("--arch", "net.py:make")

CASES = {
    "net: no such file": case("--arch", "none.py:make", mentions="none.py"),
    "net: no such module": case("--arch", "no.such.module:make", mentions="no.such"),
    "net: no function named": case("--arch", "net.py", mentions="net.py:", files=net("")),
    "net: name too long": case("--arch", "x" * 300 + ".py:make", mentions="x" * 300),
    "net: unknown home folder": case("--arch", "~nobody-at-all/net.py:make", mentions="~nobody-at-all"),
    "net: syntax error": case(*OWN, mentions=("net.py", "line 1"), files={"net.py": "def make(:"}),
    "net: binary": case(*OWN, mentions="net.py", files={"net.py": bytes(range(256))}),
    "net: no such function": case(*OWN, mentions=("make", "Net"), files=net("")),
    "net: fails to load": case(
        *OWN, mentions=("ImportError", "no such thing"), files=net("raise ImportError('no such thing')")
    ),
    "net: exits": case(*OWN, mentions="SystemExit", files=net("raise SystemExit(0)")),
    "net: function fails": case(
        *OWN, mentions=("ZeroDivisionError", "line 17"), files=net("def make():\n    1 / 0")
    ),
    "net: function wants more": case(
        *OWN, mentions=("TypeError", "width"), files=net("def make(width): ...")
    ),
    "net: returns no module": case(
        *OWN, mentions=("dict", "torch.nn.Module"), files=net("def make():\n    return {}")
    ),
    "net: nothing prunable": case(
        *OWN,
        mentions="prunable",
        files=net(
            "def make():\n    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784), nn.AdaptiveAvgPool1d(10))"
        ),
    ),
    "net: a last batch of one image that its norm does not take": case(
        *(*OWN, "--batch-size", "10799"),
        mentions=("10,800", "10799", "more than 1 value per channel"),
        files=net("def make():\n    return nn.Sequential(Net(), nn.BatchNorm1d(10))"),
    ),
    "net: output of the wrong size": case(
        *OWN, mentions=("2x7", "10"), files=net("def make():\n    return Net(7)")
    ),
    "net: output no tensor": case(
        *OWN,
        mentions="tuple",
        files=net("class Two(Net):\n    def forward(self, x):\n        return x, x\n\n\nmake = Two"),
    ),
    "net: input of the wrong shape": case(
        *OWN, mentions="1x28x28", files=net("def make():\n    return nn.Conv2d(3, 10, 3)")
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_architecture_is_refused_and_nothing_changes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_refused(CASES[name], tmp_path, monkeypatch, capsys)
