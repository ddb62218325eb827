"""The memory through which workers hand batches over, and what is said where it does not suffice.

A worker that cannot send a batch must say so. DataLoader sends from a thread of a queue, which prints its errors and
drops the batch, and the program would wait for ever; so the worker itself puts the batch into shared memory, before.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor
from torch.utils.data import get_worker_info

from gfl.errors import InputError, first_line
from gfl.shapes import Canvas

SHARED_MEMORY = Path("/dev/shm")  # of Linux; a container has its own, in Docker of 64 MB
PREFETCHED = 2  # batches that a worker has ready
SILENCE_S = 1800.0  # without a batch; the slowest disk is faster
BYTES_A_BOX, BYTES_AN_IGNORED_BOX = 4 * 4 + 4 + 1, 4 * 4 + 1  # corners, label, mask
_NO_BATCH = ("DataLoader worker", "DataLoader timed out", "Pin memory thread")  # how torch's messages begin
_TOO_MANY_FILES = ("Too many open files", "received 0 items of ancdata")


def batch_bytes(pictures: int, canvas: Canvas, boxes_padded: int, ignored_padded: int) -> int:
    """Bytes of a batch of uint8 pictures with their boxes."""
    height, width = canvas
    boxes = boxes_padded * BYTES_A_BOX + ignored_padded * BYTES_AN_IGNORED_BOX
    return pictures * (3 * height * width + boxes)


def check_shared_memory(workers: int, bytes_a_batch: int, folder: Path = SHARED_MEMORY) -> None:
    """Raise InputError where the workers' batches do not fit what is free in `folder`; nothing where it is not there.

    The ranks of a host share it, and have as many workers each.
    """
    if not workers or not folder.is_dir():
        return
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    a_worker = ranks * PREFETCHED * bytes_a_batch
    if workers * a_worker > free:
        raise InputError(
            f"got WORKERS = {workers}, whose batches need {_megabytes(workers * a_worker)} of shared memory, expected "
            f"at most the {free // 2**20:,} MB that are free in {folder}; start the container with "
            f"`docker run --shm-size={math.ceil(1.5 * workers * a_worker / 2**30)}g`, or set WORKERS (--workers of "
            f"gfl.evaluate) to {free // a_worker} (0 works always)"
        )


def _megabytes(size: int) -> str:
    return f"{math.ceil(size / 2**20):,} MB"


def share(tensors: Iterable[Tensor]) -> str:
    """In a worker, move tensors into shared memory; why it cannot be done, or ''. Elsewhere nothing."""
    if get_worker_info() is not None:
        try:
            for tensor in tensors:
                tensor.untyped_storage().share_memory_()
        except (RuntimeError, OSError) as error:
            return memory_text(first_line(error))
    return ""


def memory_text(reason: str) -> str:
    """What to do where a worker has too little memory."""
    return (
        f"a process that reads pictures could not hand over its batch ({reason}): memory or shared memory ran out; "
        "set WORKERS (--workers of gfl.evaluate) to 0, or lower, or start the container with `docker run "
        "--shm-size=8g`, and lower BATCH_SIZE if that is not enough"
    )


@contextmanager
def worker_errors() -> Iterator[None]:
    """Around what uses workers: say in an InputError that one is gone or silent. torch raises it anywhere."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = first_line(error)
        if any(text in str(error) for text in _TOO_MANY_FILES):
            raise InputError(
                f"the processes that read pictures opened too many files ({reason}); allow more with `ulimit -n 65536`"
                ", or set WORKERS = 0"
            ) from error
        if isinstance(error, RuntimeError) and reason.startswith(_NO_BATCH):
            raise InputError(memory_text(reason)) from error
        raise
