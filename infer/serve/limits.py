"""What one server takes at most."""

from __future__ import annotations

import argparse
from typing import NamedTuple

from gfl.errors import InputError

MB = 2**20


class Limits(NamedTuple):
    """Bounds of the memory and of the time that requests take."""

    wait_s: float  # that a picture waits for others, to share a batch
    connections: int  # at a time, in use or idle
    queue: int  # pictures that are inside at a time: being received, waiting or computed
    body_bytes: int  # of a request
    pixels: int  # of a picture
    timeout_s: float  # of a request, from its head to its answer


def read_limits(arguments: argparse.Namespace) -> Limits:
    """The limits of a command line; InputError for what is none."""
    for flag, least, most in (
        ("max_wait_ms", 0, 60_000),
        ("max_connections", 1, 65_536),
        ("max_queue", 1, 65_536),
        ("max_body_mb", 1, 2_047),
        ("max_pixels", 1, 2**40),
        ("timeout_s", 0.1, 86_400),
        ("port", 0, 65_535),
        ("workers", 1, 256),
    ):
        value = getattr(arguments, flag)
        if not least <= value <= most:
            raise InputError(f"got --{flag} {value}, expected {least} to {most}; omit it for the default")
    return Limits(
        wait_s=arguments.max_wait_ms / 1000,
        connections=arguments.max_connections,
        queue=arguments.max_queue,
        body_bytes=arguments.max_body_mb * MB,
        pixels=arguments.max_pixels,
        timeout_s=arguments.timeout_s,
    )
