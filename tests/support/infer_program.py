"""infer/run.py called in this process, or in one of its own that says what memory it took."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tiny

from infer import run


def detect(*arguments: object) -> int:
    """Run the program; its exit code."""
    return run.main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the program says to arguments that it does not take."""
    return tiny.refusal(run.main, [str(argument) for argument in arguments], capsys)


# Of the process itself: what `resource` gives also counts the process that it was forked from.
AND_ITS_MEMORY = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code
with open("/proc/self/status") as status:
    print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def peak_kb(*arguments: object) -> int:
    """Run the program in a process of its own, which must end well; the most memory that it took, KB."""
    program = Path(run.__file__)
    command = [sys.executable, "-c", AND_ITS_MEMORY, str(program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.split()[-1])
