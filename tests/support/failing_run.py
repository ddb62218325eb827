"""`gfl.train` of which one rank fails: failing_run.py HOW RANK STEP -- the arguments of a run.

HOW is a function below. Where the variable FAIL_ONCE names a file, only the first process to make it fails.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path

from gfl import train
from gfl.errors import InputError

slow: list[float] = []  # seconds before each further step


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    raise RuntimeError("a bug of the test")


def term() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def host() -> None:
    """The agent of torchrun, and this rank of it."""
    os.kill(os.getppid(), signal.SIGKILL)
    kill()


def agent() -> None:
    """The agent alone; this rank goes on, slowly."""
    os.kill(os.getppid(), signal.SIGKILL)
    slow.append(3.0)


def refuse() -> None:
    raise InputError("got a mistake, expected none; mend it")


ways = {each.__name__: each for each in (kill, crash, term, host, agent, refuse)}


def made(path: Path) -> bool:
    """Make a file; whether it was not there."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def main() -> int:
    how, rank, last, _, *arguments = sys.argv[1:]
    once = os.environ.get("FAIL_ONCE")
    if os.environ["RANK"] == rank:
        steps, step = count(1), train.step

        def failing(*given: object) -> object:
            if next(steps) == int(last) and (once is None or made(Path(once))):
                ways[how]()
            time.sleep(sum(slow))
            return step(*given)  # type: ignore[arg-type]  # as they came

        train.step = failing  # type: ignore[assignment]  # the same call
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
