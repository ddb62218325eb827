"""Detections drawn on a picture, for people to look at. NumPy and OpenCV only.

Letters: D detections. Pictures are uint8 (H,W,3) RGB; a tag is the coloured label of a box, with the class and score.
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
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom px; right and bottom are the first outside

# Apart for every kind of colour vision (a test measures it): those of Okabe and Ito (2008) without black, three more.
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
FINE = 48  # px: smaller tags are drawn about this high and shrunk, because OpenCV's strokes are whole pixels wide
HERSHEY_CAPITAL = 22  # px: height of a capital of the font at scale 1
CAPITAL = 0.55  # height of a capital, as a share of its tag
LARGEST_TAG = 1.5  # times the area of its box
LONGEST_NAME = 24  # letters
WIDEST_PX = 1 << 14  # of a whisker: further it leaves every picture


class Sizes(NamedTuple):
    """How large to draw on one picture, in px."""

    line: int  # width of a box's edge
    tag: int  # height of a tag
    small_tag: int  # height of the tag of a small box


class Pen(NamedTuple):
    """How a tag's text is written: enlarged, and shrunk afterwards."""

    enlarged: int  # times
    scale: float  # of the font, enlarged
    stroke: int  # width px of a line of a letter, enlarged


class Mark(NamedTuple):
    """One detection as it is drawn."""

    box: Rectangle
    colour: Colour
    texts: tuple[str, ...]  # of its tag, the longest first
    spread: tuple[float, float, float, float] | None = None  # px, of the left, top, right and bottom edge


class Tag(NamedTuple):
    """Where a tag goes, and what it says."""

    box: Rectangle
    text: str
    colour: Colour


def draw(
    image: Image,
    boxes_xyxy: NDArray[np.floating],
    scores: NDArray[np.floating] | None,
    labels: NDArray[np.integer],
    names: Sequence[str],
    *,
    edge_std: NDArray[np.floating] | None = None,
    colours: Sequence[Colour] | None = None,
) -> Image:
    """Draw detections, or annotated boxes, on a copy of a picture.

    The best lie on top. A whisker at the middle of each edge reaches as far as the edge's spread. A tag that
    finds no free place, or would dwarf its box, is shortened or left out.

    Args:
        image: uint8 (H,W,3) RGB.
        boxes_xyxy: (D,4) px of this picture; those without finite corners or outside of it are not drawn.
        scores: (D,) 0..1; None for annotated boxes, which have none.
        labels: (D,) classes from 0; a class has one colour on every picture.
        names: of the class of each detection.
        edge_std: (D,4) px, the spread of the left, top, right and bottom edge; None draws no whiskers.
        colours: of each detection, instead of its class's.
    """
    drawn = np.array(image, dtype=np.uint8, order="C")
    height, width = drawn.shape[:2]
    sizes = sizes_for(height, width)
    confidence = np.zeros(len(names)) if scores is None else np.asarray(scores, dtype=np.float64)
    best_first = np.argsort(-confidence, kind="stable").tolist()
    marks = []
    for i in best_first:
        box, label = visible_part(boxes_xyxy[i], height, width), int(labels[i])
        if box is not None:
            name = drawable_name(names[i], label)
            texts = (name,) if scores is None else (f"{name} {confidence[i]:.2f}", name)
            colour = PALETTE[label % len(PALETTE)] if colours is None else colours[i]
            left, top, right, bottom = (0.0,) * 4 if edge_std is None else map(float, edge_std[i])
            marks.append(Mark(box, colour, texts, None if edge_std is None else (left, top, right, bottom)))
    for mark in reversed(marks):
        draw_box(drawn, mark, sizes.line)
        draw_whiskers(drawn, mark, sizes.line)
    for tag in place_tags(marks, height, width, sizes):
        left, top, right, bottom = tag.box
        drawn[top:bottom, left:right] = picture_of(tag)
    return drawn


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


def draw_box(drawn: Image, mark: Mark, line: int) -> None:
    """Draw a box's edges, a dark rim around them where they are wide enough to have one."""
    left, top, right, bottom = mark.box
    corners = (left, top), (right - 1, bottom - 1)  # whole pixels: anti-aliasing would only blur these lines
    if line > 1:
        cv2.rectangle(drawn, *corners, BLACK, line + 2)
    cv2.rectangle(drawn, *corners, mark.colour, line)


