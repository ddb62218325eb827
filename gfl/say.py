"""Prints for people, and never raises: what becomes of an output must not cost a result.

The reader of a pipe may go away (`| head -1`), a disk may be full, an output may be closed (`>&-`) or show ASCII alone.
An output that fails is written to no more, by libraries neither; what it cannot encode becomes '?'. Control characters,
which may come from the names of files and classes, are printed as escapes: a terminal would obey them.
"""

from __future__ import annotations

import atexit
import os
import sys
from contextlib import suppress
from typing import TextIO

from gfl.words import printable

STANDARD = (0, 1, 2)  # the file descriptors of standard input, output and error


class Output:
    """A text stream that never raises; rich takes it for a file."""

    def __init__(self, stream: TextIO | None) -> None:
        """stream: None where Python has none, because it was closed before the program began."""
        self._stream = stream
        self.encoding = (getattr(stream, "encoding", None) or "utf-8").lower()

    def write(self, text: str) -> int:
        """Write and flush."""
        if self._stream is not None:
            try:
                # A class name that the terminal cannot show must not end the line, let alone the run.
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
                self._stream.flush()
            except (OSError, ValueError):  # the reader went away, the disk is full, or the stream is closed
                _silence(self._stream)
                self._stream = None
        return len(text)

    def flush(self) -> None:
        """Nothing: `write` does it."""

    def isatty(self) -> bool:
        """Whether a person reads it on a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False


def say(text: str = "", *, error: bool = False, end: str = "\n") -> None:
    """Print a text on stdout, or with `error` on stderr, at once; of control characters, only line ends are kept."""
    lines = "\n".join(map(printable, text.split("\n")))
    Output(sys.stderr if error else sys.stdout).write(lines + end)


def flush_outputs() -> None:
    """Write out what libraries printed. At exit Python does so itself, but a failure would change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            try:
                stream.flush()
            except (OSError, ValueError):
                _silence(stream)


def _silence(stream: TextIO) -> None:
    """Let what the stream still holds, and what anyone writes to it from now on, go to the null device."""
    with suppress(OSError, ValueError):  # it stands for no file
        null = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(null, stream.fileno())
        finally:
            os.close(null)


def _open_standard_files() -> None:
    """Open the null device where a standard file is closed: the next file that is opened would take its number.

    That may be a checkpoint, and C libraries print to numbers.
    """
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number: this one


_open_standard_files()
atexit.register(flush_outputs)
