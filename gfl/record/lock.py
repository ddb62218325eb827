"""The lock of a run's folder: one process at a time writes there."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

from gfl.errors import InputError
from gfl.files import write_errors

LOCK = ".lock"


class Lock:
    """The folder's `.lock`: one line `pid host start`. A lock whose process is gone is taken over.

    Processes are compared by pid and start time, because pids are used again. A lock of another host is trusted:
    nothing here can tell whether that process still lives.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK
        self._owner = f"{os.getpid()} {socket.gethostname()} {_process_start(os.getpid())}"
        for _ in range(2):  # the second time after a stale lock was moved away
            if self._create():
                return
            self._remove_stale()
        raise self._refusal(self._read())

    def release(self) -> None:
        """Give the lock back, if it is still this process's own."""
        if self._owner.startswith(f"{os.getpid()} ") and self._read() == self._owner:  # not in a forked worker
            with contextlib.suppress(OSError):
                self._path.unlink()

    def _create(self) -> bool:
        with write_errors(self._path):
            try:
                descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            try:
                os.write(descriptor, self._owner.encode())
            except OSError:
                self._path.unlink()
                raise
            finally:
                os.close(descriptor)
        return True

    def _read(self) -> str | None:
        try:
            return self._path.read_text(encoding="utf-8").strip()
        except OSError:
            return None

    def _remove_stale(self) -> None:
        found = self._read()
        if found is None:  # released since
            return
        if _lives(found):
            raise self._refusal(found)
        aside = self._path.with_name(f"{LOCK}.{os.getpid()}.tmp")
        with write_errors(self._path):
            os.rename(self._path, aside)
            if aside.read_text(encoding="utf-8").strip() != found:  # another process was quicker: this is its lock
                os.rename(aside, self._path)
                raise self._refusal(self._read())
            aside.unlink()

    def _refusal(self, owner: str | None) -> InputError:
        pid, host, *_ = [*(owner or "").split(" "), "unknown", "unknown"]
        return InputError(
            f"the workdir {self._path.parent} is in use by process {pid or 'unknown'} on {host}; give another "
            f"--workdir, or wait for that run to end (if it is gone for certain, delete {self._path})"
        )


def _lives(owner: str) -> bool:
    """Whether the process named in a lock may still run."""
    pid, _, rest = owner.partition(" ")
    host, _, start = rest.partition(" ")
    if not pid.isdigit() or host != socket.gethostname() or os.name == "nt":  # os.kill ends a process of Windows
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except OSError:  # it lives, and is another user's
        return True
    return start == _process_start(int(pid))


def _process_start(pid: int) -> str:
    """When a process began, as `boot/ticks`; '-' where the system has no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{boot}/{status.rpartition(')')[2].split()[19]}"  # field 22, counted after the name in brackets
    except (OSError, IndexError):
        return "-"
