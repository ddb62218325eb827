"""The page of `gfl.data check --html`: one file that opens without a network, in light and dark."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from gfl.data.check.findings import Finding
from gfl.data.coco import CocoData, Picture
from gfl.data.picture_files import read_picture
from gfl.errors import InputError
from gfl.report.draw import draw
from gfl.words import counted

Floats = NDArray[np.float64]

SAMPLES = 12
SAMPLE_PX = 480  # the longer side of a sample on the page
CELLS = 32  # of a map of positions or sizes, a side
MOST_CLASSES = 20  # bars that are shown at once
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --faint: #8a929b; --bar: #0072b2; --rule: #d8dde2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --paper: #16191d; --faint: #98a1ab; --bar: #56b4e9; --rule: #343a41 }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper) }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
h1, h2 { line-height: 1.2 } h2 { border-top: 1px solid var(--rule); padding-top: 1rem }
small, .faint { color: var(--faint) }
table { border-collapse: collapse } td, th { text-align: left; padding: .1rem .8rem .1rem 0; vertical-align: top }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: var(--bar); height: .8rem; display: inline-block; min-width: 1px }
.maps, .samples { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)) }
figure { margin: 0 } figcaption { color: var(--faint); font-size: .85rem; overflow-wrap: anywhere }
img, svg { max-width: 100%; height: auto }
li { margin: .3rem 0 } .unusable { color: #d55e00; font-weight: 600 } summary { cursor: pointer }
"""


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
        parts.append(f"<h2>Training and validation together</h2>{_findings(both)}")
    for each in splits:
        parts.append(f"<h2>{html.escape(each.split)}</h2>{_findings(each.findings)}")
        if each.data is not None:
            parts += _about(each.data)
    title = "<title>A look at the data</title>"
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width">{title}<style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>Nothing was found.</p>"
    items = []
    for each in sorted(findings, key=lambda found: (not found.is_fatal, found.is_note)):
        kind = "unusable" if each.is_fatal else "note" if each.is_note else "finding"
        shown = "".join(f"<li>{html.escape(example)}</li>" for example in each.examples)
        more = f"<details><summary class=faint>examples</summary><ul>{shown}</ul></details>" if shown else ""
        items.append(f'<li><span class="{kind}">{kind}</span>: {html.escape(each.text)}{more}</li>')
    return f"<ul>{''.join(items)}</ul>"


def _about(data: CocoData) -> Iterator[str]:
    """Class counts, maps and samples of one split."""
    truth = data.truth
    yield (
        f"<p>{counted(len(data.pictures), 'picture')}, {counted(len(truth.boxes_xywh), 'box', 'boxes')}, "
        f"{counted(len(data.names), 'class', 'classes')}; <small>{html.escape(str(data.annotations))}</small></p>"
    )
    counts = [(name, int((truth.category_id == key).sum())) for key, name in truth.class_names.items()]
    yield _bars(sorted(counts, key=lambda row: -row[1]))
    boxes = [picture.boxes_xyxy / _sides(picture) for picture in data.pictures if len(picture.boxes_xyxy)]
    if boxes:
        shares = np.concatenate(boxes).astype(np.float64)
        wide, high = shares[:, 2] - shares[:, 0], shares[:, 3] - shares[:, 1]
        middle_x, middle_y = (shares[:, 0] + shares[:, 2]) / 2, (shares[:, 1] + shares[:, 3]) / 2
        sides = np.sqrt(truth.boxes_xywh[:, 2].clip(0) * truth.boxes_xywh[:, 3].clip(0))
        yield "<div class=maps>"
        yield _map(middle_x, middle_y, "where the boxes' centres lie in their pictures")
        yield _map(wide, 1 - high, "widths (to the right) and heights (upwards) as shares of the picture")
        yield _histogram(sides[sides > 0])
        yield "</div>"
    yield "<h3>Samples</h3><div class=samples>"
    yield from _samples(data)
    yield "</div>"


def _sides(picture: Picture) -> NDArray[np.float32]:
    return np.array([picture.width, picture.height, picture.width, picture.height], np.float32)


def _bars(counts: Sequence[tuple[str, int]]) -> str:
    most = max((count for _, count in counts), default=0) or 1
    rows = [
        f"<tr><td>{html.escape(name)}</td><td class=number>{count:,}</td>"
        f'<td style="width:60%"><span class=bar style="width:{100 * count / most:.1f}%"></span></td></tr>'
        for name, count in counts
    ]
    parts = rows[:MOST_CLASSES], rows[MOST_CLASSES:]
    shown, rest = (f'<table style="width:100%">{"".join(part)}</table>' for part in parts)
    if len(rows) <= MOST_CLASSES:
        return shown
    return f"{shown}<details><summary class=faint>{len(rows) - MOST_CLASSES} classes more</summary>{rest}</details>"


def _map(across: Floats, down: Floats, caption: str) -> str:
    """A square of cells, the darker the more values in [0, 1] x [0, 1] fall into each."""
    counts = np.histogram2d(down.clip(0, 1), across.clip(0, 1), bins=CELLS, range=((0, 1), (0, 1)))[0]
    strength = np.sqrt(counts / max(counts.max(), 1))
    cells = "".join(
        f'<rect x="{x}" y="{y}" width="1" height="1" fill="var(--bar)" fill-opacity="{strength[y, x]:.2f}"/>'
        for y, x in zip(*np.nonzero(counts), strict=True)
    )
    frame = f'<rect width="{CELLS}" height="{CELLS}" fill="none" stroke="var(--rule)" stroke-width=".2"/>'
    return f'<figure><svg viewBox="0 0 {CELLS} {CELLS}" width="320">{cells}{frame}</svg>{_caption(caption)}</figure>'


def _histogram(sides: Floats) -> str:
    """How many boxes have which side (the root of their area), px, on a scale of doublings."""
    edges = 2.0 ** np.arange(0, 12)
    counts = np.histogram(sides, bins=np.append(edges, np.inf))[0]
    most = max(counts.max(), 1)
    bars = "".join(
        f'<rect x="{8 * i}" y="{60 - high:.1f}" width="7" height="{high:.1f}" fill="var(--bar)"/>'
        f'<text x="{8 * i + 3.5}" y="66" font-size="3" text-anchor="middle" fill="var(--faint)">{int(edges[i])}</text>'
        for i, high in enumerate((56 * counts / most).tolist())
    )
    text = "side of a box in px (the root of its area), from the number below a bar to the next"
    return f'<figure><svg viewBox="0 0 {8 * len(counts)} 70" width="320">{bars}</svg>{_caption(text)}</figure>'


def _caption(text: str) -> str:
    return f"<figcaption>{html.escape(text)}</figcaption>"


def _samples(data: CocoData) -> Iterator[str]:
    """SAMPLES pictures, spread over the data set, with their boxes."""
    shown = 0
    for picture in data.pictures[:: max(1, len(data.pictures) // (2 * SAMPLES))]:
        if shown == SAMPLES:
            return
        try:
            image = read_picture(picture.path)
        except InputError:
            continue
        shown += 1
        if image.shape[:2] == (picture.height, picture.width):
            names = [data.names[label] for label in picture.labels.tolist()]
            image = draw(image, picture.boxes_xyxy, None, picture.labels, names)
        scale = min(1.0, SAMPLE_PX / max(image.shape[:2]))
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        coded = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])[1].tobytes()
        source = f"data:image/jpeg;base64,{base64.b64encode(coded).decode()}"
        caption = _caption(f"{picture.file_name}, {counted(len(picture.labels), 'box', 'boxes')}")
        yield f'<figure><img alt="" src="{source}">{caption}</figure>'
