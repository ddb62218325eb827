"""The detections of two sides of a comparison, picture by picture, and which of them are the same.

Shapes: D detection of one picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gfl.runtime.description import Arrays

FAR = 1.0  # px: a box whose nearest counterpart is further away has none


class PictureDetections(NamedTuple):
    """The detections of one picture, best first, without empty slots."""

    boxes: NDArray[np.float64]  # (D,4) canvas px
    scores: NDArray[np.float64]  # (D,)
    labels: NDArray[np.int64]  # (D,)
    edge_std: NDArray[np.float64]  # (D,4) px


def detections_of(outputs: Arrays, index: int) -> PictureDetections:
    """The filled slots of one picture of a batch."""
    count = int(outputs["count"][index])
    boxes, scores, labels, edge_std = (outputs[name][index][:count] for name in PictureDetections._fields)
    return PictureDetections(
        boxes.astype(np.float64), scores.astype(np.float64), labels.astype(np.int64), edge_std.astype(np.float64)
    )


def match(file: PictureDetections, pytorch: PictureDetections, far: float = FAR) -> list[tuple[int, int]]:
    """Pairs (of the file, of PyTorch) of one class with the nearest boxes, each in at most one, best scores first.

    far: px, from which on two boxes are not the same one.
    """
    distance = np.abs(file.boxes[:, None] - pytorch.boxes[None]).max(axis=2, initial=0.0)
    distance[file.labels[:, None] != pytorch.labels[None]] = np.inf
    pairs = []
    for j in range(len(pytorch.scores)):
        i = int(distance[:, j].argmin()) if len(file.scores) else -1
        if i >= 0 and distance[i, j] <= far:
            pairs.append((i, j))
            distance[i, :] = np.inf
    return pairs


def not_finite(pictures: Sequence[str], outputs: Arrays, side: str) -> Iterator[str]:
    """A sentence on each output of a picture that holds NaN or infinity, in the empty slots of detections too."""
    for name, array in outputs.items():
        for picture, values in zip(pictures, array, strict=False):  # without the blanks that fill a batch
            if broken := int((~np.isfinite(values)).sum()):
                yield f"{picture}: {broken} of {values.size} numbers in {name} of {side} are NaN or infinite"
