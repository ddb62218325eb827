"""What the benchmarks share: the machine, interleaved timing, its GEMM speed, and tables for people and for docs/."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from gfl import __version__
from gfl.engine.environment import git_commit
from gfl.engine.files import to_json, write_atomic
from gfl.errors import InputError
from gfl.model.anchors import CANVAS_MULTIPLE
from gfl.report.tables import aligned, text_width
from gfl.settings import Canvas

Sample = Mapping[str, float]  # label -> seconds of one call
Form = Callable[[], Sample]  # runs what it measures once; may measure several parts of it

GEMM = "GEMM"
GEMM_SIDE, QUICK_GEMM_SIDE = 4096, 2048
LEAST_S = 0.1  # a sample fills this time with calls, so that the clock and the scheduler do not show
TERMINAL_COLUMNS = 100
IDLE_LOAD = 0.3  # a load average above it says that other programs took time from the figures


# ---- timing ----------------------------------------------------------------------------------------------------------


class Timing(NamedTuple):
    """Seconds of one call, a number for each round."""

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
        """What the JSON holds of it."""
        return {"median_s": self.median, "min_s": self.low, "max_s": self.high, "runs": len(self.seconds)}


def interleave(forms: Sequence[Form], repeats: int) -> dict[str, Timing]:
    """Run the forms in turn, A B C A B C ..., so that a slow minute of the machine meets all of them alike.

    One more round comes first and is not counted: allocators, caches and worker processes start in it.
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
    """A form that calls `run` until LEAST_S have passed, and gives the mean of these calls."""

    def sample() -> Sample:
        calls, started = 0, time.perf_counter()
        while True:
            run()
            calls += 1
            elapsed = time.perf_counter() - started
            if elapsed >= LEAST_S:
                return {label: elapsed / calls}

    return sample


def gemm(side: int) -> Form:
    """The float32 product of two (side,side) matrices: the speed that a machine can reach, to measure others by."""
    left, right, product = torch.rand(side, side), torch.rand(side, side), torch.empty(side, side)
    return timed(GEMM, partial(torch.mm, left, right, out=product))


def gemm_macs_per_s(timing: Timing, side: int) -> float:
    """Multiply-accumulates a second of the GEMM."""
    return float(side) ** 3 / timing.median


def figures_of(timings: Mapping[str, Timing]) -> dict[str, object]:
    """What the JSON holds of them."""
    return {label: timing.as_dict() for label, timing in timings.items()}


def gemm_note(timings: Mapping[str, Timing], side: int) -> str:
    """The machine's GEMM speed as a sentence."""
    speed, (median, limits) = 2.0 * gemm_macs_per_s(timings[GEMM], side) / 1e9, spread(timings[GEMM])
    return f"The machine's GEMM: {side}^3 in float32 in {median} ms ({limits}), {speed:,.0f} GFLOP/s."


# ---- the machine -----------------------------------------------------------------------------------------------------


def machine() -> dict[str, object]:
    """What the figures depend on; the load average is that of the last minute, so ask before the first measurement."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": _cpu_model(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_before": None if load is None else round(load, 2),
        "platform": platform.platform(terse=True),
    }


def versions() -> dict[str, object]:
    """The versions of everything that computes here."""
    commit = git_commit(Path(__file__).resolve().parents[1])
    return {
        "gfl": __version__,
        "commit": commit,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "opencv": cv2.__version__,
    }


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


# ---- tables ----------------------------------------------------------------------------------------------------------


class Table(NamedTuple):
    """Cells as text; the first column names the row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


class Report(NamedTuple):
    """What one benchmark found: tables for people, figures for the JSON."""

    command: str  # what repeats it
    tables: tuple[Table, ...]
    figures: dict[str, object]


def milliseconds(seconds: float) -> str:
    """Three digits that mean something: '0.123', '12.3', '1,234'."""
    value = 1e3 * seconds
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def spread(timing: Timing) -> tuple[str, str]:
    """Median and 'min - max' in ms."""
    return milliseconds(timing.median), f"{milliseconds(timing.low)} - {milliseconds(timing.high)}"


def comparison(title: str, rows: Sequence[tuple[str, Timing, Timing]], *, other: str, note: str = "") -> Table:
    """Ours beside another form of the same; rows are (what, ours, the other)."""
    header = ("", "ours ms", "min - max", f"{other} ms", "min - max", f"{other} / ours")
    cells = tuple(
        (what, *spread(ours), *spread(plain), f"{plain.median / ours.median:.2f}") for what, ours, plain in rows
    )
    return Table(title, header, cells, note)


