"""What passes between the parts of the model: a batch, the head's outputs, the assignment, the detections."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of fixed shapes. B images, G box slots, I ignored slots; H, W the canvas."""

    images: Tensor  # uint8 (B,3,H,W) RGB, zero-padded bottom right
    image_sizes: Tensor  # int32 (B,2) height, width of the resized picture inside the canvas; (0,0) for a blank
    boxes_xyxy: Tensor  # float32 (B,G,4) canvas px, zeros where empty
    labels: Tensor  # int32 (B,G) class from 0, 0 where empty
    box_mask: Tensor  # bool (B,G)
    ignored_xyxy: Tensor  # float32 (B,I,4)
    ignored_mask: Tensor  # bool (B,I)
    image_weights: Tensor  # float32 (B,) 1 a picture, 0 a blank filler


class Outputs(NamedTuple):
    """What the head says of every anchor, ordered level by level, row-major."""

    scores: Tensor  # float32 (B,A,K) in (0,1): sigmoid(classification) x quality
    edge_logits: Tensor  # float32 (B,A,E,R): the general distribution of each edge, before softmax


class Assignment(NamedTuple):
    """The candidates of every box, and which of them it owns."""

    anchors: Tensor  # int32 (B,G,C): anchor index, 0 where the candidate does not exist
    positive: Tensor  # bool (B,G,C): the box owns that anchor; an anchor has at most one owner
    counted: Tensor  # bool (B,A): anchors that count in the classification loss


class Detections(NamedTuple):
    """What is found on each canvas, best first; slots from `num_detections` on are empty (zeros, label -1)."""

    boxes_xyxy: Tensor  # float32 (B,D,4) px of the canvas
    scores: Tensor  # float32 (B,D)
    labels: Tensor  # int32 (B,D)
    num_detections: Tensor  # int32 (B,)
    edge_std: Tensor  # float32 (B,D,4) px: spread of each edge's distribution
    complete: Tensor  # int32 (B,): 1 where the result equals full greedy NMS for certain
