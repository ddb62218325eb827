"""What each kind of error costs, which classes are taken for which, and what a score is worth: hotcoco's counting.

K classes of the annotations, in the order of their ids.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from gfl.report.coco_matching import Boxes, Matching, hotcoco_evaluation

# hotcoco's name of a kind of error, and ours.
_KINDS = (
    ("Cls", "wrong class"),
    ("Loc", "wrong place"),
    ("Both", "wrong class and place"),
    ("Dupe", "duplicate"),
    ("Bkg", "background"),
    ("Miss", "missed"),
)
BINS = 10  # of scores


class ScoreBin(NamedTuple):
    """The detections whose scores lie between two tenths."""

    lowest: float
    detections: int
    score: float  # mean
    right: float  # share of them that find an object at IoU 0.5


class Breakdown(NamedTuple):
    """What hotcoco tells of detections beside COCO's numbers."""

    ap50: float  # mean of the classes that have objects
    # Kind of error -> AP50, as a share of 1, that mending it alone would gain (TIDE); empty where nothing was found:
    # then hotcoco has 0 for all, though everything is missed.
    costs: dict[str, float]
    confusion: NDArray[np.int64]  # (K+1,K+1) true class by found class; the last is background: nothing there, missed
    bins: tuple[ScoreBin, ...]  # those with detections; none where scores lie outside of 0..1
    calibration_error: float  # mean distance of score and share of right ones, weighted by detections; NaN without bins


def break_down(matching: Matching, kept: NDArray[np.bool_]) -> Breakdown:
    """kept (D,): the detections of `matching` that a person would be shown; the confusion is theirs alone."""
    evaluation = hotcoco_evaluation(matching)
    errors = cast("dict[str, dict[str, float]]", evaluation.tide_errors())
    # Scores of other scales (logits, percent) have no bins.
    is_share = len(matching.scores) and matching.scores.min() >= 0 and matching.scores.max() <= 1
    calibration = evaluation.calibration(n_bins=BINS) if is_share else {"bins": [], "ece": math.nan}
    pictures, classes, boxes_xywh = matching.found
    found = Boxes(pictures[kept], classes[kept], boxes_xywh[kept])
    shown = matching._replace(found=found, scores=matching.scores[kept])
    confusion = hotcoco_evaluation(shown).confusion_matrix(max_det=matching.limits[-1])["matrix"]
    return Breakdown(
        ap50=float(cast("float", errors["ap_base"])),
        costs={ours: float(errors["delta_ap"][theirs]) for theirs, ours in _KINDS} if len(matching.scores) else {},
        confusion=np.asarray(confusion).astype(np.int64),
        bins=tuple(
            ScoreBin(each["bin_lower"], int(each["count"]), each["avg_confidence"], each["avg_accuracy"])
            for each in cast("list[dict[str, float]]", calibration["bins"])
            if each["count"]
        ),
        calibration_error=float(cast("float", calibration["ece"])),
    )
