"""The memory of a process that computes the same shapes over and over."""

from __future__ import annotations

import ctypes
import os
import sys

# Of mallopt(3). By default glibc maps each large block anew and gives it back when it is freed; the kernel then fills
# every page of the next one with zeros: 4 to 10 % of a training step.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER_TRIM = 2**31 - 1
CHOSEN = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # an allocator, or its settings, that the user has chosen stay


def keep_freed_memory() -> bool:
    """Let freed memory stay with this process for its next tensors; whether that could be set.

    It can with glibc, where the environment does not choose an allocator or settings of its own.
    """
    if sys.platform != "linux" or any(name.startswith(CHOSEN) for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, NEVER_TRIM))
