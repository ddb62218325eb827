"""`python -m infer.serve`: flags that it refuses, and as a process: signals, workers, and load."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import infer_program
import pytest
import tiny
from tiny_onnx import write_onnx

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from http_server import Client, noise, wait_for  # they need it

from gfl import packages
from gfl.errors import InputError
from infer.serve.__main__ import main
from infer.serve.command import is_loopback

ROOT = Path(__file__).resolve().parents[1]
PICTURE = noise(64, 96)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("model") / "tiny.onnx")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "0.0.0.0"], "give a token, or --open"),
        (["--host", "detector.example"], "give a token, or --open"),
        (["--token", ""], "without spaces around it"),
        (["--token", " spaced"], "without spaces around it"),
        (["--token", "schön"], "printable ASCII"),
        (["--port", "70000"], "--port 70000"),
        (["--max_queue", "0"], "--max_queue 0"),
        (["--max_wait_ms", "-1"], "--max_wait_ms -1"),
        (["--timeout_s", "nan"], "--timeout_s nan"),
        (["--max_batch", "3"], "takes exactly 2 at a time"),
        (["--host", "203.0.113.7", "--open"], "cannot listen on 203.0.113.7"),
    ],
)
def test_flags_are_refused_in_a_sentence(
    model: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in tiny.refusal(main, ["--model", str(model), *flags], capsys)


def test_a_port_that_is_taken_is_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port}" in tiny.refusal(main, ["--model", str(model), "--port", port], capsys)


def test_a_missing_package_is_told(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(module: str, needed: str, mend: str) -> None:
        raise InputError(f"{needed} cannot be imported; {mend}")

    monkeypatch.setattr(packages, "import_package", missing)
    assert "pip install 'gflv2[serve]'" in tiny.refusal(main, ["--model", str(model)], capsys)


def test_loopback_is_told_from_the_rest() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.8.9.10", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "example.com", "")] == [False] * 5


# ---- as a process ----


class Process:
    """A server as a process of its own, on a free port."""

    def __init__(self, model: Path, *flags: str) -> None:
        words = [sys.executable, "-m", "infer.serve", "--model", str(model), "--port", "0", *flags]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment)
        assert self._process.stdout is not None
        line = b""
        while b"serving" not in line:
            line = self._process.stdout.readline()
            assert line, "it has ended"
        port = int(line.partition(b"127.0.0.1:")[2].partition(b"/")[0])
        self.client = Client(port)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Exit code, and what was printed after the start."""
        printed = self._process.communicate(timeout=60)[0]
        return self._process.returncode, printed.decode()

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def process(model: Path, *flags: str) -> Iterator[Process]:
    started = Process(model, *flags)
    try:
        yield started
    finally:
        started.kill()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_finishes_what_is_in_flight_and_refuses_the_rest(model: Path, number: int) -> None:
    with ExitStack() as stack, process(model) as server:
        assert server.client.get("/v2/health/ready").status == 200
        accepted = stack.enter_context(server.client.open("/detect", len(PICTURE), sent=PICTURE[:-1]))
        wait_for(lambda: b"gfl_queue_pictures 1.0" in server.client.get("/metrics").body)
        server.signal(number)
        wait_for(lambda: server.client.get("/v2/health/ready").status == 503)
        assert server.client.detect(PICTURE).status == 503
        accepted.sendall(PICTURE[-1:])
        answer = accepted.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert server.end() == (0, "")


@pytest.mark.slow
def test_a_second_signal_waits_for_nobody_new_and_still_finishes(model: Path) -> None:
    with ExitStack() as stack, process(model) as server:
        accepted = stack.enter_context(server.client.open("/detect", len(PICTURE), sent=PICTURE[:-1]))
        wait_for(lambda: b"gfl_queue_pictures 1.0" in server.client.get("/metrics").body)
        server.signal(signal.SIGTERM)
        wait_for(lambda: server.client.get("/v2/health/ready").status == 503)
        server.signal(signal.SIGTERM)
        accepted.sendall(PICTURE[-1:])
        assert accepted.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert server.end()[0] == 0


@pytest.mark.slow
def test_several_workers_answer_and_count_together(model: Path) -> None:
    with process(model, "--workers", "2") as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(server.client.detect, [PICTURE] * 32))
        assert {answer.body for answer in answers} == {answers[0].body}
        assert answers[0].status == 200
        counted = server.client.get("/metrics").body.decode()
        assert 'gfl_requests_total{path="/detect",status="200"} 32.0' in counted
        server.signal(signal.SIGTERM)
        assert server.end()[0] == 0


@pytest.mark.slow
def test_a_signal_lets_every_worker_finish(model: Path) -> None:
    with ExitStack() as stack, process(model, "--workers", "2") as server:
        accepted = [
            stack.enter_context(server.client.open("/detect", len(PICTURE), sent=PICTURE[:-1])) for _ in range(8)
        ]
        wait_for(lambda: b"gfl_queue_pictures 8.0" in server.client.get("/metrics").body)
        server.signal(signal.SIGTERM)
        time.sleep(0.5)
        for connection in accepted:
            connection.sendall(PICTURE[-1:])
        assert [connection.recv(65536)[:12] for connection in accepted] == [b"HTTP/1.1 200"] * 8
        assert server.end()[0] == 0


@pytest.mark.slow
def test_sixteen_clients_get_infers_rows_among_bad_requests(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(40):
        (folder / f"{i:02}.png").write_bytes(noise(40 + i, 130 - i, seed=i))
    assert (
        infer_program.detect("--model", model, "--input", folder, "--output", tmp_path / "a", "--format", "jsonl") == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "a" / "results.jsonl").read_text().splitlines()[1:]]
    with process(model, "--max_body_mb", "1") as server, ThreadPoolExecutor(16) as pool:

        def ask(i: int) -> tuple[int, object]:
            row = rows[i % len(rows)]
            if i % 20 == 7:
                return server.client.detect(b"no picture").status, None
            if i % 20 == 13:
                return server.client.detect(bytes(3 * 2**20)).status, None
            if i % 20 == 17:
                server.client.open("/detect", 10_000, sent=PICTURE[:100]).close()
                return 0, None
            answer = server.client.detect_form([(row["file"], (folder / row["file"]).read_bytes())])
            return answer.status, answer.json == [{**row, "id": 1}]

        answers = list(pool.map(ask, range(800)))
        server.signal(signal.SIGTERM)
        assert server.end() == (0, "")
    for i, answer in enumerate(answers):
        special = {7: (422, None), 13: (413, None), 17: (0, None)}
        assert answer == special.get(i % 20, (200, True)), i
