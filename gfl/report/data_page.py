"""The page of `gfl.data check --html`: one file that opens without a network, in light and dark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from gfl.data.check.findings import Finding
from gfl.data.coco import CocoData
from gfl.data.picture_files import read_picture, stored_bytes
from gfl.errors import InputError
from gfl.report.coco_eval import distinct_names
from gfl.report.draw import draw
from gfl.report.figures import labels_figure, svgs
from gfl.report.findings_part import findings_list
from gfl.report.html_parts import DIALOG, document, figure, image, paragraph, sorting_table, table, text, tile
from gfl.report.sheets import jpeg, shrinkage, shrunk
from gfl.words import counted

SPLIT_WORDS = {"train": "training", "val": "validation"}
SIZES = ("pictures", "without a box", "boxes", "most on a picture", "width, px", "height, px", "a file, on average")
MOST_FILES = 1_000  # whose bytes are asked for: on a network each may take a millisecond
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


def data_page(name: str, splits: Sequence[Inspected], both: Sequence[Finding]) -> str:
    """The whole page about the data set of that name; pictures that cannot be read are left out of it.

    both: what was found that concerns the splits together, or the settings of a run over them.
    """
    title = f"Data set {name}"
    parts = [f"<h1>{text(title)}</h1>"]
    parts.append(paragraph(verdict([*(each for split in splits for each in split.findings), *both]), "lead"))
    data = {each.split: each.data for each in splits if each.data is not None}
    if data:
        rows = zip(SIZES, *map(_sizes, data.values()), strict=True)
        parts.append(table(["", *(SPLIT_WORDS[split] for split in data)], list(rows)))
    if both:
        heading = "Training and validation together" if len(splits) > 1 else "As a run takes it"
        parts.append(f"<h2>{heading}</h2>{findings_list(both)}")
    if data:
        parts.append(f"<h2>Boxes of the classes</h2>{_classes(data)}")
    for each in splits:
        parts.append(f"<h2>{SPLIT_WORDS[each.split].capitalize()}</h2>{findings_list(each.findings)}")
        if each.data is not None:
            parts += _about(each.split, each.data)
    return document(title, "\n".join([*parts, DIALOG]), with_script=True)


def verdict(findings: Sequence[Finding]) -> str:
    """Whether the data can be trained on, what is worth mending first, and how much is worth knowing.

    Example:
        >>> verdict([Finding("boxes_doubled", 4, "..."), Finding("crowds", 2, "...", is_note=True)])
        'It can be trained on, but 1 finding below is worth mending first: boxes doubled. 1 note is worth knowing.'
    """
    wrong = [each for each in findings if not each.is_note]
    if any(each.is_fatal for each in wrong):
        said = "It cannot be trained on as it is: what is marked “unusable” below must be mended first."
    elif wrong:
        kinds = ", ".join(dict.fromkeys(each.name.replace("_", " ") for each in wrong))
        below = f"{counted(len(wrong), 'finding')} below {_be(len(wrong))}"
        said = f"It can be trained on, but {below} worth mending first: {kinds}."
    else:
        said = "It can be trained on: nothing wrong was found."
    notes = len(findings) - len(wrong)
    return said + (f" {counted(notes, 'note')} {_be(notes)} worth knowing." if notes else "")


def _be(number: int) -> str:
    return "is" if number == 1 else "are"


def _sizes(data: CocoData) -> list[str]:
    """Numbers and sizes of one split, in the order of SIZES."""
    sides = np.array([(picture.width, picture.height) for picture in data.pictures])
    some = data.pictures[:: -(-len(data.pictures) // MOST_FILES)]
    # What is missing is among the findings.
    file_bytes = [size for size in (stored_bytes(picture.path) for picture in some) if size]
    return [
        f"{len(data.pictures):,}",
        f"{data.without_boxes:,}",
        f"{len(data.truth.boxes_xywh):,}",
        f"{max(len(picture.boxes_xyxy) for picture in data.pictures):,}",
        *(
            f"{low:,}-{high:,}" if low < high else f"{low:,}"
            for low, high in zip(sides.min(0), sides.max(0), strict=True)
        ),
        f"{np.mean(file_bytes) / 1000:,.0f} kB" if file_bytes else "-",
    ]


def _classes(data: Mapping[str, CocoData]) -> str:
    """The table of the classes of all splits, each with its boxes."""
    boxes: dict[str, dict[str, int]] = {}  # class -> split -> boxes
    for split, each in data.items():
        names = distinct_names(each.truth.class_names)
        for key, name in zip(each.truth.class_names, names, strict=True):
            boxes.setdefault(name, {})[split] = int((each.truth.category_id == key).sum())
    rows: list[list[tuple[str, float | None]]] = []
    for name, numbers in boxes.items():
        counts = [numbers.get(split) for split in data]
        rows.append([(name, None), *(("-", None) if n is None else (f"{n:,}", float(n)) for n in counts)])
    return sorting_table("classes", ("class", *(SPLIT_WORDS[split] for split in data)), rows)


def _about(split: str, data: CocoData) -> Iterator[str]:
    """Where one split is, maps of its boxes, and samples."""
    yield f"<p><small>{text(str(data.annotations))}</small></p>"
    if any(len(picture.boxes_xyxy) for picture in data.pictures):
        yield figure(svgs(labels_figure(data)), label="Boxes a class, sizes, places and shapes of the boxes")
    yield '<h3>Samples</h3><div class="tiles">'
    yield from _samples(split, data)
    yield "</div>"


def _samples(split: str, data: CocoData) -> Iterator[str]:
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
        alternative = f"{SPLIT_WORDS[split].capitalize()} picture {caption}"
        tag = image(jpeg(small, SAMPLE_QUALITY), alternative, small.shape[1], small.shape[0])
        yield tile(tag, caption)
