"""A run's folder: its lock, and what a run leaves behind for people and for --resume.

Whole files are written beside their place and moved into it, so that a reader never sees half of one; log.jsonl and
results.csv only grow. Only the first process of a distributed run opens the folder.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from gfl.errors import InputError
from gfl.files import append_text, make_folder, to_json, write_atomic, write_errors
from gfl.record.environment import environment
from gfl.record.lock import Lock

LOG = "log.jsonl"
RESULTS = "results.csv"
LAST = "last.pt"
_RUN_FILES = ("config.gin", LOG, LAST)  # any of these says that a folder holds a run


def cut_log(path: Path, step: int, *, evaluated: bool = True) -> int:
    """Drop the lines of a log.jsonl whose `step` lies past the given one; the number of lines dropped.

    Without `evaluated`, those of an evaluation (they have an AP) after that very step are dropped as well.
    A last line that a killed run left half-written is dropped too; a missing file has nothing to drop.
    Raises InputError for a broken line elsewhere.
    """

    def keep(line: str) -> bool:
        entry = json.loads(line)
        return int(entry["step"]) <= (step if evaluated or "AP" not in entry else step - 1)

    return _cut(path, keep, header_lines=0)


def cut_results(path: Path, step: int) -> int:
    """Drop the rows of a results.csv whose `step` lies past the given one; as `cut_log`."""
    column = 0

    def keep(line: str) -> bool:
        return int(next(csv.reader([line]))[column]) <= step

    if path.exists():
        with open(path, encoding="utf-8", newline="") as handle:
            header = next(csv.reader(handle), ["step"])
        if "step" not in header:
            raise InputError(f"{path} has no column `step` (got {header}); move it away to resume without it")
        column = header.index("step")
    return _cut(path, keep, header_lines=1)


def _cut(path: Path, keep: Callable[[str], bool], *, header_lines: int) -> int:
    if not path.exists():
        return 0
    with open(path, encoding="utf-8", errors="replace", newline="\n") as handle:  # lines end at \n and nowhere else
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
    """A run's open folder; the lock is held until `close`, or the end of the `with` block."""

    def __init__(self, path: Path, lock: Lock, *, resumed: bool, made: bool) -> None:
        self.path = path
        self.resumed = resumed
        self._lock = lock
        self._made = made

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the folder back; one that this run made and wrote nothing into is removed."""
        self._lock.release()
        if self._made:
            with contextlib.suppress(OSError):  # not empty, or gone
                self.path.rmdir()

    def write_text(self, name: str, text: str) -> None:
        """Write config.gin, operative.gin and the like, whole."""
        write_atomic(self.path / name, text)

    def write_json(self, name: str, value: object) -> None:
        """Write metrics.json, val_detections.json and the like, whole; NaN becomes null."""
        # Objects are read by people, lists (detections: one of COCO has 500,000) by programs.
        write_atomic(self.path / name, to_json(value, indent=2 if isinstance(value, Mapping) else None) + "\n")

    def write_environment(self, command: Sequence[str], more: Mapping[str, object] | None = None) -> None:
        """Write env.json: `environment(command)` and what the caller adds (device, precision, world size)."""
        self.write_json("env.json", {**environment(command), **(more or {})})

    def append(self, lines: Sequence[Mapping[str, object]]) -> None:
        """Add lines to log.jsonl, all in one write or none; each needs the key `step`."""
        append_text(self.path / LOG, "".join(to_json(line) + "\n" for line in lines))

    def append_result(self, row: Mapping[str, float | int | str | None]) -> None:
        """Add an evaluation to results.csv; the first row's keys (`step` among them) become the columns.

        None and NaN are left blank. Raises ValueError for keys other than the columns.
        """
        path = self.path / RESULTS
        columns, fresh = list(row), True
        if path.exists() and path.stat().st_size:
            with open(path, encoding="utf-8", newline="") as handle:
                columns, fresh = next(csv.reader(handle)), False
        if "step" not in columns or set(columns) != set(row):
            raise ValueError(f"results.csv got the columns {list(row)}; expected {columns}, with `step`")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if fresh:
            writer.writerow(columns)
        writer.writerow(["" if _is_nan(row[column]) else row[column] for column in columns])
        append_text(path, text.getvalue())

    def cut(self, step: int, *, evaluated: bool = True) -> None:
        """Before going on from the checkpoint of `step`: drop what the log and the results say past it.

        evaluated: whether an evaluation after that step, if there was one, is in the checkpoint; if not, it is done
        again, and what is written of it is dropped too.
        """
        cut_log(self.path / LOG, step, evaluated=evaluated)
        cut_results(self.path / RESULTS, step if evaluated else step - 1)


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def open_run(
    workdir: Path | None, config_name: str, *, resume: bool = False, runs: Path = Path("runs"), now: float | None = None
) -> RunFolder:
    """Make or reopen a run's folder, and lock it.

    workdir: None takes runs/<config_name>/<time>, or that with -2, -3, ... where it is taken.
    now: seconds since 1970, for the folder's name; None reads the clock.

    Raises InputError where another process uses the folder, where it holds a run and `resume` is not set, where
    `resume` finds no last.pt, and where the folder cannot be made.
    """
    if resume:
        workdir = last_checkpoint(workdir).parent
        lock = Lock(workdir)
        _remove_unfinished(workdir)
        return RunFolder(workdir, lock, resumed=True, made=False)
    made = workdir is None or not workdir.exists()
    if workdir is None:
        workdir = _make_default_workdir(runs / config_name, time.time() if now is None else now)
    else:
        make_folder(workdir)
    lock = Lock(workdir)
    try:
        _check_free(workdir)
    except InputError:
        lock.release()
        raise
    return RunFolder(workdir, lock, resumed=False, made=made)


def last_checkpoint(workdir: Path | None) -> Path:
    """The last.pt of the folder of --resume; InputError where there is none."""
    if workdir is None:
        raise InputError("got --resume without --workdir; give --workdir, the folder of the run to go on with")
    if not (workdir / LAST).is_file():
        raise InputError(
            f"got --resume, but {workdir} has no {LAST}; give the --workdir of a run that has one, "
            "or start a new run without --resume"
        )
    return workdir / LAST


def _make_default_workdir(parent: Path, now: float) -> Path:
    """Make <parent>/<time>; mkdir itself settles which of two runs of one second gets which name."""
    name = time.strftime("%Y-%m-%d_%H-%M-%S", time.localtime(now))
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with write_errors(folder):
            try:
                folder.mkdir(parents=True)
                return folder
            except FileExistsError:
                number += 1


def _remove_unfinished(workdir: Path) -> None:
    """Remove what a killed run was writing: a checkpoint's half may be hundreds of megabytes."""
    for path in workdir.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            path.unlink()


def _check_free(workdir: Path) -> None:
    names = sorted(entry.name for entry in workdir.iterdir() if not entry.name.startswith("."))
    if any(name in _RUN_FILES for name in names):
        raise InputError(f"the workdir {workdir} holds a run; give --resume or another --workdir")
    if names:
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise InputError(f"the workdir {workdir} is not empty ({shown}); give a new or an empty --workdir")
