"""Batching, order, bounds and failures of infer's pipeline, with a model that answers what it was shown."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import cv2
import numpy as np
import pytest
from mirror import ABOUT, TALL, WIDE, Mirror

from gfl.data.transforms import Image, resize
from gfl.errors import InputError
from gfl.runtime.batches import OWN_OPEN, PATIENCE
from gfl.runtime.result import Result
from infer.opened import Opened
from infer.pipeline import LARGE_PIXELS, Failed, InOrder, default_readers, run_pictures
from infer.timings import Load, Timings


@dataclass
class Made:
    """A source of one brightness and one size."""

    name: str
    size_hw: tuple[int, int]
    delay_s: float = 0.0
    broken: bool = False
    pixels: int | None = None  # that its header states; None: the truth
    is_first: bool = False  # of several pictures
    opened: list[str] = field(default_factory=list)
    image: Callable[[], Image] = None  # type: ignore[assignment]  # made below

    def __post_init__(self) -> None:
        brightness = 10 + int(self.name) % 200
        self.image = self.image or (lambda: np.full((*self.size_hw, 3), brightness, np.uint8))

    def open(self) -> Opened:
        self.opened.append(self.name)
        time.sleep(self.delay_s)
        if self.broken:
            raise InputError(f"{self.name} is broken")
        return Opened(self.pixels or self.size_hw[0] * self.size_hw[1], self.image, self.is_first)


def sources(sizes: Sequence[tuple[int, int]], **same: object) -> list[Made]:
    return [Made(str(i), size, **same) for i, size in enumerate(sizes)]  # type: ignore[arg-type]


def collect(mirror: Mirror, given: Sequence[Made], **options: int) -> tuple[list[Result | Failed], Timings]:
    """All outcomes in order, each of them once."""
    found: dict[int, Result | Failed] = {}

    def take(index: int, outcome: Result | Failed) -> None:
        assert index not in found
        found[index] = outcome

    timings = run_pictures(mirror.model, given, take, **options)
    return [found[i] for i in range(len(given))], timings


def results(outcomes: Sequence[Result | Failed]) -> Iterator[Result]:
    for outcome in outcomes:
        assert isinstance(outcome, Result)
        yield outcome


WIDE_HW, TALL_HW = (60, 100), (100, 60)


def test_every_picture_gets_its_own_result_in_its_own_pixels() -> None:
    given = sources([WIDE_HW, TALL_HW, (32, 64), (7, 5), (400, 300), WIDE_HW, (1, 1), (3, 200)])
    for source, result in zip(given, results(collect(Mirror(), given)[0]), strict=True):
        height, width = source.size_hw
        assert (result.source, result.size_hw, result.image) == (source.name, source.size_hw, None)
        np.testing.assert_allclose(result.boxes_xyxy, [[0, 0, width, height]], rtol=1e-5)
        np.testing.assert_allclose(result.scores, [source.image()[0, 0, 0] / 255], rtol=1e-5)


def test_the_model_sees_what_one_picture_at_a_time_would_show_it() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in (WIDE_HW, (32, 64), (50, 120))]
    given = [Made(str(i), image.shape[:2], image=partial(np.copy, image)) for i, image in enumerate(noise)]
    model = Mirror(batch=3)
    collect(model, given)
    ((images, sizes),) = model.seen
    for i, image in enumerate(noise):
        canvas, size_hw = model.model.canvas_for(*image.shape[:2])
        alone = np.zeros((3, *canvas), np.uint8)
        alone[:, : size_hw[0], : size_hw[1]] = resize(image, size_hw).transpose(2, 0, 1)
        np.testing.assert_array_equal(images[i], alone)
        assert tuple(sizes[i]) == size_hw


def test_batches_are_filled_per_canvas_and_only_the_last_has_blanks() -> None:
    given = sources([WIDE_HW, TALL_HW, WIDE_HW, WIDE_HW, TALL_HW, WIDE_HW, TALL_HW, WIDE_HW])
    model = Mirror()
    _, timings = collect(model, given)
    filled = [(images.shape[2:], int((sizes.prod(axis=1) > 0).sum())) for images, sizes in model.seen]
    assert sorted(filled) == [(WIDE, 1), (WIDE, 2), (WIDE, 2), (TALL, 1), (TALL, 2)]
    assert {len(images) for images, _ in model.seen} == {2}
    assert timings.loads == {WIDE: Load(5, 3), TALL: Load(3, 2)}


def test_nothing_of_an_earlier_picture_is_left_in_a_buffer() -> None:
    given = sources([(32, 64)] * 9 + [(20, 64), (32, 30), (9, 64)] * 3 + [(1, 1)] * 2)  # three blanks at the end
    model = Mirror(batch=4)
    collect(model, given)
    for images, sizes in model.seen:
        for image, (height, width) in zip(images, sizes, strict=True):
            assert not image[:, height:].any()
            assert not image[:, :, width:].any()
            assert (height, width) == (0, 0) or image[:, :height, :width].all()


@pytest.mark.parametrize(
    ("canvases", "filled"), [(OWN_OPEN, [5, 5, 5, 5]), (OWN_OPEN + 1, [1] * 20)], ids=["few", "many"]
)
def test_pictures_of_their_own_canvas_have_no_blanks_and_do_not_pile_up(canvases: int, filled: list[int]) -> None:
    model = Mirror(batch=16, canvases=None, about=replace(ABOUT, long_side=1000))
    collect(model, sources([(32, 32 * (1 + i % canvases)) for i in range(20)]))
    assert [len(images) for images, _ in model.seen] == filled
    assert all((sizes > 0).all() for _, sizes in model.seen)


def test_outcomes_come_in_the_order_of_the_input() -> None:
    rng = np.random.default_rng(1)
    given = [
        Made(str(i), [WIDE_HW, TALL_HW][int(rng.integers(2))], float(rng.random() < 0.3) * 0.01, broken=i in (0, 4, 11))
        for i in range(24)
    ]
    in_order: InOrder[str] = InOrder()
    lock = threading.Lock()
    said: list[str] = []

    def take(index: int, outcome: Result | Failed) -> None:
        with lock:
            said.extend(in_order.add(index, outcome.source))

    run_pictures(Mirror().model, given, take, readers=4, writers=3)
    assert said == [source.name for source in given]


def test_a_picture_that_cannot_be_read_is_passed_over_with_its_reason() -> None:
    given = sources([WIDE_HW] * 5)
    given[1].broken = given[4].broken = True
    model = Mirror()
    outcomes, timings = collect(model, given)
    assert [outcome for outcome in outcomes if isinstance(outcome, Failed)] == [
        Failed("1", "1 is broken"),
        Failed("4", "4 is broken"),
    ]
    assert timings.loads == {WIDE: Load(3, 2)}


@pytest.mark.parametrize("given", [[], [Made("0", WIDE_HW, broken=True)]], ids=["none", "only_broken"])
def test_without_a_picture_the_model_does_not_run(given: list[Made]) -> None:
    model = Mirror()
    outcomes, timings = collect(model, given)
    assert model.seen == []
    assert len(outcomes) == len(given)
    assert timings.first_s is None
    assert timings.shares["run"] == 0


def test_readers_wait_for_a_slow_model() -> None:
    opened: list[str] = []
    given = sources([WIDE_HW] * 60, opened=opened)
    most: list[int] = []

    def wait() -> None:
        time.sleep(0.05)  # enough for the readers to run into the bound
        most.append(len(opened))

    collect(Mirror(before_run=wait), given, readers=3)
    for runs, count in enumerate(most):
        assert count <= 2 * (runs + 1) + 2 + 3  # what was run and is run, a batch, and a picture a reader


def test_a_slow_writer_stops_the_model() -> None:
    model = Mirror()
    behind: list[int] = []

    def take(index: int, outcome: object) -> None:
        time.sleep(0.005)
        behind.append(2 * len(model.seen) - len(behind))

    run_pictures(model.model, sources([WIDE_HW] * 60), take)
    assert max(behind) <= 1 + 2 * 2 + 2  # in the writer's hands, in the queue, on the way there


def test_a_rare_canvas_holds_the_others_up_for_a_while_only() -> None:
    given = sources([TALL_HW] + [WIDE_HW] * (2 * PATIENCE + 40))
    arrived: list[int] = []
    run_pictures(Mirror().model, given, lambda index, outcome: arrived.append(index))
    assert sorted(arrived) == list(range(len(given)))
    assert arrived.index(0) <= 2 * PATIENCE + 4


def test_the_calling_thread_alone_runs_the_model_and_does_nothing_else() -> None:
    model = Mirror()
    others: set[int] = set()

    def decode() -> Image:
        others.add(threading.get_ident())
        return np.zeros((*WIDE_HW, 3), np.uint8)

    given = sources([WIDE_HW] * 20, image=decode)
    run_pictures(model.model, given, lambda index, outcome: others.add(threading.get_ident()), readers=2, writers=2)
    assert model.threads == {threading.get_ident()}
    assert threading.get_ident() not in others


class OddError(Exception):
    """A bug somewhere."""


def fail(*arguments: object) -> None:
    raise OddError


def stop(*arguments: object) -> None:
    raise KeyboardInterrupt


def endless(then: Callable[[], None]) -> Iterator[Made]:
    for i in range(10):
        yield Made(str(i), WIDE_HW)
    then()


@pytest.mark.parametrize(
    ("model", "given", "on_result", "raised"),
    [
        (Mirror(before_run=fail), sources([WIDE_HW] * 50), lambda *_: None, OddError),
        (Mirror(before_run=stop), sources([WIDE_HW] * 50), lambda *_: None, KeyboardInterrupt),
        (Mirror(), sources([WIDE_HW] * 50), fail, OddError),
        (Mirror(), endless(fail), lambda *_: None, OddError),
        (Mirror(), sources([WIDE_HW] * 9, image=fail), lambda *_: None, OddError),
    ],
    ids=["model", "interrupt", "on_result", "sources", "decoding"],
)
def test_what_goes_wrong_comes_out_and_no_thread_is_left(
    model: Mirror, given: Sequence[Made], on_result: Callable[[int, object], None], raised: type[BaseException]
) -> None:
    before = threading.active_count()
    with pytest.raises(raised):
        run_pictures(model.model, given, on_result, readers=3, writers=2)
    assert threading.active_count() == before


def test_pictures_are_kept_up_to_the_size_asked_for() -> None:
    given = sources([(60, 100), (61, 100)])
    small, large = results(collect(Mirror(), given, keep_pixels=6000)[0])
    np.testing.assert_array_equal(small.image, given[0].image())  # type: ignore[arg-type]
    assert large.image is None


def test_huge_pictures_are_decoded_one_at_a_time() -> None:
    at_once: list[int] = []
    inside = 0

    def decode() -> Image:
        nonlocal inside
        inside += 1
        time.sleep(0.002)
        at_once.append(inside)
        inside -= 1
        return np.zeros((*WIDE_HW, 3), np.uint8)

    collect(Mirror(), sources([WIDE_HW] * 12, image=decode, pixels=LARGE_PIXELS + 1), readers=4)
    assert at_once == [1] * 12


@pytest.mark.parametrize(
    ("cores", "provider", "readers"),
    [
        (1, "CPUExecutionProvider", 1),
        (2, "CPUExecutionProvider", 1),
        (8, "PyTorch cpu", 4),
        (64, "PyTorch cpu", 8),
        (1, "CANNExecutionProvider", 2),
        (4, "CUDAExecutionProvider", 4),
        (64, "PyTorch cuda", 8),
    ],
)
def test_readers_leave_a_model_on_the_cpu_half_of_the_cores(cores: int, provider: str, readers: int) -> None:
    assert default_readers(provider, cores) == readers


def test_opencv_gets_its_threads_back() -> None:
    before = cv2.getNumThreads()
    inside: list[int] = []
    try:
        cv2.setNumThreads(3)
        collect(Mirror(before_run=lambda: inside.append(cv2.getNumThreads())), sources([WIDE_HW]))
        assert inside == [1]
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_timings_add_up() -> None:
    _, timings = collect(Mirror(before_run=lambda: time.sleep(0.01)), sources([WIDE_HW] * 6, delay_s=0.01), readers=1)
    assert sum(timings.shares.values()) == pytest.approx(1)
    assert len(timings.run_s) == 3
    assert all(0.01 <= seconds <= timings.seconds for seconds in timings.run_s)
    assert 0.06 <= timings.decode_s <= timings.seconds
    assert timings.first_s is not None
    assert 0.02 <= timings.first_s <= timings.seconds


def test_pictures_that_no_canvas_holds_are_counted_and_said() -> None:
    outcomes, timings = collect(Mirror(canvases=(WIDE,)), sources([WIDE_HW, TALL_HW, TALL_HW, (32, 64)]))
    assert timings.shrinkage == (2, 4, pytest.approx(32 / 53), ((64, 32),))
    assert timings.notes == (
        "2 of 4 pictures are shrunk below the model's own size (the most to 60% of its sides), which costs accuracy: a "
        "canvas of 64x32 would hold them; export it too (--size 64x32)",
    )
    assert len(outcomes) == 4
    assert collect(Mirror(), sources([WIDE_HW, TALL_HW]))[1].notes == ()
    assert collect(Mirror(canvases=None), sources([WIDE_HW, TALL_HW]))[1].notes == ()


def test_files_of_several_pictures_are_counted_and_said() -> None:
    timings = collect(Mirror(), sources([WIDE_HW, TALL_HW], is_first=True))[1]
    assert timings.notes == ("2 files hold several pictures (animations or pages), of which the first were taken",)


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("Insufficient memory")])
def test_a_picture_that_does_not_fit_into_memory_is_passed_over(error: Exception) -> None:
    def fail() -> Image:
        raise error

    outcomes, _ = collect(Mirror(), [Made("0", WIDE_HW), Made("1", TALL_HW, image=fail), Made("2", WIDE_HW)])
    assert [isinstance(outcome, Failed) for outcome in outcomes] == [False, True, False]
    failed = outcomes[1]
    assert isinstance(failed, Failed)
    assert "expected a picture that fits into memory" in failed.reason


def test_pictures_with_all_the_detections_that_a_model_gives_are_counted_and_said() -> None:
    limit = replace(ABOUT.thresholds, max_detections=1)
    about = replace(ABOUT, thresholds=limit, score_thresholds=(0.1,))
    given = [Made(name, WIDE_HW) for name in ("5", "90", "150")]  # the first is too dark to be confident
    assert collect(Mirror(about=about), given)[1].notes == (
        "2 pictures have as many confident detections as the model gives at most, and may hold more; raise "
        "postprocess.PredictConfig.max_detections",
    )
    assert collect(Mirror(), given)[1].full == 0
