"""`python -m infer.bulk` on a Ray of this machine: killed workers, killed jobs, an S3 server."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import cv2
import infer_program
import numpy as np
import pytest
import tiny_export
from made_once import made_once
from tiny_onnx import write_onnx

pytest.importorskip("ray.data", reason="the extra `ray` is not installed")
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from infer.bulk import engine

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PICTURES, MISSING, MOST_PIXELS = 2000, 4, 1_000_000
BROKEN = range(7, PICTURES - MISSING, 100)  # with those that are missing, 24


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Path:
    """Cut-outs of real pictures, of two canvases, of which 1 % is empty, truncated, a text, or too large; a table names
    some that are missing."""

    def write(folder: Path) -> None:
        rng = np.random.default_rng(0)
        originals = [cv2.imread(str(path)) for path in sorted((test_data / "bccd").glob("*/*.jpg"))]
        (folder / "pictures").mkdir()
        for i in range(PICTURES - MISSING):
            original = originals[i % len(originals)]
            y, x = rng.integers(0, [original.shape[0] // 2, original.shape[1] // 2])
            part = original[y : y + 240, x : x + 320]
            data = cv2.imencode(".jpg", part if i % 3 else np.ascontiguousarray(part.transpose(1, 0, 2)))[1].tobytes()
            if i in BROKEN:
                large = cv2.imencode(".png", np.zeros((1001, 1000, 3), np.uint8))[1].tobytes()
                data = (b"", data[: len(data) // 2], b"a text", large)[i // 100 % 4]
            (folder / "pictures" / f"{i:04}.jpg").write_bytes(data)
        names = [f"missing_{i}.jpg" for i in range(MISSING)]
        pq.write_table(pa.table({"path": names}), folder / "pictures" / "more.parquet")

    return made_once(tmp_path_factory, "bulk_pictures", write)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, test_data: Path) -> Path:
    """The trained model of blood cells, two canvases, four pictures a run."""
    folder = tmp_path_factory.mktemp("model") / "exports"
    flags = ["--size", "256x320", "320x256", "--batch", 4, "--skip_parity", "--output", folder]
    tiny_export.export(*tiny_export.trained_flags(test_data), *flags)
    return folder


class Job:
    """A job as a process of its own."""

    def __init__(self, *words: object, **environment: str) -> None:
        command = [sys.executable, "-m", "infer.bulk", *map(str, words)]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> tuple[int, str, str]:
        """Exit status, and what was printed on stdout and stderr."""
        out, err = self.process.communicate(timeout=600)
        return self.process.returncode, out, err

    def workers(self) -> list[int]:
        """The processes that hold a model."""
        return [pid for pid in descendants(self.process.pid) if b"MapWorker" in command_of(pid)]


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found, waiting = list[int](), [pid]
    while waiting:
        more = children.get(waiting.pop(), [])
        found += more
        waiting += more
    return found


@contextmanager
def job(*words: object, **environment: str) -> Iterator[Job]:
    started = Job(*words, **environment)
    try:
        yield started
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.communicate()


def wait_until(holds: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


def parts(folder: Path) -> list[Path]:
    return sorted((folder / "parts").glob("*.parquet"))


def rows_of(folder: Path) -> list[dict[str, object]]:
    """The rows of a job, without their ids, in the order of these."""
    rows = sorted(pq.read_table(folder / "parts").to_pylist(), key=lambda row: row["id"])
    assert [row["id"] for row in rows] == list(range(1, len(rows) + 1))
    for row in rows:
        del row["id"], row["time_s"]
        for found in row["detections"]:
            found["bbox"] = [round(value, 2) for value in found["bbox"]]
            found["score"] = round(found["score"], 5)
            assert found.pop("track_id") is None
    return rows


def rows_of_infer(folder: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()[1:]]
    return [{key: value for key, value in row.items() if key != "id"} for row in rows]


def test_killed_workers_and_a_killed_job_cost_no_picture_and_give_none_twice(
    pictures: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ["--model", model, "--most_pixels", MOST_PIXELS]
    words = [*flags, "--pictures", pictures / "pictures", "--out", out]
    with job(*words) as first:
        wait_until(lambda: len(parts(out)) >= 3)
        assert not (out / "summary.json").exists()  # parts appear as it goes
        killed = first.workers()
        assert killed
        os.kill(killed[0], signal.SIGKILL)
        so_far = len(parts(out))
        wait_until(lambda: len(parts(out)) >= so_far + 6)  # another worker has taken over
        assert first.process.poll() is None
        workers = first.workers()
        first.process.kill()
        first.end()
    wait_until(lambda: not any(map(command_of, workers)), 60)  # they end with it
    before = {path.name for path in parts(out)}
    assert 9 <= len(before) < 60
    with job(*words) as second:
        status, said, error = second.end()
    assert status == 0, error
    assert len(before & {path.name for path in parts(out)}) >= len(before) - 2  # but for one that was being written
    rows = rows_of(out)
    assert len(rows) == PICTURES
    failed = [str(row["failure"]) for row in rows if row["failure"] is not None]
    assert len(failed) == len(BROKEN) + MISSING
    for words_of_reason in ("(0 bytes)", "truncated", "cannot be decoded", "1,001,000 pixels", "No such file"):
        assert any(words_of_reason in reason for reason in failed)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["images"] == PICTURES - len(failed)
    assert summary["failures"] == len(failed) == len(summary["failed"])
    assert 0 < summary["resumed"] < PICTURES
    assert f"{len(failed)} failed" in said
    assert not (out / "checkpoint").exists()

    infer_flags = [*flags, "--input", pictures / "pictures", "--output", tmp_path / "infer", "--format", "jsonl"]
    assert infer_program.detect(*infer_flags, "--threads", 1) == 0
    expected = rows_of_infer(tmp_path / "infer")
    assert len(expected) == PICTURES - MISSING
    assert [row for row in rows if "missing_" not in str(row["file"])] == expected

    with job(*words) as third:
        assert third.end()[:2] == (0, f"{out} holds the whole job already: nothing is left to do\n")
    with job(*words, "--top", 3) as other:
        status, _, error = other.end()
    assert status == 2
    assert "another --top" in error


def test_too_many_failures_end_the_job_and_a_larger_share_goes_on(pictures: Path, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    bad = tmp_path / "bad"
    bad.mkdir()
    for i in range(300):
        (bad / f"{i:03}.png").write_bytes(
            b"a text" if i % 2 else (cv2.imencode(".png", np.zeros((64, 96)))[1]).tobytes()
        )
    words = ["--model", model, "--pictures", bad, "--out", tmp_path / "out"]
    with job(*words, "--max_failures", 0.1) as refused:
        status, said, error = refused.end()
    assert (status, said) == (1, "")
    assert "of 300 failed, expected at most 30" in error
    assert len(error.splitlines()) == 1
    with job(*words, "--max_failures", 0.5) as taken:
        assert taken.end()[0] == 0
    assert sum(row["failure"] is not None for row in rows_of(tmp_path / "out")) == 150


def test_a_lost_part_is_told(tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(100):
        (folder / f"{i:03}.png").write_bytes(cv2.imencode(".png", np.full((64, 96), i))[1].tobytes())
    words = ["--model", model, "--pictures", folder, "--out", tmp_path / "out"]
    with job(*words) as first:
        assert first.end()[0] == 0
    (tmp_path / "out" / "summary.json").unlink()
    lost = parts(tmp_path / "out")[3]
    ids = pq.read_table(lost)["id"].to_pylist()
    checkpoint = tmp_path / "out" / "checkpoint"
    checkpoint.mkdir()
    pq.write_table(pa.table({"id": pa.array(range(1, 101), pa.int64())}), checkpoint / "all.parquet")
    lost.unlink()
    with job(*words) as second:
        status, _, error = second.end()
    assert status == 1
    assert f"{len(ids)} rows are missing (id {ids[0]}" in error


def test_a_worker_that_cannot_open_the_model_ends_the_job_with_a_sentence(tmp_path: Path) -> None:
    if importlib.util.find_spec("openvino") is not None:
        pytest.skip("openvino is installed")
    model = write_onnx(tmp_path / "tiny.onnx")
    (tmp_path / "a.png").write_bytes(b"")
    words = ["--model", model, "--pictures", tmp_path / "a.png", "--out", tmp_path / "out", "--provider", "openvino"]
    with job(*words) as refused:
        status, said, error = refused.end()
    assert (status, said) == (2, "")
    assert error.startswith("error: the provider openvino needs the package openvino")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_job_that_can_be_gone_on_with(number: int, status: int, pictures: Path, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    with job("--model", model, "--pictures", pictures / "pictures", "--out", tmp_path / "out") as stopped:
        wait_until(lambda: parts(tmp_path / "out"))
        stopped.process.send_signal(number)
        ended = stopped.end()
    assert ended[:2] == (status, "")
    assert ended[2].endswith("\nstopped; the same command goes on\n")


def test_pictures_whose_worker_dies_again_and_again_become_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine.ray, "get", lambda value: value)
    told: list[tuple[int, int, int]] = []

    class Method:
        def __init__(self, remote: Callable[..., object]) -> None:
            self.remote = remote

    counts = engine.TaskCounts()
    handle = SimpleNamespace(begin=Method(counts.begin), add=Method(lambda *task: told.append(task)))
    worker = engine.Worker(str(write_onnx(tmp_path / "tiny.onnx")), {}, 1, handle)
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", np.zeros((64, 96)))[1].tobytes())
    listed = {"id": 4, "file": "a.png", "uri": str(tmp_path / "a.png"), "failure": None}
    failures = [worker(pa.Table.from_pylist([listed]))["failure"][0].as_py() for _ in range(engine.MOST_TRIES + 1)]
    assert failures[:-1] == [None] * engine.MOST_TRIES
    assert "died 4 times" in failures[-1]
    assert told[-2:] == [(4, 1, 0), (4, 1, 1)]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of an S3 server on loopback, as a URI; the environment leads to it."""
    pytest.importorskip("flask")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {"AWS_ENDPOINT_URL_S3": f"http://{host}:{port}", "AWS_REGION": "us-east-1"}
    for name, value in {**settings, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    request = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
    urllib.request.urlopen(request).close()
    yield "s3://bucket"
    server.stop()


def test_a_job_reads_from_object_storage_and_writes_to_it(s3: str, tmp_path: Path) -> None:
    model = write_onnx(tmp_path / "tiny.onnx")
    filesystem, bucket = FileSystem.from_uri(s3)
    contents = [cv2.imencode(".png", np.full((64, 96), i))[1].tobytes() for i in range(90)] + [b"no picture"]
    storing = filesystem.open_output_stream(f"{bucket}/in/shard.tar")
    with storing as stream, tarfile.open(fileobj=stream, mode="w|") as shard:
        for i, content in enumerate(contents):
            about = tarfile.TarInfo(f"{i}.png")
            about.size = len(content)
            shard.addfile(about, io.BytesIO(content))
    with filesystem.open_output_stream(f"{bucket}/in/single one.png") as stream:
        stream.write(contents[5])
    words = ["--model", model, "--pictures", f"{s3}/in/*.tar", f"{s3}/in/single one.png", "--out", f"{s3}/out"]
    with job(*words) as first:
        status, said, error = first.end()
    assert status == 0, error
    assert "wrote s3://bucket/out/parts, s3://bucket/out/summary.json" in said
    rows = pq.read_table(f"{bucket}/out/parts", filesystem=filesystem).sort_by("id")
    assert rows["id"].to_pylist() == list(range(1, 93))
    assert [i for i, reason in enumerate(rows["failure"].to_pylist()) if reason] == [90]
    assert rows["detections"][91] == rows["detections"][5] != rows["detections"][6]
    with job(*words) as second:
        assert second.end()[0] == 0
