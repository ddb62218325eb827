"""A server among clients of all kinds, told to end in the middle: their answers, and its own counts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from benchmarks.serving import ServerProcess, counted, serving

FLAGS = ("--max_body_mb", "1", "--timeout_s", "20")
CLIENTS_FILE = Path(__file__).with_name("mixed_clients.py")


class Mixed(NamedTuple):
    """What came of it."""

    outcomes: Mapping[str, Mapping[str, int]]  # kind of request -> status, or what was wrong -> how many
    server: Mapping[str, int]  # status -> how many, by its own count
    left: int  # requests whose clients left
    left_early: int  # of them, before the server was told to end
    unanswered_early: int  # requests, before that
    warm_mb: float  # resident memory of the server
    end_mb: float
    exit_code: int
    seconds_to_end: float
    stderr: str

    @property
    def answered(self) -> Counter[str]:
        """Status -> how many, by what the clients saw."""
        all_kinds: Counter[str] = sum((Counter(kind) for kind in self.outcomes.values()), Counter())
        del all_kinds["unanswered"]
        return all_kinds

    @property
    def lost(self) -> dict[str, int]:
        """Requests of which the server counts more or less than clients saw, by status; clients that left aside."""
        seen, spare = self.answered, Counter(self.server)
        spare.subtract(seen)
        taken = sum(count for status, count in spare.items() if status in LEAVERS and count > 0)
        wrong = {status: count for status, count in spare.items() if count < 0 or (count > 0 and status not in LEAVERS)}
        if not self.left_early <= taken <= self.left:  # one that came when the server had ended is in no count of its
            wrong["left"] = taken - self.left
        return wrong


LEAVERS = ("200", "499", "503")  # what a request may count as whose client left: it may have been answered before


def run_mixed(model: Path, folder: Path, clients: int, seconds: float) -> Mixed:
    """Let locust send for so long, then end the server meanwhile. folder: of `benchmarks.serving.write_bodies`."""
    with serving(model, FLAGS) as server:
        environment = {**os.environ, "GFL_MIXED_FOLDER": str(folder)}
        words = [sys.executable, "-m", "locust", "--locustfile", str(CLIENTS_FILE), "--headless", "--only-summary"]
        words += ["--users", str(clients), "--spawn-rate", str(clients), "--host", f"http://127.0.0.1:{server.port}"]
        with (folder / "locust.log").open("w", encoding="utf-8") as log:
            locust = subprocess.Popen(words, stdout=log, stderr=log, env=environment)
            try:
                return watch(server, locust, folder, seconds)
            finally:
                locust.kill()
                locust.wait()


def watch(server: ServerProcess, locust: subprocess.Popen[bytes], folder: Path, seconds: float) -> Mixed:
    """End the server while locust sends, then locust."""
    time.sleep(seconds / 3)
    warm = server.resident_mb()
    time.sleep(seconds * 2 / 3)
    end_mb, told = server.resident_mb(), time.time()
    exit_code, stderr = server.end()
    seconds_to_end = time.time() - told
    time.sleep(1)  # for clients to see that it is gone
    locust.send_signal(signal.SIGTERM)
    locust.wait(60)
    clients = json.loads((folder / "clients.json").read_text(encoding="utf-8"))
    early = {name: sum(when < told for when in clients[name]) for name in ("left", "unanswered")}
    return Mixed(
        outcomes=clients["outcomes"],
        server=counted(server.counts),
        left=len(clients["left"]),
        left_early=early["left"],
        unanswered_early=early["unanswered"],
        warm_mb=warm,
        end_mb=end_mb,
        exit_code=exit_code,
        seconds_to_end=seconds_to_end,
        stderr=stderr,
    )
