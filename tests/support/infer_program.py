"""infer/run.py called in this process."""

from __future__ import annotations

import pytest
import tiny

from infer import run


def detect(*arguments: object) -> int:
    """Run the program; its exit code."""
    return run.main([str(argument) for argument in arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the program says to arguments that it does not take."""
    return tiny.refusal(run.main, [str(argument) for argument in arguments], capsys)
