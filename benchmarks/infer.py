"""Inference, from the exported graph to the program: `python -m benchmarks.infer [--json FILE]`.

Our graph beside a plain one and PyTorch; infer's pipeline beside the bare session; how soon the program answers.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import graphs, pipeline
from benchmarks.program import add_rounds, canvas, flags_of, positive, run_program
from benchmarks.tables import Found

PARTS = {"graphs": graphs, "pipeline": pipeline}


def measure(arguments: argparse.Namespace) -> Found:
    """The parts that were asked for."""
    found = {name: part.measure(arguments) for name, part in PARTS.items() if arguments.part in (name, None)}
    tables = [table for part in found.values() for table in part.tables]
    return Found(tuple(tables), {name: part.figures for name, part in found.items()})


def parser() -> argparse.ArgumentParser:
    flags = flags_of("benchmarks.infer", __doc__)
    flags.add_argument("--part", choices=tuple(PARTS), help="one of the two alone")
    flags.add_argument(
        "--size", type=canvas, nargs="+", metavar="HxW", help="canvases of the graphs (default 512x512 800x1216)"
    )
    flags.add_argument("--depth", type=int, choices=(18, 34, 50, 101), help="of the graphs' ResNet (default 50)")
    flags.add_argument("--pictures", type=positive, help="through the pipeline (default 500)")
    flags.add_argument("--batch", type=positive, default=1, help="pictures a run (default 1)")
    add_rounds(flags)
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))
