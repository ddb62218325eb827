"""Pictures with detections drawn on them: what is seen, whatever the picture, the boxes and the names."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gfl.data.transforms import Image
from gfl.report.draw import (
    BLACK,
    LARGEST_TAG,
    PALETTE,
    WHITE,
    Mark,
    Rectangle,
    Tag,
    draw,
    drawable_name,
    overlap,
    picture_of,
    place_tags,
    sizes_for,
    tag_width,
    text_colour,
    visible_part,
)

H, W = 240, 320
NONE = np.zeros((0, 4), np.float32)


def grey(height: int = H, width: int = W) -> Image:
    return np.full((height, width, 3), 128, np.uint8)


def draw_all(image: Image, boxes: list[Rectangle], labels: list[int] | None = None) -> Image:
    """Detections with the best first."""
    count = len(boxes)
    scores = np.linspace(0.9, 0.4, count, dtype=np.float32)
    labels = list(range(count)) if labels is None else labels
    return draw(image, np.array(boxes, np.float32), scores, np.array(labels, np.int32), [f"class {i}" for i in labels])


def changed(before: Image, after: Image) -> Rectangle:
    """The smallest rectangle that holds every pixel that is not what it was."""
    rows, columns = np.nonzero((before != after).any(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def crowd(count: int, seed: int, height: int, width: int) -> list[Mark]:
    """Marks of boxes of all sizes all over a picture, some of them beyond its borders."""
    rng = np.random.default_rng(seed)
    corners = rng.random((count, 2)) * [width, height] * 1.1 - [0.05 * width, 0.05 * height]
    boxes = np.concatenate([corners, corners + 2 ** rng.uniform(0, np.log2(width), (count, 2))], axis=1)
    parts = [visible_part(box, height, width) for box in boxes]
    texts = ("traffic light 0.87", "traffic light")
    return [Mark(part, PALETTE[i % len(PALETTE)], texts) for i, part in enumerate(parts) if part is not None]


# ---- the picture ----


def test_the_picture_given_is_not_drawn_on() -> None:
    image = grey()
    drawn = draw_all(image, [(20, 40, 120, 160)])
    assert (image == 128).all()
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert drawn.flags.c_contiguous
    assert not np.shares_memory(drawn, image)
    view = grey(W, H).transpose(1, 0, 2)  # not contiguous, and not writeable
    view.flags.writeable = False
    np.testing.assert_array_equal(draw_all(view, [(20, 40, 120, 160)]), drawn)


def test_without_detections_it_is_a_copy() -> None:
    image = np.random.default_rng(0).integers(0, 256, (H, W, 3)).astype(np.uint8)
    drawn = draw(image, NONE, np.zeros(0, np.float32), np.zeros(0, np.int32), [])
    np.testing.assert_array_equal(drawn, image)
    assert not np.shares_memory(drawn, image)


def test_a_label_has_its_colour_on_every_picture() -> None:
    for label in (0, 3, 7, len(PALETTE) + 3, 79):
        for height, width in ((240, 320), (900, 700)):
            drawn = draw_all(grey(height, width), [(20, 60, 200, 200)], [label])
            assert tuple(drawn[130, 20]) == PALETTE[label % len(PALETTE)]  # the middle of the left edge


def test_the_best_detection_lies_on_top() -> None:
    same = (40, 60, 200, 200)
    drawn = draw_all(grey(), [same, same, same], [5, 1, 2])
    assert tuple(drawn[130, 40]) == PALETTE[5]
    given_last = draw(
        grey(), np.array([same, same], np.float32), np.array([0.3, 0.8]), np.array([1, 5]), ["worse", "better"]
    )
    assert tuple(given_last[130, 40]) == PALETTE[5]


@pytest.mark.parametrize(
    "box", [(np.nan, 10, 50, 50), (10, 10, np.inf, 50), (W + 5, 10, W + 90, 50), (10, -80, 50, -20), (50, 10, 20, 40)]
)
def test_a_box_without_a_part_in_the_picture_is_not_drawn(box: tuple[float, ...]) -> None:
    drawn = draw(grey(), np.array([box], np.float32), np.array([0.9]), np.array([0]), ["cat"])
    np.testing.assert_array_equal(drawn, grey())


def test_an_edge_on_or_beyond_the_border_is_drawn_inside() -> None:
    drawn = draw_all(grey(), [(-30, -30, W + 30, H + 30)], [4])
    middles = drawn[H // 2, 0], drawn[H // 2, W - 1], drawn[H - 1, W // 2]
    assert [tuple(pixel) for pixel in middles] == [PALETTE[4]] * 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (8, 300), (64, 64), (480, 640), (3000, 4000)])
def test_a_picture_of_any_size_can_be_drawn_on(height: int, width: int) -> None:
    image = grey(height, width)
    drawn = draw_all(image, [(0, 0, width, height), (0.3 * width, 0.3 * height, 0.9 * width, 0.9 * height)])
    assert drawn.shape == image.shape
    assert (drawn != image).any()


def test_lines_and_tags_grow_with_the_picture_and_stay_readable() -> None:
    thumbnail, usual, photograph = (sizes_for(*size) for size in ((64, 64), (480, 640), (3000, 4000)))
    assert thumbnail.tag >= 11
    assert thumbnail.line < usual.line < photograph.line
    assert thumbnail.tag < usual.tag < photograph.tag
    assert all(sizes.small_tag >= 11 for sizes in (thumbnail, usual, photograph))


# ---- tags ----


@pytest.mark.parametrize(("height", "width"), [(64, 64), (480, 640), (1500, 2000)])
def test_tags_stay_inside_the_picture_and_off_each_other(height: int, width: int) -> None:
    sizes = sizes_for(height, width)
    for seed in range(5):
        marks = crowd(60, seed, height, width)
        tags = place_tags(marks, height, width, sizes)
        assert len(tags) > 1
        for tag in tags:
            left, top, right, bottom = tag.box
            assert 0 <= left < right <= width
            assert 0 <= top < bottom <= height
        assert not any(overlap(one.box, other.box) for one, other in itertools.combinations(tags, 2))


def test_the_best_detection_keeps_its_tag_in_a_crowd() -> None:
    mark = Mark((40, 60, 140, 160), PALETTE[0], ("cat 0.98", "cat"))
    worse = [Mark(mark.box, PALETTE[1], ("dog 0.41", "dog"))] * 30
    tags = place_tags([mark, *worse], H, W, sizes_for(H, W))
    assert tags[0].text == "cat 0.98"
    assert tags[0].box[3] <= 60  # above the box
    assert 1 < len(tags) < 30


def test_a_tiny_box_has_no_tag_and_a_small_one_no_huge_tag() -> None:
    tiny, small = (100, 100, 106, 106), (100, 100, 124, 124)
    image = grey(480, 640)
    rim = sizes_for(480, 640).line + 2
    assert changed(image, draw_all(image, [tiny], [0]))[0] >= 100 - rim
    tags = place_tags([Mark(small, PALETTE[0], ("cat 0.98", "cat"))], 480, 640, sizes_for(480, 640))
    assert len(tags) == 1
    left, top, right, bottom = tags[0].box
    assert (right - left) * (bottom - top) <= LARGEST_TAG * 24 * 24


def test_a_name_wider_than_the_picture_is_left_out() -> None:
    long = "a name of many words and letters"
    assert place_tags([Mark((0, 0, 64, 64), PALETTE[0], (long,))], 64, 64, sizes_for(64, 64)) == []


def test_a_tag_is_its_colour_with_letters_that_stand_out() -> None:
    for colour in PALETTE:
        width = tag_width("cat 0.98", 17)
        image = picture_of(Tag((0, 0, width, 17), "cat 0.98", colour))
        assert image.shape == (17, width, 3)
        assert (image[[0, -1]] == colour).all()  # letters keep off the border
        difference = np.abs(image.astype(int) - np.array(text_colour(colour))).sum(axis=2)
        assert difference.min() < 60  # the middle of a stroke is nearly pure
        ink = (image != colour).any(axis=2).mean()
        assert 0.05 < ink < 0.6


def contrast(one: tuple[int, int, int], other: tuple[int, int, int]) -> float:
    """The contrast ratio of WCAG 2.2, with sRGB's exact curve."""
    dark, light = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def linear(colours: object) -> NDArray[np.float64]:
    shares = np.asarray(colours, np.float64) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def test_letters_are_readable_on_every_colour() -> None:
    for colour in PALETTE:
        chosen = text_colour(colour)
        assert contrast(colour, chosen) == max(contrast(colour, BLACK), contrast(colour, WHITE))
        assert contrast(colour, chosen) > 4.5  # WCAG's AA


