"""The score from which a class's detections are best kept: that of the highest F1, from COCO's own matching at IoU 0.5.

GFL's scores carry the IoU of the box, so that they crowd between 0.3 and 0.6 and no one number suits every class.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.class_names import list_names, match_names
from gfl.errors import InputError, first_line

DEFAULT_SCORE = 0.3  # of a class where nothing could be measured
STEP = 1e-3  # thresholds are rounded down to whole steps: the last digits of a score differ between runtimes


class BestF1(NamedTuple):
    """The threshold of one class, and what it gives: all as shares of 1, at IoU 0.5."""

    score: float  # detections of at least this score are kept
    f1: float
    precision: float
    recall: float


def best_f1(precision: NDArray[np.float64], scores: NDArray[np.float64], objects: int) -> BestF1 | None:
    """The best of one class's precision and scores (R,) at COCO's recalls; None without objects or true detections.

    COCO's numbers at a recall are those of the first detection that reaches it, whose own recall is the next that so
    many objects allow. COCO's precision is the best that this or a higher recall has, which does not change the maximum
    of F1: where a higher recall lends its precision, its own F1 is higher still. So up to 100 objects the maximum is
    exact, and beyond the recall is right to a hundredth.
    """
    if precision.size == 0 or precision.max() <= 0:
        return None
    # Less a rounding error: 0.29 of 100 objects is 29.000000000000004.
    recalls = np.ceil(np.linspace(0.0, 1.0, len(precision)) * objects - 1e-9) / objects
    f1 = 2 * precision * recalls / np.maximum(precision + recalls, 1e-12)
    best = int(f1.argmax())
    if f1[best] <= 0:
        return None
    score = math.floor(float(scores[best]) / STEP + 1e-6) * STEP
    return BestF1(round(score, 3), float(f1[best]), float(precision[best]), float(recalls[best]))


def score_thresholds(measured: Iterable[BestF1 | None]) -> tuple[float, ...]:
    """A threshold a class; one without objects takes the median of the others, DEFAULT_SCORE where there are none."""
    scores = [None if one is None else one.score for one in measured]
    known = [score for score in scores if score is not None]
    stand_in = float(np.median(known)) if known else DEFAULT_SCORE
    return tuple(stand_in if score is None else score for score in scores)


def thresholds_by_label(
    measured: Sequence[BestF1 | None], category_ids: Iterable[int], of_labels: Sequence[int]
) -> tuple[float, ...]:
    """`score_thresholds` in the order of a model's labels.

    measured: of the classes of an annotation file, whose ids are `category_ids`. of_labels: label -> category id there.
    """
    by_id = dict(zip(category_ids, measured, strict=True))
    return score_thresholds(by_id[category_id] for category_id in of_labels)


def read_thresholds(path: Path, names: Sequence[str]) -> tuple[float, ...]:
    """`score_thresholds` for the classes of a model from the metrics.json of an evaluation, matched by name.

    Raises InputError where the file is none, or measured no class of the model.
    """
    try:
        best = json.loads(path.read_text(encoding="utf-8"))["best_f1"]
        measured = {name: None if one is None else BestF1(**one) for name, one in best.items()}
        places = match_names(names, list(measured))
        found = [None if place is None else list(measured.values())[place] for place in places]
        scores = score_thresholds(found)
        is_sound = all(0 <= score <= 1 for score in scores)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} cannot be read ({first_line(error)}), expected the metrics.json of `python -m gfl.evaluate`"
        ) from error
    if not is_sound or not any(found):
        raise InputError(
            f"{path} has no score of {list_names(names)}, expected the metrics.json of an evaluation of this model; "
            "evaluate it on annotations of its classes"
        )
    return scores
