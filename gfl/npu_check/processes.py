"""Runs commands in processes of their own, so that a crash or a hang ends one command alone."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

TAIL_LINES = 12  # of a failed command's output that go into the report
TERMINATE_GRACE_S = 10.0  # between SIGTERM and SIGKILL


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

    def last_line(self) -> str:
        """The last line that it printed, which says why where it failed."""
        return (self.tail().splitlines() or ["nothing was printed"])[-1].strip()

    def shell_text(self) -> str:
        """The command as a person would type it again."""
        return " ".join(
            f'"{word}"' if "'" in word and not set(word) & set('"$`\\') else shlex.quote(word) for word in self.command
        )


def run(command: Sequence[str], log: Path, *, folder: Path, variables: Mapping[str, str], limit_s: float) -> Finished:
    """Run a command in `folder`, and append all that it prints to `log`; raises for nothing that the command does.

    variables: added to the environment. After limit_s the command and the processes that it started are ended.
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
            start_new_session=True,  # so that its children can be ended with it
        )
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _end(process)
    return Finished(tuple(command), code, time.monotonic() - started, log)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command and the processes that it started, as far as they still run."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except (ProcessLookupError, PermissionError):  # nothing is left
            break
        try:
            process.wait(TERMINATE_GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
