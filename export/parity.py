"""An exported file against PyTorch, by number: outputs by tensor, detections matched by box.

Two programs that compute the same in another order differ by rounding, and where a detector chooses (a threshold, the
best hundred, NMS) rounding may decide. A detection that one side alone has is excused only where its choice was so
close: see the four excuses below. Under soft-NMS a choice decides scores too, so that there a detection of another
score is another detection. Shapes: D detection of one picture, on one side or on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.accuracy import Accuracy
from export.half import Extreme
from export.matching import FAR, PictureDetections, detections_of, match, not_finite
from gfl.data.boxes import pairwise_iou
from gfl.runtime.description import Arrays, Thresholds

# The most that the two may differ: ten times what float32 and other kernels were seen to do.
TOLERANCES = {
    "scores": 1e-4,
    "boxes": 0.05,  # px; for the spreads of their edges, too
    "edge_logits": 1e-2,
    "intermediates": 1e-3,  # tensors inside, as a share of their largest value
}
UNTRIED = (
    "nothing was detected at any score, so boxes and NMS are unchecked; give --images with objects in them, or "
    "--allow_unchecked"
)
MARGIN = 1e-4  # a choice made on values nearer than this to its limit may go either way

Mask = NDArray[np.bool_]


class BothSides(NamedTuple):
    """The detections of one picture on both sides: the file's, then PyTorch's."""

    detections: PictureDetections
    of_file: Mask  # (D,) the others are PyTorch's
    unmatched: Mask  # (D,) without a counterpart on the other side
    iou: NDArray[np.float64]  # (D,D) 0 between different classes, unless NMS compares these
    margin: float = MARGIN


@dataclass
class Parity:
    """The outcome of a comparison; `failures` is empty when the file agrees with PyTorch."""

    pictures: list[str] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)  # largest difference by output
    matched: int = 0  # detections that both sides have
    intermediates: dict[str, float] = field(default_factory=dict)  # of tensors inside, as shares of their largest value
    excused: list[str] = field(default_factory=list)  # detections of one side alone, where the choice was within MARGIN
    rivals: int = 0  # those of them that an equally good one of the other side replaces
    failures: list[str] = field(default_factory=list)
    accuracies: list[Accuracy] = field(default_factory=list)  # of a precision that is not compared number by number
    largest_half: Extreme | None = None  # the largest value inside a float16 run
    untried: bool = False  # whether nothing was detected, so that boxes and NMS are unchecked
    lowered: bool = False  # whether what is compared was found below the file's own score threshold
    reference: str = "PyTorch"  # what the file is compared with
    scale: float = 1.0  # of all tolerances and of MARGIN: a runtime may round more than others

    def tolerance_of(self, output: str) -> float:
        """The tolerance of an output; those of one level are named like 'scores_p3'."""
        return self.scale * TOLERANCES.get(output.partition("_p")[0], TOLERANCES["boxes"])

    def note(self, name: str, difference: float) -> None:
        """Keep the largest difference of an output; NaN counts as infinite."""
        difference = float("inf") if difference != difference else difference
        self.largest[name] = max(self.largest.get(name, 0.0), difference)


def compare_tensors(parity: Parity, pictures: Sequence[str], of_file: Arrays, of_pytorch: Arrays) -> None:
    """Compare the outputs of both sides, each (B,...), element by element."""
    parity.failures += [*not_finite(pictures, of_file, "the file"), *not_finite(pictures, of_pytorch, parity.reference)]
    for name, array in of_file.items():
        for index, picture in enumerate(pictures):
            difference = np.abs(array[index].astype(np.float64) - of_pytorch[name][index].astype(np.float64))
            worst = np.unravel_index(int(difference.argmax()), difference.shape)
            parity.note(name, float(difference[worst]))
            if not difference[worst] <= parity.tolerance_of(name):
                position = ", ".join(str(i) for i in worst)
                value, expected = array[index][worst], of_pytorch[name][index][worst]
                parity.failures.append(
                    f"{picture}: {name}[{position}] is {value:.6g}, {parity.reference} has {expected:.6g}"
                )


def compare_detections(
    parity: Parity, pictures: Sequence[str], of_file: Arrays, of_pytorch: Arrays, limits: Thresholds
) -> None:
    """Match the detections of each picture by class and box, compare the pairs, judge what has no counterpart."""
    parity.failures += [*not_finite(pictures, of_file, "the file"), *not_finite(pictures, of_pytorch, parity.reference)]
    for index, picture in enumerate(pictures):
        file, pytorch = detections_of(of_file, index), detections_of(of_pytorch, index)
        pairs = match(file, pytorch)
        if limits.nms != "hard":
            pairs = [
                (i, j) for i, j in pairs if abs(file.scores[i] - pytorch.scores[j]) <= parity.tolerance_of("scores")
            ]
        parity.matched += len(pairs)
        for name in ("scores", "boxes", "edge_std"):
            for i, j in pairs:
                difference = float(np.abs(getattr(file, name)[i] - getattr(pytorch, name)[j]).max())
                parity.note(name, difference)
                if not difference <= parity.tolerance_of(name):
                    parity.failures.append(
                        f"{picture}: {name} of {spell(pytorch, j)} differ by {difference:.3g}, "
                        f"expected at most {parity.tolerance_of(name):g}"
                    )
        both = both_sides(file, pytorch, pairs, class_agnostic=limits.class_agnostic)
        both = both._replace(margin=parity.scale * MARGIN)
        judge_unmatched(parity, picture, both, limits)
        if not both.unmatched.any() and of_file["complete"][index] != of_pytorch["complete"][index]:
            parity.failures.append(
                f"{picture}: complete is {of_file['complete'][index]}, {parity.reference} has the other"
            )


def both_sides(
    file: PictureDetections, pytorch: PictureDetections, pairs: Sequence[tuple[int, int]], *, class_agnostic: bool
) -> BothSides:
    """The detections of both sides of one picture, and which of them have no counterpart by `pairs`."""
    detections = PictureDetections(*(np.concatenate(parts) for parts in zip(file, pytorch, strict=True)))
    count = len(detections.scores)
    unmatched = np.ones(count, np.bool_)
    for i, j in pairs:
        unmatched[[i, len(file.scores) + j]] = False
    overlap = pairwise_iou(detections.boxes, detections.boxes)
    overlap[(detections.labels[:, None] != detections.labels[None]) & (not class_agnostic)] = 0.0
    return BothSides(detections, np.arange(count) < len(file.scores), unmatched, overlap)


def judge_unmatched(parity: Parity, picture: str, both: BothSides, limits: Thresholds) -> None:
    """Sort the detections that one side alone has into excused ones and failures."""
    rivals = has_equal_rival(both, limits)
    excused = near_score_limit(both, limits) | near_nms_limit(both, limits) | rivals
    excused = with_followers(both, excused & both.unmatched, limits)
    parity.rivals += int((rivals & both.unmatched).sum())
    for index in np.flatnonzero(both.unmatched).tolist():
        side = f"only {'the file' if both.of_file[index] else parity.reference} has"
        (parity.excused if excused[index] else parity.failures).append(
            f"{picture}: {side} {spell(both.detections, index)}"
        )


# ---- the four excuses ----


def near_score_limit(both: BothSides, limits: Thresholds) -> Mask:
    """(D,) Which scores lie within the margin of a threshold, or of the last score kept where all slots are full.

    Sound because such a score passes on one side and fails on the other by rounding alone.
    """
    scores = both.detections.scores
    sides = (scores[both.of_file], scores[~both.of_file])
    least = [limits.score] if limits.nms == "hard" else [limits.score, limits.soft_min_score]
    least += [side[-1] for side in sides if len(side) == limits.max_detections]
    return np.asarray((np.abs(scores[:, None] - np.array(least)) <= both.margin).any(axis=1), np.bool_)


def near_nms_limit(both: BothSides, limits: Thresholds) -> Mask:
    """(D,) Which overlap another of their class by the IoU of NMS, within the margin.

    Sound because NMS compares that very IoU with its limit: one side suppresses, the other keeps. Gaussian soft-NMS
    has none.
    """
    limit = np.inf if limits.nms == "soft_gaussian" else limits.nms_iou
    return np.asarray(np.abs(both.iou - limit).min(axis=1, initial=np.inf) <= both.margin, np.bool_)


def has_equal_rival(both: BothSides, limits: Thresholds) -> Mask:
    """(D,) Which overlap one of the other side, of their class, whose score is the same within the margin.

    Sound because NMS keeps the better of two that overlap, and rounding says which that is; see also `check_rivals`.
    """
    scores, of_file = both.detections.scores, both.of_file
    equal = np.abs(scores[:, None] - scores[None]) <= both.margin
    other_side = of_file[:, None] != of_file[None]
    return np.asarray(((both.iou > least_overlap(both, limits)) & equal & other_side).any(axis=1), np.bool_)


def with_followers(both: BothSides, excused: Mask, limits: Thresholds) -> Mask:
    """(D,) The excused, and the unmatched that overlap one of them, and those that overlap these, and so on.

    Sound because NMS suppresses on the side that has a detection what it keeps on the side that lacks it.
    """
    suppressing = both.iou > least_overlap(both, limits)
    while True:
        more = excused | (both.unmatched & suppressing[:, excused].any(axis=1))
        if (more == excused).all():
            return excused
        excused = more


def least_overlap(both: BothSides, limits: Thresholds) -> float:
    """The IoU above which a detection may change another: NMS's less the margin; of Gaussian soft-NMS almost any."""
    return both.margin if limits.nms == "soft_gaussian" else limits.nms_iou - both.margin


def check_rivals(parity: Parity) -> None:
    """Add a failure where equally good detections are more than a choice between them explains.

    Boxes that are all misplaced by a few pixels look the same: each overlaps the one that it should be.
    """
    if parity.rivals > parity.matched:
        parity.failures.append(
            f"{parity.rivals} detections have an equally good one of the other side beside them and only "
            f"{parity.matched} have a counterpart within {FAR:g} px: the boxes lie elsewhere"
        )


def spell(detections: PictureDetections, index: int) -> str:
    """A detection in words: 'class 2 0.7310 at [10.2, 20.0, 64.1, 80.9]'."""
    box = ", ".join(f"{value:.1f}" for value in detections.boxes[index])
    return f"class {detections.labels[index]} {detections.scores[index]:.4f} at [{box}]"
