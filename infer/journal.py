"""results.jsonl: a line that says what the results are of, then a line a picture in the order of the input.

It is written as results come, whatever the format, so that a killed run loses what was not written yet and no more. A
run with --resume cuts off what follows its last whole line, and goes on there.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from gfl.errors import InputError
from gfl.files import write_errors
from infer.head import RESUMED, Head, differences
from infer.output_folder import SUMMARY, busy, is_locked, lock
from infer.rows import Row, encode, is_row
from infer.videos import video_of

HEAD_START = b'{"results_version"'


class Journal:
    """A results.jsonl that this process alone writes to."""

    def __init__(self, path: Path, handle: BinaryIO, resumed: int) -> None:
        """handle: of the file, unbuffered, at its end. resumed: pictures that it holds already."""
        self.path = path
        self.resumed = resumed
        self.is_complete = False  # every picture is in it
        self._handle = handle

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._handle.close()

    def add(self, line: bytes) -> None:
        """Write a line. Raises InputError where the disk is full or the file was removed."""
        with write_errors(self.path):
            rest = memoryview(line)
            while rest:  # a full disk may take a part and refuse the next
                rest = rest[self._handle.write(rest) :]
            if not self.is_there:
                raise InputError(
                    f"{self.path} was removed while results were written to it, expected it to stay until the run "
                    "ends; start the run again"
                )

    def end(self) -> None:
        """Wait until the disk has it: every picture is in it."""
        with write_errors(self.path):
            os.fsync(self._handle.fileno())
        self.is_complete = True

    @property
    def is_there(self) -> bool:
        """Whether the file is still in a folder: it may be removed while it is written."""
        return os.fstat(self._handle.fileno()).st_nlink > 0

    def rows(self) -> Iterator[Row]:
        """The pictures that were written."""
        return read_rows(self.path)


def new_journal(path: Path, head: Head) -> Journal:
    """A new file; InputError where there is one, or it cannot be written."""
    with write_errors(path):
        try:
            handle = open(path, "xb", buffering=0)  # noqa: SIM115  # it follows no link; the journal closes it
        except FileExistsError:
            raise busy(path.parent) from None
    journal = Journal(path, handle, 0)
    if not lock(handle):  # a run with --resume took it up at once
        handle.close()
        raise busy(path.parent)
    try:
        journal.add(encode(head))
    except BaseException:
        handle.close()
        path.unlink(missing_ok=True)
        raise
    return journal


def resumed_journal(path: Path, head: Head, names: Sequence[str] | None, keep: Callable[[Row], bool]) -> Journal:
    """The file of a run that did not end, cut after its last whole line.

    names: of the pictures in order, where they are known. keep: whether a picture need not be done again; what
    follows the first that must be is cut off, too. Raises InputError where the file is of another model, other
    pictures or other flags, and where another run is writing it.
    """
    with write_errors(path):
        handle = open(path, "r+b", buffering=0, opener=_open_no_link)  # noqa: SIM115  # the journal closes it
    try:
        with write_errors(path):
            if not lock(handle):
                raise busy(path.parent)
            if os.fstat(handle.fileno()).st_nlink == 0:
                raise InputError(f"{path.parent} was written by another run that has just ended; see {path.parent}")
            before, resumed, stop = read_whole_lines(path, head, names, keep)
            if before is not None:
                for what in differences(before, cast(Mapping[str, object], head), RESUMED):
                    raise InputError(
                        f"{path} is of {what} than this run, expected the same to go on with it; give the flags, the "
                        "model and the pictures of the run that began it, or another --output, or remove it"
                    )
            handle.truncate(stop)
            handle.seek(stop)
        journal = Journal(path, handle, resumed)
        if before is None:  # the run was killed before the first line was whole
            journal.add(encode(head))
    except BaseException:
        handle.close()
        raise
    return journal


def read_whole_lines(
    path: Path, expected: Head, names: Sequence[str] | None, keep: Callable[[Row], bool]
) -> tuple[Mapping[str, object] | None, int, int]:
    """The head, None where it is torn; how many pictures follow it; and where the last of them ends, in bytes.

    A line that is no picture, or one of another class than the expected head names, ends them, whoever wrote it.
    """
    head: Mapping[str, object] | None = None
    ids = {category["id"] for category in expected["categories"]}
    rows, stop = 0, 0
    with open(path, "rb") as file:
        start = file.read(len(HEAD_START))
        if not HEAD_START.startswith(start):  # a shorter one was torn
            raise InputError(f"{path} begins with no line of infer, expected its results; give another --output")
        file.seek(0)
        for line in file:
            entry = parse(line)
            if entry is None:
                break
            if head is None:
                if "results_version" not in entry:
                    raise InputError(
                        f"{path} begins with no line of infer, expected its results; give another --output"
                    )
                head = entry
            else:
                if not is_row(entry) or not ids.issuperset(each["category_id"] for each in entry["detections"]):
                    break
                if (names is not None and entry["file"] != _name_at(names, rows)) or not keep(entry):
                    break
                rows += 1
            stop += len(line)
    return head, rows, stop


def is_leftover(path: Path) -> bool:
    """Whether the file is what a killed run with --format json left, which every run of its kind goes on with."""
    try:
        if not path.is_file() or path.with_name(SUMMARY).exists() or is_locked(path):
            return False
        with open(path, "rb", opener=_open_no_link) as file:
            line = file.readline()
    except OSError:
        return False
    entry = parse(line)
    return HEAD_START.startswith(line) if entry is None else entry.get("format") == "json"


def last_video(path: Path) -> str | None:
    """The video of the last frame that was written; None where there is none."""
    last = None
    with contextlib.suppress(OSError), open(path, "rb", opener=_open_no_link) as file:
        for line in file:
            entry = parse(line)
            last = video_of(str(entry["file"])) if entry is not None and "file" in entry else last
    return last


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0))


def _name_at(names: Sequence[str], place: int) -> str | None:
    return names[place] if place < len(names) else None


def parse(line: bytes) -> Mapping[str, object] | None:
    """The object on a line; None where the line is torn."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def read_rows(path: Path) -> Iterator[Row]:
    """The pictures of a whole results.jsonl; InputError for a line that is none."""
    with open(path, "rb") as file:
        next(file, None)  # the head
        for number, line in enumerate(file, start=2):
            entry = parse(line)
            if entry is None or not is_row(entry):
                raise InputError(f"{path} has no picture on line {number}, expected one a line; run infer again")
            yield entry
