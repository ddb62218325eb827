"""What passes between the parts of the model: a batch, the head's outputs, the assignment, the detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
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


def make_batch(images: Tensor, image_sizes: Tensor, boxes_xyxy: Sequence[Tensor], labels: Sequence[Tensor]) -> Batch:
    """A batch of pictures on one canvas, as `detector.loss` takes it, without crowds; gfl.data makes those of a run.

    Args:
      images: uint8 (B,3,H,W) RGB, each picture in the top left corner of a canvas whose sides are multiples of 32.
      image_sizes: int (B,2), height and width of each picture on it, px.
      boxes_xyxy: for each picture float (G,4), px of the canvas; G may differ, and be 0.
      labels: for each picture int (G,), class from 0.

    Raises ValueError where these do not belong together.

    >>> one = make_batch(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 80]]),
    ...                  [torch.tensor([[8.0, 8.0, 40.0, 32.0]])], [torch.tensor([2])])
    >>> one.boxes_xyxy.shape, one.box_mask.tolist()
    (torch.Size([1, 1, 4]), [[True]])
    """
    B, counts = images.shape[0], [len(each) for each in boxes_xyxy]
    if image_sizes.shape != (B, 2) or counts != [len(each) for each in labels] or len(counts) != B:
        raise ValueError(
            f"got {B} images, {len(image_sizes)} sizes, {counts} boxes and {[len(each) for each in labels]} labels: "
            "expected a size for each picture, and as many labels as boxes"
        )
    slots = max([1, *counts])
    boxes, classes = torch.zeros(B, slots, 4), torch.zeros(B, slots, dtype=torch.int32)
    for i, count in enumerate(counts):
        boxes[i, :count], classes[i, :count] = boxes_xyxy[i], labels[i].to(torch.int32)
    mask = torch.arange(slots) < torch.tensor(counts).unsqueeze(1)
    no_crowds = (torch.zeros(B, 1, 4), torch.zeros(B, 1, dtype=torch.bool))
    return Batch(images, image_sizes.to(torch.int32), boxes, classes, mask, *no_crowds, torch.ones(B))


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
    complete: Tensor  # int32 (B,): 1 where the result certainly equals the NMS of the settings over all pairs
