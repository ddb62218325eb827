"""All benchmarks, one after the other: `python -m benchmarks --output docs/benchmarks.md`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence

from benchmarks import loader, loss, train
from benchmarks.measure import Report, flags_of, run_program

# scratch_small.gin as it trains: its batch, on the canvas of a 480x640 picture.
SMALL = ("--config", "small", "--size", "320x448", "--batch", "8")
PROGRAMS = {"train": train, "loss": loss, "loader": loader}
RUNS: Sequence[tuple[str, Sequence[str]]] = (("train", ()), ("train", SMALL), ("loss", ()), ("loader", ()))
QUICK_RUNS = (
    ("train", ("--quick",)),
    ("train", ("--config", "small", "--quick")),
    ("loss", ("--quick",)),
    ("loader", ("--quick",)),
)


def measure(arguments: argparse.Namespace) -> list[Report]:
    """The reports of all, in the order of the page."""
    reports = []
    for name, flags in QUICK_RUNS if arguments.quick else RUNS:
        command = shlex.join(["python", "-m", f"benchmarks.{name}", *flags])
        print(command, flush=True)
        program = PROGRAMS[name]
        reports.append(program.measure(program.parser().parse_args(flags), command))
    return reports


def main() -> int:
    return run_program(flags_of("benchmarks", __doc__).parse_args(), measure)


if __name__ == "__main__":
    sys.exit(main())
