"""Shards in object storage, an S3 server on this machine, and runs of two ranks from shards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
import torch
from pictures import assert_told

from gfl.data.__main__ import main
from gfl.data.coco import CocoData, read_coco
from gfl.data.loader import LoadedBatch, TrainLoader
from gfl.data.sizes import canvases_for
from gfl.data.synthetic import write_synthetic
from gfl.engine.checkpoints import read_state
from gfl.settings import DataConfig
from gfl.storage import file_system

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
READY_S, RUN_S = 60.0, 240.0
KNOBS = ("BATCH_SIZE = 4", "EPOCHS = 2", "WORKERS = 2", "EVAL_EVERY = 2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set in COCO's layout, and beside it the shards of its pictures, in the folders of `shards`."""
    folder = tmp_path_factory.mktemp("data") / "loose"
    write_synthetic(folder, train=13, val=3, size_hw=tiny.CANVAS)
    for name in ("train", "val"):
        images, output = folder / f"{name}2017", folder / "shards" / f"{name}2017"
        arguments = [str(tiny.annotations(folder, name)), "--images", str(images), "--output", str(output)]
        assert main(["shards", *arguments, "--megabytes", "0.05"]) == 0
    return folder


@pytest.fixture(scope="module")
def bucket(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a bucket that holds the shards, on a server that this process and its children find by AWS's own
    variables."""
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GFL_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        server = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            wait_for(port)
            storage, _ = file_system("s3://pictures")
            storage.mkdir("pictures")  # type: ignore[attr-defined]  # fsspec's, which the package does not use
            for path in (folder / "shards").rglob("*.tar"):
                storage.put_file(str(path), f"pictures/{path.name}")  # type: ignore[attr-defined]  # the same
            yield "s3://pictures"
        finally:
            server.kill()
            server.wait()


def wait_for(port: int) -> None:
    end = time.monotonic() + READY_S
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert time.monotonic() < end, "the server did not start"
            time.sleep(0.1)


def batches(data: CocoData, workers: int) -> list[LoadedBatch]:
    cfg = DataConfig(short_side=(32, 64), long_side=96, workers=workers)
    loader = TrainLoader(data, cfg, canvases_for(data, cfg), batch_size=4, seed=3)
    return [
        batch._replace(batch=type(batch.batch)(*(part.clone() for part in batch.batch)))
        for batch in loader.batches(loader.plan(1))
    ]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("pattern", ["train2017-*.tar", "train2017-{000000..000003}.tar"])
def test_batches_from_a_bucket_are_those_of_the_folder(pattern: str, workers: int, folder: Path, bucket: str) -> None:
    data, loose = (
        read_coco(tiny.annotations(folder), images, keep_empty=True)
        for images in (f"{bucket}/{pattern}", folder / "train2017")
    )
    for one, other in zip(batches(data, workers), batches(loose, 0), strict=True):
        assert (one.image_ids, one.failed) == (other.image_ids, ())
        assert all(torch.equal(*parts) for parts in zip(one.batch, other.batch, strict=True))


def test_bucket_that_is_not_there_is_told(folder: Path, bucket: str) -> None:
    for pattern, words in {
        "s3://nobody/a-*.tar": ["s3://nobody/a-*.tar", "no such file"],
        f"{bucket}/a-{{0..1}}.tar": ["s3://pictures/a-0.tar", "no such file"],
    }.items():
        assert_told(lambda pattern=pattern: read_coco(tiny.annotations(folder), pattern, keep_empty=True), words)


def test_shard_that_goes_costs_its_pictures_alone(folder: Path, bucket: str) -> None:
    storage, _ = file_system(bucket)
    storage.put_file(str(next((folder / "shards").rglob("train*0.tar"))), "pictures/lost.tar")  # type: ignore[attr-defined]  # fsspec's
    data = read_coco(tiny.annotations(folder), f"{bucket}/lost.tar", keep_empty=True)
    storage.rm("pictures/lost.tar")  # type: ignore[attr-defined]  # the same
    failed = [each for batch in batches(data, 1) for each in batch.failed]
    assert len(failed) == 13
    assert len([each for each in failed if each.startswith("s3://pictures/lost.tar: no such file")]) > 2


@pytest.mark.parametrize("storage", ["disk", "bucket"])
def test_two_ranks_from_shards_leave_the_bits_of_the_folder(
    storage: str, folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    start = request.getfixturevalue("bucket") if storage == "bucket" else None
    bindings = []
    for name in ("train", "val"):
        images = f"{start or folder / 'shards' / f'{name}2017'}/{name}2017-*.tar"
        file = str(tiny.annotations(folder, name))
        bindings += [f"{name.upper()}_JSON = {file!r}", f"{name.upper()}_IMAGES = {images!r}"]
    for run, more in (("loose", []), ("shards", bindings)):
        arguments = tiny.train_arguments(folder, tmp_path / run, *KNOBS, *more)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        done = subprocess.run(
            [*command, "-m", "gfl.train", *arguments],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=RUN_S,
        )
        assert done.returncode == 0, done.stderr
        assert "passed over" not in done.stdout
    one, other = (read_state(tmp_path / run / "last.pt") for run in ("loose", "shards"))
    tiny.assert_equal_bits(one, other)
    assert one["cursor"] == other["cursor"]
    results = [(tmp_path / run / "val_detections.json").read_text() for run in ("loose", "shards")]
    assert results[0] == results[1]
