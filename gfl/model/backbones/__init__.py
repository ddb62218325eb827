"""The backbones. The type of a configuration says which one it means."""

from __future__ import annotations

from typing import TypeAlias

from torch import Tensor

from gfl.model.backbones import res2net, resnet
from gfl.tensors.variables import Variables

BackboneConfig: TypeAlias = resnet.ResNetConfig | res2net.Res2NetConfig


def init(seed: int, cfg: BackboneConfig, path: str = "backbone") -> Variables:
    """Random variables; the last norm of each residual branch starts at zero."""
    return resnet.init(seed, cfg, path) if isinstance(cfg, resnet.ResNetConfig) else res2net.init(seed, cfg, path)


def apply(
    prepared: Variables, x: Tensor, cfg: BackboneConfig, *, recompute: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised (B,3,H,W) -> C3, C4, C5 at strides 8, 16, 32.

    recompute: keep of the stem and of each stage its result alone, and compute the rest again for the gradient.
    """
    if isinstance(cfg, resnet.ResNetConfig):
        return resnet.apply(prepared, x, cfg, recompute=recompute)
    return res2net.apply(prepared, x, cfg, recompute=recompute)
