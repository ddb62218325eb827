"""Batches of fixed shape: the same bytes whatever the workers, every box in its place, failures named."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pictures import data_set

from gfl.data.coco import CocoData
from gfl.data.loader import EvalLoader, LoadedBatch, TrainLoader
from gfl.data.pictures import Picture
from gfl.data.sizes import canvases_for
from gfl.errors import InputError
from gfl.settings import DataConfig

CFG = DataConfig(short_side=(32, 64), long_side=96, flip_vertical=0.3, brightness=0.2, contrast=0.2, workers=0)
PLAIN = DataConfig(short_side=32, long_side=64, flip=0.0, workers=0)
SIZES = [(48, 64), (64, 48), (40, 90), (50, 50), (90, 40), (64, 64), (48, 64)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> CocoData:
    """Seven dark pictures; each box is a white rectangle, 8 px from the borders, and a crowd lies in every other."""
    folder = tmp_path_factory.mktemp("pictures")
    pictures = []
    for i, (height, width) in enumerate(SIZES):
        image = np.full((height, width, 3), 10 * i, np.uint8)
        image[8 : height - 16, 8 : width - 8] = 255
        path = folder / f"{i}.png"
        assert cv2.imwrite(str(path), image)
        box = np.array([[8, 8, width - 8, height - 16]], np.float32)
        crowd = np.array([[0, 0, 4, 4]], np.float32)[: i % 2]
        pictures.append(Picture(7 + i, path.name, path, height, width, box, np.array([i % 3], np.int32), crowd))
    return data_set(pictures, folder, classes=3)


def with_picture(data: CocoData, place: int, picture: Picture) -> CocoData:
    return replace(data, pictures=(*data.pictures[:place], picture, *data.pictures[place + 1 :]))


def train(data: CocoData, cfg: DataConfig = CFG, workers: int = 0) -> TrainLoader:
    cfg = replace(cfg, workers=workers)
    return TrainLoader(data, cfg, canvases_for(data, cfg), batch_size=2, seed=3)


def batches(loader: TrainLoader, epoch: int = 0) -> Iterator[LoadedBatch]:
    return loader.batches(loader.plan(epoch))


def assert_same(left: Iterable[LoadedBatch], right: Iterable[LoadedBatch]) -> None:
    for one, other in zip(left, right, strict=True):
        for first, second in zip((*one.batch, one.scales), (*other.batch, other.scales), strict=True):
            assert first.dtype == second.dtype
            assert torch.equal(first, second)
        assert one[1:2] + one[3:] == other[1:2] + other[3:]


def test_two_workers_give_the_bytes_of_none_in_every_epoch(data: CocoData) -> None:
    alone, workers = train(data), train(data, workers=2)
    for epoch in (0, 1):
        assert_same(batches(alone, epoch), batches(workers, epoch))


def test_an_epoch_left_early_does_not_reach_into_the_next(data: CocoData) -> None:
    loader = train(data, workers=1)
    assert next(batches(loader)).epoch == 0
    assert_same(batches(loader, 1), batches(train(data), 1))


def test_batches_that_are_held_stay_as_they_were(data: CocoData) -> None:
    loader = train(data, workers=1)
    left_early = next(batches(loader, 2))
    held = [loaded for epoch in (0, 1) for loaded in batches(loader, epoch)]  # more than there are slots
    assert_same([left_early], list(batches(train(data), 2))[:1])
    assert_same(held, [loaded for epoch in (0, 1) for loaded in batches(train(data), epoch)])


def test_a_second_pass_ends_the_first(data: CocoData) -> None:
    loader = train(data, workers=1)
    first, second = batches(loader), batches(loader, 1)
    next(first)
    next(second)
    with pytest.raises(RuntimeError, match="one pass at a time"):
        next(first)
    assert_same(second, list(batches(train(data), 1))[1:])


@pytest.mark.slow
@pytest.mark.parametrize("start_method", multiprocessing.get_all_start_methods())
def test_every_way_to_start_a_worker_gives_the_same_bytes(data: CocoData, start_method: str) -> None:
    usual = multiprocessing.get_start_method()
    multiprocessing.set_start_method(start_method, force=True)
    try:
        assert_same(batches(train(data)), batches(train(data, workers=1)))
    finally:
        multiprocessing.set_start_method(usual, force=True)


def test_loading_does_not_move_the_runs_random_numbers(data: CocoData) -> None:
    before = torch.get_rng_state()
    list(batches(train(data)))
    assert torch.equal(torch.get_rng_state(), before)


def test_resuming_gives_the_rest_of_the_epoch(data: CocoData) -> None:
    loader = train(data)
    resumed = train(data).batches(loader.plan(2)[1:])
    assert_same(list(batches(loader, 2))[1:], resumed)


def test_shapes_and_types_are_those_of_the_contract(data: CocoData) -> None:
    for loaded in batches(train(data)):
        batch, (height, width) = loaded.batch, loaded.canvas
        shapes = {name: tuple(part.shape) for name, part in batch._asdict().items()}
        assert shapes == {
            "images": (2, 3, height, width),
            "image_sizes": (2, 2),
            "boxes_xyxy": (2, 8, 4),
            "labels": (2, 8),
            "box_mask": (2, 8),
            "ignored_xyxy": (2, 4, 4),
            "ignored_mask": (2, 4),
            "image_weights": (2,),
        }
        types = [part.dtype for part in batch]
        assert types[:4] == [torch.uint8, torch.int32, torch.float32, torch.int32]
        assert types[4:] == [torch.bool, torch.float32, torch.bool, torch.float32]
        assert loaded.scales.dtype == torch.float32


def test_boxes_follow_their_pictures_through_every_change(data: CocoData) -> None:
    for epoch in range(4):
        for loaded in batches(train(data), epoch):
            for i, image_id in enumerate(loaded.image_ids):
                if image_id < 0:
                    continue
                left, top, right, bottom = loaded.batch.boxes_xyxy[i, 0].round().int().tolist()
                grey = loaded.batch.images[i].float().mean(dim=0)
                inside = grey[top + 1 : bottom - 1, left + 1 : right - 1]
                height, width = loaded.batch.image_sizes[i].tolist()
                assert inside.min() > 180  # white, jittered by at most 0.8
                assert grey[:height, :width][: top - 1].max() < 180
                assert grey[:height, :width][bottom + 1 :].max() < 180
                assert loaded.batch.labels[i, 0] == (image_id - 7) % 3
                assert loaded.batch.box_mask[i].tolist() == [True] + [False] * 7
                assert loaded.batch.ignored_mask[i].sum() == (image_id - 7) % 2


def test_a_canvas_is_zero_outside_its_picture(data: CocoData) -> None:
    for loaded in batches(train(data), 1):
        for image, (height, width) in zip(loaded.batch.images, loaded.batch.image_sizes.tolist(), strict=True):
            assert image[:, height:].sum() == image[:, :, width:].sum() == 0


def test_a_blank_is_zero_everywhere(data: CocoData) -> None:
    loaded = next(b for b in EvalLoader(data, PLAIN, ((64, 64),), batch_size=4) if -1 in b.image_ids)
    blank = loaded.image_ids.index(-1)
    for part in loaded.batch:
        assert not part[blank].any()
    assert loaded.scales[blank].tolist() == [1.0, 1.0]
    assert loaded.failed == ()


def test_evaluation_yields_every_picture_once_and_can_be_repeated(data: CocoData) -> None:
    loader = EvalLoader(data, PLAIN, canvases_for(data, PLAIN), batch_size=3)
    loaded = list(loader)
    assert len(loaded) == len(loader)
    assert sorted(i for batch in loaded for i in batch.image_ids if i >= 0) == list(range(7, 14))
    assert_same(loaded, loader)


def test_boxes_over_scales_are_the_original_boxes(data: CocoData) -> None:
    originals = {picture.id: picture for picture in data.pictures}
    for loaded in EvalLoader(data, PLAIN, ((32, 64), (64, 32)), batch_size=2):  # 90x40 is shrunk to fit
        for i, image_id in enumerate(loaded.image_ids):
            if image_id >= 0:
                scale_h, scale_w = loaded.scales[i].tolist()
                back = loaded.batch.boxes_xyxy[i, 0].numpy() / [scale_w, scale_h, scale_w, scale_h]
                np.testing.assert_allclose(back, originals[image_id].boxes_xyxy[0], atol=1e-4)


def test_own_canvases_are_loaded_as_they_are(data: CocoData) -> None:
    canvases = {loaded.canvas for loaded in EvalLoader(data, PLAIN, None, batch_size=2)}
    assert canvases == {(32, 64), (64, 32), (32, 32)}


@pytest.mark.parametrize("workers", [0, 1])
def test_a_picture_that_cannot_be_read_is_a_blank_and_named(data: CocoData, tmp_path: Path, workers: int) -> None:
    cut = tmp_path / "cut.png"
    cut.write_bytes(data.pictures[2].path.read_bytes()[:-20])
    broken = with_picture(data, 2, replace(data.pictures[2], path=cut))
    loaded = list(EvalLoader(broken, replace(PLAIN, workers=workers), ((64, 64),), batch_size=7))
    assert len(loaded) == 1
    assert "cut.png" in loaded[0].failed[0]
    assert loaded[0].image_ids == (7, 8, -1, 10, 11, 12, 13)
    assert loaded[0].batch.image_weights.tolist() == [1, 1, 0, 1, 1, 1, 1]
    assert not loaded[0].batch.box_mask[2].any()


def test_a_picture_of_another_size_than_its_annotations_is_not_trained_on(data: CocoData) -> None:
    turned = with_picture(data, 0, replace(data.pictures[0], height=64, width=48))
    failed = [reason for loaded in batches(train(turned)) for reason in loaded.failed]
    assert len(failed) == 1
    assert "48x64" in failed[0]
    assert "64x48" in failed[0]


def test_more_boxes_than_max_boxes_stop_the_run_before_it_starts(data: CocoData) -> None:
    many = replace(data.pictures[1], boxes_xyxy=np.ones((9, 4), np.float32), labels=np.zeros(9, np.int32))
    with pytest.raises(InputError, match=r"MAX_BOXES = 4.*1\.png"):
        train(with_picture(data, 1, many), replace(CFG, max_boxes=4))
    loader = train(with_picture(data, 1, many))
    assert loader.box_slots == 16
    assert {loaded.batch.box_mask.shape[1] for loaded in batches(loader)} == {16}
    assert max(int(loaded.batch.box_mask.sum(dim=1).max()) for loaded in batches(loader)) == 9


def test_a_picture_that_fits_no_canvas_stops_the_run_before_it_starts(data: CocoData) -> None:
    with pytest.raises(InputError, match="fit no canvas"):
        train(data, replace(CFG, canvases=((32, 32),)))


def test_ranks_load_different_pictures_on_equal_canvases(data: CocoData) -> None:
    canvases = canvases_for(data, CFG)
    ranks = [
        list(batches(TrainLoader(data, CFG, canvases, batch_size=1, seed=3, rank=rank, world=2))) for rank in range(2)
    ]
    assert [b.canvas for b in ranks[0]] == [b.canvas for b in ranks[1]]
    assert sorted(i for rank in ranks for b in rank for i in b.image_ids if i >= 0) == list(range(7, 14))
