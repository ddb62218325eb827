"""An exported file against PyTorch: outputs by tensor, detections matched by box.

Shapes: D detection slot of one picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.accuracy import Accuracy
from gfl.runtime.description import Arrays, Thresholds

# The most that a score, a box or a spread (px) may differ: ten times what float32 and other kernels were seen to do.
SCORE_TOLERANCE = 1e-4
BOX_TOLERANCE = 0.05  # px
LOGIT_TOLERANCE = 1e-2  # of raw edge logits
MARGIN = 1e-4  # a choice made on values nearer than this to its limit may go either way
FAR = 1.0  # px: a box whose nearest counterpart is further away has none


class Found(NamedTuple):
    """The detections of one picture, best first, without empty slots."""

    boxes: NDArray[np.float64]  # (D,4) canvas px
    scores: NDArray[np.float64]  # (D,)
    labels: NDArray[np.int64]  # (D,)
    edge_std: NDArray[np.float64]  # (D,4) px


@dataclass
class Parity:
    """What the comparison found; `failures` is empty when the file agrees with PyTorch."""

    pictures: list[str] = field(default_factory=list)
    largest: dict[str, float] = field(default_factory=dict)  # largest difference by output
    matched: int = 0  # detections found by both
    intermediates: dict[str, float] = field(default_factory=dict)  # of tensors inside, as shares of their largest value
    excused: list[str] = field(default_factory=list)  # found by one only, where the choice was within MARGIN
    rivals: int = 0  # those of them that stand against an equally good one of the other side
    failures: list[str] = field(default_factory=list)
    accuracy: Accuracy | None = None  # of a precision that is not compared number by number

    def note(self, name: str, difference: float) -> None:
        """Keep the largest difference of an output; NaN counts as infinite."""
        difference = float("inf") if difference != difference else difference
        self.largest[name] = max(self.largest.get(name, 0.0), difference)


def compare_tensors(parity: Parity, pictures: Sequence[str], ours: Arrays, theirs: Arrays) -> None:
    """Compare outputs element by element; `ours` is the file's, `theirs` PyTorch's, both (B,...)."""
    for name, array in ours.items():
        for index, picture in enumerate(pictures):
            difference = np.abs(array[index].astype(np.float64) - theirs[name][index].astype(np.float64))
            worst = np.unravel_index(int(difference.argmax()), difference.shape)
            parity.note(name, float(difference[worst]))
            if not difference[worst] <= tolerance_of(name):
                place = ", ".join(str(i) for i in worst)
                value, expected = array[index][worst], theirs[name][index][worst]
                parity.failures.append(f"{picture}: {name}[{place}] is {value:.6g}, PyTorch has {expected:.6g}")


def tolerance_of(name: str) -> float:
    """The tolerance of an output, by the first word of its name."""
    if name.startswith("scores"):
        return SCORE_TOLERANCE
    return LOGIT_TOLERANCE if name.startswith("edge_logits") else BOX_TOLERANCE


def compare_detections(
    parity: Parity, pictures: Sequence[str], ours: Arrays, theirs: Arrays, limits: Thresholds
) -> None:
    """Match the detections of each picture by class and box, and compare the pairs."""
    for index, picture in enumerate(pictures):
        a, b = detections_of(ours, index), detections_of(theirs, index)
        pairs = match(a, b)
        parity.matched += len(pairs)
        for name, tolerance in (("scores", SCORE_TOLERANCE), ("boxes", BOX_TOLERANCE), ("edge_std", BOX_TOLERANCE)):
            for i, j in pairs:
                values, expected = getattr(a, name)[i], getattr(b, name)[j]
                difference = float(np.abs(values - expected).max())
                parity.note(name, difference)
                if not difference <= tolerance:
                    parity.failures.append(
                        f"{picture}: {name} of {spell(b, j)} differ by {difference:.3g}, expected at most {tolerance:g}"
                    )
        alone_a = [i for i in range(len(a.scores)) if i not in {pair[0] for pair in pairs}]
        alone_b = [j for j in range(len(b.scores)) if j not in {pair[1] for pair in pairs}]
        judge(parity, picture, a, b, alone_a, alone_b, limits)
        if not (alone_a or alone_b) and ours["complete"][index] != theirs["complete"][index]:
            parity.failures.append(f"{picture}: complete is {ours['complete'][index]}, PyTorch has the other")


def detections_of(outputs: Mapping[str, NDArray[np.generic]], index: int) -> Found:
    """One picture's filled slots."""
    count = int(outputs["count"][index])
    boxes, scores, labels, edge_std = (
        outputs[name][index][:count] for name in ("boxes", "scores", "labels", "edge_std")
    )
    return Found(
        boxes.astype(np.float64), scores.astype(np.float64), labels.astype(np.int64), edge_std.astype(np.float64)
    )


