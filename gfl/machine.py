"""What this process may use of the machine it runs on. Pure Python."""

from __future__ import annotations

import os
from pathlib import Path

STATUS = Path("/proc/self/status")  # of Linux


def usable_cores() -> int:
    """CPU cores that this process may use; all of the machine's where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def status_bytes(name: str) -> int | None:
    """What Linux says of this process: 'VmRSS' what it holds, 'VmHWM' the most that it held; None elsewhere."""
    if not STATUS.is_file():
        return None
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    found = next((line.split() for line in lines if line.startswith(f"{name}:")), None)  # 'VmHWM:  123 kB'
    return None if found is None else int(found[1]) * 1024
