"""What a run may expect of its data: the short form of `gfl.data check`, looked at before the first step."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gfl.data.check.anchors import check_anchors
from gfl.data.check.findings import Finding
from gfl.data.check.inspection import check_eval_size, check_shared, existing, known_unreadable
from gfl.data.check.truth import check_boxes
from gfl.data.coco import CocoData
from gfl.data.coco_json import Ints
from gfl.data.lazy import Picked
from gfl.data.pictures import box_counts, paths_of
from gfl.data.same_pictures import same_names_and_pictures
from gfl.errors import InputError
from gfl.settings import DataConfig

LOOKED_AT = 2_000  # pictures, spread over a larger data set, whose boxes are tried for anchors
TOLD = ("classes_of_crowds", "crowds")  # notes that a run repeats, for they change what is learnt
COUNTED = ("boxes_without_area",)  # findings that the head of a run counts already


class Outlook(NamedTuple):
    """What a run may expect of its data; where it is not said otherwise, of that to train on."""

    readable: int  # training pictures that are there, and were not found damaged
    readable_val: int  # the same of validation; 0 where there is none
    boxes: int  # that train
    without_anchor: float  # share of the boxes that no anchor learns
    whole: bool  # whether all pictures were looked at for that share
    findings: tuple[Finding, ...]  # what a user should know, without what the head of a run counts already


def _lost(data: CocoData) -> Ints:
    """The places of the pictures that are missing, and of those that were found damaged."""
    return np.flatnonzero(~existing(paths_of(data.pictures)) | known_unreadable(data))


def look_ahead(data: CocoData, cfg: DataConfig, seed: int, val: CocoData | None = None) -> Outlook:
    """Look at the training data, and at what validation shares with it.

    Raises InputError where nothing can be learnt from it.
    """
    counts = box_counts(data.pictures)
    lost = _lost(data)
    readable = len(data.pictures) - len(lost)
    if readable < len(lost):
        raise InputError(
            f"{data.annotations}: {readable:,} of {len(data.pictures):,} pictures can be read "
            f"(not {data.pictures[lost[0]].path}, e.g.), expected at least half; mend the folder: `python -m gfl.data "
            "check --read_pictures` names all"
        )
    sample = Picked(data.pictures, np.flatnonzero(counts)[:: -(-len(counts) // LOOKED_AT)])
    if not sample:
        raise InputError(
            f"{data.annotations}: none of its {len(data.pictures)} pictures has a box to learn from; add boxes"
        )
    anchors, groups = check_anchors(sample, cfg, seed)
    without = sum(group.without for group in groups) / sum(group.boxes for group in groups)
    if without == 1:
        raise InputError(f"{data.annotations}: {anchors[0].text}; nothing would be learnt: enlarge the pictures")
    found = [*check_boxes(data), *anchors]
    if val is not None:
        found += [*check_shared(data, val, same_names_and_pictures), *check_eval_size(cfg)]
    told = tuple(each for each in found if each.name not in COUNTED and (not each.is_note or each.name in TOLD))
    readable_val = 0 if val is None else len(val.pictures) - len(_lost(val))
    return Outlook(readable, readable_val, int(counts.sum()), without, len(sample) == len(data.pictures), told)
