"""The settings of a run's process. Each test uses a process of its own, because the settings cannot be undone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest


def printed_by(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_reused_without_new_page_faults() -> None:
    code = """
import resource, torch
from pruning.training.device import configure_process

def step():
    return [b"x" * (20 << 20) for _ in range(4)]

configure_process(torch.device("cpu"), None, False)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) * resource.getpagesize() < 20 << 20)
"""
    assert printed_by(code) == "True"


def test_denormal_numbers_are_flushed_to_zero_in_every_thread() -> None:
    code = """
import torch
from pruning.training.device import configure_process

configure_process(torch.device("cpu"), 2, False)
print(int((torch.full((1 << 20,), 1e-38) * 1e-3).count_nonzero()))
"""
    assert printed_by(code) == "0"
