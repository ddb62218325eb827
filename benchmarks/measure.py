"""Interleaved timing, the machine's GEMM speed, and what the figures depend on: the machine and the versions."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import onnxruntime
import torch

from gfl.machine import usable_cores
from gfl.record.environment import git_commit
from gfl.version import VERSION

Sample = Mapping[str, float]  # label -> seconds of one call
Form = Callable[[], Sample]  # one of the forms that are compared: runs once, and may time several parts

GEMM = "GEMM"
LEAST_S = 0.1  # a sample repeats its call for so long, so that clock and scheduler do not show in the mean


# ---- timing ----------------------------------------------------------------------------------------------------------


class Timing(NamedTuple):
    """Seconds of one call in each round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        return min(self.seconds)

    @property
    def high(self) -> float:
        return max(self.seconds)

    def as_dict(self) -> dict[str, object]:
        """For the JSON."""
        return {"median_s": self.median, "min_s": self.low, "max_s": self.high, "runs": len(self.seconds)}


class Ratio(NamedTuple):
    """The rate of one form divided by that of another, over all rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.3f} ({self.low:.3f} - {self.high:.3f})"


def paired_ratio(ours: Timing, other: Timing) -> Ratio:
    """Our rate divided by the other's, round by round: what slows the machine in a round slows both."""
    ratios = [theirs / mine for mine, theirs in zip(ours.seconds, other.seconds, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def interleave(forms: Sequence[Form], repeats: int) -> dict[str, Timing]:
    """Run the forms in turn, A B C A B C ..., so that a slow minute of the machine slows all of them alike.

    A further round comes first and is not counted: allocators, caches and worker processes start in it.
    """
    for form in forms:
        form()
    seconds: dict[str, list[float]] = {}
    for _ in range(repeats):
        for form in forms:
            for label, value in form().items():
                seconds.setdefault(label, []).append(value)
    return {label: Timing(tuple(values)) for label, values in seconds.items()}


def timed(label: str, run: Callable[[], object]) -> Form:
    """A form that calls `run` until LEAST_S seconds have passed; its sample is the mean of these calls."""

    def sample() -> Sample:
        calls, started = 0, time.perf_counter()
        while True:
            run()
            calls += 1
            elapsed = time.perf_counter() - started
            if elapsed >= LEAST_S:
                return {label: elapsed / calls}

    return sample


def figures_of(timings: Mapping[str, Timing]) -> dict[str, object]:
    """The timings for the JSON."""
    return {label: timing.as_dict() for label, timing in timings.items()}


def milliseconds(seconds: float) -> str:
    """To three digits: '0.123', '12.3', '1,234'."""
    value = 1e3 * seconds
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def spread(timing: Timing) -> tuple[str, str]:
    """Median and 'min - max' in ms."""
    return milliseconds(timing.median), f"{milliseconds(timing.low)} - {milliseconds(timing.high)}"


def rates(timing: Timing, pictures: int = 1) -> tuple[str, str, str]:
    """Median, min and max of pictures a second, for calls that process so many."""
    median, low, high = (f"{pictures / seconds:,.1f}" for seconds in (timing.median, timing.high, timing.low))
    return median, low, high


class Gemm(NamedTuple):
    """The float32 product of two (side,side) matrices: a speed within the machine's reach, to compare others with."""

    side: int

    def form(self) -> Form:
        """The product as a form, to be interleaved with the others."""
        left, right = torch.rand(self.side, self.side), torch.rand(self.side, self.side)
        return timed(GEMM, partial(torch.mm, left, right, out=torch.empty(self.side, self.side)))

    def macs_per_s(self, timings: Mapping[str, Timing]) -> float:
        """Its multiply-accumulates a second."""
        return float(self.side) ** 3 / timings[GEMM].median

    def note(self, timings: Mapping[str, Timing]) -> str:
        """A sentence that states the speed."""
        speed, (median, limits) = 2.0 * self.macs_per_s(timings) / 1e9, spread(timings[GEMM])
        return f"The machine's GEMM: {self.side}^3 in float32 in {median} ms ({limits}), {speed:,.0f} GFLOP/s."


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine() -> dict[str, object]:
    """What computes."""
    return {
        "cpu": _cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "platform": platform.platform(terse=True),
    }


def versions() -> dict[str, object]:
    """The versions of this project and of the libraries that compute."""
    return {
        "gfl": VERSION,
        "commit": git_commit(Path(__file__).resolve().parents[1]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "onnxruntime": onnxruntime.__version__,
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
