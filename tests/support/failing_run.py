"""`gfl.train` of which one rank fails: failing_run.py kill|crash|refuse|term RANK STEP -- the arguments of a run."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count

from gfl import train
from gfl.errors import InputError


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    raise RuntimeError("a bug of the test")


def term() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def refuse() -> None:
    raise InputError("got a mistake, expected none; mend it")


def main() -> int:
    how, rank, last, _, *arguments = sys.argv[1:]
    if os.environ["RANK"] == rank:
        steps, step = count(1), train.step

        def failing(*given: object) -> object:
            if next(steps) == int(last):
                {"kill": kill, "crash": crash, "refuse": refuse, "term": term}[how]()
            return step(*given)  # type: ignore[arg-type]  # as they came

        train.step = failing  # type: ignore[assignment]  # the same call
    return train.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
