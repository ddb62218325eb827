"""What env.json holds: the command, the code, the machine and the packages of a run."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

# Environment variables that change a run's numbers or devices; the rest may hold secrets and is not recorded.
_VARIABLES = re.compile(
    r"(OMP|MKL)_NUM_THREADS|(CUDA|ASCEND_RT)_VISIBLE_DEVICES|CUBLAS_WORKSPACE_CONFIG|WORLD_SIZE|LOCAL_WORLD_SIZE"
)


def environment(command: Sequence[str]) -> dict[str, object]:
    """What distinguishes two runs: the command, the code's commit, the machine, the version of every package."""
    return {
        "command": list(command),
        "folder": str(Path.cwd()),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "git": git_commit(Path(__file__).resolve().parents[2]),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "machine": platform.machine(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if _VARIABLES.fullmatch(name)},
        "packages": _packages(),
    }


def git_commit(folder: Path) -> str | None:
    """The commit of the git checkout whose top is `folder`, with '+changes' if files differ from it; else None."""

    def git(*arguments: str) -> str:
        finished = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True
        )
        return finished.stdout.strip()

    try:
        # An installed package may lie inside somebody else's checkout, whose commit would say nothing.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        commit = git("rev-parse", "HEAD")
        return commit + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _packages() -> dict[str, str]:
    named = ((each.metadata["Name"], each.version) for each in metadata.distributions())
    known = {name: version for name, version in named if name}  # a broken install has no name
    return dict(sorted(known.items(), key=lambda entry: entry[0].lower()))
