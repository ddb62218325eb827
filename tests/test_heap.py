"""gfl/heap.py: freed memory stays with the process."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from gfl.engine.heap import CHOSEN, keep_freed_memory

FAULTS_OF_LATER_BLOCKS = """
import resource
from gfl.engine.heap import keep_freed_memory
kept = keep_freed_memory() if {keep} else None
def page_faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
import numpy
numpy.ones(64 * 2**20, numpy.uint8)
before = page_faults()
for _ in range(3):
    numpy.ones(64 * 2**20, numpy.uint8)
print(page_faults() - before, kept)
"""


def later_blocks(*, keep: bool) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(CHOSEN)}
    code = FAULTS_OF_LATER_BLOCKS.format(keep=keep)
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return run.stdout.split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_large_blocks_are_used_again_without_page_faults() -> None:
    faults, kept = later_blocks(keep=True)
    assert kept == "True"
    assert int(faults) < 100
    assert int(later_blocks(keep=False)[0]) > 10 * int(faults)  # else there was nothing to gain


@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES", "LD_PRELOAD"])
def test_allocator_that_the_user_has_set_stays(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "1")
    assert not keep_freed_memory()
