"""The server under load: `python -m benchmarks.serve --model FILE --images DIR [--json FILE]`; needs `wrk`.

wrk (Debian's package of the name) sends the pictures one after the other on each of its connections, and compares every
answer with infer's row of the picture. Beside it: infer/run.py on the same pictures.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.command_line import positive
from gfl.files import to_json

WARM_S = 10.0  # after which the server's memory is to be flat
PICTURES = 1_000  # at least so many for infer, which else would hardly have begun
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
    """What came of a load; the fields of wrk's report, and the server's memory."""

    clients: int
    requests: int
    seconds: float
    wrong: int  # answers that are not infer's row
    failed: int  # connections
    p50_ms: float
    p99_ms: float
    warm_mb: float  # resident, after WARM_S
    end_mb: float


def copy_until_many(rows: Sequence[dict[str, object]], images: Path, many: Path) -> None:
    """A folder of PICTURES, each of which may come several times."""
    many.mkdir()
    for i, row in enumerate(islice(cycle(rows), max(PICTURES, len(rows)))):
        file = images / str(row["file"])
        shutil.copyfile(file, many / f"{i}{file.suffix}")


def run_infer(model: Path, images: Path, output: Path) -> tuple[list[dict[str, object]], float]:
    """infer's rows of a folder, and pictures a second."""
    flags = ["--model", str(model), "--input", str(images), "--output", str(output), "--format", "jsonl"]
    subprocess.run([sys.executable, "-m", "infer.run", *flags], check=True)
    lines = (output / "results.jsonl").read_text(encoding="utf-8").splitlines()[1:]
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    return [json.loads(line) for line in lines], float(summary["img_per_s"])


def write_script(rows: Sequence[dict[str, object]], images: Path, folder: Path) -> Path:
    """wrk's script, with the bodies that it sends and the answers that it expects."""
    for i, row in enumerate(rows, start=1):
        head = f'--limit\r\nContent-Disposition: form-data; name="p"; filename="{row["file"]}"\r\n\r\n'
        body = head.encode() + (images / str(row["file"])).read_bytes() + b"\r\n--limit--\r\n"
        (folder / f"{i}.body").write_bytes(body)
        (folder / f"{i}.json").write_text(to_json([{**row, "id": 1}]), encoding="utf-8")
    script = folder / "load.lua"
    script.write_text(SCRIPT.format(count=len(rows), folder=folder), encoding="utf-8")
    return script


@contextmanager
def server(model: Path, flags: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Its port and process id."""
    words = [sys.executable, "-m", "infer.serve", "--model", str(model), "--port", "0", *flags]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        lines = process.stdout or ()
        port = next(found[1] for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)/", line)))
        yield int(port), process.pid
    finally:
        process.terminate()
        print(f"the server ended with {process.wait()}")


def put_under_load(port: int, pid: int, script: Path, clients: int, seconds: int) -> Load:
    """Let wrk send for so long."""
    words = ["wrk", "-t1", f"-c{clients}", f"-d{seconds}s", "--timeout", "60s", "-s", str(script)]
    process = subprocess.Popen([*words, f"http://127.0.0.1:{port}/"], stdout=subprocess.PIPE, text=True)
    time.sleep(min(WARM_S, seconds / 2))
    warm = resident_mb(pid)
    printed = process.communicate()[0]
    return Load(clients, **json.loads(printed.splitlines()[-1]), warm_mb=warm, end_mb=resident_mb(pid))


def resident_mb(pid: int) -> float:
    """Memory that a process holds."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def parser() -> argparse.ArgumentParser:
    flags = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=__doc__)
    flags.add_argument("--model", type=Path, required=True, help="an .onnx")
    flags.add_argument("--images", type=Path, required=True, help="a folder of pictures")
    flags.add_argument("--clients", type=positive, nargs="+", default=[16, 64], help="connections (default 16 64)")
    flags.add_argument("--seconds", type=positive, default=60, help="of each load (default 60)")
    flags.add_argument("--rounds", type=positive, default=3, help="of infer and of each load, in turn (default 3)")
    flags.add_argument("--json", type=Path, help="also write the figures into a file")
    flags.add_argument("--flags", nargs=argparse.REMAINDER, default=[], help="the rest goes to the server")
    return flags


def main() -> int:
    arguments = parser().parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = run_infer(arguments.model, arguments.images, folder / "found")[0]
        copy_until_many(rows, arguments.images, folder / "many")
        script = write_script(rows, arguments.images, folder)
        speeds, loads = [], []
        with server(arguments.model, arguments.flags) as (port, pid):
            for turn in range(arguments.rounds):  # in turn, so that what else the machine does meets all of them
                speeds.append(run_infer(arguments.model, folder / "many", folder / f"timed{turn}")[1])
                loads += [put_under_load(port, pid, script, each, arguments.seconds) for each in arguments.clients]
    infer = median(speeds)
    print(f"infer/run.py: {infer:.1f} pictures a second ({min(speeds):.1f} to {max(speeds):.1f})")
    for clients in arguments.clients:
        mine = [load for load in loads if load.clients == clients]
        rate = median(load.requests / load.seconds for load in mine)
        p50, p99 = (median(times) for times in zip(*((load.p50_ms, load.p99_ms) for load in mine), strict=True))
        print(f"{clients} clients: {rate:.1f} a second ({rate / infer:.2f} of infer's), p50 {p50:.0f} p99 {p99:.0f} ms")
    print(f"not infer's row: {sum(load.wrong for load in loads)} of {sum(load.requests for load in loads)}")
    print(f"connections that failed: {sum(load.failed for load in loads)}")
    for load in loads:
        print(f"{load.clients} clients: {load.warm_mb:.0f} MB, at the end {load.end_mb:.0f} MB")
    if arguments.json:
        arguments.json.write_text(to_json({"infer": speeds, "loads": [load._asdict() for load in loads]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
