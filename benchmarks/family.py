"""A training step of each published model beside the R50's: `python -m benchmarks.family [--size HxW] [--json FILE]`.

Each in a process of its own, one step of each in turn: time, peak of memory, and multiply-accumulates.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

from benchmarks.cases import Case
from benchmarks.child import Answer, children
from benchmarks.command_line import benchmark_flags, rounds_of, run_program
from benchmarks.measure import milliseconds
from benchmarks.tables import Findings, Table
from gfl.data.canvas import parse_canvases
from gfl.model import detector
from gfl.operators.costs import layers_of

MODELS = ("r50", "gfl_v1_r50", "r101", "r101_dcn", "x101_dcn", "res2net101_dcn")
QUICK = ("r50", "gfl_v1_r50")


def measure(arguments: argparse.Namespace) -> Findings:
    """One table."""
    repeats = rounds_of(arguments)
    canvas = (64, 96) if arguments.quick else parse_canvases([arguments.size])[0]
    cases = {name: Case(name, 1, *canvas) for name in (QUICK if arguments.quick else MODELS)}
    with children({name: (case, {}) for name, case in cases.items()}) as started:
        for child in started.values():
            child.steps(1)  # allocators and caches
        rounds: list[dict[str, Answer]] = [
            {name: child.steps(1) for name, child in started.items()} for _ in range(repeats)
        ]
    rows = []
    for name, case in cases.items():
        seconds = median(each[name].seconds for each in rounds)
        ratio = median(each[name].seconds / each["r50"].seconds for each in rounds)
        peak = rounds[-1][name].peak_mb - rounds[-1][name].before_mb
        cfg = case.run().detector
        gmacs = sum(layer.macs for layer in layers_of(cfg, canvas)) / 1e9
        rows.append((detector.name(cfg), f"{gmacs:.1f}", milliseconds(seconds), f"{ratio:.2f}", f"{peak:,.0f}"))
    table = Table(
        f"A step of each model: one picture of {canvas[0]}x{canvas[1]}, 8 boxes, float32",
        ("model", "GMACs", "ms", "time / R50's", "MB"),
        tuple(rows),
        "GMACs: of the forward pass. Time / R50's: median of the rounds, each of one step of every model in turn. MB: "
        "what the peak of the process grows by from before its first step.",
    )
    return Findings((table,), {name: [each[name]._asdict() for each in rounds] for name in cases})


def parser() -> argparse.ArgumentParser:
    flags = benchmark_flags("benchmarks.family", __doc__)
    flags.add_argument("--size", default="512x512", help="height x width of the picture, px (default: %(default)s)")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))
