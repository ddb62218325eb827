"""The function that `gfl.load` returns: what it takes for a picture, in which order and how much it keeps."""

from __future__ import annotations

import io
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from tiny_export import write_model
from tiny_onnx import DESCRIPTION, write_onnx

from gfl import load
from gfl.errors import InputError
from gfl.runtime.description import Arrays
from gfl.runtime.detect import Detect
from gfl.runtime.inputs import Reading, as_image
from gfl.runtime.model import Model
from gfl.runtime.onnx_file import OnnxModel
from gfl.runtime.providers import ProviderReport

H, W = 48, 64
RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (H, W), dtype=np.uint8)


def png(image: NDArray[np.generic]) -> bytes:
    """An RGB, RGBA or grey array as a file's content."""
    order = {3: cv2.COLOR_RGB2BGR, 4: cv2.COLOR_RGBA2BGRA}
    return bytes(cv2.imencode(".png", cv2.cvtColor(image, order[image.shape[2]]) if image.ndim == 3 else image)[1])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_onnx(tmp_path_factory.mktemp("file") / "tiny.onnx", batch=1)


@pytest.fixture(scope="module")
def detect(path: Path) -> Detect:
    return load(path, provider="cpu", threads=1)


# ---- kinds of pictures ----

RGBA = np.dstack([RGB, GREY])
SAME: dict[str, tuple[Callable[[], object], Reading]] = {
    "array": (lambda: RGB, Reading()),
    "array HW4": (lambda: RGBA, Reading()),
    "array CHW": (lambda: RGB.transpose(2, 0, 1), Reading("CHW")),
    "array of 16 bits": (lambda: RGB.astype(np.uint16) * 256 + 7, Reading(depth="full")),
    "array of 12 bits": (lambda: RGB.astype(np.int32) * 16, Reading(depth="12")),
    "array of floats": (lambda: RGB / np.float32(255), Reading()),
    "strided array": (lambda: RGB[::-1, ::-1][::-1, ::-1], Reading()),
    "bytes": (lambda: png(RGB), Reading()),
    "bytearray": (lambda: bytearray(png(RGB)), Reading()),
    "memoryview": (lambda: memoryview(png(RGB)), Reading()),
    "open file": (lambda: io.BytesIO(png(RGB)), Reading()),
    "Pillow RGB": (lambda: Pillow.fromarray(RGB), Reading()),
    "Pillow RGBA": (lambda: Pillow.fromarray(RGBA), Reading()),
    "Pillow file": (lambda: Pillow.open(io.BytesIO(png(RGB))), Reading()),
    "tensor CHW": (lambda: torch.from_numpy(RGB).permute(2, 0, 1), Reading("CHW")),
    "tensor HWC": (lambda: torch.from_numpy(RGB), Reading("HWC")),
    "tensor of floats": (lambda: torch.from_numpy(RGB / np.float32(255)).requires_grad_(), Reading("HWC")),
}


@pytest.mark.parametrize("kind", SAME)
def test_a_picture_is_the_same_in_every_kind(kind: str) -> None:
    make, reading = SAME[kind]
    image, name = as_image(make(), 7, reading)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, RGB)
    assert name


GREY_KINDS: dict[str, Callable[[], object]] = {
    "array": lambda: GREY,
    "array HW1": lambda: GREY[:, :, None],
    "Pillow L": lambda: Pillow.fromarray(GREY),
    "Pillow LA": lambda: Pillow.fromarray(GREY).convert("LA"),
    "Pillow P": lambda: Pillow.fromarray(GREY).convert("P"),
    "Pillow I;16": lambda: Pillow.frombytes("I;16", (W, H), (GREY.astype("<u2") * 256).tobytes()),
    "Pillow I": lambda: Pillow.fromarray(GREY.astype(np.int32) * 256),
    "Pillow F": lambda: Pillow.fromarray(GREY / np.float32(255)),
    "tensor 1HW": lambda: torch.from_numpy(GREY)[None],
}


@pytest.mark.parametrize("kind", GREY_KINDS)
def test_grey_pictures_have_three_equal_channels(kind: str) -> None:
    image, _ = as_image(GREY_KINDS[kind](), 0, Reading("CHW" if "tensor" in kind else None))
    np.testing.assert_array_equal(image, np.dstack([GREY] * 3))


