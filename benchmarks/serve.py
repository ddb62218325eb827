"""The server under load: `python -m benchmarks.serve --model FILE --images DIR [--output FILE]`.

wrk (Debian's package of the name) sends the pictures one after the other on each of its connections, and compares every
answer with infer's row of the picture; beside it, infer/run.py on the same pictures. Then locust (PyPI) sends pictures
among broken, oversize, slow and leaving requests, and the server is told to end meanwhile.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median

from benchmarks.command_line import positive, report_flags, run_program
from benchmarks.mixed import Mixed, run_mixed
from benchmarks.serving import Load, put_under_load, run_infer, serving, write_bodies
from benchmarks.tables import Findings, Table

PICTURES = 1_000  # at least so many for infer, which else would hardly have begun


def copy_until_many(rows: Sequence[Mapping[str, object]], images: Path, many: Path) -> None:
    """A folder of PICTURES, each of which may come several times."""
    many.mkdir()
    for i, row in enumerate(islice(cycle(rows), max(PICTURES, len(rows)))):
        file = images / str(row["file"])
        shutil.copyfile(file, many / f"{i}{file.suffix}")


def measure(arguments: argparse.Namespace) -> Findings:
    """The server beside infer, and among bad clients."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = run_infer(arguments.model, arguments.images, folder / "found")[0]
        copy_until_many(rows, arguments.images, folder / "many")
        write_bodies(rows, arguments.images, folder)
        speeds: list[float] = []
        loads: list[Load] = []
        with serving(arguments.model, arguments.flags) as server:
            for turn in range(arguments.rounds):  # in turn, so that what else the machine does meets all of them
                speeds.append(run_infer(arguments.model, folder / "many", folder / f"timed{turn}")[1])
                loads += [put_under_load(server, folder, each, arguments.seconds) for each in arguments.clients]
        mixed = run_mixed(arguments.model, folder, max(arguments.clients), arguments.seconds)
    figures = {"infer": speeds, "loads": [load._asdict() for load in loads], "mixed": mixed._asdict()}
    return Findings((beside_infer(speeds, loads, len(rows)), among_others(mixed)), figures)


def beside_infer(speeds: Sequence[float], loads: Sequence[Load], pictures: int) -> Table:
    """Pictures a second and latency of each number of clients."""
    rows = [("infer/run.py", f"{median(speeds):.1f}", f"{min(speeds):.1f} - {max(speeds):.1f}", "1", *[""] * 3)]
    for clients in sorted({load.clients for load in loads}):
        mine = [load for load in loads if load.clients == clients]
        rates = [load.requests / load.seconds for load in mine]
        p50, p99 = (f"{median(getattr(load, name) for load in mine):,.0f}" for name in ("p50_ms", "p99_ms"))
        share = f"{median(rates) / median(speeds):.2f}"
        memory = f"{mine[-1].warm_mb:.0f} - {mine[-1].end_mb:.0f}"
        spread = f"{min(rates):.1f} - {max(rates):.1f}"
        rows.append((f"{clients} clients", f"{median(rates):.1f}", spread, share, p50, p99, memory))
    requests, wrong, failed = (sum(getattr(load, name) for load in loads) for name in ("requests", "wrong", "failed"))
    header = ("", "pictures/s", "min - max", "beside infer", "p50, ms", "p99, ms", "MB after 10 s - at the end")
    note = f"{requests:,} answers, {wrong} of them not infer's row; {failed} connections failed. {pictures} pictures."
    return Table(f"Serving: {loads[0].seconds:.0f} s of wrk", header, tuple(rows), note)


def among_others(mixed: Mixed) -> Table:
    """What each kind of request was answered, and what the server counted."""
    rows = [(kind, *map(str, seen)) for kind, outcomes in mixed.outcomes.items() for seen in sorted(outcomes.items())]
    rows += [("picture, its client left", "", str(mixed.left))]
    rows += [("by the server's own count", status, str(count)) for status, count in sorted(mixed.server.items())]
    note = (
        f"Unanswered before the server was told to end: {mixed.unanswered_early}; counted otherwise than clients saw: "
        f"{mixed.lost or 'none'}. It ended with {mixed.exit_code} after {mixed.seconds_to_end:.1f} s and wrote "
        f"{len(mixed.stderr.splitlines())} lines to stderr; its memory went from {mixed.warm_mb:.0f} to "
        f"{mixed.end_mb:.0f} MB."
    )
    return Table(
        "Serving: clients of all kinds, and SIGTERM meanwhile", ("request", "answer", "how many"), tuple(rows), note
    )


def parser() -> argparse.ArgumentParser:
    flags = report_flags("benchmarks.serve", __doc__)
    flags.add_argument("--model", type=Path, required=True, help="an .onnx")
    flags.add_argument("--images", type=Path, required=True, help="a folder of pictures")
    flags.add_argument("--clients", type=positive, nargs="+", default=[16, 64], help="connections (default 16 64)")
    flags.add_argument("--seconds", type=positive, default=60, help="of each load (default 60)")
    flags.add_argument("--rounds", type=positive, default=3, help="of infer and of each load, in turn (default 3)")
    flags.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="the rest goes to the server")
    return flags


if __name__ == "__main__":
    sys.exit(run_program(parser(), measure))
