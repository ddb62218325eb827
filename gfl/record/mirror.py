"""A copy of a run's folder in storage that outlives the host: kept up while the run goes on, and fetched to go on.

Each file appears there whole. last.pt is taken before the logs are sent and sent after them, so that what stands there
is a folder that --resume goes on with, whenever the sending was cut short. A thread sends; no failure of it ends a run.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gfl.engine.checkpoints import read_state
from gfl.errors import InputError
from gfl.files import draft_path, make_folder, write_errors
from gfl.record.lock import lock_folder, unlock_folder
from gfl.record.run_folder import LAST
from gfl.say import say
from gfl.storage import file_system, put_whole, storage_told

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0  # after a failure, doubled with each
END_WAIT_S = 600.0  # for the last files of a run that is finished
STOPPED_WAIT_S = 20.0  # for those of one that a signal or an error ends: batch systems kill after thirty seconds


class Mirror:
    """Keeps `uri` as the run's folder is; made by the first rank, and closed at the end."""

    def __init__(self, folder: Path, uri: str) -> None:
        self.folder, self.uri = folder, uri.rstrip("/")
        self._sent: dict[str, tuple[int, int]] = {}  # name -> time and size of what was sent
        self._failure, self._told = "", ""
        self._due, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
        self._thread.start()

    def update(self) -> None:
        """A checkpoint was written: let the thread send what changed."""
        self._due.set()

    def news(self) -> str:
        """What failed since the last call, in a sentence; empty where nothing did. It is tried again until it goes."""
        failure, told = self._failure, self._told
        self._told = failure
        return f"not copied yet, and tried again: {failure}" if failure and failure != told else ""

    def close(self, wait_s: float) -> str:
        """Send what changed, and wait for it; a sentence about what was not sent, or nothing."""
        self._closing.set()
        self._due.set()
        self._thread.join(wait_s)
        if not self._thread.is_alive() and not self._failure:
            return ""
        reason = self._failure or f"no end within {wait_s:.0f} s"
        return f"not all of {self.folder} is in {self.uri} ({reason}); copy the folder there by hand"

    def _work(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            self._due.wait()
            self._due.clear()
            closing = self._closing.is_set()
            try:
                self._send()
                self._failure, pause = "", FIRST_PAUSE_S
            except InputError as error:
                self._failure = str(error)
                self._due.set()
            if closing:  # what was tried since is all that the run waits for
                return
            if self._failure:
                self._closing.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)

    def _send(self) -> None:
        """Send what changed since it was sent, last.pt last, and remove what the run has removed."""
        snapshot = draft_path(self.folder / LAST)  # a resumed run removes what a killed one leaves of it
        try:
            with write_errors(snapshot), suppress(FileNotFoundError):
                try:
                    os.link(self.folder / LAST, snapshot)
                except OSError:  # a file system without links
                    shutil.copyfile(self.folder / LAST, snapshot)
            here = {path.relative_to(self.folder).as_posix(): path for path in files_of(self.folder)}
            here.pop(LAST, None)
            if snapshot.exists():
                here[LAST] = snapshot
            for name, path in here.items():
                with suppress(FileNotFoundError):  # it was removed meanwhile
                    state = path.stat()
                    stamp = (state.st_mtime_ns, state.st_size)
                    if self._sent.get(name) != stamp:
                        put_whole(path, f"{self.uri}/{name}")
                        self._sent[name] = stamp
            for name in self._sent.keys() - here.keys():
                with storage_told(f"{self.uri}/{name}"):
                    storage, path_there = file_system(f"{self.uri}/{name}")
                    storage.rm_file(path_there)
                del self._sent[name]
        finally:
            snapshot.unlink(missing_ok=True)


def files_of(folder: Path) -> Iterator[Path]:
    """The files of a run's folder but for hidden ones: locks, and what is being written."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


@contextmanager
def mirrored(folder: Path | None, uri: str | None) -> Iterator[Mirror | None]:
    """The mirror of a run while the block runs; None without a URI, and on ranks without a folder."""
    if folder is None or uri is None:
        yield None
        return
    mirror, wait_s = Mirror(folder, uri), STOPPED_WAIT_S
    try:
        yield mirror
        wait_s = END_WAIT_S
    finally:
        if unsent := mirror.close(wait_s):
            say(unsent, error=True)


def holds_run(uri: str) -> bool:
    """Whether there is a last.pt of a run."""
    with storage_told(uri):
        storage, path = file_system(f"{uri.rstrip('/')}/{LAST}")
        return storage.exists(path)


def fetch_run(uri: str, workdir: Path) -> None:
    """Bring a run's folder from storage, where its last.pt is there and further than the one in the workdir.

    Raises InputError where another process uses the workdir, and where the storage does not answer.
    """
    if not holds_run(uri):
        return
    make_folder(workdir)
    lock = lock_folder(workdir)
    draft = draft_path(workdir / LAST)
    try:
        with storage_told(uri):
            storage, root = file_system(uri.rstrip("/"))
            storage.get_file(f"{root}/{LAST}", str(draft))
            here = workdir / LAST
            if here.is_file() and steps_of(here) >= steps_of(draft):
                return
            for there in storage.find(root):
                name = there.removeprefix(root).lstrip("/")
                if name != LAST and not any(part.startswith(".") for part in name.split("/")):
                    target = workdir / name
                    make_folder(target.parent)
                    storage.get_file(there, str(target))
            os.replace(draft, here)
    finally:
        draft.unlink(missing_ok=True)
        unlock_folder(lock)


def steps_of(checkpoint: Path) -> int:
    """Optimiser steps that a checkpoint has done."""
    cursor = read_state(checkpoint)["cursor"]
    return int(cursor["step"]) if isinstance(cursor, dict) else 0
