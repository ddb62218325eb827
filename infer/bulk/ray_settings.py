"""What Ray reads from the environment when it is imported, set before that."""

from __future__ import annotations

import os

SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to anyone
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # what it prints at a worker's end is told in a sentence
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # matches all: what it says of workers that die, which others replace
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that is still at work when a job is ended would start another Ray
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the coming default, of which it warns otherwise
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


def settle_ray() -> None:
    """Let Ray be silent and send no statistics; what the environment says already stays."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
