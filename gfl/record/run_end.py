"""What a run says when it has ended: what its evaluations came to, what it left, and the commands to go on with."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from gfl.data.coco import CocoData
from gfl.record.evaluation import Judged
from gfl.record.run_folder import BEST, LAST, RESULTS
from gfl.report.tables import aligned, percent
from gfl.words import counted, duration, headline

REPORT = "report.html"
# Of the twelve numbers, those of the table, and their short names.
_COLUMNS = (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"), ("APs", "S"), ("APm", "M"), ("APl", "L"))


class Spent(NamedTuple):
    """What this process did for a run, which may have begun in another one."""

    pictures: int  # trained on
    training_s: float  # of the steps alone
    whole_s: float  # from reading the settings to the end


def end_lines(
    folder: Path, best: str, best_step: int, spent: Spent, train: CocoData, val: CocoData | None
) -> Iterator[str]:
    """best: what best.pt holds, in words."""
    if table := evaluations_table(folder / RESULTS, best_step):
        yield f"\n{table}"
    yield f"\n{headline('time', *time_parts(spent))}"
    yield f"\nthe run is in {folder}; {BEST} holds {best}"
    report, checkpoint = folder / REPORT, folder / BEST
    if report.is_file():
        yield f"  report    {_quoted(report)}"
    if val is not None:
        where = f"--annotations {_quoted(val.annotations)} --images {_quoted(val.images)}"
        yield f"  evaluate  python -m gfl.evaluate --checkpoint {_quoted(checkpoint)} {where}"
    yield f"  export    python -m export.onnx --checkpoint {_quoted(checkpoint)}"
    pictures, found = (val or train).images, folder / "found"
    flags = f"--input {_quoted(pictures)} --output {_quoted(found)} --draw"
    yield f"  detect    python -m infer.run --model {_quoted(checkpoint)} {flags}"


def evaluations_table(results: Path, best_step: int) -> str:
    """The last and the best row of a results.csv in percent; '' where nothing was evaluated."""
    try:
        with open(results, encoding="utf-8", newline="") as handle:
            rows = {row["step"]: row for row in csv.DictReader(handle)}
    except (
        OSError,
        ValueError,
        KeyError,
        csv.Error,
    ):  # none, or changed by hand: the run's end is no place to complain
        return ""
    last, best = next(reversed(rows.values()), None), rows.get(str(best_step))
    named = [(name, row) for name, row in (("last", last), ("best", best)) if row is not None]
    header = ["", "step", *(short for _, short in _COLUMNS)]
    return aligned([header, *([name, *_cells(row)] for name, row in named)]) if named else ""


def _cells(row: Mapping[str, str | None]) -> Iterator[str]:
    yield row["step"] or ""
    for name, _ in _COLUMNS:
        try:
            yield percent(float(row.get(name) or -1))
        except ValueError:
            yield "?"


def time_parts(spent: Spent) -> Iterator[str]:
    """'0:42 of steps, 27.1 pictures a second', '1:10 in all'."""
    if spent.pictures:
        yield f"{duration(spent.training_s)} of steps, {spent.pictures / spent.training_s:.1f} pictures a second"
    else:
        yield "no step was left to do"
    yield f"{duration(spent.whole_s)} in all"


def stopped_text(folder: Path, step: int, judged: Judged, launcher: str) -> str:
    """What an interrupted run left in its folder, and the command to go on. step: of last.pt, which is there.

    launcher: 'python', or what else goes before '-m gfl.train'.
    """
    best = ""
    if (folder / BEST).is_file():
        measured = f", AP {percent(judged.best)}" if judged.best >= 0 else ""
        best = f", {BEST} after {counted(judged.best_step, 'step')}{measured}"
    where = f"\nthe run is in {folder}: {LAST} is after {counted(step, 'step')}{best}"
    return f"{where}\n  go on     {launcher} -m gfl.train --resume --workdir {_quoted(folder)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
