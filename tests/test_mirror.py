"""The copy of a run's folder in storage: `file://` here, and a bucket of an S3 server in the slow test."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from tiny import run_training, train_arguments

from gfl import train
from gfl.engine.checkpoints import read_state
from gfl.errors import InputError
from gfl.record import mirror as mirror_module
from gfl.record.mirror import Mirror, fetch_run, files_of
from gfl.storage import file_system, put_whole

KNOBS = ("EPOCHS = 2", "WORKERS = 0", "EMA = 0.5")
READY_S = 60.0


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_data(tmp_path_factory.mktemp("mirror") / "data")


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing interrupted, and no storage knew."""
    return run_training(data, tmp_path_factory.mktemp("mirror") / "whole", *KNOBS)


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in files_of(folder)}


def stopped_run_goes_on(data: Path, whole: Path, tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run stopped in its second epoch, whose folder is lost, goes on in another from storage; the second folder."""
    flags = ("--storage", storage, "--resume", "auto")
    calls, step = iter(range(tiny.STEPS_AN_EPOCH + 1)), train.step

    def counted(*given: object) -> object:
        if next(calls, None) is None:
            raise KeyError("stopped")
        return step(*given)  # type: ignore[arg-type]  # as they came

    with monkeypatch.context() as patch:
        patch.setattr(train, "step", counted)
        with pytest.raises(KeyError, match="stopped"):
            train.main(train_arguments(data, tmp_path / "first", *KNOBS, flags=flags))
    shutil.rmtree(tmp_path / "first")
    second = tmp_path / "second"
    assert train.main(train_arguments(data, second, *KNOBS, flags=flags)) == 0
    saved, wanted = read_state(second / "last.pt"), read_state(whole / "last.pt")
    for name in ("variables", "ema", "optimiser"):
        tiny.assert_equal_bits(saved[name], wanted[name])
    assert [line["step"] for line in tiny.log_lines(second)] == [line["step"] for line in tiny.log_lines(whole)]
    assert "resumed" in (second / "env.json").read_text()
    return second


def test_a_run_goes_on_from_storage_on_a_fresh_host(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = tmp_path / "storage"
    run = stopped_run_goes_on(data, whole, tmp_path, f"file://{storage}", monkeypatch)
    assert names(storage) == names(run) == {path.name for path in storage.iterdir()}
    for name in names(run):
        assert (storage / name).read_bytes() == (run / name).read_bytes(), name
    arguments = train_arguments(data, tmp_path / "third", flags=("--storage", f"file://{storage}"))
    assert "holds a run; give --resume" in tiny.refusal(train.main, arguments, capsys)


def test_the_further_checkpoint_wins(whole: Path, tmp_path: Path) -> None:
    storage, run = tmp_path / "storage", tmp_path / "run"
    shutil.copytree(whole, storage)
    fetch_run(f"file://{storage}", run)
    assert names(run) == names(whole)
    (storage / "metrics.json").write_text("of another time")
    fetch_run(f"file://{storage}", run)  # as far as the folder: nothing is fetched
    assert (run / "metrics.json").read_bytes() == (whole / "metrics.json").read_bytes()
    fetch_run(f"file://{tmp_path / 'empty'}", run)
    assert not list(run.glob(".*"))


def test_a_file_appears_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that breaks off leaves what was there."""
    (tmp_path / "new").write_bytes(b"new" * 1000)
    target = tmp_path / "there" / "last.pt"
    target.parent.mkdir()
    target.write_bytes(b"old")
    storage, _ = file_system(f"file://{target}")

    def break_off(lpath: str, rpath: str) -> None:
        Path(rpath).write_bytes(Path(lpath).read_bytes()[:100])
        raise OSError("connection lost")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put_file", break_off)
        with pytest.raises(InputError, match="connection lost"):
            put_whole(tmp_path / "new", f"file://{target}")
    assert target.read_bytes() == b"old"
    put_whole(tmp_path / "new", f"file://{target}")
    assert target.read_bytes() == b"new" * 1000
    assert os.listdir(target.parent) == ["last.pt"]


def test_a_failure_is_told_once_tried_again_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "FIRST_PAUSE_S", 0.02)
    run, storage = tmp_path / "run", tmp_path / "storage"
    run.mkdir()
    (run / "last.pt").write_bytes(b"1")
    storage.write_text("a file where a folder is expected")
    mirror = Mirror(run, f"file://{storage}")
    mirror.update()
    end = time.monotonic() + 10
    while not (told := mirror.news()) and time.monotonic() < end:
        time.sleep(0.01)
    assert f"{storage}/last.pt" in told
    assert mirror.news() == ""
    storage.unlink()
    (run / "epoch_1.pt").write_bytes(b"2")
    while not (storage / "epoch_1.pt").exists() and time.monotonic() < end:
        time.sleep(0.01)
    (run / "epoch_1.pt").unlink()
    assert mirror.close(10.0) == ""
    assert names(storage) == {"last.pt"}


def test_what_was_not_sent_is_told_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").write_bytes(b"1")
    (tmp_path / "storage").write_text("no folder")
    said = Mirror(tmp_path / "run", f"file://{tmp_path}/storage").close(10.0)
    assert "copy the folder there by hand" in said
    assert "/storage/last.pt" in said


# ---- a bucket ----


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URI of an empty bucket on a server that this process finds by AWS's own variables."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    quiet = subprocess.DEVNULL
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=quiet, stderr=quiet)
    try:
        end = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end, "the server did not start"
                time.sleep(0.1)
        storage, _ = file_system("s3://runs")
        storage.mkdir("runs")  # type: ignore[attr-defined]  # fsspec's, which the package does not use
        yield "s3://runs"
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_a_run_goes_on_from_a_bucket(
    data: Path, whole: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stopped_run_goes_on(data, whole, tmp_path, f"{bucket}/a/run", monkeypatch)
    storage, path = file_system(f"{bucket}/a/run")
    storage.invalidate_cache()
    assert {found.removeprefix(f"{path}/") for found in storage.find(path)} == names(run)
