"""The detector: backbone, neck and head joined, from a batch to a loss and from pictures to detections.

variables = init(cfg, seed)                       nested dict of tensors, mmdetection's names
constants = freeze(variables, cfg)                once
prepared  = prepare(variables, constants, policy) every step, differentiable
total, metrics = loss(prepared, batch, grid, cfg)
detections = predict(prepared, images, image_sizes, grid, cfg)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gfl.model import fpn, head, postprocess
from gfl.model import prepare as preparation
from gfl.model.anchors import Grid, padded_sizes
from gfl.model.assign import ATSSConfig, assign
from gfl.model.backbones import resnet
from gfl.model.fpn import FPNConfig
from gfl.model.head import HeadConfig
from gfl.model.losses import LossConfig, loss_terms
from gfl.model.postprocess import PredictConfig
from gfl.model.prepare import Constants, Prepared
from gfl.model.prepare import prepare as prepare
from gfl.model.structures import Batch, Detections, Outputs
from gfl.tensors.variables import Variables, child


@dataclass(frozen=True)
class DetectorConfig:
    """Everything that shapes the computation; the defaults are the paper's R50."""

    num_classes: int = 80
    backbone: resnet.ResNetConfig = field(default_factory=resnet.ResNetConfig)
    neck: FPNConfig = field(default_factory=FPNConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    assign: ATSSConfig = field(default_factory=ATSSConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # RGB, of ImageNet
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)


def init(cfg: DetectorConfig, seed: int = 0) -> Variables:
    """Random variables. Their dotted paths are mmdetection's state-dict keys."""
    return {
        "backbone": resnet.init(seed, cfg.backbone),
        "neck": fpn.init(seed, cfg.backbone.out_channels, cfg.neck),
        "bbox_head": head.init(seed, cfg.num_classes, cfg.neck.channels, cfg.head),
    }


def is_frozen(path: str, cfg: DetectorConfig) -> bool:
    """Whether training leaves the variable at this dotted path as it is."""
    return path.startswith("backbone.") and resnet.is_frozen(path.removeprefix("backbone."), cfg.backbone)


def freeze(variables: Variables, cfg: DetectorConfig) -> Constants:
    """What no training step changes, computed once. Call it again after loading other weights."""
    return preparation.freeze(variables, cfg.backbone)


def normalise(images: Tensor, image_sizes: Tensor, cfg: DetectorConfig) -> Tensor:
    """uint8 (B,3,H,W) RGB -> float32 (B,3,H,W): (x - mean) / std inside each picture, 0 in its padding."""
    device = images.device
    mean, std = _channels(cfg.mean, device), _channels(cfg.std, device)
    sizes = image_sizes.float().view(-1, 2, 1, 1)
    row = torch.arange(images.shape[2], dtype=torch.float32, device=device).view(1, -1, 1)
    column = torch.arange(images.shape[3], dtype=torch.float32, device=device).view(1, 1, -1)
    inside = (row < sizes[:, 0]) & (column < sizes[:, 1])
    return torch.where(inside.unsqueeze(1), (images.float() - mean) / std, 0.0)


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """float32 (1,3,1,1), filled on the device: torch.tensor(values) would make each step wait for a copy to it."""
    return torch.cat([torch.full((1, 1, 1, 1), value, device=device) for value in values], dim=1)


def forward(prepared: Prepared, images: Tensor, cfg: DetectorConfig) -> Outputs:
    """Normalised float32 (B,3,H,W) -> scores (B,A,K) and edge logits (B,A,4,R) of the five levels."""
    features = resnet.apply(child(prepared.tree, "backbone"), images, cfg.backbone)
    pyramid = fpn.apply(child(prepared.tree, "neck"), features)
    return head.apply(child(prepared.tree, "bbox_head"), pyramid, cfg.head)


def identity(normalisers: Tensor) -> Tensor:
    """The `reduce` of a single device."""
    return normalisers


def loss(
    prepared: Prepared,
    batch: Batch,
    grid: Grid,
    cfg: DetectorConfig,
    reduce: Callable[[Tensor], Tensor] = identity,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss (scalar) and its detached parts qfl, dfl, giou. Pure, fixed shapes, no host read.

    reduce: (2,) -> (2,), the mean over ranks of the two normalisers (reference.md, Losses).
    """
    outputs = forward(prepared, normalise(batch.images, batch.image_sizes, cfg), cfg)
    return loss_of_outputs(outputs, batch, padded_sizes(batch.image_sizes), grid, cfg, reduce)


def loss_of_outputs(
    outputs: Outputs,
    batch: Batch,
    padded_hw: Tensor,
    grid: Grid,
    cfg: DetectorConfig,
    reduce: Callable[[Tensor], Tensor] = identity,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss from the head's outputs on; padded_hw int32 (B,2) is each image's own padded shape in px."""
    with torch.no_grad():
        assignment = assign(
            grid, padded_hw, batch.boxes_xyxy, batch.box_mask, batch.ignored_xyxy, batch.ignored_mask, cfg.assign
        )
    terms = loss_terms(outputs, assignment, grid, batch.boxes_xyxy, batch.labels, cfg.loss)
    samples = (terms.positives.clamp_min(1.0) * batch.image_weights).sum()
    normalisers = reduce(torch.stack([samples, terms.weight.sum()]))
    # Without a picture, or a positive, on any rank the losses are 0, not 0/0 (reference.md, defect). No clamp to 1: the
    # mean may be less where only some ranks have a picture, and the loss is that of the whole batch all the same.
    normalisers = torch.where(normalisers > 0, normalisers, 1.0)
    samples, weight = normalisers[0], normalisers[1]
    parts = {"qfl": terms.qfl.sum() / samples, "dfl": terms.dfl.sum() / weight, "giou": terms.giou.sum() / weight}
    total = parts["qfl"] + parts["dfl"] + parts["giou"]
    return total, {name: part.detach() for name, part in parts.items()}


def predict(prepared: Prepared, images: Tensor, image_sizes: Tensor, grid: Grid, cfg: DetectorConfig) -> Detections:
    """uint8 (B,3,H,W) RGB and int32 (B,2) sizes -> detections in canvas pixels. Pure, fixed shapes, no host read."""
    outputs = forward(prepared, normalise(images, image_sizes, cfg), cfg)
    return postprocess.detect(outputs, image_sizes, padded_sizes(image_sizes), grid, cfg.num_classes, cfg.predict)
