"""Plain forms of the model that ours are measured against; both compute the same (tests/test_benchmarks.py).

Batch-norm that is not folded, and ATSS and box losses over all anchors, as one would write them first. The formulas for
a box or a bin are ours in both.
Shapes: B image, G box slot, A anchor, K class channel.
"""

from __future__ import annotations

from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from gfl.model import fpn, head
from gfl.model.anchors import SCALE, Grid, cells_inside
from gfl.model.assign import INSIDE_PX
from gfl.model.backbones import BackboneConfig
from gfl.model.backbones.resnet import ResNetConfig
from gfl.model.backbones.stages import BLOCKS
from gfl.model.detector import DetectorConfig, normalise
from gfl.model.losses import LossConfig, LossTerms, dfl, qfl
from gfl.model.postprocess import detect
from gfl.model.prepare import NORM_EPS
from gfl.model.structures import Batch, Detections, Outputs
from gfl.tensors.boxes import boxes_from_distances, distances_from_boxes, iou, iou_and_giou
from gfl.tensors.distribution import integral
from gfl.tensors.variables import Variables, child, leaf

NOBODY = -1  # in owner_BA: the anchor is assigned to no box


# ---- batch-norm after each convolution ----


def is_plain(cfg: BackboneConfig) -> TypeGuard[ResNetConfig]:
    """Whether a backbone is a ResNet of ordinary convolutions and batch-norms: the one that is written out here."""
    if not isinstance(cfg, ResNetConfig):
        return False
    return cfg.groups == 1 and cfg.deformable is None and cfg.norm == "frozen_bn"


def require_plain(cfg: BackboneConfig) -> ResNetConfig:
    """The configuration, if `is_plain`; ValueError for another."""
    if not is_plain(cfg):
        raise ValueError(f"got {cfg}: expected a ResNet of ordinary convolutions with norm='frozen_bn'")
    return cfg


def backbone(variables: Variables, x: Tensor, cfg: ResNetConfig) -> tuple[Tensor, Tensor, Tensor]:
    """ResNet with F.batch_norm on the stored statistics. `variables` is the backbone's subtree, nothing folded."""
    x = F.relu(conv_bn(variables, "conv1", "bn1", x, stride=2, padding=3))
    x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
    outputs = []
    for stage, blocks in enumerate(BLOCKS[cfg.depth], start=1):
        for index in range(blocks):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(child(variables, f"layer{stage}.{index}"), x, stride, cfg.bottleneck)
        outputs.append(x)
    return outputs[1], outputs[2], outputs[3]


def block(variables: Variables, x: Tensor, stride: int, bottleneck: bool) -> Tensor:
    """A basic block or a bottleneck with its shortcut."""
    if bottleneck:
        y = F.relu(conv_bn(variables, "conv1", "bn1", x))
        y = F.relu(conv_bn(variables, "conv2", "bn2", y, stride=stride, padding=1))
        y = conv_bn(variables, "conv3", "bn3", y)
    else:
        y = F.relu(conv_bn(variables, "conv1", "bn1", x, stride=stride, padding=1))
        y = conv_bn(variables, "conv2", "bn2", y, padding=1)
    if "downsample" in variables:
        x = conv_bn(variables, "downsample.0", "downsample.1", x, stride=stride)
    return F.relu(y + x)


def conv_bn(variables: Variables, conv: str, norm: str, x: Tensor, *, stride: int = 1, padding: int = 0) -> Tensor:
    """A convolution without bias, then batch-norm in evaluation mode."""
    x = F.conv2d(x, leaf(child(variables, conv), "weight"), None, stride, padding)
    bn = child(variables, norm)
    statistics = leaf(bn, "running_mean"), leaf(bn, "running_var")
    return F.batch_norm(x, *statistics, leaf(bn, "weight"), leaf(bn, "bias"), training=False, eps=NORM_EPS)


def predict(variables: Variables, images: Tensor, image_sizes: Tensor, grid: Grid, cfg: DetectorConfig) -> Detections:
    """`detector.predict` on the variables as they are stored, no norm folded."""
    features = backbone(child(variables, "backbone"), normalise(images, image_sizes, cfg), require_plain(cfg.backbone))
    pyramid = fpn.apply(child(variables, "neck"), features)
    outputs = head.apply(child(variables, "bbox_head"), pyramid, cfg.head)
    return detect(outputs, image_sizes, grid, cfg.num_classes, cfg.predict)


# ---- every box against every anchor ----


