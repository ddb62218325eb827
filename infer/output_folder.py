"""The folder that a run writes: detections.json, summary.json and the drawn pictures, all of it or nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from gfl.errors import InputError
from gfl.files import make_folder, to_json, write_errors

DRAWN, DETECTIONS, SUMMARY = "drawn", "detections.json", "summary.json"  # moved into place in this order


@contextlib.contextmanager
def new_results(folder: Path) -> Iterator[Path]:
    """A hidden folder whose results are moved to `folder` when the block ends well, and vanish when it does not.

    Raises InputError where `folder` cannot be written or holds results already.
    """
    check_free(folder)
    with write_errors(folder):
        new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    unfinished = folder.absolute() / f".unfinished.{os.getpid()}"  # absolute: CANN's cache moves the working directory
    try:
        make_folder(unfinished)
        yield unfinished
        check_free(folder)  # another run may have ended meanwhile
        with write_errors(folder):
            for name in (DRAWN, DETECTIONS, SUMMARY):
                if (unfinished / name).exists():
                    os.replace(unfinished / name, folder / name)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for path in new_folders:
            with contextlib.suppress(OSError):  # it is not empty: it holds the results
                path.rmdir()


def check_free(folder: Path) -> None:
    """InputError where a folder holds results, or cannot be looked into."""
    with write_errors(folder):
        existing = [name for name in (DETECTIONS, SUMMARY, DRAWN) if (folder / name).exists()]
    if existing:
        raise InputError(
            f"{folder} already holds {' and '.join(existing)}, expected a folder without results; give another "
            "--output, or remove them"
        )


class DetectionsFile:
    """A COCO results file that is being written, one line a detection."""

    def __init__(self, path: Path, handle: BinaryIO) -> None:
        self.count = 0
        self._path = path
        self._handle = handle

    def add(self, lines: Iterable[bytes]) -> None:
        """Append detections, each a JSON object on one line. Raises InputError where the disk is full."""
        with write_errors(self._path):
            for line in lines:
                self._handle.write((b",\n" if self.count else b"[\n") + line)
                self.count += 1

    def end(self) -> None:
        """Close the JSON list, and wait until the disk has it. Raises InputError where the disk is full."""
        with write_errors(self._path):
            self._handle.write(b"\n]\n" if self.count else b"[]\n")
            self._handle.flush()
            os.fsync(self._handle.fileno())


@contextlib.contextmanager
def detections_file(path: Path) -> Iterator[DetectionsFile]:
    """A new file to add detections to; whole when the block ends well. Raises InputError where it cannot be written."""
    with write_errors(path):
        handle = open(path, "wb")  # noqa: SIM115  # the block may run for hours, and its own errors are not the file's
    try:
        detections = DetectionsFile(path, handle)
        yield detections
        detections.end()
    finally:
        with contextlib.suppress(OSError):  # what could not be written was said already
            handle.close()


def read_lines(path: Path) -> Iterator[bytes]:
    """The detections of a file that `DetectionsFile` wrote, each as its JSON object."""
    with open(path, "rb") as handle:
        for line in handle:
            text = line.strip().removesuffix(b",")
            if text.startswith(b"{"):
                yield text


def encode_line(row: object) -> bytes:
    """A JSON object on one line; bytes of a file name that are not Unicode become escapes."""
    return to_json(row).encode("utf-8", "backslashreplace")
