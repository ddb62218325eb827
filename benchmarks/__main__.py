"""All benchmarks, one after the other: `python -m benchmarks --output docs/benchmarks.md`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from benchmarks import canvases, evaluate, infer, loader, loss, train
from benchmarks.command_line import report_flags, write_reports
from benchmarks.tables import Findings, Report


class Program(Protocol):
    """What the module of a benchmark has."""

    def parser(self) -> argparse.ArgumentParser: ...

    def measure(self, arguments: argparse.Namespace) -> Findings: ...


PROGRAMS: Mapping[str, Program] = {
    "train": train,
    "loss": loss,
    "canvases": canvases,
    "infer": infer,
    "loader": loader,
    "evaluate": evaluate,
}
# scratch_small.gin at its own sizes, on the canvas of a 480x640 picture, with a batch that keeps the cores busy.
SMALL = ("--config", "small", "--size", "320x448", "--batch", "8")
# The paper's sizes, at which the one square is 1344x1344, with a small model: the R50 would take an hour.
FULL_SIZE = ("--config", "small", "--short_side", "800", "--long_side", "1333", "--pictures", "16", "--repeats", "2")
RUNS: Sequence[tuple[str, Sequence[str]]] = (
    ("train", ()),
    ("train", SMALL),
    ("loss", ()),
    ("canvases", FULL_SIZE),
    ("infer", ()),
    ("loader", ()),
    ("evaluate", ()),
)
QUICK_RUNS = (
    ("train", ("--quick",)),
    ("train", ("--config", "small", "--quick")),
    ("loss", ("--quick",)),
    ("canvases", ("--config", "small", "--quick")),
    ("infer", ("--quick",)),
    ("loader", ("--quick",)),
    ("evaluate", ("--quick",)),
)


def reports(runs: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Report]:
    """The reports of the runs, (name, flags), in the order of the page."""
    for name, flags in runs:
        command = shlex.join(["python", "-m", f"benchmarks.{name}", *flags])
        print(command, flush=True)
        program = PROGRAMS[name]
        yield Report(command, program.measure(program.parser().parse_args(flags)))


def main() -> int:
    arguments = report_flags("benchmarks", __doc__).parse_args()
    return write_reports(arguments, lambda: list(reports(QUICK_RUNS if arguments.quick else RUNS)))


if __name__ == "__main__":
    sys.exit(main())
