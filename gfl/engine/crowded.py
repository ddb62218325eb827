"""Training on cores that other programs want too.

A step passes some thousand barriers of OpenMP. libgomp, which torch's wheels of Linux bring, lets a thread that waits
for another spin for milliseconds, which is best on idle cores; where the other one was put aside for another program,
that time is lost at every barrier, and a step takes forty times as long. Where a process has more threads than cores,
libgomp lets them sleep early instead: two steps' time. So a few idle threads are kept while the cores are crowded. How
many threads a step computes with, and so its numbers, stay as they are.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gfl.machine import usable_cores

TASKS = Path("/proc/self/task")
EVERY_S = 0.5
# Of a core: how long threads of this process were ready to run and did not. Data workers, which run at low priority,
# cost a few hundredths.
CROWDED, FREE = 0.15, 0.05
FREE_LOOKS = 6  # in a row, after which the cores are taken for free again
MOST_POOLS = 3
CHOSEN = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")  # what the user has set stays


@contextmanager
def yielding_on_crowded_cores() -> Iterator[None]:
    """Around training on a CPU: while other programs want its cores, let threads that wait sleep early.

    Nothing where the system does not tell of it (only Linux does), or the environment chooses how threads wait.
    """
    threads = torch.get_num_threads()
    # On far more cores than are computed with, a crowd has room elsewhere, and the pools would be many.
    few = threads >= 2 and pools_needed(threads, usable_cores()) <= MOST_POOLS
    if not few or any(name in os.environ for name in CHOSEN) or waited_s() is None:
        yield
        return
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(over,), name="crowded", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def waited_s(tasks: Path = TASKS) -> float | None:
    """Seconds that this process's threads were ready to run and had no core; None where the system does not tell."""
    total, told = 0, False
    for task in tasks.iterdir() if tasks.is_dir() else ():
        try:
            total += int((task / "schedstat").read_text(encoding="ascii").split()[1])  # ns on a run queue
            told = True
        except (OSError, IndexError, ValueError):  # the thread is over, or the kernel was built without it
            continue
    return total / 1e9 if told else None


def pools_needed(threads: int, cores: int) -> int:
    """How many more pools of as many threads make a process that computes with `threads` have more than `cores`."""
    return max(1, (cores - threads) // (threads - 1) + 1)


def _watch(over: threading.Event) -> None:
    before, at, free_looks = waited_s() or 0.0, time.monotonic(), 0
    release: threading.Event | None = None  # set: the idle threads end
    try:
        while not over.wait(EVERY_S):
            waited, now = waited_s() or 0.0, time.monotonic()
            share = max(0.0, waited - before) / (now - at)
            before, at = waited, now
            free_looks = free_looks + 1 if share < FREE else 0
            if release is None and share > CROWDED:
                release = threading.Event()
                for _ in range(pools_needed(torch.get_num_threads(), usable_cores())):
                    threading.Thread(target=_keep_pool, args=(release,), name="idle", daemon=True).start()
            elif release is not None and free_looks >= FREE_LOOKS:
                release.set()
                release = None
    finally:
        if release is not None:
            release.set()


def _keep_pool(release: threading.Event) -> None:
    """Have OpenMP start threads for this one, and keep them, idle, until `release` is set."""
    torch.ones(1 << 18).add_(1.0)  # so many numbers that torch computes on all threads
    release.wait()
