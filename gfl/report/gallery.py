"""Pictures of a data set with their truth and what was found, side by side, and the worst of each kind of error."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gfl.data.coco_json import Ints
from gfl.data.picture_files import read_picture
from gfl.data.pictures import Picture
from gfl.data.transforms import Image
from gfl.errors import InputError
from gfl.report.analysis import Analysis, places_of
from gfl.report.draw import Colour, draw
from gfl.report.edges import corners_xyxy
from gfl.report.kinds import CROWD, ERRORS, MISSED, RIGHT, Judged
from gfl.report.sheets import CELL_PX, sheet, shrinkage, shrunk
from gfl.words import counted

EACH = 4  # pictures of a kind of error
WRONG: Colour = (213, 94, 0)  # vermilion and sky blue of Okabe and Ito: apart for everyone
FINE: Colour = (86, 180, 233)


class Example(NamedTuple):
    """A picture that shows a kind of error."""

    kind: int
    picture: Picture
    judged: Judged
    errors: Ints  # rows of the detections, or of the missed objects, that show it

    @property
    def caption(self) -> str:
        """What is wrong on it, in words."""
        count = len(self.errors)
        if self.kind == MISSED:
            return f"{self.picture.file_name}: {counted(count, 'object')} missed"
        return f"{self.picture.file_name}: {counted(count, 'detection')} of this kind"


def examples(analysis: Analysis, pictures: Mapping[int, Picture]) -> Iterator[Example]:
    """For each kind of error the EACH worst pictures: those of its most certain detections, or with most missed."""
    for kind in ERRORS:
        with_kind = [each for each in analysis.judged if each.count(kind) and each.image_id in pictures]
        ranked = sorted(with_kind, key=lambda each: _badness(analysis, each, kind), reverse=True)
        for each in ranked[:EACH]:
            errors = each.missed if kind == MISSED else each.rows[each.kinds == kind]
            yield Example(kind, pictures[each.image_id], each, errors)


def _badness(analysis: Analysis, judged: Judged, kind: int) -> tuple[float, int]:
    """What is worse comes first: the highest score among wrong detections, the number of missed objects."""
    if kind == MISSED:
        return float(len(judged.missed)), -judged.image_id
    return float(analysis.shown.scores[judged.rows[judged.kinds == kind]].max()), -judged.image_id


def example_picture(example: Example, analysis: Analysis, cell_px: int = CELL_PX) -> Image | None:
    """Truth and detections side by side; None where the picture cannot be read."""
    image = read_if_possible(example.picture)
    if image is None:
        return None
    focus = set(example.errors.tolist())
    truth_rows = np.flatnonzero((analysis.truth.image_id == example.judged.image_id) & ~analysis.truth.crowd)
    missed = focus if example.kind == MISSED else set()
    wrong = set() if example.kind == MISSED else focus
    pair = [
        _with_truth(image, analysis, truth_rows, missed, cell_px),
        _with_found(image, analysis, example.judged.rows, wrong, cell_px),
    ]
    return sheet(pair, 2, cell_px)


def truth_and_found(picture: Picture, judged: Judged, analysis: Analysis, cell_px: int = CELL_PX) -> Image | None:
    """The same of any picture: what is missed and what is wrong stands out."""
    image = read_if_possible(picture)
    if image is None:
        return None
    truth_rows = np.flatnonzero((analysis.truth.image_id == judged.image_id) & ~analysis.truth.crowd)
    pair = [
        _with_truth(image, analysis, truth_rows, set(judged.missed.tolist()), cell_px),
        _with_found(image, analysis, judged.rows, _wrong(judged), cell_px),
    ]
    return sheet(pair, 2, cell_px)


def found_picture(picture: Picture, analysis: Analysis, judged: Judged, cell_px: int = CELL_PX) -> Image | None:
    """What is shown on a picture, the wrong boxes apart; None where it cannot be read."""
    image = read_if_possible(picture)
    return None if image is None else _with_found(image, analysis, judged.rows, _wrong(judged), cell_px)


def _wrong(judged: Judged) -> set[int]:
    return set(judged.rows[(judged.kinds != RIGHT) & (judged.kinds != CROWD)].tolist())


def read_if_possible(picture: Picture) -> Image | None:
    """The picture at the size that its annotations are for, else None."""
    try:
        image = read_picture(picture.path)
    except InputError:
        return None
    return image if image.shape[:2] == (picture.height, picture.width) else None


def _with_truth(image: Image, analysis: Analysis, rows: Ints, missed: set[int], cell_px: int) -> Image:
    truth, labels = analysis.truth, places_of(analysis.truth, analysis.truth.category_id[rows])
    colours = [WRONG if row in missed else FINE for row in rows.tolist()]
    boxes = shrinkage(image, cell_px) * corners_xyxy(truth.boxes_xywh[rows])
    return draw(shrunk(image, cell_px), boxes, None, labels, _names(analysis, labels), colours=colours)


def _with_found(image: Image, analysis: Analysis, rows: Ints, wrong: set[int], cell_px: int) -> Image:
    found, labels = analysis.shown, places_of(analysis.truth, analysis.shown.category_ids[rows])
    colours = [WRONG if row in wrong else FINE for row in rows.tolist()]
    scale, names = shrinkage(image, cell_px), _names(analysis, labels)
    spread = None if found.edge_std is None else scale * found.edge_std[rows]
    boxes, scores = scale * corners_xyxy(found.boxes_xywh[rows]), found.scores[rows]
    return draw(shrunk(image, cell_px), boxes, scores, labels, names, edge_std=spread, colours=colours)


def _names(analysis: Analysis, labels: Ints) -> Sequence[str]:
    names = list(analysis.truth.class_names.values())
    return [names[label] for label in labels.tolist()]
