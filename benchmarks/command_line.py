"""The command line of every benchmark: its flags, and the run from measuring to the files that were asked for."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.machine_use import WAIT_S, Use, sample, wait_until_idle
from benchmarks.measure import Gemm, machine
from benchmarks.tables import Findings, Report, as_json, kept_part, page, plain_text
from gfl.data.shards.pattern import Images, images_at
from gfl.errors import InputError
from gfl.files import write_atomic
from gfl.shapes import CANVAS_MULTIPLE, Canvas

GEMM_SIDE, QUICK_GEMM_SIDE = 4096, 2048
ROUNDS, QUICK_ROUNDS = 5, 2


# ---- flags -----------------------------------------------------------------------------------------------------------


def report_flags(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that say where the report goes."""
    flags = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    flags.add_argument("--json", type=Path, help="write all figures, the machine and the versions to this file")
    flags.add_argument("--output", type=Path, help="write the tables to this file, as Markdown")
    flags.add_argument("--quick", action="store_true", help="small sizes and few rounds: does it run at all")
    flags.add_argument(
        "--wait_idle",
        type=whole,
        nargs="?",
        const=int(WAIT_S),
        default=0,
        metavar="SECONDS",
        help=f"wait until other programs leave the cores alone, at most so long before each benchmark ({WAIT_S:.0f})",
    )
    return flags


def benchmark_flags(program: str, description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of every single benchmark."""
    flags = report_flags(program, description)
    flags.add_argument("--repeats", type=positive, help=f"rounds in which each form is measured (default {ROUNDS})")
    return flags


def add_data_set(flags: argparse.ArgumentParser, default: str) -> None:
    """The flags that name a data set."""
    flags.add_argument("--annotations", type=Path, help=f"COCO instances JSON (default: {default})")
    flags.add_argument("--images", type=images_at, help="the folder or shards of its pictures")


def data_set_of(arguments: argparse.Namespace) -> tuple[Path, Images] | None:
    """Annotation file and where its pictures are; None without the flags, InputError for one without the other."""
    if (arguments.annotations is None) != (arguments.images is None):
        raise InputError("got one of --annotations and --images, expected both or neither; give the other too")
    return None if arguments.annotations is None else (arguments.annotations, arguments.images)


def rounds_of(arguments: argparse.Namespace) -> int:
    """The number of rounds: --repeats, or the default."""
    rounds: int = arguments.repeats or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    return rounds


def gemm_of(arguments: argparse.Namespace) -> Gemm:
    """The matrix product whose speed stands for the machine's."""
    return Gemm(QUICK_GEMM_SIDE if arguments.quick else GEMM_SIDE)


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


# ---- running ---------------------------------------------------------------------------------------------------------


def command_line() -> str:
    """The command that started this process, as a person would type it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = sys.argv[0] if module is None else f"-m {module.name.removesuffix('.__main__')}"
    return shlex.join(["python", *name.split(), *sys.argv[1:]])


def run_program(flags: argparse.ArgumentParser, measure: Callable[[argparse.Namespace], Findings]) -> int:
    """The main function of one benchmark; returns the exit status."""
    arguments = flags.parse_args()

    def report() -> list[Report]:
        use = use_before(arguments)
        return [Report(command_line(), measure(arguments), use)]

    return write_reports(arguments, report)


def use_before(arguments: argparse.Namespace) -> Use:
    """How busy the machine is, said; with --wait_idle once it is idle, or the time is over."""
    use = wait_until_idle(arguments.wait_idle) if arguments.wait_idle else sample()
    print(f"before: {use}", flush=True)
    return use


def write_reports(arguments: argparse.Namespace, measure: Callable[[], Sequence[Report]]) -> int:
    """Measure, print the tables, write the files that were asked for; returns the exit status."""
    facts = machine()
    try:
        print(f"{facts['cpu']}, {facts['torch_threads']} threads", flush=True)
        reports = measure()
        for report in reports:
            print("\n\n".join(["", report.command, f"before: {report.use}", *map(plain_text, report.findings.tables)]))
        if arguments.json is not None:
            write_atomic(arguments.json, as_json(reports, facts))
        if arguments.output is not None:
            before = arguments.output.read_text(encoding="utf-8") if arguments.output.is_file() else ""
            write_atomic(arguments.output, page(reports, facts, command_line()) + kept_part(before))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
