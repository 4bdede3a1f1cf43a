"""What a run sets in its process, which is why each of these looks at a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


def printed_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries need not be told")
def test_memory_that_every_step_asks_for_is_handed_out_once() -> None:
    code = """
import resource, torch
from pruning.training import machine

def step():
    return [b"x" * (20 << 20) for _ in range(4)]

machine.prepare(torch.device("cpu"), None, False)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() < 20 << 20)
"""
    assert printed_by(code) == "True"


def test_denormal_numbers_are_zero_in_every_thread() -> None:
    code = """
import torch
from pruning.training import machine

machine.prepare(torch.device("cpu"), 2, False)
print(int((torch.full((1 << 20,), 1e-38) * 1e-3).count_nonzero()))
"""
    assert printed_by(code) == "0"
