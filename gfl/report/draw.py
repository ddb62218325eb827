"""Detections drawn on a picture, to be shown to people. NumPy and OpenCV only.

D is detections. Pictures are uint8 (H,W,3) RGB.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.transforms import Image

Colour = tuple[int, int, int]  # RGB
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom px; the last two are outside

# Told apart with any colour vision (a test counts): the colours of Okabe and Ito (2008) without black, then three more.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),  # orange
    (86, 180, 233),  # sky blue
    (0, 158, 115),  # bluish green
    (240, 228, 66),  # yellow
    (0, 114, 178),  # blue
    (213, 94, 0),  # vermilion
    (204, 121, 167),  # reddish purple
    (136, 34, 85),  # wine
    (170, 255, 195),  # mint
    (51, 34, 136),  # indigo
)
BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)

FONT = cv2.FONT_HERSHEY_SIMPLEX
FINE = 48  # px: smaller tags are drawn about this high and shrunk, since OpenCV's strokes are whole pixels wide
HERSHEY_CAPITAL = 22  # px: height of a capital of the font at scale 1
CAPITAL = 0.55  # height of a capital, as a share of its tag
LARGEST_TAG = 1.5  # times the area of its box
LONGEST_NAME = 24  # letters


class Sizes(NamedTuple):
    """How large to draw on one picture, in px."""

    line: int  # width of a box's edge
    tag: int  # height of a tag
    small_tag: int  # height of the tag of a small box


class Pen(NamedTuple):
    """What OpenCV writes with."""

    finer: int  # times larger than it will be
    scale: float  # of the font
    stroke: int  # px


class Mark(NamedTuple):
    """One detection as it is drawn."""

    box: Rectangle
    colour: Colour
    texts: tuple[str, ...]  # of its tag, the longest first


class Tag(NamedTuple):
    """Where a tag goes, and what it says."""

    place: Rectangle
    text: str
    colour: Colour


def draw(
    image: Image,
    boxes_xyxy: NDArray[np.floating],
    scores: NDArray[np.floating],
    labels: NDArray[np.integer],
    names: Sequence[str],
) -> Image:
    """A copy of a picture with detections drawn on it.

    Boxes (D,4) px of this picture, scores (D,), labels (D,) and names, one a detection. A label has one colour on
    every picture. The best detections lie on top. A tag that finds no free place, or would dwarf its box, is shortened
    or left out. Boxes without finite corners or outside of the picture are not drawn.
    """
    canvas = np.array(image, dtype=np.uint8, order="C")
    height, width = canvas.shape[:2]
    sizes = sizes_for(height, width)
    best_first = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable").tolist()
    marks = [
        Mark(box, PALETTE[int(labels[i]) % len(PALETTE)], texts_of(names[i], int(labels[i]), float(scores[i])))
        for i in best_first
        if (box := visible_part(boxes_xyxy[i], height, width)) is not None
    ]
    for mark in reversed(marks):
        draw_box(canvas, mark, sizes.line)
    for tag in place_tags(marks, height, width, sizes):
        left, top, right, bottom = tag.place
        canvas[top:bottom, left:right] = picture_of(tag)
    return canvas


def sizes_for(height: int, width: int) -> Sizes:
    """Sizes that grow a little slower than the picture: 2 px lines and 17 px tags on one of 640 x 480."""
    growth = (height * width / (640 * 480)) ** 0.4  # 0.5 would be the side's own growth
    tag = max(11, round(17 * growth))  # letters below 6 px cannot be read
    return Sizes(max(1, round(2 * growth)), tag, max(11, round(0.75 * tag)))


def visible_part(box_xyxy: NDArray[np.floating], height: int, width: int) -> Rectangle | None:
    """The part of a box (4,) inside the picture, at least a pixel wide and high; None where there is none."""
    if not np.isfinite(box_xyxy).all():
        return None
    left, top, right, bottom = (round(float(edge)) for edge in box_xyxy)
    if left >= width or top >= height or right < 0 or bottom < 0 or right < left or bottom < top:
        return None
    left, top = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    return left, top, max(left + 1, min(right, width)), max(top + 1, min(bottom, height))


def draw_box(canvas: Image, mark: Mark, line: int) -> None:
    """Draw a box's edges, a dark rim around them where they are wide enough to have one."""
    left, top, right, bottom = mark.box
    corners = (left, top), (right - 1, bottom - 1)  # whole pixels: anti-aliasing would only blur these lines
    if line > 1:
        cv2.rectangle(canvas, *corners, BLACK, line + 2)
    cv2.rectangle(canvas, *corners, mark.colour, line)


