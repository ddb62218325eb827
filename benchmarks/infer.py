"""Inference: `python -m benchmarks.infer [--json FILE]`.

The exported graph beside a plain one and beside PyTorch; infer's pipeline beside the bare session; how long
infer/run.py takes to start.
"""

from __future__ import annotations

import argparse
import sys

from benchmarks import graphs, pipeline
from benchmarks.command_line import benchmark_flags, canvas, positive, run_program
from benchmarks.tables import Findings

PARTS = {"graphs": graphs, "pipeline": pipeline}


def measure(arguments: argparse.Namespace) -> Findings:
    """Both parts, or the one that --part names."""
    findings = {name: part.measure(arguments) for name, part in PARTS.items() if arguments.part in (name, None)}
    tables = [table for part in findings.values() for table in part.tables]
    return Findings(tuple(tables), {name: part.figures for name, part in findings.items()})


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.infer", __doc__)
    flags.add_argument("--part", choices=tuple(PARTS), help="measure this part alone")
    flags.add_argument(
        "--size", type=canvas, nargs="+", metavar="HxW", help="graphs: canvases (default 512x512 800x1216)"
    )
    flags.add_argument("--depth", type=int, choices=(18, 34, 50, 101), help="graphs: depth of the ResNet (default 50)")
    flags.add_argument("--pictures", type=positive, help="pipeline: number of pictures (default 500)")
    flags.add_argument("--batch", type=positive, default=1, help="pictures a run (default 1)")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))
