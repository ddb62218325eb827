"""The memory through which workers hand batches over: allocated once, in slots that are used again and again.

It has no name, so that nothing remains of it however the program and its workers end.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import multiprocessing
import os
import weakref
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gfl.errors import InputError, first_line

SHARED_MEMORY = Path("/dev/shm")  # of Linux; a container has its own, in Docker of 64 MB
PREFETCHED = 2  # batches that a worker has ready or is reading
HELD = 2  # batches that who asks for them may hold without a copy: the one in use, and the next

SharedMemory = mmap.mmap | ctypes.Array[ctypes.c_ubyte]


def slots_for(workers: int) -> int:
    """How many slots keep `workers` busy while HELD batches are in use."""
    return workers * PREFETCHED + HELD if workers else 0


def is_forked() -> bool:
    """Whether workers are copies of this process: then they share memory that is in no folder and has no limit."""
    return multiprocessing.get_start_method() == "fork"


def check_shared_memory(workers: int, bytes_a_batch: int, folder: Path = SHARED_MEMORY) -> None:
    """Raise InputError where the workers' batches do not fit what is free in `folder`; nothing where it is not used.

    The ranks of a host share it, and have as many workers each.
    """
    if not workers or is_forked() or not folder.is_dir():
        return
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    needed = ranks * slots_for(workers) * bytes_a_batch
    if needed > free:
        fit = (free // (ranks * bytes_a_batch) - HELD) // PREFETCHED
        raise InputError(
            f"got WORKERS = {workers}, whose batches need {megabytes(needed)} of shared memory, expected "
            f"at most the {free // 2**20:,} MB that are free in {folder}; start the container with "
            f"`docker run --shm-size={math.ceil(1.5 * needed / 2**30)}g`, or set WORKERS (--workers of "
            f"gfl.evaluate) to {max(0, fit)} (0 works always)"
        )


def allocate_shared(size: int) -> SharedMemory:
    """Memory of this process and of the workers that it starts, to which it is handed as an argument.

    Raises InputError where the system has too little.
    """
    try:
        return mmap.mmap(-1, size) if is_forked() else multiprocessing.RawArray(ctypes.c_ubyte, size)
    except (OSError, MemoryError, ValueError) as error:
        raise InputError(
            f"got no {megabytes(size)} of shared memory for the processes that read pictures ({first_line(error)}); "
            "set WORKERS (--workers of gfl.evaluate) to 0, or lower, or lower BATCH_SIZE"
        ) from error


def slot_of(memory: SharedMemory, number: int, slot_bytes: int) -> NDArray[np.uint8]:
    """The memory of one slot."""
    return np.frombuffer(memoryview(memory), np.uint8, slot_bytes, number * slot_bytes)


class Slots:
    """Which slots are free. A slot that was lent is free again when the lent array and all its views are gone."""

    def __init__(self, memory: SharedMemory, count: int, slot_bytes: int) -> None:
        self.memory, self.count, self.slot_bytes = memory, count, slot_bytes
        self._free = deque(range(count))

    @property
    def free(self) -> int:
        """Their number."""
        return len(self._free)

    def take(self) -> int:
        """The free slot that was used last, of which most is in the processor's cache; there must be one."""
        return self._free.pop()

    def give_back(self, slot: int) -> None:
        """A slot that was taken and not lent."""
        self._free.append(slot)

    def lend(self, slot: int) -> NDArray[np.uint8]:
        """The memory of a slot that was taken. NumPy's views and torch's tensors keep the array that they are part of.

        The last of them may go in any thread, at any time: to append to a deque is safe then.
        """
        array = slot_of(self.memory, slot, self.slot_bytes)
        weakref.finalize(array, self._free.append, slot).atexit = False
        return array


def megabytes(size: int) -> str:
    return f"{math.ceil(size / 2**20):,} MB"
