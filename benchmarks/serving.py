"""A server as a process of its own, under load: what it is asked, what wrk makes of it, and what the server counts."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gfl.files import to_json
from infer.serve.metrics import FOLDER_VARIABLE, of_all_workers

WARM_S = 10.0  # after which the server's memory is to be flat
COUNTED = r'gfl_requests_total\{path="/detect",status="(\d+)"\} (\S+)'
SCRIPT = """
local bodies, wanted, at, threads = {{}}, {{}}, 0, {{}}
wrong = 0
local function content(path) local file = io.open(path, "rb"); local all = file:read("*a"); file:close(); return all end
function setup(thread) table.insert(threads, thread) end
function init()
  for i = 1, {count} do
    bodies[i] = content("{folder}/" .. i .. ".body")
    local answer = content("{folder}/" .. i .. ".json")
    wanted[answer:match('"file": "(.-)"')] = answer
  end
end
function request()
  at = at % {count} + 1
  return wrk.format("POST", "/detect", {{["Content-Type"] = "multipart/form-data; boundary=limit"}}, bodies[at])
end
function response(status, headers, body)
  if status ~= 200 or body ~= wanted[body:match('"file": "(.-)"')] then wrong = wrong + 1 end
end
function done(summary, latency)
  local all = 0
  for _, thread in ipairs(threads) do all = all + thread:get("wrong") end
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  print(string.format('{{"requests": %d, "seconds": %.3f, "wrong": %d, "failed": %d, "p50_ms": %.1f, "p99_ms": %.1f}}',
    summary.requests, summary.duration / 1e6, all, failed, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


class Load(NamedTuple):
    """What came of a load; the fields of wrk's report, and the server's own count and memory."""

    clients: int
    requests: int
    seconds: float
    wrong: int  # answers that are not infer's row
    failed: int  # connections
    p50_ms: float
    p99_ms: float
    served: int  # by the server's count: also those that were under way when wrk ended
    warm_mb: float  # resident, after WARM_S
    end_mb: float


class ServerProcess(NamedTuple):
    """One that runs."""

    process: subprocess.Popen[str]
    port: int
    counts: Path  # a folder of numbers, which outlives it
    stderr: Path

    def resident_mb(self) -> float:
        """Memory that it holds."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def end(self) -> tuple[int, str]:
        """Tell it to end; its exit code, and what it wrote to stderr."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        return code, self.stderr.read_text(encoding="utf-8")


@contextmanager
def serving(model: Path, flags: Sequence[str] = ()) -> Iterator[ServerProcess]:
    """A server on a free port of loopback; it is ended afterwards."""
    words = [sys.executable, "-m", "infer.serve", "--model", str(model), "--port", "0", *flags]
    with tempfile.TemporaryDirectory() as temporary:
        counts, stderr = Path(temporary) / "counts", Path(temporary) / "stderr"
        counts.mkdir()
        environment = {**os.environ, FOLDER_VARIABLE: str(counts)}  # so that the counts lie in files
        with stderr.open("w", encoding="utf-8") as errors:
            process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        try:
            lines = process.stdout or ()
            port = next(found[1] for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)/", line)))
            yield ServerProcess(process, int(port), counts, stderr)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
            if process.stdout:
                process.stdout.close()


def counted(counts: Path) -> dict[str, int]:
    """Requests for detections that a server has answered, by status, by its own count."""
    found = re.findall(COUNTED, of_all_workers(str(counts)).decode())
    return {status: int(float(count)) for status, count in found}


def run_infer(model: Path, images: Path, output: Path) -> tuple[list[dict[str, object]], float]:
    """infer's rows of a folder, and pictures a second."""
    flags = ["--model", str(model), "--input", str(images), "--output", str(output), "--format", "jsonl"]
    subprocess.run([sys.executable, "-m", "infer.run", *flags], check=True)
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return [json.loads(line) for line in lines], float(summary["img_per_s"])


def write_bodies(rows: Sequence[Mapping[str, object]], images: Path, folder: Path) -> None:
    """A request for each picture, N.body, and the answer that it must have, N.json."""
    for i, row in enumerate(rows, start=1):
        head = f'--limit\r\nContent-Disposition: form-data; name="p"; filename="{row["file"]}"\r\n\r\n'
        body = head.encode() + (images / str(row["file"])).read_bytes() + b"\r\n--limit--\r\n"
        (folder / f"{i}.body").write_bytes(body)
        (folder / f"{i}.json").write_text(to_json([{**row, "id": 1}]), encoding="utf-8")


def put_under_load(server: ServerProcess, folder: Path, clients: int, seconds: int) -> Load:
    """Let wrk send for so long. folder: of `write_bodies`."""
    script = folder / "load.lua"
    script.write_text(SCRIPT.format(count=len(list(folder.glob("*.body"))), folder=folder), encoding="utf-8")
    words = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script)]
    before = counted(server.counts).get("200", 0)
    process = subprocess.Popen([*words, f"http://127.0.0.1:{server.port}/"], stdout=subprocess.PIPE, text=True)
    time.sleep(min(WARM_S, seconds / 2))
    warm = server.resident_mb()
    report = json.loads(process.communicate()[0].splitlines()[-1])
    served = counted(server.counts)["200"] - before
    return Load(clients, **report, served=served, warm_mb=warm, end_mb=server.resident_mb())
