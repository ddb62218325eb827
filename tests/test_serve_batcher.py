"""Pictures that wait for the model: what shares a batch, when it goes out, and who is dropped."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from mirror import TALL, WIDE, Mirror

from gfl.runtime.batches import InputPicture
from gfl.runtime.model import Model
from gfl.runtime.result import PictureInfo
from gfl.shapes import Canvas
from infer.serve.batcher import Batcher, Computed

LONG_S = 30.0  # nobody waits so long


@contextmanager
def batcher(model: Model, max_wait_s: float = LONG_S) -> Iterator[tuple[Batcher, list[int]]]:
    """A batcher and the sizes of its batches."""
    sizes: list[int] = []
    made = Batcher(model, max_wait_s, lambda pictures, seconds: sizes.append(pictures))
    try:
        yield made, sizes
    finally:
        made.close()


def picture(brightness: int, canvas: Canvas = WIDE) -> InputPicture:
    info = PictureInfo(str(brightness), canvas, canvas)
    return InputPicture(0, info, np.full((3, *canvas), brightness, np.uint8))


def test_a_full_batch_goes_out_at_once_and_each_gets_its_own() -> None:
    mirror = Mirror(batch=3)
    pictures = [picture(51 * i) for i in range(1, 4)]
    with batcher(mirror.model) as (made, sizes):
        futures = [made.submit(each) for each in pictures]
        found = [future.result(10).result(each, mirror.model) for each, future in zip(pictures, futures, strict=True)]
    assert [result.scores[0] for result in found] == pytest.approx([0.2, 0.4, 0.6])
    assert sizes == [3]


def test_a_batch_holds_one_canvas() -> None:
    mirror = Mirror(batch=2)
    with batcher(mirror.model) as (made, _):
        futures = [made.submit(picture(9, canvas)) for canvas in (WIDE, TALL, WIDE, TALL)]
        for future in futures:
            future.result(10)
    assert sorted(images.shape for images, _ in mirror.seen) == [(2, 3, *WIDE), (2, 3, *TALL)]


def test_a_picture_alone_goes_out_after_the_longest_wait_with_blanks() -> None:
    mirror = Mirror(batch=4)
    with batcher(mirror.model, 0.05) as (made, sizes):
        started = time.monotonic()
        made.submit(picture(9)).result(10)
        assert time.monotonic() - started >= 0.05
    assert sizes == [1]
    assert mirror.seen[0][0].shape[0] == 4


def test_a_model_of_any_number_gets_no_blanks() -> None:
    mirror = Mirror(batch=4)
    with batcher(replace(mirror.model, any_canvas=True), 0.0) as (made, _):
        made.submit(picture(9)).result(10)
    assert mirror.seen[0][0].shape[0] == 1


def test_what_arrives_while_the_model_runs_shares_the_next_run() -> None:
    free = threading.Event()
    mirror = Mirror(batch=8, before_run=lambda: assert_set(free))
    with batcher(mirror.model, 0.0) as (made, sizes):
        first = running(made.submit(picture(9)))
        rest = [made.submit(picture(9)) for _ in range(5)]
        free.set()
        for each in (first, *rest):
            each.result(10)
    assert sizes == [1, 5]


def running(submitted: Future[Computed]) -> Future[Computed]:
    """What was submitted, once the model runs it."""
    while not submitted.running():
        time.sleep(0.001)
    return submitted


def assert_set(event: threading.Event) -> None:
    assert event.wait(10)


def test_the_oldest_canvas_is_first_when_several_are_due() -> None:
    free = threading.Event()
    mirror = Mirror(batch=2, before_run=lambda: assert_set(free))
    with batcher(mirror.model, 0.0) as (made, _):
        running(made.submit(picture(9)))
        made.submit(picture(9, TALL))
        made.submit(picture(9)), made.submit(picture(9))
        free.set()
    assert [images.shape[2:] for images, _ in mirror.seen] == [WIDE, TALL, WIDE]


def test_who_leaves_takes_no_place_in_a_batch() -> None:
    mirror = Mirror(batch=2)
    with batcher(mirror.model) as (made, sizes):
        assert made.submit(picture(9)).cancel()
        kept = [made.submit(picture(9)) for _ in range(2)]
        for each in kept:
            each.result(10)
    assert sizes == [2]


def test_a_failure_of_the_model_reaches_who_asked_and_the_next_batch_runs() -> None:
    failures = iter([RuntimeError("out of luck")])

    def fail_once() -> None:
        for failure in failures:
            raise failure

    mirror = Mirror(batch=1, before_run=fail_once)
    with batcher(mirror.model) as (made, sizes):
        with pytest.raises(RuntimeError, match="out of luck"):
            made.submit(picture(9)).result(10)
        made.submit(picture(9)).result(10)
    assert sizes == [1]


def test_closing_runs_what_waits() -> None:
    mirror = Mirror(batch=4)
    with batcher(mirror.model) as (made, sizes):
        futures = [made.submit(picture(9)) for _ in range(6)]
        made.close()
        assert all(future.done() for future in futures)
    assert sizes == [4, 2]
