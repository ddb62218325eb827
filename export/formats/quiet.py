"""Converters that write a line a step, kept from doing so."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Throw away what the block writes to the standard output and error, native code included; exceptions pass."""
    streams = ((1, sys.stdout), (2, sys.stderr))
    for _, stream in streams:
        stream.flush()
    kept, nowhere = [os.dup(number) for number, _ in streams], os.open(os.devnull, os.O_WRONLY)
    try:
        for number, _ in streams:
            os.dup2(nowhere, number)
        yield
        for _, stream in streams:
            stream.flush()
    finally:
        for (number, _), copy in zip(streams, kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nowhere)
