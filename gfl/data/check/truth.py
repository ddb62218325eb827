"""What is odd about the boxes and classes of a data set, judged by its boxes as they are written."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gfl.data.check.findings import Finding, finding
from gfl.data.coco import CocoData
from gfl.data.coco_json import GroundTruth
from gfl.data.source.box_form import MENDS, box_form

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]

ROUNDING_PX = 1.0  # a box may reach so far over its picture's border by rounding
MOST_COUNTED = 100  # detections of a picture that COCO's evaluation counts


def check_boxes(data: CocoData) -> list[Finding]:
    """Findings about the boxes of a data set, against the sizes that its pictures have."""
    sizes_hw = {picture.id: (picture.height, picture.width) for picture in data.pictures}
    return check_truth(data.truth, sizes_hw, {picture.id: picture.file_name for picture in data.pictures})


def check_truth(truth: GroundTruth, sizes_hw: Mapping[int, tuple[int, int]], names: Mapping[int, str]) -> list[Finding]:
    """Findings about the boxes. sizes_hw, names: of each picture, by image id; a size of 0 is not known."""
    known = np.array([sizes_hw.get(key, (0, 0)) for key in truth.image_id.tolist()], dtype=np.float64).reshape(-1, 2)
    x1, y1, width, height = truth.boxes_xywh.T
    right, bottom = x1 + width, y1 + height
    limit_h, limit_w = np.where(known > 0, known, np.inf).T
    outside = (right <= 0) | (bottom <= 0) | (x1 >= limit_w) | (y1 >= limit_h)
    over = np.maximum.reduce([-x1, -y1, right - limit_w, bottom - limit_h])
    small = (width < 1) | (height < 1)
    shares = (np.abs(truth.boxes_xywh) <= 1).all(axis=1) & (truth.boxes_xywh != np.round(truth.boxes_xywh)).any(axis=1)

    def examples(mask: Mask) -> list[str]:
        return [_box_name(truth, names, i) for i in np.flatnonzero(mask).tolist()]

    found: list[Finding] = []
    form = box_form(truth.boxes_xywh, known.astype(np.int64)) if (known > 0).all() else "xywh"
    if form != "xywh":
        looks, mend = MENDS[form]
        found.append(Finding(f"boxes_{form}", len(outside), f"the boxes look like {looks}: {mend}"))
    is_outside, is_clipped = outside & ~small, (over > ROUNDING_PX) & ~outside & ~small
    found += finding(
        "boxes_outside", "boxes wholly outside their pictures", "mend or remove them", examples(is_outside)
    )
    found += finding(
        "boxes_clipped", "boxes over the border by more than a pixel", "clipped to it", examples(is_clipped)
    )
    tiny = examples(small & ~shares)
    found += finding("boxes_without_area", "boxes less than a pixel wide or high", "left out", tiny)
    if form != "normalised":
        what, becomes = "boxes within 0..1, as if they were shares of the picture", "left out; write them in pixels"
        found += finding("boxes_normalised", what, becomes, examples(shares))
    doubled = examples(_doubled(truth))
    found += finding("boxes_doubled", "boxes that repeat one of their picture and class", "both are kept", doubled)
    return found + _check_classes(truth) + _check_counts(truth, names)


def _doubled(truth: GroundTruth) -> Mask:
    """(N,) whether a box repeats one before it."""
    keys = np.column_stack([truth.image_id, truth.category_id, np.round(truth.boxes_xywh * 100)]).astype(np.int64)
    repeated = np.ones(len(keys), np.bool_)
    if len(keys):
        rows = np.ascontiguousarray(keys).view([("", np.int64)] * keys.shape[1]).ravel()  # one value a row: sorts fast
        repeated[np.unique(rows, return_index=True)[1]] = False
    return repeated


def _check_classes(truth: GroundTruth) -> list[Finding]:
    used, crowded = set(truth.category_id[~truth.crowd].tolist()), set(truth.category_id[truth.crowd].tolist())
    without = [name for key, name in truth.class_names.items() if key not in used | crowded]
    found = finding("classes_without_boxes", "classes without a box", "they cannot be learnt", without)
    only = [name for key, name in truth.class_names.items() if key in crowded - used]
    becomes = "not learnt; some tools mark every mask so: set iscrowd to 0 where a box is one object"
    found += finding("classes_of_crowds", "classes with crowd boxes (iscrowd 1) only", becomes, only)
    if truth.crowd.any():
        text = f"crowd boxes, iscrowd 1 ({truth.crowd.sum():,}): not learnt, and detections in them are not counted"
        found.append(Finding("crowds", int(truth.crowd.sum()), text, is_note=True))
    if truth.root_note:
        found.append(Finding("root_category", 1, truth.root_note, is_note=True))
    return found


def _check_counts(truth: GroundTruth, names: Mapping[int, str]) -> list[Finding]:
    ids, counts = np.unique(truth.image_id[~truth.crowd], return_counts=True)
    empty = [names.get(key, str(key)) for key in sorted(set(truth.image_ids.tolist()) - set(ids.tolist()))]
    becomes = "not trained on unless KEEP_EMPTY = True, and counted in evaluation"
    found = finding("pictures_without_boxes", "pictures without a box", becomes, empty, is_note=True)
    rows = zip(ids.tolist(), counts.tolist(), strict=True)
    crowded = [f"{names.get(key, key)}: {number} boxes" for key, number in rows if number > MOST_COUNTED]
    what = f"pictures of more than the {MOST_COUNTED} objects that an evaluation counts"
    becomes = "raise PredictConfig.max_detections, and evaluate with --max_detections"
    return found + finding("pictures_of_many_boxes", what, becomes, crowded)


def _box_name(truth: GroundTruth, names: Mapping[int, str], index: int) -> str:
    key = int(truth.image_id[index])
    box = ", ".join(f"{value:g}" for value in truth.boxes_xywh[index])
    return f"{names.get(key, key)}: [{box}]"