# Colour vision without one of the three cones, on linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
VISIONS = {
    "usual": np.eye(3),
    "no red cone": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no green cone": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no blue cone": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


@pytest.mark.parametrize("vision", VISIONS)
def test_colours_are_told_apart_with_any_colour_vision(vision: str) -> None:
    seen = np.clip(linear(PALETTE) @ VISIONS[vision].T, 0, 1)
    shown = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(shown[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    apart = min(float(np.linalg.norm(one - other)) for one, other in itertools.combinations(lab, 2))
    assert apart > 15  # CIE76; 2.3 is just noticeable


# ---- names ----


def test_ascii_names_are_drawable_as_they_are() -> None:
    assert drawable_name("traffic light", 9) == "traffic light"
    assert drawable_name("two\nlines\tand tabs", 9) == "two lines and tabs"
    assert drawable_name("", 9) == "class 9"
    assert drawable_name("\x00\x01", 9) == "class 9"
    assert drawable_name("n" * 70, 9) == "n" * 21 + "..."


def test_other_scripts_are_drawn_where_opencv_can_and_never_as_question_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("café", "Ångström", "猫", "собака")
    monkeypatch.setattr(cv2, "FontFace", object, raising=False)  # version 5 draws every letter
    assert [drawable_name(name, 3) for name in names] == list(names)
    monkeypatch.delattr(cv2, "FontFace")
    assert [drawable_name(name, 3) for name in names] == ["cafe", "Angstrom", "class 3", "class 3"]


def test_a_name_in_any_script_leaves_letters_on_the_tag() -> None:
    for name in ("cat", "猫", "собака"):
        drawable = drawable_name(name, 3)
        image = picture_of(Tag((0, 0, tag_width(drawable, 24), 24), drawable, PALETTE[3]))
        assert (image != PALETTE[3]).any(axis=2).mean() > 0.03


# ---- whiskers ----


def test_a_whisker_reaches_as_far_as_the_spread_of_its_edge() -> None:
    box, spread = np.array([[40.0, 30.0, 100.0, 90.0]]), np.array([[10.0, 0.0, 20.0, 0.4]])
    without = draw(grey(), box, None, np.array([0]), [""])
    drawn = draw(grey(), box, None, np.array([0]), [""], edge_std=spread)
    rows, columns = np.nonzero((without != drawn).any(axis=2))
    line = 3  # px that an end may be wide
    assert abs(columns.min() - (40 - 10)) <= line
    assert abs(columns.max() - (99 + 20)) <= line
    assert (abs(rows - 59) <= 10).all()  # at half the height alone: above and below there is nothing to see


@pytest.mark.parametrize("spread", [np.nan, np.inf, 1e30])
def test_a_spread_without_end_is_drawn_without_harm(spread: float) -> None:
    edges = np.full((1, 4), spread)
    drawn = draw(grey(), np.array([[40.0, 30.0, 100.0, 90.0]]), None, np.array([0]), [""], edge_std=edges)
    assert drawn.shape == grey().shape


def test_colours_can_be_given_a_detection_each() -> None:
    boxes = np.array([[5.0, 5, 50, 50], [60, 5, 100, 50]])
    drawn = draw(grey(), boxes, None, np.array([0, 0]), ["", ""], colours=[(255, 0, 0), (0, 0, 255)])
    assert (drawn[:, :55] == (255, 0, 0)).all(axis=2).any()
    assert (drawn[:, 55:] == (0, 0, 255)).all(axis=2).any()
