"""What other programs do with the cores that a benchmark is to have."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from gfl.errors import InputError
from gfl.machine import usable_cores

STAT = Path("/proc/stat")
BUSY_CORES = 0.1  # use of others above which they disturb the figures
SAMPLE_S, WAIT_S = 1.0, 600.0
IDLE_COLUMNS = (3, 4)  # of /proc/stat: idle, and idle while a disk works
COUNTED_COLUMNS = 8  # the time of guests, after them, is in that of users already


class Use(NamedTuple):
    """How busy the machine was while this process slept, before a benchmark."""

    load: float | None  # load average of the last minute, this benchmark's own work included
    others: float | None  # cores that other processes used, of those that this one may use
    waited_s: float = 0.0

    @property
    def busy(self) -> bool:
        return self.others is not None and self.others > BUSY_CORES

    def __str__(self) -> str:
        load = "not known" if self.load is None else f"{self.load:.2f}"
        others = "not known" if self.others is None else f"{self.others:.2f} of {usable_cores()} cores"
        waited = f"; waited {self.waited_s:.0f} s for idle cores" if self.waited_s else ""
        warning = "; THE MACHINE WAS BUSY: measure again when it is not" if self.busy else ""
        return f"other programs used {others}, load average {load}{waited}{warning}"


def sample(seconds: float = SAMPLE_S, stat: Path = STAT, sleep: Callable[[float], None] = time.sleep) -> Use:
    """Sleep, and see what the others do meanwhile."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    if not stat.is_file():
        return Use(load, None)
    before = _ticks(stat)
    sleep(seconds)
    after = _ticks(stat)
    others = 0.0
    for core, (busy, total) in after.items():
        earlier_busy, earlier_total = before.get(core, (busy, total))
        others += (busy - earlier_busy) / max(1, total - earlier_total)
    return Use(load, round(others, 2))


def wait_until_idle(limit_s: float, look: Callable[[], Use] = sample, clock: Callable[[], float] = time.time) -> Use:
    """Look until others leave the cores alone, at most so many seconds; the last look. InputError where none can be."""
    started = clock()
    while True:
        use = look()
        if use.others is None:
            raise InputError(f"got --wait_idle on a system without {STAT}, expected Linux; leave the flag out")
        if not use.busy:
            return use._replace(waited_s=clock() - started)
        if clock() - started >= limit_s:
            return use._replace(waited_s=clock() - started)


def _ticks(stat: Path) -> dict[int, tuple[int, int]]:
    """(busy, all) clock ticks so far of each core that this process may use."""
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    ticks = {}
    for line in stat.read_text(encoding="utf-8").splitlines():
        name, *values = line.split()
        core = name.removeprefix("cpu")
        if name.startswith("cpu") and core.isdecimal() and (mine is None or int(core) in mine):
            counted = [int(value) for value in values[:COUNTED_COLUMNS]]
            ticks[int(core)] = (sum(counted) - sum(counted[column] for column in IDLE_COLUMNS), sum(counted))
    return ticks
