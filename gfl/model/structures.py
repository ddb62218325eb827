"""What passes between the parts of the model: a batch, the head's outputs, the assignment, the detections."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """A batch of fixed shapes: B images of the canvas H x W, G slots for boxes, I slots for ignored (crowd) boxes."""

    images: Tensor  # uint8 (B,3,H,W) RGB, zero-padded bottom right
    image_sizes: Tensor  # int32 (B,2) height, width in px of the picture inside the canvas; (0,0) for a blank image
    boxes_xyxy: Tensor  # float32 (B,G,4) canvas px, zeros where empty
    labels: Tensor  # int32 (B,G) class from 0, 0 where empty
    box_mask: Tensor  # bool (B,G): the slot holds a box
    ignored_xyxy: Tensor  # float32 (B,I,4) canvas px
    ignored_mask: Tensor  # bool (B,I)
    image_weights: Tensor  # float32 (B,): 1 for a picture, 0 for a blank image that fills up the batch


class Outputs(NamedTuple):
    """The head's outputs for the A anchors of all levels, level by level, row-major."""

    scores: Tensor  # float32 (B,A,K) in (0,1): sigmoid(classification) x quality
    edge_logits: Tensor  # float32 (B,A,E,R): the general distribution of each edge, before softmax
    class_logits: Tensor | None = None  # float32 (B,A,K), of GFL v1 alone, which has no quality: scores before sigmoid


class Assignment(NamedTuple):
    """The C candidate anchors of every box, and which of them are its positives."""

    anchors: Tensor  # int32 (B,G,C): anchor index, 0 where the candidate does not exist
    positive: Tensor  # bool (B,G,C): the anchor is assigned to the box; an anchor has at most one box
    counted: Tensor  # bool (B,A): anchors that count in the classification loss


class Detections(NamedTuple):
    """The detections of each image in D slots, best first; slots from `num_detections` on are empty (0, label -1)."""

    boxes_xyxy: Tensor  # float32 (B,D,4) canvas px
    scores: Tensor  # float32 (B,D)
    labels: Tensor  # int32 (B,D)
    num_detections: Tensor  # int32 (B,)
    edge_std: Tensor  # float32 (B,D,4) px: standard deviation of each edge's distribution
    complete: Tensor  # int32 (B,): 1 where the result certainly equals greedy NMS over all pairs