def plain_text(table: Table) -> str:
    """A table for a terminal."""
    note = textwrap.fill(table.note, TERMINAL_COLUMNS)
    return "\n".join(part for part in (table.title, aligned([table.header, *table.rows]), note) if part)


def markdown(table: Table) -> str:
    """A table for docs/, its columns aligned for those who read it as text."""
    widths = [max(3, *map(text_width, column)) for column in zip(table.header, *table.rows, strict=True)]
    lines = [
        "| "
        + " | ".join(cell + " " * (width - text_width(cell)) for cell, width in zip(row, widths, strict=True))
        + " |"
        for row in (table.header, *table.rows)
    ]
    rule = (
        "|"
        + "|".join(
            (":" if index == 0 else "-") + "-" * width + ("-" if index == 0 else ":")
            for index, width in enumerate(widths)
        )
        + "|"
    )
    return "\n".join([f"### {table.title}", "", lines[0], rule, *lines[1:], *(["", table.note] if table.note else [])])


def page(reports: Sequence[Report], facts: Mapping[str, object]) -> str:
    """The reports as a Markdown page, with the machine and the day."""
    made = versions()
    software = ", ".join(f"{name} {version}" for name, version in made.items() if name != "commit")
    parts = [
        "# Benchmarks",
        f"Written by `{command_line()}` on {time.strftime('%Y-%m-%d')}; the numbers are not edited by hand.",
        f"- Machine: {facts['cpu']} ({facts['instructions']}), {facts['cores']} cores, "
        f"{facts['torch_threads']} threads of torch; {load_text(facts)}",
        f"- Software: {software}, commit {made['commit'] or 'not known'}",
        "The forms of a table were run in turn (A B C A B C ...) in one process; a figure is the median of the rounds.",
    ]
    for report in reports:
        parts += [f"## `{report.command}`", *map(markdown, report.tables)]
    return "\n\n".join(parts) + "\n"


def load_text(facts: Mapping[str, object]) -> str:
    """How busy the machine was before the benchmark began."""
    load = facts["load_before"]
    if not isinstance(load, float):
        return "load average not known"
    return f"load average {load:.2f} before" + (
        " (the machine was busy: measure again when it is not)" if load > IDLE_LOAD else ""
    )


def as_json(reports: Sequence[Report], facts: Mapping[str, object]) -> str:
    """Everything measured, with the machine and the versions; times in seconds."""
    found = [{"command": report.command, "figures": report.figures} for report in reports]
    tree = {"date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "machine": facts, "versions": versions(), "benchmarks": found}
    return to_json(tree, indent=2) + "\n"


# ---- the programs ----------------------------------------------------------------------------------------------------


def canvas(text: str) -> Canvas:
    """'512x640' -> (512, 640), for argparse; sides are multiples of 32."""
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected HEIGHTxWIDTH, e.g. 512x640")
    sides = (int(height), int(width))
    if min(sides) < CANVAS_MULTIPLE or any(side % CANVAS_MULTIPLE for side in sides):
        raise argparse.ArgumentTypeError(f"got {text}, expected positive multiples of {CANVAS_MULTIPLE}; round them up")
    return sides


def positive(text: str) -> int:
    """A whole number from 1, for argparse."""
    if whole(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number from 1")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number")
    return int(text)


def flags_of(program: str, description: str | None) -> argparse.ArgumentParser:
    """The flags that every benchmark has."""
    flags = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    flags.add_argument("--json", type=Path, help="write all figures, the machine and the versions to this file")
    flags.add_argument("--output", type=Path, help="write the tables to this file, as Markdown")
    flags.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run at all")
    return flags


def command_line() -> str:
    """The command as a person would type it again."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = sys.argv[0] if module is None else f"-m {module.name.removesuffix('.__main__')}"
    return shlex.join(["python", *name.split(), *sys.argv[1:]])


def run_program(arguments: argparse.Namespace, measure: Callable[[argparse.Namespace], Sequence[Report]]) -> int:
    """Measure, print, write the files that were asked for; the exit status."""
    facts = machine()
    try:
        print(f"{facts['cpu']}, {facts['torch_threads']} threads, {load_text(facts)}", flush=True)
        reports = measure(arguments)
        for report in reports:
            print("\n\n".join(["", report.command, *map(plain_text, report.tables)]))
        if arguments.json is not None:
            write_atomic(arguments.json, as_json(reports, facts))
        if arguments.output is not None:
            write_atomic(arguments.output, page(reports, facts))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
