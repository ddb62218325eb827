"""Converters that write a line a step to the standard output or the standard error, kept from doing so."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet(*streams: int) -> Iterator[None]:
    """Throw away what the block writes to these streams, native code too; 1: the standard output, 2: errors."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    kept, nowhere = {each: os.dup(each) for each in streams}, os.open(os.devnull, os.O_WRONLY)
    try:
        for each in streams:
            os.dup2(nowhere, each)
        yield
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        for each, copy in kept.items():
            os.dup2(copy, each)
            os.close(copy)
        os.close(nowhere)
