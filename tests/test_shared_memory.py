"""A worker that has too little memory is told before the run, or ends it in a sentence, and is never waited for."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from pictures import data_set

from gfl.data import loader as loader_module
from gfl.data import shared_memory
from gfl.data.coco import CocoData, Picture
from gfl.data.loader import EvalLoader, TrainLoader
from gfl.data.shared_memory import batch_bytes, check_shared_memory, worker_errors
from gfl.data.sizes import canvases_for
from gfl.errors import InputError
from gfl.settings import DataConfig

CFG = DataConfig(short_side=32, long_side=64, flip=0.0, workers=1)
CANVASES = ((64, 64),)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoData:
    folder = tmp_path_factory.mktemp("pictures")
    pictures = []
    for i in range(4):
        path = folder / f"{i}.png"
        assert cv2.imwrite(str(path), np.zeros((64, 64, 3), np.uint8))
        box = np.array([[8, 8, 40, 40]], np.float32)
        pictures.append(Picture(i, path.name, path, 64, 64, box, np.zeros(1, np.int32), np.zeros((0, 4), np.float32)))
    return data_set(pictures, folder, classes=1)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 MB of shared memory, as in Docker."""
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda _: SimpleNamespace(f_bavail=16384, f_frsize=4096))


def test_a_batch_has_the_bytes_of_its_tensors(data: CocoData) -> None:
    loader = EvalLoader(data, DataConfig(workers=0), CANVASES, batch_size=3)
    loaded = next(iter(loader))
    tensors = sum(part.nbytes for part in loaded.batch)
    assert 0 <= tensors - batch_bytes(3, CANVASES[0], loader.box_slots, 1) <= 3 * 16  # sizes and weights


def test_workers_that_need_too_much_are_told_with_the_number_that_fits(free: None, tmp_path: Path) -> None:
    megabytes = 2**20
    check_shared_memory(4, 8 * megabytes, tmp_path)
    check_shared_memory(0, 800 * megabytes, tmp_path)
    check_shared_memory(5, 8 * megabytes, tmp_path / "none")  # a system without it
    said = r"WORKERS = 5, whose batches need 80 MB .* at most the 64 MB .*--shm-size=1g.* to 4 \(0 works always\)"
    with pytest.raises(InputError, match=said):
        check_shared_memory(5, 8 * megabytes, tmp_path)


def test_the_ranks_of_a_host_share_its_memory(free: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(InputError, match=r"need 128 MB .* to 1 "):
        check_shared_memory(2, 8 * 2**20, tmp_path)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs shared memory")
@pytest.mark.parametrize("canvases", ["own", ((2048, 2048),)])
def test_a_loader_is_refused_before_its_first_batch(canvases: object, data: CocoData, free: None) -> None:
    cfg = DataConfig(short_side=2048, long_side=2048, canvases=canvases, workers=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"WORKERS = 3, whose batches need 73 MB"):
        TrainLoader(data, cfg, canvases_for(data, cfg), batch_size=1, seed=0)
    with pytest.raises(InputError, match=r"WORKERS = 3, whose batches need 73 MB"):
        EvalLoader(data, cfg, canvases_for(data, cfg), batch_size=1)


def no_space(self: torch.UntypedStorage) -> None:
    raise RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)")


def no_memory(*_: object) -> None:
    raise MemoryError


def killed(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGBUS)


@pytest.mark.parametrize(
    ("owner", "name", "failing", "said"),
    [
        (torch.UntypedStorage, "share_memory_", no_space, "No space left on device"),
        (loader_module, "build_batch", no_memory, "MemoryError"),
        (loader_module, "build_batch", killed, "Killed|exited unexpectedly"),
        (loader_module, "build_batch", bus_error, "Bus error|exited unexpectedly"),
    ],
)
def test_a_worker_that_cannot_send_its_batch_ends_the_run_in_a_sentence(
    owner: object, name: str, failing: object, said: str, data: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, failing)  # a worker is forked with it
    loader = EvalLoader(data, CFG, CANVASES, batch_size=2)
    with pytest.raises(InputError, match=rf"({said}).*WORKERS .*to 0.*--shm-size") as told, worker_errors():
        list(loader)
    assert "\n" not in str(told.value)


def test_a_worker_that_says_nothing_is_not_waited_for_for_ever(data: CocoData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "SILENCE_S", 0.2)
    monkeypatch.setattr(loader_module, "build_batch", lambda *_: signal.pause())
    loader = EvalLoader(data, CFG, CANVASES, batch_size=2)
    with pytest.raises(InputError, match=r"DataLoader timed out after 0\.2 seconds.*WORKERS"):
        list(loader)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a bug"), worker_errors():
        raise RuntimeError("a bug")
    with pytest.raises(InputError, match="ulimit -n"), worker_errors():
        raise OSError(24, "Too many open files")
