"""Slots of shared memory: sized and told before the run, used again when nothing views them, and without a trace."""

from __future__ import annotations

import gc
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from pictures import data_set

from gfl.data import fill as fill_module
from gfl.data import loader as loader_module
from gfl.data import shared_memory
from gfl.data.coco import CocoData
from gfl.data.loader import EvalLoader, TrainLoader
from gfl.data.pictures import Picture
from gfl.data.shared_memory import HELD, PREFETCHED, Slots, allocate_shared, check_shared_memory, slots_for
from gfl.data.sizes import canvases_for
from gfl.errors import InputError
from gfl.settings import DataConfig

CFG = DataConfig(short_side=32, long_side=64, flip=0.0, workers=1)
CANVASES = ((64, 64),)
MEGABYTE = 2**20


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
def in_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that are started anew share memory by way of a folder; 64 MB of it, as in Docker."""
    monkeypatch.setattr(shared_memory, "is_forked", lambda: False)
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda _: SimpleNamespace(f_bavail=16384, f_frsize=4096))


def test_a_slot_is_free_again_when_its_last_view_is_gone() -> None:
    slots = Slots(allocate_shared(3 * 64), 3, 64)
    first, second = slots.take(), slots.take()
    assert (first, second, slots.free) == (2, 1, 1)
    lent = slots.lend(second)
    lent[:] = 7
    view = torch.from_numpy(lent[8:16].view(np.float32).reshape(1, 2))[0]
    del lent
    gc.collect()
    assert slots.free == 1
    del view
    assert slots.free == 2
    slots.give_back(first)
    assert slots.free == 3
    assert [slots.take() for _ in range(3)] == [first, second, 0]  # the last that was used comes first
    assert slots.lend(second).tolist() == [7] * 64  # the same memory


def test_workers_that_need_too_much_are_told_with_the_number_that_fits(in_a_folder: None, tmp_path: Path) -> None:
    check_shared_memory(3, 8 * MEGABYTE, tmp_path)
    check_shared_memory(0, 800 * MEGABYTE, tmp_path)
    check_shared_memory(4, 8 * MEGABYTE, tmp_path / "none")  # a system without it
    said = r"WORKERS = 4, whose batches need 80 MB .* at most the 64 MB .*--shm-size=1g.* to 3 \(0 works always\)"
    with pytest.raises(InputError, match=said):
        check_shared_memory(4, 8 * MEGABYTE, tmp_path)
    with pytest.raises(InputError, match=r"to 0 \(0 works always\)"):
        check_shared_memory(1, 40 * MEGABYTE, tmp_path)


def test_the_ranks_of_a_host_share_its_memory(
    in_a_folder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"need 96 MB .* to 1 "):
        check_shared_memory(2, 8 * MEGABYTE, tmp_path)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs shared memory")
@pytest.mark.parametrize("canvases", ["own", ((2048, 2048),)])
def test_a_loader_is_refused_before_its_first_batch(canvases: object, data: CocoData, in_a_folder: None) -> None:
    cfg = DataConfig(short_side=2048, long_side=2048, canvases=canvases, workers=3)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"WORKERS = 3, whose batches need 97 MB"):
        TrainLoader(data, cfg, canvases_for(data, cfg), batch_size=1, seed=0)
    with pytest.raises(InputError, match=r"WORKERS = 3, whose batches need 97 MB"):
        EvalLoader(data, cfg, canvases_for(data, cfg), batch_size=1)
    fewer = replace(cfg, workers=1)
    training = TrainLoader(data, fewer, canvases_for(data, cfg), batch_size=1, seed=0)
    EvalLoader(data, fewer, canvases_for(data, cfg), batch_size=1)
    with pytest.raises(InputError, match=r"WORKERS = 1, whose batches need 97 MB"):  # both are there at a time
        EvalLoader(data, fewer, canvases_for(data, cfg), batch_size=1, beside=training)


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="others share memory in a folder")
def test_forked_workers_need_no_room_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory.os, "statvfs", lambda _: SimpleNamespace(f_bavail=0, f_frsize=4096))
    check_shared_memory(4, 8 * MEGABYTE, tmp_path)


def test_memory_that_the_system_has_not_is_told_in_a_sentence() -> None:
    with pytest.raises(InputError, match=r"no 4,398,046,511,104 MB of shared memory .*WORKERS.*BATCH_SIZE"):
        allocate_shared(2**62)


def test_the_memory_of_a_loader_is_told(data: CocoData) -> None:
    cfg = DataConfig(short_side=2048, long_side=2048, canvases=((2048, 2048),), workers=3)
    line = TrainLoader(data, cfg, cfg.canvases, batch_size=1, seed=0).memory_line()  # type: ignore[arg-type]
    assert line == "3 workers, 97 MB of shared memory in 8 slots"
    assert "WORKERS = 0" in EvalLoader(data, DataConfig(workers=0), CANVASES, batch_size=1).memory_line()


def test_slots_are_used_again_and_never_while_someone_holds_them(data: CocoData) -> None:
    loader = EvalLoader(data, CFG, CANVASES, batch_size=1)
    places = {loaded.batch.images.data_ptr() for _ in range(5) for loaded in loader}
    assert 1 < len(places) <= slots_for(1) == PREFETCHED + HELD
    held = [loaded for _ in range(3) for loaded in loader]  # more than there are slots
    assert len({loaded.batch.images.data_ptr() for loaded in held}) == 12
    for number, loaded in enumerate(held):
        loaded.batch.images.fill_(number)
    for _ in range(3):
        assert all(not loaded.batch.images.any() for loaded in loader)  # of black pictures
    assert all(bool((loaded.batch.images == number).all()) for number, loaded in enumerate(held))


def test_a_batch_outlives_its_loader(data: CocoData) -> None:
    loader = EvalLoader(data, CFG, CANVASES, batch_size=1)
    loaded = next(iter(loader))
    del loader
    gc.collect()
    assert loaded.batch.boxes_xyxy[0, 0].tolist() == [4, 4, 20, 20]
    loaded.batch.images.fill_(3)


def test_pinned_batches_are_copies_that_leave_their_slot(data: CocoData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", torch.Tensor.clone)  # as a device's: a copy
    loader = loader_module.PlannedLoader(data, 8, batch_size=1, largest=(64, 64), workers=1, pin_memory=True)
    plan = EvalLoader(data, CFG, CANVASES, batch_size=1).plan
    held = list(loader.batches(plan))
    assert loader._readers is not None
    assert loader._readers._slots.free == slots_for(1)
    assert [loaded.image_ids for loaded in held] == [(0,), (1,), (2,), (3,)]


def no_memory(*_: object) -> None:
    raise MemoryError


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="a worker is forked with the change")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_for_which_there_is_no_memory_ends_the_run_in_a_sentence(
    workers: int, data: CocoData, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fill_module, "read_annotated", no_memory)
        loader = EvalLoader(data, DataConfig(short_side=32, long_side=64, workers=workers), CANVASES, batch_size=2)
        with pytest.raises(InputError, match=r"memory ran out .*0\.png.* \(MemoryError\); .*lower BATCH_SIZE"):
            list(loader)
    assert len(list(loader)) == 2  # by new workers


PROGRAM = """
import multiprocessing, os, signal, sys
from pathlib import Path
import cv2, numpy as np
from gfl.data.coco import read_coco
from gfl.data.loader import EvalLoader
from gfl.settings import DataConfig
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    data = read_coco(sys.argv[2], sys.argv[3], keep_empty=True)
    loader = EvalLoader(data, DataConfig(short_side=64, long_side=96, workers=2), ((96, 96),), batch_size=2)
    held = list(loader)
    print(len(held), flush=True)
    {end}
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="looks into it")
@pytest.mark.parametrize(
    "end", ["pass", "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGTERM)"]
)
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_nothing_remains_of_the_memory_however_the_program_ends(
    start_method: str, end: str, tmp_path: Path, test_data: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(end=end))
    tables = [str(test_data / "coco_tiny/annotations/instances_val2017.json"), str(test_data / "coco_tiny/val2017")]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    before = set(os.listdir("/dev/shm"))
    done = subprocess.run(
        [sys.executable, str(program), start_method, *tables],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert int(done.stdout) > 2, done.stderr
    assert "resource_tracker" not in done.stderr
    left = {name for name in set(os.listdir("/dev/shm")) - before if name.startswith("pym-")}
    assert left == set()
