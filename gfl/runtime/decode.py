"""From the head's raw outputs to the boxes, their spread and the scores of all cells, in NumPy.

It is `gfl.model.postprocess.decode_at` and `counted_scores` for files that end before them (outputs 'raw'). Shapes: B
picture, A anchor, K class, R bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gfl.runtime.description import Arrays
from gfl.shapes import CANVAS_MULTIPLE, Canvas

STRIDES = (8, 16, 32, 64, 128)  # P3..P7; of the outputs in their order


def decode_raw(outputs: Arrays, image_sizes: NDArray[np.int32], canvas: Canvas, classes: int) -> Arrays:
    """Scores (B,A,K or K + background) and edge logits (B,A,4,R) a level -> boxes (B,A,4) px, scores (B,A,K), edge_std.

    image_sizes: (B,2) height, width of each picture on the canvas; cells of the padding have scores of 0.
    """
    levels = [name.removeprefix("scores_") for name in outputs if name.startswith("scores_")]
    scores = np.concatenate([outputs[f"scores_{level}"] for level in levels], axis=1).astype(np.float32)
    logits = np.concatenate([outputs[f"edge_logits_{level}"] for level in levels], axis=1).astype(np.float32)
    centres, strides = cells(canvas)
    mean, std = mean_and_std(logits)
    distances, sizes = mean * strides[:, None], image_sizes.astype(np.float32)
    boxes = np.concatenate([centres - distances[..., :2], centres + distances[..., 2:]], axis=-1)
    boxes = np.minimum(np.maximum(boxes, 0), sizes[:, None, [1, 0, 1, 0]])
    padded = -(-image_sizes // CANVAS_MULTIPLE) * CANVAS_MULTIPLE  # a picture's own multiple of 32
    inside = np.asarray((centres < padded[:, None, ::-1]).all(axis=-1))
    return {"boxes": boxes, "scores": scores[..., :classes] * inside[..., None], "edge_std": std * strides[:, None]}


def cells(canvas: Canvas) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The centres (A,2) x, y, px, and strides (A,) of all cells, level by level and row-major."""
    centres, strides = [], []
    for stride in STRIDES:
        rows, columns = (-(-side // stride) for side in canvas)
        y, x = np.mgrid[:rows, :columns]
        centres.append(np.stack([x, y], axis=-1).reshape(-1, 2) * stride)
        strides.append(np.full(rows * columns, stride))
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides).astype(np.float32)


def mean_and_std(logits: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation of each edge's distribution: (B,A,4,R) -> two (B,A,4), in strides."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares, bins = powers / powers.sum(axis=-1, keepdims=True), np.arange(logits.shape[-1], dtype=np.float32)
    mean = (shares * bins).sum(axis=-1)
    return mean, np.sqrt((shares * (bins - mean[..., None]) ** 2).sum(axis=-1))