@pytest.mark.parametrize("mode", ["1", "CMYK", "YCbCr", "HSV", "RGBX", "PA", "RGBa", "La"])
def test_every_mode_of_pillow_is_converted_and_not_reinterpreted(mode: str) -> None:
    red = Pillow.new("RGBA", (W, H), (255, 0, 0, 255))
    through = red if mode in ("RGBa", "PA") else red.convert("RGB") if mode not in ("La",) else red.convert("LA")
    picture = through.convert("P").convert("PA") if mode == "PA" else through.convert(mode)
    image, _ = as_image(picture)
    assert image.shape == (H, W, 3)
    expected = {"1": None, "La": (76, 76, 76)}.get(mode, (255, 0, 0))
    if expected is not None:
        assert np.abs(image.astype(int) - expected).max() <= 2
    assert set(np.unique(image)) <= {0, 255} or mode != "1"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pillow_pictures_are_turned_upright_as_their_files_are(orientation: int) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Pillow.fromarray(RGB).save(file, "JPEG", exif=exif, quality=95)
    from_pillow, _ = as_image(Pillow.open(io.BytesIO(file.getvalue())))
    from_file, _ = as_image(file.getvalue())
    assert from_pillow.shape == from_file.shape
    assert np.abs(from_pillow.astype(int) - from_file.astype(int)).mean() < 1  # two decoders


def test_a_path_may_be_any_that_python_takes(detect: Detect, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(RGB))

    class Named:
        def __fspath__(self) -> str:
            return str(file)

    assert detect(str(file)) == detect(file) == detect(Named())
    with file.open("rb") as stream:
        assert detect(stream) == detect(file)


