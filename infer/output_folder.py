"""The folder that a run writes: what is in it, whether it may be written, and what is left of a run that fails.

results.jsonl is written as results come, whatever the format (`journal.py`); summary.json comes last: a folder that has
it holds a whole run. With --format json or parquet, results.jsonl is gone then.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gfl.errors import InputError
from gfl.files import make_folder, write_errors

JOURNAL, DETECTIONS, IMAGES = "results.jsonl", "detections.json", "images.json"
PARTS = "results-*.parquet"
DRAWN, SUMMARY = "drawn", "summary.json"
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP)  # of file systems without them
FILES = (DETECTIONS, SUMMARY, JOURNAL, IMAGES)


@contextlib.contextmanager
def output_folder(folder: Path) -> Iterator[Path]:
    """The folder, made where it does not exist, as an absolute path; where it is new and stays empty it goes again.

    Raises InputError where it cannot be written.
    """
    with write_errors(folder):
        new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        make_folder(folder)
        yield folder.absolute()  # CANN's cache moves the working directory
    finally:
        for path in new_folders:
            with contextlib.suppress(OSError):  # it is not empty: it holds the results
                path.rmdir()


def results_in(folder: Path) -> list[str]:
    """The names of the results that a folder holds; InputError where it cannot be looked into."""
    with write_errors(folder):
        names = [name for name in (DETECTIONS, SUMMARY, DRAWN, JOURNAL, IMAGES) if (folder / name).exists()]
        return names + sorted(path.name for path in folder.glob(PARTS))


def check_free(folder: Path, *, resume: bool = False) -> None:
    """InputError where a folder holds results that this run may not go on with, or cannot be looked into."""
    existing = results_in(folder)
    if not existing:
        return
    if resume:
        if JOURNAL not in existing and SUMMARY not in existing:
            raise InputError(
                f"{folder} holds {' and '.join(existing)} without {JOURNAL}, expected what a run of infer left; give "
                "another --output, or remove them"
            )
        return
    if JOURNAL in existing and SUMMARY not in existing:
        if is_locked(folder / JOURNAL):
            raise busy(folder)
        raise InputError(
            f"{folder} already holds {' and '.join(existing)} of a run that did not end, expected a folder without "
            "results; go on with it by --resume, give another --output, or remove them"
        )
    raise InputError(
        f"{folder} already holds {' and '.join(existing)}, expected a folder without results; give another "
        "--output, or remove them"
    )


def lock(handle: BinaryIO) -> bool:
    """Keep other processes off an open file until this one closes it or ends, however it ends; False where another has
    it. Where the system or the file system has no locks, nobody is kept off."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def is_locked(path: Path) -> bool:
    """Whether another process writes a file."""
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as handle:
            return not lock(handle)
    except OSError:
        return False


def busy(folder: Path) -> InputError:
    """What is said of a folder that another run is writing."""
    return InputError(
        f"{folder} is being written by another run, expected one run at a time; wait for it, or give another --output"
    )


def remove_results(folder: Path) -> None:
    """Remove what a run has written to its folder, and nothing else."""
    shutil.rmtree(folder / DRAWN, ignore_errors=True)
    for path in (*(folder / name for name in FILES), *folder.glob(PARTS)):
        with contextlib.suppress(OSError):
            path.unlink()
    remove_leftovers(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files that a killed run left beside its results; the caller holds the journal."""
    for name in (*FILES, "results-?????.parquet"):
        for path in folder.glob(f".{name}.*.tmp"):  # as gfl.files calls them
            with contextlib.suppress(OSError):
                path.unlink()
