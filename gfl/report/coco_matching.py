"""COCO's matching of detections with true boxes, by hotcoco or by pycocotools, which agree to the last bit.

Both are handed ids from 1, pictures and classes in the order of their own: so no id is too large for a float, and none
is 0, which pycocotools takes for "no match". Letters: N true boxes, D detections.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from gfl.data.coco_json import Floats, Ints, Mask
from gfl.errors import InputError, first_line

if TYPE_CHECKING:
    from hotcoco import COCOeval

BACKENDS = ("auto", "hotcoco", "pycocotools")

_Row: TypeAlias = dict[str, object]  # a picture, a class, an annotation or a detection as the backends take it


class Boxes(NamedTuple):
    """True boxes (N) or detections (D) on numbered pictures."""

    pictures: Ints  # (N,) from 1
    classes: Ints  # (N,) from 1
    xywh: Floats  # (N,4) px


class Matching(NamedTuple):
    """What is matched with what, and how many detections a picture count."""

    pictures: int
    classes: int
    truth: Boxes
    areas: Floats  # (N,) px, of the true boxes
    crowd: Mask  # (N,)
    found: Boxes
    scores: Floats  # (D,)
    limits: Sequence[int]  # best detections of a picture that count; the last is the largest


class Curves(NamedTuple):
    """Shapes by the 10 IoU thresholds, 101 recalls, classes, 4 areas (all, small, medium, large) and the limits.

    -1 marks what has no true box.
    """

    precision: Floats  # (10,101,classes,4,limits)
    recall: Floats  # (10,classes,4,limits)
    scores: Floats  # as precision: the lowest score that is needed


def choose_backend(backend: str) -> str:
    """The backend to use. Raises InputError for an unknown one, and for hotcoco where it is not installed."""
    if backend not in BACKENDS:
        raise InputError(f"got backend {backend!r}, expected one of {BACKENDS}")
    installed = find_spec("hotcoco") is not None
    if backend == "hotcoco" and not installed:
        raise InputError(
            "backend 'hotcoco' needs hotcoco, which is not installed: pip install hotcoco, or take backend "
            "'pycocotools'"
        )
    return "hotcoco" if installed and backend != "pycocotools" else "pycocotools"


def curves(matching: Matching, backend: str) -> Curves:
    """Precision, recall and scores; the same bits from either backend."""
    found = _by_hotcoco(matching) if backend == "hotcoco" else _by_pycocotools(matching)
    return Curves(*(np.asarray(found[name], dtype=np.float64) for name in Curves._fields))


def _by_hotcoco(matching: Matching) -> dict[str, object]:
    """It takes arrays, and leaves the interpreter to other threads while it matches."""
    evaluation = hotcoco_evaluation(matching)
    evaluation.accumulate()
    return evaluation.eval or {}


def hotcoco_evaluation(matching: Matching) -> COCOeval:
    """hotcoco's evaluation after its `evaluate`. Its ids are the numbers of `matching`, its names those in text."""
    try:
        from hotcoco import COCO, COCOeval
    except ImportError as error:
        raise InputError(
            f"hotcoco is installed and cannot be imported ({first_line(error)}); install it anew, or remove it (pip "
            "uninstall hotcoco), and pycocotools counts"
        ) from error

    pictures, classes = _numbered(matching)
    truth = COCO.from_arrays(
        pictures, classes, *matching.truth, area=matching.areas, iscrowd=matching.crowd.astype(np.int64)
    )
    found = matching.found
    columns = (found.pictures, *found.xywh.T, matching.scores, found.classes)
    evaluation = COCOeval(truth, truth.load_res(np.column_stack(columns).astype(np.float64)), "bbox")
    evaluation.params.max_dets = list(matching.limits)
    evaluation.evaluate()
    return evaluation


def interval_of_difference(one: Matching, other: Matching, samples: int) -> tuple[float, float] | None:
    """Bounds between which the AP of `other` less that of `one` lies in 95 of 100 draws of as many pictures; hotcoco's.

    None where one of them could not be measured.
    """
    from hotcoco import compare

    found = compare(hotcoco_evaluation(one), hotcoco_evaluation(other), n_bootstrap=samples)
    interval = (found["ci"] or {}).get("AP")
    return None if interval is None else (float(interval["lower"]), float(interval["upper"]))


def _by_pycocotools(matching: Matching) -> dict[str, object]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    pictures, classes = _numbered(matching)
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it speaks through print
        for annotations in (_true_rows(matching), _found_rows(matching)):
            side = COCO()
            side.dataset = {"images": pictures, "annotations": annotations, "categories": classes}
            side.createIndex()
            sides.append(side)
        evaluation = COCOeval(*sides, iouType="bbox")
        evaluation.params.maxDets = list(matching.limits)
        evaluation.evaluate()
        evaluation.accumulate()
    found: dict[str, object] = evaluation.eval
    return found


def _numbered(matching: Matching) -> tuple[list[_Row], list[_Row]]:
    """The pictures, and the classes, which go without their names: two may have the same."""
    pictures: list[_Row] = [{"id": number} for number in range(1, matching.pictures + 1)]
    return pictures, [{"id": number, "name": str(number)} for number in range(1, matching.classes + 1)]


def _true_rows(matching: Matching) -> list[_Row]:
    """Ids from 1: pycocotools reads a match with an annotation of id 0 as no match."""
    columns = (*matching.truth, matching.areas, matching.crowd.astype(np.int64))
    return [
        {"id": index, "image_id": picture, "category_id": class_, "bbox": box, "area": area, "iscrowd": crowd}
        for index, (picture, class_, box, area, crowd) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]


def _found_rows(matching: Matching) -> list[_Row]:
    """With the fields that pycocotools' own loadRes adds."""
    columns = (*matching.found, matching.scores)
    return [
        {"id": index, "image_id": picture, "category_id": class_, "bbox": box, "score": score}
        | {"area": box[2] * box[3], "iscrowd": 0}
        for index, (picture, class_, box, score) in enumerate(
            zip(*(column.tolist() for column in columns), strict=True), start=1
        )
    ]
