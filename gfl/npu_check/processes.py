"""Running the parts: each command in a process of its own, so that a crash or a hang ends that command alone."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TAIL_LINES = 12  # of a failed command's output that go into the report
TERMINATED_S = 10.0  # between asking a command to end and ending it


class Finished(NamedTuple):
    """A command that has ended."""

    command: tuple[str, ...]
    code: int | None  # its exit code, negative for a signal; None where it was stopped for taking too long
    seconds: float
    log: Path  # what it printed, on both streams

    def tail(self) -> str:
        """The last lines of what it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="backslashreplace").rstrip().splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def said(self) -> str:
        """The last line that it printed, which holds the reason where it failed."""
        return (self.tail().splitlines() or ["nothing was printed"])[-1].strip()


def run(command: Sequence[str], log: Path, *, folder: Path, variables: Mapping[str, str], limit_s: float) -> Finished:
    """Run a command in `folder` with more environment variables, everything it prints in `log`; never raises for it.

    After limit_s the command and the processes that it started are ended.
    """
    started = time.monotonic()
    with open(log, "ab") as handle:
        handle.write(f"$ {' '.join(command)}\n".encode())
        handle.flush()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # its children end with it
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    return Finished(tuple(command), code, time.monotonic() - started, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a command and of the processes that it started."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):  # nothing is left
            break
        try:
            process.wait(TERMINATED_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
