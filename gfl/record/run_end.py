"""What a run says when it has ended: what its evaluations came to, what it left, and the commands to go on with."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from gfl.data.coco import CocoData
from gfl.data.shards.pattern import Images
from gfl.record.console import VALIDATION_NAMES
from gfl.record.evaluation import Judged
from gfl.record.run_folder import BEST, LAST, PAGE, RESULTS
from gfl.report.tables import aligned, percent
from gfl.words import counted, duration, headline


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
    if (folder / PAGE).is_file():
        yield f"  report    {_quoted(folder / PAGE)}"
    for name, command in next_commands(folder, train, val):
        yield f"  {name:<10}{command}"


def next_commands(folder: Path, train: CocoData | None, val: CocoData | None) -> Iterator[tuple[str, str]]:
    """(name, command) of what is done next with a run's best.pt; detecting needs to know some pictures."""
    checkpoint = folder / BEST
    if val is not None:
        where = f"--annotations {_quoted(val.annotations)} --images {_quoted(val.images)}"
        yield "evaluate", f"python -m gfl.evaluate --checkpoint {_quoted(checkpoint)} {where}"
    yield "export", f"python -m export.onnx --checkpoint {_quoted(checkpoint)}"
    seen = val or train
    if seen is not None and isinstance(seen.images, Path):  # infer reads no shards
        flags = f"--input {_quoted(seen.images)} --output {_quoted(folder / 'found')} --draw"
        yield "detect", f"python -m infer.run --model {_quoted(checkpoint)} {flags}"


def resume_command(folder: Path, launcher: str = "python") -> str:
    """launcher: what goes before '-m gfl.train'."""
    return f"{launcher} -m gfl.train --resume --workdir {_quoted(folder)}"


def evaluations_table(results: Path, best_step: int) -> str:
    """The last and the best row of a results.csv in percent; '' where nothing was evaluated."""
    try:
        with open(results, encoding="utf-8", newline="") as handle:
            rows = {row["step"]: row for row in csv.DictReader(handle)}
    # None, or changed by hand: the run's end is no place to complain.
    except (OSError, ValueError, KeyError, csv.Error):
        return ""
    last, best = next(reversed(rows.values()), None), rows.get(str(best_step))
    named = [(name, row) for name, row in (("last", last), ("best", best)) if row is not None]
    header = ["", "step", *(short for _, short in VALIDATION_NAMES)]
    return aligned([header, *([name, *_cells(row)] for name, row in named)]) if named else ""


def _cells(row: Mapping[str, str | None]) -> Iterator[str]:
    yield row["step"] or ""
    for name, _ in VALIDATION_NAMES:
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
    return f"{where}\n  go on     {resume_command(folder, launcher)}"


def _quoted(path: Images) -> str:
    return shlex.quote(str(path))
