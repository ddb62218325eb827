"""A run's folder: its lock, and the files that a run leaves for people and for --resume.

A whole file is written under another name and then renamed, so that a reader never sees half of one; log.jsonl and
results.csv only grow. Only the first rank of a distributed run opens the folder.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from gfl.errors import InputError
from gfl.files import append_text, make_folder, to_json, write_atomic, write_errors
from gfl.record.environment import environment
from gfl.record.lock import lock_folder, unlock_folder
from gfl.record.run_data import read_mapping, resumptions
from gfl.record.trackers.interface import TRACKED, TRACKERS_FOLDERS
from gfl.say import say

LOG = "log.jsonl"
RESULTS = "results.csv"
TEXT_LOG = "train.log"  # what the console said, without the redraws of its live line
LAST = "last.pt"
BEST = "best.pt"
ENVIRONMENT = "env.json"
LABELS = "labels.png"
CURVES = "results.png"
PAGE = "report.html"
DETECTIONS = "val_detections.json"
# What a run writes before its first checkpoint. People have a config.gin of their own, but an env.json only from a run.
_FIRST_FILES = (
    *("config.gin", "operative.gin", ENVIRONMENT, LOG, RESULTS, LABELS, CURVES),
    *(TEXT_LOG, TRACKED, *TRACKERS_FOLDERS),
)
EPOCH_FILE = r"epoch_(\d+)\.pt"  # the weights of an epoch, with KEEP_LAST
_FIRST_PATTERN = re.compile(rf"train_batch\d+\.jpg|{EPOCH_FILE}")


def cut_log(path: Path, step: int, *, evaluated: bool = True) -> int:
    """Drop the lines of a log.jsonl whose `step` is greater than the given one; returns how many were dropped.

    evaluated: if False, the line of an evaluation (it has AP) after that very step is dropped as well.
    A last line that a killed run left unfinished is dropped too; a missing file counts as empty.
    Raises InputError for a broken line elsewhere.
    """

    def keep(line: str) -> bool:
        entry = json.loads(line)
        return int(entry["step"]) <= (step if evaluated or "AP" not in entry else step - 1)

    return _cut(path, keep)


def cut_results(path: Path, step: int) -> int:
    """Drop the rows of a results.csv whose `step` is greater than the given one; otherwise as `cut_log`."""
    header = _columns(path) or ["step"]
    if "step" not in header:
        raise InputError(f"{path} has no column `step` (got {header}); move it away to resume without it")
    column = header.index("step")
    return _cut(path, lambda line: int(next(csv.reader([line]))[column]) <= step, header_lines=1)


def _columns(path: Path) -> list[str]:
    """The names in the first line of a results.csv; none where it is missing or empty."""
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as handle:
        return next(csv.reader(handle), [])


def _cut(path: Path, keep: Callable[[str], bool], *, header_lines: int = 0) -> int:
    if not path.exists():
        return 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as handle:  # \r alone ends no line
        lines = list(handle)
    kept = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.endswith("\n") and (number <= header_lines or keep(line)):
                kept.append(line)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            if number < len(lines):
                raise InputError(
                    f"line {number} of {path} is broken ({error}); mend it or move the file away to resume without it"
                ) from error
    if len(kept) < len(lines):
        write_atomic(path, "".join(kept))
    return len(lines) - len(kept)


class RunFolder:
    """A run's open folder, as `open_run` gives it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write_text(self, name: str, text: str) -> None:
        """Write a whole text file: config.gin, operative.gin."""
        write_atomic(self.path / name, text)

    def write_json(self, name: str, value: object) -> None:
        """Write a whole JSON file: metrics.json, val_detections.json. NaN becomes null."""
        # People read objects, so they are indented; lists are for programs (the detections of COCO have 500,000 rows).
        write_atomic(self.path / name, to_json(value, indent=2 if isinstance(value, Mapping) else None) + "\n")

    def write_environment(
        self, command: Sequence[str], more: Mapping[str, object] | None = None, *, resumed_at: int | None = None
    ) -> None:
        """Write env.json: `environment(command)` and the caller's own fields (device, precision, number of ranks).

        resumed_at: the step that a run goes on from. What the file says of its beginning then stays, and its list
        `resumed` gets that step and what is different now, in place of resumptions of which no step was saved.
        """
        now = {**environment(command), **(more or {})}
        begun = {} if resumed_at is None else read_mapping(self.path / ENVIRONMENT)
        if begun:
            kept = [each for each in resumptions(begun) if each["step"] != resumed_at]
            changed = {name: value for name, value in now.items() if begun.get(name) != value}
            now = {**begun, "resumed": [*kept, {"step": resumed_at, **changed}]}
        self.write_json(ENVIRONMENT, now)

    def append(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Add lines to log.jsonl, either all or none; each has the key `step`."""
        append_text(self.path / LOG, "".join(to_json(line) + "\n" for line in lines))

    def append_result(self, row: Mapping[str, float | int | str | None]) -> None:
        """Add the row of an evaluation to results.csv; the keys of the first row, with `step`, become the columns.

        None and numbers that are not finite are left blank. Raises ValueError for keys other than the columns.
        """
        path = self.path / RESULTS
        written = _columns(path)
        columns = written or list(row)
        if "step" not in columns or set(columns) != set(row):
            raise ValueError(f"results.csv got the columns {list(row)}; expected {columns}, with `step`")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not written:
            writer.writerow(columns)
        values = (row[column] for column in columns)
        writer.writerow("" if isinstance(value, float) and not math.isfinite(value) else value for value in values)
        append_text(path, text.getvalue())

    def cut(self, step: int, *, evaluated: bool = True) -> None:
        """Drop the lines of the log and the rows of the results that come after the checkpoint of `step`.

        evaluated: whether the checkpoint was written after that step's evaluation, if there was one. If not, the
        evaluation will be done again, so what is written of it is dropped too.
        """
        cut_log(self.path / LOG, step, evaluated=evaluated)
        cut_results(self.path / RESULTS, step if evaluated else step - 1)


@contextlib.contextmanager
def open_run(
    workdir: Path | None, config_name: str, *, resume: bool = False, runs: Path = Path("runs"), now: float | None = None
) -> Iterator[RunFolder]:
    """Make or reopen a run's folder, and lock it for the block.

    After the block a folder that was made for this run, and in which nothing was written, is removed, and so are those
    above it that were made with it.

    workdir: the folder; None makes <runs>/<config_name>/<time>, with -2, -3, ... added where that exists.
    resume: whether to go on with the run in `workdir`. Where it is False, what a run left that ended before its first
        checkpoint is removed.
    now: seconds since 1970, for the folder's name; None reads the clock.

    Raises InputError where another process uses the folder, where it holds a run and `resume` is False, where `resume`
    is True and it has no last.pt, and where it cannot be made.
    """
    made = [] if resume else _missing(runs / config_name if workdir is None else workdir)
    if resume:
        workdir = last_checkpoint(workdir).parent
    elif workdir is None:
        workdir = _make_default_workdir(runs / config_name, time.time() if now is None else now)
        made.insert(0, workdir)
    else:
        make_folder(workdir)
    lock = lock_folder(workdir)
    try:
        if resume:
            _remove_unfinished(workdir)
        else:
            _clear(workdir)
        yield RunFolder(workdir)
    finally:
        unlock_folder(lock)
        with contextlib.suppress(OSError):  # not empty, or gone
            for folder in made:
                folder.rmdir()


def last_checkpoint(workdir: Path | None) -> Path:
    """The last.pt in the folder that --resume goes on with; InputError where there is none."""
    if workdir is None:
        raise InputError("got --resume without --workdir; give --workdir, the folder of the run to go on with")
    if not (workdir / LAST).is_file():
        raise InputError(
            f"got --resume, but {workdir} has no {LAST}; give the --workdir of a run that has one, "
            "or start a new run without --resume"
        )
    return workdir / LAST


def _missing(folder: Path) -> list[Path]:
    """The folder and those above it that are not there, the deepest first."""
    return [each for each in (folder, *folder.parents) if not each.exists()]


def _make_default_workdir(parent: Path, now: float) -> Path:
    """Make <parent>/<time>. Two runs that start in the same second get two names, for mkdir succeeds only once."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
    number = 0
    while True:
        number += 1
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with write_errors(folder), contextlib.suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


def _clear(workdir: Path) -> None:
    """Remove the files of a run that ended before its first checkpoint, and say so.

    Raises InputError where the folder holds a checkpoint, or other files; hidden ones do not count.
    """
    names = sorted(entry.name for entry in workdir.iterdir() if not entry.name.startswith("."))
    if any(name in (LAST, BEST) for name in names):
        raise InputError(f"the workdir {workdir} holds a run; give --resume or another --workdir")
    own = [name for name in names if name in _FIRST_FILES or _FIRST_PATTERN.fullmatch(name)]
    foreign = names if ENVIRONMENT not in names else [name for name in names if name not in own]
    if foreign:
        shown = ", ".join(foreign[:3]) + (", ..." if len(foreign) > 3 else "")
        raise InputError(f"the workdir {workdir} is not empty ({shown}); give a new or an empty --workdir")
    if names:
        with write_errors(workdir):
            # env.json last: until then a removal that is cut short can be done again.
            for name in sorted(names, key=ENVIRONMENT.__eq__):
                path = workdir / name
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        say(f"removed what a run left in {workdir} that ended before its first checkpoint: {', '.join(names)}")
    _remove_unfinished(workdir)


def _remove_unfinished(workdir: Path) -> None:
    """Remove what a killed run was writing; half a checkpoint may be hundreds of megabytes."""
    for unfinished in workdir.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            unfinished.unlink()