# ---- tags ----


def texts_of(name: str, label: int, score: float) -> tuple[str, ...]:
    """What a tag may say, the longest first."""
    spelt = spell(name, label)
    return f"{spelt} {score:.2f}", spelt


def spell(name: str, label: int) -> str:
    """A class name in letters that OpenCV can draw: all since version 5, before that ASCII.

    Accents are left off where that makes it ASCII; a name in another script becomes 'class 3', its label.
    """
    plain = " ".join(name.split())
    if not hasattr(cv2, "FontFace"):  # the letters of version 5
        parts = unicodedata.normalize("NFKD", plain)
        plain = "".join(letter for letter in parts if not unicodedata.combining(letter))
        plain = plain if plain.isascii() else ""
    if not plain or not plain.isprintable():
        return f"class {label}"
    return plain if len(plain) <= LONGEST_NAME else plain[: LONGEST_NAME - 3] + "..."


def place_tags(marks: Sequence[Mark], height: int, width: int, sizes: Sizes) -> list[Tag]:
    """Tags that lie inside the picture and on no other; the marks come best first and choose in that order."""
    tags: list[Tag] = []
    for mark in marks:
        for tag in possible_tags(mark, height, width, sizes):
            if not any(overlap(tag.place, other.place) for other in tags):
                tags.append(tag)
                break
    return tags


def possible_tags(mark: Mark, height: int, width: int, sizes: Sizes) -> Iterator[Tag]:
    """The tags that fit a mark and its picture, the best first."""
    left, top, right, bottom = mark.box
    area = (right - left) * (bottom - top)
    rim = sizes.line // 2
    for text in mark.texts:
        for high in (sizes.tag, sizes.small_tag):
            wide = text_width(text, high)
            if wide > width or high > height or wide * high > LARGEST_TAG * area:
                continue
            lefts = [min(max(edge, 0), width - wide) for edge in (left - rim, right + rim - wide)]
            for y in (top - rim - high, top - rim, bottom + rim, bottom + rim - high):
                for x in lefts:
                    if 0 <= y <= height - high:
                        yield Tag((x, y, x + wide, y + high), text, mark.colour)


def overlap(one: Rectangle, other: Rectangle) -> bool:
    """Whether two rectangles share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def text_width(text: str, high: int) -> int:
    """Width px of a tag of a height px."""
    pen = pen_for(high)
    (width, _), _ = cv2.getTextSize(text, FONT, pen.scale, pen.stroke)
    return math.ceil(width / pen.finer) + high // 2


def picture_of(tag: Tag) -> Image:
    """The filled tag with its text, black or white, whichever stands out more."""
    left, top, right, bottom = tag.place
    width, height = right - left, bottom - top
    pen = pen_for(height)
    mask = np.zeros((pen.finer * height, pen.finer * width), dtype=np.uint8)
    origin = pen.finer * height // 4, round(pen.finer * height * (1 + CAPITAL) / 2)
    cv2.putText(mask, tag.text, origin, FONT, pen.scale, 255, pen.stroke, cv2.LINE_AA)
    ink = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    blends = np.rint(np.linspace(tag.colour, text_colour(tag.colour), 256)).astype(np.uint8)  # (256,3), by ink
    return np.asarray(cv2.LUT(cv2.merge([ink, ink, ink]), blends[None]))


def pen_for(high: int) -> Pen:
    """The pen for a tag's height px."""
    finer = max(1, round(FINE / high))
    capital = finer * high * CAPITAL
    return Pen(finer, capital / HERSHEY_CAPITAL, max(1, round(capital / 9)))


def text_colour(ground: Colour) -> Colour:
    """Black or white, by the contrast ratio of WCAG 2.2."""
    red, green, blue = ((part / 255) ** 2.2 for part in ground)  # sRGB to light, near enough to choose by
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return BLACK if luminance > 0.179 else WHITE  # sqrt(1.05 * 0.05) - 0.05, where both ratios are equal