REFUSED: dict[str, tuple[Callable[[], object], str | None, str]] = {
    "None": (lambda: None, None, "cv2.imread gives None"),
    "address": (lambda: "https://example.org/a.jpg", None, "nothing is downloaded"),
    "data address": (lambda: "data:image/png;base64,AAAA", None, "nothing is downloaded"),
    "zero byte": (lambda: "a\0.jpg", None, "null byte"),
    "no bytes": (lambda: b"", None, "0 bytes"),
    "text file": (lambda: io.StringIO("text"), None, 'mode "rb"'),
    "CHW as HWC": (lambda: RGB.transpose(2, 0, 1), None, "give layout='CHW'"),
    "HWC as CHW": (lambda: RGB, "CHW", "give layout='HWC'"),
    "many": (lambda: np.zeros((2, H, W, 3), np.uint8), None, "as a list"),
    "two channels": (lambda: np.zeros((H, W, 2), np.uint8), None, "convert it"),
    "empty": (lambda: np.zeros((0, W, 3), np.uint8), None, r"\(0, 64, 3\)"),
    "a row": (lambda: np.zeros(3, np.uint8), None, "convert it"),
    "complex": (lambda: np.zeros((H, W), complex), None, "complex128"),
    "tensor without layout": (lambda: torch.zeros(3, H, W), None, "layout='CHW'"),
    "bfloat16": (lambda: torch.zeros(3, H, W, dtype=torch.bfloat16), "CHW", "convert it to uint8"),
    "numbers": (lambda: [[1, 2], [3, 4]], None, "numpy.array"),
    "a mapping": (lambda: {"a": RGB}, None, "got a dict"),
    "an object": (lambda: object(), None, "got a object"),
    "damaged Pillow file": (lambda: Pillow.open(io.BytesIO(png(RGB)[:900])), None, "cannot be read as RGB"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_picture_is_told_in_one_sentence(kind: str, detect: Detect) -> None:
    make, layout, part = REFUSED[kind]
    with pytest.raises(InputError, match=part):
        detect([make()], layout=layout)  # type: ignore[list-item]  # wrong on purpose


def test_a_layout_and_a_switch_of_another_kind_are_told(detect: Detect) -> None:
    with pytest.raises(InputError, match="got the layout 'NCHW'"):
        detect(RGB, layout="NCHW")
    with pytest.raises(InputError, match="got keep_images=1"):
        detect(RGB, keep_images=1)  # type: ignore[call-overload]  # wrong on purpose


# ---- several pictures ----


def test_an_iterator_gives_each_result_before_it_takes_the_next_picture(detect: Detect) -> None:
    taken: list[int] = []

    def camera() -> Iterator[NDArray[np.uint8]]:
        for frame in range(4):
            taken.append(frame)
            yield np.full((H, W, 3), 60 * frame, np.uint8)

    results = detect(camera())
    assert taken == []
    first = next(results)
    assert (taken, first.source, first.image) == ([0], "array 0", None)
    assert [result.source for result in results] == ["array 1", "array 2", "array 3"]


def test_nothing_is_kept_that_was_not_asked_for(detect: Detect) -> None:
    alive: list[weakref.ref[NDArray[np.uint8]]] = []
    most = 0

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal most
        for _ in range(20):
            picture = np.zeros((H, W, 3), np.uint8)
            alive.append(weakref.ref(picture))
            yield picture
            del picture
            most = max(most, sum(each() is not None for each in alive))

    kept = list(detect(pictures()))
    assert len(kept) == 20
    assert most <= 2
    assert all(result.image is not None for result in detect(pictures(), keep_images=True))


class Recorded:
    """A model of two canvases whose score of a picture is its first pixel / 1000, and the batches that it ran."""

    def __init__(self, batch: int) -> None:
        self.batches: list[int] = []
        self.model = Model(Path("m"), DESCRIPTION, ((64, 96), (96, 64)), batch, self.run, self.report)

    def run(self, images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> Arrays:
        self.batches.append(int((sizes[:, 0] > 0).sum()))
        slots = len(images)
        scores = images[:, 0, 0, :1].astype(np.float32) / 1000
        boxes = np.tile(np.array([0, 0, 8, 8], np.float32), (slots, 1, 1))
        ones = np.ones(slots, np.int32)
        labels = np.zeros((slots, 1), np.int32)
        return {"boxes": boxes, "scores": scores, "labels": labels, "count": ones, "edge_std": boxes, "complete": ones}

    def report(self) -> ProviderReport:
        return ProviderReport("none", {}, ())


def mixed_pictures(count: int) -> list[NDArray[np.uint8]]:
    return [np.full((96, 64, 3) if n % 3 == 0 else (64, 96, 3), n, np.uint8) for n in range(count)]


def test_batches_are_full_and_results_in_the_order_of_the_pictures() -> None:
    recorded = Recorded(batch=4)
    results = list(Detect(recorded.model).stream(iter(mixed_pictures(24))))
    assert [round(1000 * float(result.scores[0])) for result in results] == list(range(24))
    assert recorded.batches == [4] * 6


@pytest.mark.parametrize(
    "picture",
    [
        RGB,
        GREY,
        torch.from_numpy(RGB),
        "dog.jpg",
        Path("dog.jpg"),
        png(RGB),
        io.BytesIO(png(RGB)),
        Pillow.new("L", (8, 8)),
    ],
    ids=lambda picture: type(picture).__name__,
)
def test_a_stream_takes_no_single_picture_apart(detect: Detect, picture: object) -> None:
    with pytest.raises(InputError, match=r"got one .* expected an iterable of pictures"):
        detect.stream(picture)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [12, None])
def test_a_depth_that_is_no_text_is_told(path: Path, depth: object) -> None:
    with pytest.raises(InputError, match=r"got the depth .* as text"):
        load(path, depth=depth)  # type: ignore[arg-type]


def test_a_bad_picture_ends_a_stream_after_the_results_before_it_or_is_named_and_passed_over() -> None:
    detect = Detect(Recorded(batch=4).model)
    pictures: list[NDArray[np.uint8]] = [*mixed_pictures(5), np.zeros(3, np.uint8), *mixed_pictures(2)]
    got = []
    with pytest.raises(InputError, match=r"uint8 \(3,\)"):
        got.extend(detect.stream(pictures))
    told: list[tuple[int, str]] = []
    assert len(list(detect.stream(pictures, on_error=lambda index, error: told.append((index, str(error)))))) == 7
    assert [index for index, _ in told] == [5]
    assert "(3,)" in told[0][1]
    assert [result.source for result in got or detect(pictures[:5])] == [f"array {n}" for n in range(5)]


def test_an_empty_list_gives_no_result(detect: Detect) -> None:
    assert detect([]) == []
    assert list(detect(iter(()))) == []


# ---- copies ----


def test_the_picture_of_a_result_is_its_own(detect: Detect) -> None:
    mine = RGB.copy()
    result = detect(mine)
    mine[:] = 0
    assert result.image is not None
    np.testing.assert_array_equal(result.image, RGB)
    result.image[:] = 9
    assert not mine.any()


def test_a_picture_that_was_not_kept_is_read_again_where_there_is_a_file(detect: Detect, tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png(RGB))
    [from_file, from_array] = detect([file, RGB])  # of a list, what has no file is kept
    assert from_file.image is None
    np.testing.assert_array_equal(from_file.draw(), from_array.draw())
    [not_kept] = detect([RGB], keep_images=False)
    with pytest.raises(InputError, match="keep_images=True"):
        not_kept.draw()
    file.write_bytes(png(RGB[:20]))
    with pytest.raises(InputError, match="is now 64x20, expected the picture of 64x48"):
        from_file.draw()


# ---- several threads ----


def eight_at_once(detect: Detect) -> list[object]:
    together = threading.Barrier(8)

    def one(index: int) -> object:
        together.wait(timeout=60)
        return detect(np.full((H, W, 3), 30 * index, np.uint8), keep_images=False)

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(8)))


