"""The page of `gfl.data check --html`: one file that opens without a network, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from gfl.data.check.findings import Finding
from gfl.data.coco import CocoData
from gfl.data.picture_files import read_picture
from gfl.errors import InputError
from gfl.report.draw import draw
from gfl.report.figures import labels_figure, svgs
from gfl.report.findings_part import findings_list
from gfl.report.html_parts import DIALOG, document, figure, image, sorting_table, text, tile
from gfl.report.sheets import jpeg, shrinkage, shrunk
from gfl.words import counted

SAMPLES = 12
SAMPLE_PX, SAMPLE_QUALITY = 480, 80  # the longer side of a sample on the page


class Inspected(Protocol):
    """What the page needs of a look at one split: see gfl/data/check/inspection.py."""

    @property
    def split(self) -> str: ...
    @property
    def findings(self) -> list[Finding]: ...
    @property
    def data(self) -> CocoData | None: ...


def data_page(splits: Sequence[Inspected], both: Sequence[Finding]) -> str:
    """The whole page, about the splits and what concerns both; pictures that cannot be read are left out of it."""
    parts = ["<h1>A look at the data</h1>"]
    if both:
        parts.append(f"<h2>Training and validation together</h2>{findings_list(both)}")
    for each in splits:
        parts.append(f"<h2>{text(each.split)}</h2>{findings_list(each.findings)}")
        if each.data is not None:
            parts += _about(each.split, each.data)
    return document("A look at the data", "\n".join([*parts, DIALOG]), with_script=True)


def _about(split: str, data: CocoData) -> Iterator[str]:
    """Class counts, maps and samples of one split."""
    yield (
        f"<p>{counted(len(data.pictures), 'picture')}, {counted(len(data.truth.boxes_xywh), 'box', 'boxes')}, "
        f"{counted(len(data.names), 'class', 'classes')}; <small>{text(str(data.annotations))}</small></p>"
    )
    if any(len(picture.boxes_xyxy) for picture in data.pictures):
        yield figure(svgs(labels_figure(data)), label="Boxes a class, sizes, places and shapes of the boxes")
    counts = [(name, int((data.truth.category_id == key).sum())) for key, name in data.truth.class_names.items()]
    rows: list[list[tuple[str, float | None]]] = [[(name, None), (f"{n:,}", float(n))] for name, n in counts]
    yield sorting_table(f"classes-{split}", ("class", "boxes"), rows)
    yield '<h3>Samples</h3><div class="tiles">'
    yield from _samples(data)
    yield "</div>"


def _samples(data: CocoData) -> Iterator[str]:
    """SAMPLES pictures, spread over the data set, with their boxes."""
    shown = 0
    for picture in data.pictures[:: max(1, len(data.pictures) // (2 * SAMPLES))]:
        if shown == SAMPLES:
            return
        try:
            drawn = read_picture(picture.path)
        except InputError:
            continue
        shown += 1
        small = shrunk(drawn, SAMPLE_PX)
        if drawn.shape[:2] == (picture.height, picture.width):
            names = [data.names[label] for label in picture.labels.tolist()]
            boxes_xyxy = shrinkage(drawn, SAMPLE_PX) * picture.boxes_xyxy
            small = draw(small, boxes_xyxy, None, picture.labels, names)
        caption = f"{picture.file_name}, {counted(len(picture.labels), 'box', 'boxes')}"
        tag = image(jpeg(small, SAMPLE_QUALITY), caption, small.shape[1], small.shape[0])
        yield tile(tag, caption)
