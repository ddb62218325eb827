"""All benchmarks, one after the other: `python -m benchmarks --output docs/benchmarks.md`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Protocol

from benchmarks import canvases, evaluate, family, growth, infer, loader, loss, step, train
from benchmarks.command_line import report_flags, use_before, write_reports
from benchmarks.machine_use import Use
from benchmarks.tables import Findings, Report


class Program(Protocol):
    """What the module of a benchmark has."""

    def parser(self) -> argparse.ArgumentParser: ...

    def measure(self, arguments: argparse.Namespace) -> Findings: ...


PROGRAMS: Mapping[str, Program] = {
    "step": step,
    "train": train,
    "loss": loss,
    "growth": growth,
    "canvases": canvases,
    "infer": infer,
    "loader": loader,
    "evaluate": evaluate,
    "family": family,  # beside the page: docs/results.md has its table
}
# scratch_small.gin at its own sizes, on the canvas of a 480x640 picture, with a batch that keeps the cores busy.
SMALL = ("--config", "small", "--size", "320x448", "--batch", "8")
# The paper's sizes, at which the one square is 1344x1344, with a small model: the R50 would take an hour.
FULL_SIZE = ("--config", "small", "--short_side", "800", "--long_side", "1333", "--pictures", "12", "--repeats", "2")
RUNS: Sequence[tuple[str, Sequence[str]]] = (
    ("step", ("--repeats", "2")),
    ("train", ("--repeats", "2")),
    ("train", (*SMALL, "--repeats", "3")),
    ("loss", ("--repeats", "3")),
    ("growth", ("--repeats", "2")),
    ("canvases", FULL_SIZE),
    ("infer", ("--repeats", "2")),
    ("loader", ()),
    ("evaluate", ("--repeats", "3")),
)
QUICK_RUNS = (
    ("step", ("--quick",)),
    ("train", ("--quick",)),
    ("train", ("--config", "small", "--quick")),
    ("loss", ("--quick",)),
    ("growth", ("--quick",)),
    ("canvases", ("--config", "small", "--quick")),
    ("infer", ("--quick",)),
    ("loader", ("--quick",)),
    ("evaluate", ("--quick",)),
)


def reports(runs: Sequence[tuple[str, Sequence[str]]], use: Callable[[], Use]) -> Iterator[Report]:
    """The reports of the runs, (name, flags), in the order of the page; use: looks at the machine before each."""
    for name, flags in runs:
        command = shlex.join(["python", "-m", f"benchmarks.{name}", *flags])
        print(command, flush=True)
        program, before, started = PROGRAMS[name], use(), time.monotonic()
        yield Report(command, program.measure(program.parser().parse_args(flags)), before)
        print(f"took {time.monotonic() - started:.0f} s", flush=True)


def main() -> int:
    arguments = report_flags("benchmarks", __doc__).parse_args()
    runs = QUICK_RUNS if arguments.quick else RUNS
    return write_reports(arguments, lambda: list(reports(runs, partial(use_before, arguments))))


if __name__ == "__main__":
    sys.exit(main())