@pytest.mark.parametrize("form", ["onnx", "pt"])
def test_eight_threads_get_from_the_first_call_on_what_one_gets(form: str, path: Path, tmp_path: Path) -> None:
    model = path if form == "onnx" else write_model(tmp_path / "best.pt")
    alone = load(model, provider="cpu", threads=1)
    expected = [alone(np.full((H, W, 3), 30 * index, np.uint8), keep_images=False) for index in range(8)]
    assert eight_at_once(load(model, provider="cpu", threads=1)) == expected
    assert len(set(map(str, expected))) > 1


# ---- options ----


def two_classes() -> Detect:
    """A model that finds a circle and, at nearly the same place, a square of a lower score."""

    def run(images: NDArray[np.uint8], sizes: NDArray[np.int32]) -> Arrays:
        boxes = np.array([[[0, 0, 20, 20], [0, 0, 20, 19], [30, 30, 40, 40]]], np.float32)
        scores = np.array([[0.6, 0.5, 0.2]], np.float32)
        labels = np.array([[0, 1, 0]], np.int32)
        ones = np.ones(1, np.int32)
        return {
            "boxes": boxes,
            "scores": scores,
            "labels": labels,
            "count": 3 * ones,
            "edge_std": boxes,
            "complete": ones,
        }

    return Detect(Model(Path("m"), DESCRIPTION, None, 1, run, Recorded(1).report))


def test_a_score_leaves_out_what_is_below_it_in_all_classes_or_in_one() -> None:
    model = two_classes().model
    assert Detect(model)(RGB).names == ("circle", "square", "circle")
    assert Detect(model, score=0.55)(RGB).names == ("circle",)
    assert Detect(model, score={"circle": 0.5})(RGB).names == ("circle", "square")
    low = Detect(model, score={"circle": 0.1})(RGB)
    assert low.confident().names == ("circle", "square", "circle")  # what was asked for is what is shown


def test_class_agnostic_suppression_leaves_the_better_of_two_classes() -> None:
    assert Detect(two_classes().model, class_agnostic=True)(RGB).names == ("circle", "circle")


BAD_OPTIONS: list[tuple[dict[str, object], str]] = [
    ({"batch": "2"}, "got a batch of '2', expected a whole number"),
    ({"batch": True}, "got a batch of True"),
    ({"batch": 0}, "got a batch of 0, expected at least 1"),
    ({"threads": -1}, "got threads -1, expected at least 0"),
    ({"threads": 1.5}, "got threads 1.5, expected a whole number"),
    ({"threads": None}, "got threads None, expected"),
    ({"provider": None}, "got the provider None"),
    ({"provider": "openvin"}, "did you mean openvino"),
    ({"provider_options": ["device_id=0"]}, "got the provider options"),
    ({"provider_options": {"device_id": 0}}, "as text"),
    ({"allow_fallback": 1}, "got allow_fallback=1"),
    ({"class_agnostic": "no"}, "got class_agnostic='no'"),
    ({"depth": "deep"}, "got the depth 'deep'"),
    ({"score": 2}, "got the score 2"),
    ({"score": "0.5"}, "got the score '0.5'"),
    ({"score": True}, "got the score True"),
    ({"score": {"cirle": 0.5}}, "did you mean 'circle'"),
    ({"score": {"circle": -1}}, "got the score for 'circle' -1"),
    ({"gin_file": "r50.gin"}, "got gin_file for .*tiny.onnx, which carries all settings"),
    ({"names": ["a"]}, "got names for .*tiny.onnx"),
]


@pytest.mark.parametrize(("options", "part"), BAD_OPTIONS, ids=lambda value: str(value)[:30])
def test_an_option_of_another_kind_is_told_in_one_sentence(options: dict[str, object], part: str, path: Path) -> None:
    with pytest.raises(InputError, match=part):
        load(path, **options)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("model", [None, 3, b"best.onnx"])
def test_a_model_that_is_no_name_is_told(model: object) -> None:
    with pytest.raises(InputError, match="expected the name of a file or folder"):
        load(model)  # type: ignore[arg-type]  # wrong on purpose


def test_too_little_memory_is_told_whatever_runs_the_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : ... bad allocation")

    monkeypatch.setattr(OnnxModel, "run", no_memory)
    with pytest.raises(InputError, match=r"memory does not suffice to run the model on 1 picture of 64x96 at a time"):
        load(path, provider="cpu")(RGB)