def draw_whiskers(drawn: Image, mark: Mark, line: int) -> None:
    """Draw each edge's spread to both sides of it, as error bars are drawn: a line across it with a bar at either end.

    A spread below a pixel has no whisker.
    """
    if mark.spread is None:
        return
    left, top, right, bottom = mark.box
    right, bottom = right - 1, bottom - 1
    middle_x, middle_y, bar = (left + right) // 2, (top + bottom) // 2, 1 + 2 * line
    segments = []
    for (x, y), spread, across in zip(
        ((left, middle_y), (middle_x, top), (right, middle_y), (middle_x, bottom)),
        mark.spread,
        ((1, 0), (0, 1), (1, 0), (0, 1)),
        strict=True,
    ):
        if not math.isfinite(spread) or spread < 1:
            continue
        reach_x, reach_y = (min(round(step * spread), WIDEST_PX) for step in across)
        ends = (x - reach_x, y - reach_y), (x + reach_x, y + reach_y)
        segments.append(ends)
        segments += [
            ((end_x - bar * across[1], end_y - bar * across[0]), (end_x + bar * across[1], end_y + bar * across[0]))
            for end_x, end_y in ends
        ]
    for colour, width in ((BLACK, line + 2), (mark.colour, line)):
        for start, end in segments:
            cv2.line(drawn, start, end, colour, width)


# ---- tags ----


def drawable_name(name: str, label: int) -> str:
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
            if not any(overlap(tag.box, other.box) for other in tags):
                tags.append(tag)
                break
    return tags


def possible_tags(mark: Mark, height: int, width: int, sizes: Sizes) -> Iterator[Tag]:
    """The tags that fit a mark and its picture, the best first."""
    left, top, right, bottom = mark.box
    area = (right - left) * (bottom - top)
    rim = sizes.line // 2
    for text in mark.texts:
        for tag_h in (sizes.tag, sizes.small_tag):
            tag_w = tag_width(text, tag_h)
            if tag_w > width or tag_h > height or tag_w * tag_h > LARGEST_TAG * area:
                continue
            lefts = [min(max(edge, 0), width - tag_w) for edge in (left - rim, right + rim - tag_w)]
            for y in (top - rim - tag_h, top - rim, bottom + rim, bottom + rim - tag_h):
                for x in lefts:
                    if 0 <= y <= height - tag_h:
                        yield Tag((x, y, x + tag_w, y + tag_h), text, mark.colour)


def overlap(one: Rectangle, other: Rectangle) -> bool:
    """Whether two rectangles share a pixel."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def tag_width(text: str, tag_height: int) -> int:
    """Width, px, of a tag of that height."""
    pen = pen_for(tag_height)
    (width, _), _ = cv2.getTextSize(text, FONT, pen.scale, pen.stroke)
    return math.ceil(width / pen.enlarged) + tag_height // 2


def picture_of(tag: Tag) -> Image:
    """The filled tag with its text, black or white, whichever stands out more."""
    left, top, right, bottom = tag.box
    width, height = right - left, bottom - top
    pen = pen_for(height)
    mask = np.zeros((pen.enlarged * height, pen.enlarged * width), dtype=np.uint8)
    origin = pen.enlarged * height // 4, round(pen.enlarged * height * (1 + CAPITAL) / 2)
    cv2.putText(mask, tag.text, origin, FONT, pen.scale, 255, pen.stroke, cv2.LINE_AA)
    ink = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA)
    blends = np.rint(np.linspace(tag.colour, text_colour(tag.colour), 256)).astype(np.uint8)  # (256,3), by ink
    return np.asarray(cv2.LUT(cv2.merge([ink, ink, ink]), blends[None]))


def pen_for(tag_height: int) -> Pen:
    """The pen for a tag of a height, px."""
    enlarged = max(1, round(FINE / tag_height))
    capital = enlarged * tag_height * CAPITAL
    return Pen(enlarged, capital / HERSHEY_CAPITAL, max(1, round(capital / 9)))


def text_colour(ground: Colour) -> Colour:
    """Black or white, by the contrast ratio of WCAG 2.2."""
    red, green, blue = ((part / 255) ** 2.2 for part in ground)  # sRGB to light, near enough to choose by
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return BLACK if luminance > 0.179 else WHITE  # sqrt(1.05 * 0.05) - 0.05, where both ratios are equal