def match(a: Found, b: Found) -> list[tuple[int, int]]:
    """Pairs of one class with the nearest boxes, each detection in at most one, best scores first."""
    distance = np.abs(a.boxes[:, None] - b.boxes[None]).max(axis=2, initial=0.0)
    distance[a.labels[:, None] != b.labels[None]] = np.inf
    pairs = []
    for j in range(len(b.scores)):
        i = int(distance[:, j].argmin()) if len(a.scores) else -1
        if i >= 0 and distance[i, j] <= FAR:
            pairs.append((i, j))
            distance[i, :] = np.inf
    return pairs


def judge(
    parity: Parity,
    picture: str,
    a: Found,
    b: Found,
    alone_a: Sequence[int],
    alone_b: Sequence[int],
    limits: Thresholds,
) -> None:
    """Sort detections that one side alone has into excused ones and failures.

    Excused is what lies within MARGIN of the threshold, of the last score kept or of the NMS's IoU; what overlaps one
    of the other side whose score is as good within MARGIN, since NMS keeps the first of two and neither is; and what
    overlaps an excused one of its class.
    """
    everything = Found(*(np.concatenate(parts) for parts in zip(a, b, strict=True)))
    alone = [*alone_a, *(len(a.scores) + j for j in alone_b)]
    last = [found.scores[-1] for found in (a, b) if len(found.scores) == limits.max_detections]
    iou = iou_of(everything, everything)
    iou[everything.labels[:, None] != everything.labels[None]] = 0.0
    of_file = np.arange(len(everything.scores)) < len(a.scores)
    rivals = (
        (iou > limits.nms_iou - MARGIN)
        & (np.abs(everything.scores[:, None] - everything.scores[None]) <= MARGIN)
        & (of_file[:, None] != of_file[None])
    )
    excused = {
        k
        for k in alone
        if rivals[k].any()
        or np.abs(iou[k] - limits.nms_iou).min() <= MARGIN
        or min(abs(everything.scores[k] - limit) for limit in (limits.score, *last)) <= MARGIN
    }
    parity.rivals += sum(bool(rivals[k].any()) for k in alone)
    grown = True
    while grown:
        more = {k for k in alone if k not in excused and any(iou[k, e] > limits.nms_iou - MARGIN for e in excused)}
        excused |= more
        grown = bool(more)
    for k in alone:
        side = "only the file has" if k < len(a.scores) else "only PyTorch has"
        (parity.excused if k in excused else parity.failures).append(f"{picture}: {side} {spell(everything, k)}")


def check_rivals(parity: Parity) -> None:
    """Add a failure where equally good detections are more than a choice between them explains.

    Boxes that are all misplaced by a few pixels look the same: each overlaps the one that it should be.
    """
    if parity.rivals > parity.matched:
        parity.failures.append(
            f"{parity.rivals} detections have an equally good one of the other side beside them and only "
            f"{parity.matched} have a counterpart within {FAR:g} px: the boxes lie elsewhere"
        )


def iou_of(a: Found, b: Found) -> NDArray[np.float64]:
    """Intersection over union of all pairs of boxes."""
    top_left = np.maximum(a.boxes[:, None, :2], b.boxes[None, :, :2])
    bottom_right = np.minimum(a.boxes[:, None, 2:], b.boxes[None, :, 2:])
    shared = np.clip(bottom_right - top_left, 0.0, None).prod(axis=2)
    area_a, area_b = ((found.boxes[:, 2:] - found.boxes[:, :2]).prod(axis=1) for found in (a, b))
    union = area_a[:, None] + area_b[None] - shared
    return np.asarray(shared / np.maximum(union, 1e-6), dtype=np.float64)


def spell(found: Found, index: int) -> str:
    """A detection in words: 'class 2 0.731 at [10.2, 20.0, 64.1, 80.9]'."""
    box = ", ".join(f"{value:.1f}" for value in found.boxes[index])
    return f"class {found.labels[index]} {found.scores[index]:.4f} at [{box}]"
