"""The detector: backbone, neck and head joined, from a batch to a loss and from pictures to detections.

Pure functions over a tree of variables; `loss` takes the place of `predict` in training. A detector of three classes:

>>> from gfl.model.anchors import make_grid
>>> cfg = DetectorConfig(
...     num_classes=3,
...     backbone=resnet.ResNetConfig(depth=18, base_width=8),
...     neck=FPNConfig(channels=16),
...     head=HeadConfig(channels=16, convs=1, gn_groups=4),
... )
>>> variables = init(cfg, seed=0)
>>> constants = freeze(variables, cfg)  # once
>>> prepared = prepare(variables, constants)  # in every step, differentiable
>>> images = torch.zeros((1, 3, 64, 96), dtype=torch.uint8)
>>> detections = predict(prepared, images, torch.tensor([[64, 80]]), make_grid((64, 96)), cfg)
>>> detections.boxes_xyxy.shape, detections.num_detections  # random weights find nothing
(torch.Size([1, 100, 4]), tensor([0], dtype=torch.int32))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gfl.limits import require
from gfl.model import backbones, fpn, head, postprocess
from gfl.model import prepare as preparation
from gfl.model.anchors import Grid, padded_sizes
from gfl.model.assign import ATSSConfig, assign
from gfl.model.backbones import resnet, stages
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
    """Everything that shapes the computation; the defaults are the paper's GFLV2 with ResNet-50."""

    num_classes: int = 80
    backbone: backbones.BackboneConfig = field(default_factory=resnet.ResNetConfig)
    neck: FPNConfig = field(default_factory=FPNConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    assign: ATSSConfig = field(default_factory=ATSSConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # of ImageNet's pictures, RGB from 0 to 255
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)

    def __post_init__(self) -> None:
        require(self, num_classes=(1, 100_000))
        if not all(map(math.isfinite, self.mean)):
            raise ValueError(f"DetectorConfig.mean={self.mean}: expected finite numbers")
        if not all(0 < value < math.inf for value in self.std):
            raise ValueError(f"DetectorConfig.std={self.std}: expected positive numbers")


def name(cfg: DetectorConfig) -> str:
    """Its parts in short: 'R50-FPN GFLV2', 'R101-DCN-FPN GFL v1'."""
    return f"{backbones.name(cfg.backbone)}-FPN {'GFLV2' if cfg.head.quality == 'dgqp' else 'GFL v1'}"


def init(cfg: DetectorConfig, seed: int = 0) -> Variables:
    """Random variables, float32 on the CPU: a nested dict whose dotted paths are mmdetection's state-dict keys.

    Each leaf's numbers depend on the seed and its own path alone.
    """
    return {
        "backbone": backbones.init(seed, cfg.backbone),
        "neck": fpn.init(seed, cfg.backbone.out_channels, cfg.neck),
        "bbox_head": head.init(seed, cfg.num_classes, cfg.neck.channels, cfg.head),
    }


def is_frozen(path: str, cfg: DetectorConfig) -> bool:
    """Whether training leaves the variable at this dotted path as it is."""
    return path.startswith("backbone.") and stages.is_frozen(path.removeprefix("backbone."), cfg.backbone)


def freeze(variables: Variables, cfg: DetectorConfig) -> Constants:
    """Compute once what no training step changes, for `prepare`. Call it again after loading other weights."""
    return preparation.freeze(variables, cfg.backbone)


def normalise(images: Tensor, image_sizes: Tensor, cfg: DetectorConfig) -> Tensor:
    """uint8 (B,3,H,W) RGB -> float32 (B,3,H,W): (x - mean) / std inside each picture, 0 in its padding."""
    device = images.device
    mean, std = _channels(cfg.mean, device), _channels(cfg.std, device)
    sizes = image_sizes.float().view(-1, 2, 1, 1)
    row = torch.arange(images.shape[2], dtype=torch.float32, device=device).view(1, -1, 1)
    column = torch.arange(images.shape[3], dtype=torch.float32, device=device).view(1, 1, -1)
    inside = torch.minimum(sizes[:, 0] - row, sizes[:, 1] - column).clamp(0.0, 1.0)  # 1 or 0: all are whole numbers
    return (images.float() - mean) / std * inside.unsqueeze(1)


def _channels(values: tuple[float, float, float], device: torch.device) -> Tensor:
    """float32 (1,3,1,1), filled on the device: torch.tensor(values) would copy to the device, and each step wait."""
    return torch.cat([torch.full((1, 1, 1, 1), value, device=device) for value in values], dim=1)


def forward(prepared: Prepared, images: Tensor, cfg: DetectorConfig, *, recompute: bool = False) -> Outputs:
    """From normalised pictures, float32 (B,3,H,W), to scores (B,A,K) and edge logits (B,A,4,R) of all anchors.

    recompute: of backbone and head keep little for the gradient, and compute it again: less memory, more time.
    """
    features = backbones.apply(child(prepared.tree, "backbone"), images, cfg.backbone, recompute=recompute)
    pyramid = fpn.apply(child(prepared.tree, "neck"), features)
    return head.apply(child(prepared.tree, "bbox_head"), pyramid, cfg.head, recompute=recompute)


def identity(normalisers: Tensor) -> Tensor:
    """The `reduce` of a run on a single device."""
    return normalisers


def loss(
    prepared: Prepared,
    batch: Batch,
    grid: Grid,
    cfg: DetectorConfig,
    reduce: Callable[[Tensor], Tensor] = identity,
    *,
    recompute: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss of a batch. Pure, with fixed shapes, and nothing is read back to the host.

    Args:
      prepared: variables made ready by `prepare`.
      batch: pictures and boxes on one canvas.
      grid: the anchors of that canvas.
      cfg: the configuration of the variables.
      reduce: (2,) -> (2,), the mean over ranks of the two normalisers: number of samples, sum of box weights.
      recompute: as of `forward`.

    Returns:
      The total, a scalar to differentiate, and its detached parts by name: qfl, dfl, giou.

    Reference:
      Li et al., Generalized Focal Loss, arXiv 2006.04388, section 3.3.
    """
    outputs = forward(prepared, normalise(batch.images, batch.image_sizes, cfg), cfg, recompute=recompute)
    return loss_of_outputs(outputs, batch, padded_sizes(batch.image_sizes), grid, cfg, reduce=reduce)


def loss_of_outputs(
    outputs: Outputs,
    batch: Batch,
    padded_hw: Tensor,
    grid: Grid,
    cfg: DetectorConfig,
    *,
    reduce: Callable[[Tensor], Tensor] = identity,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`loss`, from the head's outputs on; padded_hw (B,2) is each image's own padded shape, px."""
    with torch.no_grad():
        assignment = assign(grid, padded_hw, batch, cfg.assign)
    terms = loss_terms(outputs, assignment, grid, batch, cfg.loss)
    samples = (terms.positives.clamp_min(1.0) * batch.image_weights).sum()
    normalisers = reduce(torch.stack([samples, terms.weight.sum()]))
    # Where no rank has a picture, or a positive, the losses are 0; the authors' code divides 0 by 0. A clamp to 1 would
    # be wrong: where only some ranks have a picture, the mean over ranks may be below 1, and is the right divisor.
    normalisers = torch.where(normalisers > 0, normalisers, 1.0)
    samples, weight = normalisers[0], normalisers[1]
    parts = {"qfl": terms.qfl.sum() / samples, "dfl": terms.dfl.sum() / weight, "giou": terms.giou.sum() / weight}
    total = parts["qfl"] + parts["dfl"] + parts["giou"]
    return total, {name: part.detach() for name, part in parts.items()}


def predict(prepared: Prepared, images: Tensor, image_sizes: Tensor, grid: Grid, cfg: DetectorConfig) -> Detections:
    """Detect the objects in a batch of pictures. Pure, with fixed shapes, and nothing is read back to the host.

    Args:
      prepared: variables made ready by `prepare`.
      images: uint8 (B,3,H,W) RGB; what lies beyond each picture's size is taken for zero.
      image_sizes: int (B,2), height and width of each picture on the canvas, px.
      grid: the anchors of the canvas H x W.
      cfg: the configuration of the variables; its `predict` has the thresholds.

    Returns:
      At most cfg.predict.max_detections an image, in canvas pixels.

    Reference:
      Li et al., Generalized Focal Loss V2, arXiv 2011.12885, section 3.
    """
    outputs = forward(prepared, normalise(images, image_sizes, cfg), cfg)
    return postprocess.detect(outputs, image_sizes, grid, cfg.num_classes, cfg.predict)
