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


def name(cfg: BackboneConfig) -> str:
    """A short name: 'R50', 'R101-DCN', 'X101-32x4d-DCNv2', 'Res2Net101-26w4s'."""
    if isinstance(cfg, res2net.Res2NetConfig):
        plain = f"Res2Net{cfg.depth}-{cfg.scale_width}w{cfg.scales}s"
    elif cfg.groups > 1:
        plain = f"X{cfg.depth}-{cfg.groups}x{cfg.group_width}d"
    else:
        plain = f"R{cfg.depth}"
    return plain + {None: "", "v1": "-DCN", "v2": "-DCNv2"}[cfg.deformable]
