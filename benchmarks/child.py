"""A training step in a process of its own, for what is set before torch is imported and for the peak of its memory.

`python -m benchmarks.child CASE`, a case as a JSON list, takes as many steps as each line of its standard input says
and answers each with a line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from benchmarks.cases import Case
from gfl.engine.crowded import yielding_on_crowded_cores
from gfl.engine.device import memory_bytes
from gfl.engine.heap import keep_freed_memory
from gfl.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
BUSY_LOOP = "import os; os.nice(19)\nwhile True: pass"
SPINNING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


class Answer(NamedTuple):
    """What a child has measured."""

    seconds: float  # a step, median
    peak_mb: float  # of the process so far
    before_mb: float  # the same before the first step: Python, torch, weights and pictures


class Child:
    """A running child; `steps` lets it work, else it sleeps."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("a child needs pipes for its input and output")
        self.process, self.questions, self.answers = process, process.stdin, process.stdout

    def steps(self, count: int) -> Answer:
        """Let it take steps; InputError where it has ended."""
        try:
            self.questions.write(f"{count}\n")
            self.questions.flush()
            line = self.answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise InputError(
                f"got exit status {self.process.wait()} from {self.process.args!r}, expected the times of its steps; "
                "mend what it wrote above"
            )
        return Answer(*json.loads(line))


@contextmanager
def children(cases: Mapping[str, tuple[Case, Mapping[str, str]]]) -> Iterator[dict[str, Child]]:
    """A child for each label's (case, variables of the environment); they end with the context."""
    inherited = {name: value for name, value in os.environ.items() if name not in SPINNING}
    with ExitStack() as stack:
        started: dict[str, Child] = {}
        for label, (case, environment) in cases.items():
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.child", json.dumps(case)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**inherited, **environment},
            )
            stack.callback(_end, process)
            started[label] = Child(process)
        yield started


@contextmanager
def busy_process() -> Iterator[None]:
    """One process at nice 19 that computes, in a session of its own: the scheduler shares cores among sessions."""
    process = subprocess.Popen([sys.executable, "-c", BUSY_LOOP], start_new_session=True)
    try:
        time.sleep(0.2)  # until it loops
        yield
    finally:
        _end(process)


def _end(process: subprocess.Popen[str] | subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):  # a question that it has not read
                pipe.close()


def peak_mb() -> float:
    """The most memory that this process has held, MB."""
    return (memory_bytes(torch.device("cpu")) or 0) / 2**20


def main() -> int:
    """Answer each line of the standard input until it ends."""
    case = Case(*json.loads(sys.argv[1]))
    keep_freed_memory()
    step = case.make_step()
    before = peak_mb()
    with yielding_on_crowded_cores():  # as training does
        for line in sys.stdin:
            seconds = []
            for _ in range(int(line)):
                started = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - started)
            print(json.dumps(Answer(median(seconds), peak_mb(), before)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