def assign(grid: Grid, padded_hw: Tensor, batch: Batch, topk: int) -> tuple[Tensor, Tensor]:
    """ATSS over (B,G,A): the box of each anchor, int64 (B,A), NOBODY where it has none; and the counted anchors (B,A).

    padded_hw (B,2) px; ignored boxes of the batch are not looked at.
    """
    boxes_xyxy = batch.boxes_xyxy
    inside_B1A = (cells_inside(grid, padded_hw) > 0).unsqueeze(1)
    delta = grid.centres_px - ((boxes_xyxy[..., :2] + boxes_xyxy[..., 2:]) / 2).unsqueeze(2)
    distance_BGA = torch.where(inside_B1A, delta.square().sum(dim=-1), torch.inf)
    candidate_BGA = torch.zeros_like(distance_BGA, dtype=torch.bool)
    for start, (rows, columns) in zip(grid.starts, grid.shapes_hw, strict=True):
        level = slice(start, start + rows * columns)
        nearest = distance_BGA[..., level].topk(min(topk, rows * columns), largest=False).indices
        candidate_BGA[..., level].scatter_(2, nearest, True)
    candidate_BGA &= inside_B1A
    boxes_BG14 = boxes_xyxy.unsqueeze(2)
    iou_BGA = iou(anchor_boxes(grid), boxes_BG14)
    centre_inside = distances_from_boxes(grid.centres_px, boxes_BG14).amin(dim=-1) > INSIDE_PX
    passes = (
        candidate_BGA & (iou_BGA >= threshold(iou_BGA, candidate_BGA)) & centre_inside & batch.box_mask.unsqueeze(2)
    )
    claims = torch.where(passes, iou_BGA, -1.0)
    owner_BA = torch.where(claims.amax(dim=1) >= 0.0, claims.argmax(dim=1), NOBODY)  # the first of equal IoUs
    return owner_BA, inside_B1A.squeeze(1)


def anchor_boxes(grid: Grid) -> Tensor:
    """The squares of all anchors, (A,4) xyxy px."""
    half_side = (grid.strides * (SCALE / 2)).unsqueeze(-1)
    return torch.cat([grid.centres_px - half_side, grid.centres_px + half_side], dim=-1)


def threshold(iou_BGA: Tensor, candidate_BGA: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation over the candidates of a box, (B,G,1)."""
    count = candidate_BGA.sum(dim=2, keepdim=True)
    mean = torch.where(candidate_BGA, iou_BGA, 0.0).sum(dim=2, keepdim=True) / count.clamp_min(1)
    squared = torch.where(candidate_BGA, (iou_BGA - mean).square(), 0.0).sum(dim=2, keepdim=True)
    return mean + (squared / (count - 1).clamp_min(1)).sqrt()


def loss_terms(
    outputs: Outputs, owner_BA: Tensor, counted_BA: Tensor, grid: Grid, batch: Batch, *, cfg: LossConfig
) -> LossTerms:
    """`gfl.model.losses.loss_terms` with box losses on every anchor; those of an anchor without a box weigh 0."""
    positive_BA = owner_BA != NOBODY
    owner_BA = owner_BA.clamp_min(0)
    strides = grid.strides.unsqueeze(-1)
    centres = grid.centres_px / strides
    targets = batch.boxes_xyxy.gather(1, owner_BA.unsqueeze(-1).expand(-1, -1, 4)) / strides
    overlap, generalised = iou_and_giou(boxes_from_distances(centres, integral(outputs.edge_logits)), targets)
    dfl_BA = dfl(outputs.edge_logits, distances_from_boxes(centres, targets)).mean(dim=-1)
    weight_BA = torch.where(positive_BA, outputs.scores.detach().amax(dim=2), 0.0)
    quality_BA1 = torch.where(positive_BA, overlap.detach(), 0.0).unsqueeze(-1)
    label_BA1 = batch.labels.gather(1, owner_BA).long().unsqueeze(-1)
    quality = torch.zeros_like(outputs.scores).scatter(2, label_BA1, quality_BA1)
    return LossTerms(
        qfl=cfg.qfl_weight * qfl(outputs.scores, quality, cfg.qfl_beta).sum(dim=2) * counted_BA.float(),
        giou=cfg.giou_weight * weight_BA * (1.0 - generalised),
        dfl=cfg.dfl_weight * weight_BA * dfl_BA,
        weight=weight_BA,
        positives=positive_BA.float().sum(dim=1),
    )
