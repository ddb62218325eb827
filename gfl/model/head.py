"""The GFLV2 head (arXiv 2011.12885): classification, edge distributions, and a quality predicted from their shape.

Without the quality it is the head of GFL (arXiv 2006.04388), here called v1.

Shapes: B image, A anchor of all levels, K class channel, E=4 edges (left, top, right, bottom), R = reg_max + 1 bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from gfl.limits import ANY, require
from gfl.model.structures import Outputs
from gfl.tensors import recompute as recomputation
from gfl.tensors.layers import conv, group_norm, init_conv, init_norm, linear
from gfl.tensors.variables import Variables, child, leaf

LEVELS = 5
PRIOR = 0.01  # foreground probability of an untrained head: the bias of gfl_cls is logit(0.01)


@dataclass(frozen=True)
class HeadConfig:
    """The two towers, the general distribution and the quality predictor (DGQP) that reads it."""

    channels: int = 256
    convs: int = 4  # convolutions of each tower
    gn_groups: int = 32
    reg_max: int = 16  # last bin, in strides (GFL)
    topk: int = 4  # largest probabilities of each edge that the DGQP reads, with their mean (GFLV2)
    quality: Literal["dgqp", "none"] = "dgqp"  # what the class scores are multiplied by; 'none': GFL v1
    quality_channels: int = 64  # hidden channels of the DGQP
    background_channel: bool = True  # one more class channel, as the authors' checkpoints have

    def __post_init__(self) -> None:
        require(self, channels=(1, 4096), convs=(0, 64), gn_groups=(1, ANY), reg_max=(1, 256))
        require(self, quality_channels=(1, 4096))
        if not 1 <= self.topk <= self.reg_max + 1:
            raise ValueError(
                f"topk={self.topk}: expected 1..{self.reg_max + 1} (reg_max + 1 bins); lower topk or raise reg_max"
            )
        if self.quality not in ("dgqp", "none"):
            raise ValueError(f"quality={self.quality!r}: expected 'dgqp' or 'none'")
        if self.channels % self.gn_groups:
            raise ValueError(f"channels={self.channels}: expected a multiple of gn_groups={self.gn_groups}")


def init(seed: int, num_classes: int, in_channels: int, cfg: HeadConfig, path: str = "bbox_head") -> Variables:
    """Random variables: convolutions of standard deviation 0.01, PRIOR in the classification bias, scales of 1."""
    variables: Variables = {}
    for tower in ("cls_convs", "reg_convs"):
        stack: Variables = {}
        for i in range(cfg.convs):
            into = in_channels if i == 0 else cfg.channels
            stack[str(i)] = {
                "conv": init_conv(seed, f"{path}.{tower}.{i}.conv", cfg.channels, into, 3, init="normal"),
                "gn": init_norm(cfg.channels),
            }
        variables[tower] = stack
    channels = num_classes + cfg.background_channel
    prior_bias = -math.log((1.0 - PRIOR) / PRIOR)
    bins = cfg.reg_max + 1
    out_in = cfg.channels if cfg.convs else in_channels
    variables["gfl_cls"] = init_conv(seed, f"{path}.gfl_cls", channels, out_in, 3, init="normal", bias=prior_bias)
    variables["gfl_reg"] = init_conv(seed, f"{path}.gfl_reg", 4 * bins, out_in, 3, init="normal", bias=0.0)
    variables["scales"] = {str(level): {"scale": torch.ones(())} for level in range(LEVELS)}
    if cfg.quality == "dgqp":
        statistics, hidden = 4 * (cfg.topk + 1), cfg.quality_channels
        variables["reg_conf"] = {
            "0": init_conv(seed, f"{path}.reg_conf.0", hidden, statistics, 1, init="normal", bias=0.0),
            "2": init_conv(seed, f"{path}.reg_conf.2", 1, hidden, 1, init="normal", bias=0.0),
        }
    return variables


def apply(prepared: Variables, pyramid: tuple[Tensor, ...], cfg: HeadConfig, *, recompute: bool = False) -> Outputs:
    """P3..P7 -> scores and edge logits of all anchors (GFLV2 section 3); the levels share all but their scale.

    recompute: keep of each level its logits alone, and compute the towers again for the gradient.
    """
    class_logits, edge_logits = [], []
    for level, feature in enumerate(pyramid):
        towers = partial(_level, prepared, level, cfg=cfg)
        class_logits_of_level, edge_logits_of_level = recomputation.call(towers, feature, recompute=recompute)
        class_logits.append(class_logits_of_level)
        edge_logits.append(edge_logits_of_level)
    edges_BAER = rearrange(torch.cat(edge_logits, dim=1), "b a (e r) -> b a e r", e=4)
    logits_BAK = torch.cat(class_logits, dim=1).float()
    if cfg.quality == "none":
        return Outputs(logits_BAK.sigmoid(), edges_BAER, logits_BAK)
    return Outputs(logits_BAK.sigmoid() * dgqp(child(prepared, "reg_conf"), edges_BAER, cfg), edges_BAER)


def dgqp(prepared: Variables, edge_logits: Tensor, cfg: HeadConfig) -> Tensor:
    """Distribution-guided quality predictor (GFLV2 eq. 3-5): (B,A,E,R) logits -> (B,A,1) quality in (0,1).

    Its input: for each edge in turn, the k largest probabilities in descending order and their mean. The authors'
    checkpoints fix that order.
    """
    top = edge_logits.softmax(dim=-1).topk(cfg.topk, dim=-1).values
    statistics = torch.cat([top, top.mean(dim=-1, keepdim=True)], dim=-1).flatten(2)
    hidden = F.relu(linear(child(prepared, "0"), statistics))
    return linear(child(prepared, "2"), hidden).float().sigmoid()


def _level(prepared: Variables, level: int, feature: Tensor, cfg: HeadConfig) -> tuple[Tensor, Tensor]:
    """The class logits and edge logits of one level's anchors."""
    cls_feature = _tower(prepared, "cls_convs", feature, cfg)
    reg_feature = _tower(prepared, "reg_convs", feature, cfg)
    class_logits = _by_anchor(conv(child(prepared, "gfl_cls"), cls_feature, padding=1))
    # From here on float32 under every policy: the level's scale and everything that reads the distribution.
    logits = conv(child(prepared, "gfl_reg"), reg_feature, padding=1).float()
    return class_logits, _by_anchor(logits * leaf(child(prepared, f"scales.{level}"), "scale"))


def _tower(prepared: Variables, name: str, x: Tensor, cfg: HeadConfig) -> Tensor:
    """The convolutions of one branch, 'cls_convs' or 'reg_convs', each with GroupNorm and ReLU."""
    for i in range(cfg.convs):
        x = conv(child(prepared, f"{name}.{i}.conv"), x, padding=1)
        x = F.relu(group_norm(child(prepared, f"{name}.{i}.gn"), x, cfg.gn_groups))
    return x


def _by_anchor(x: Tensor) -> Tensor:
    """(B,C,H,W) -> (B,H*W,C), row-major (y, x)."""
    return x.flatten(2).transpose(1, 2)
