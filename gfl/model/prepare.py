"""Variables made ready for the forward pass: frozen batch norms folded into the convolutions, weights cast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gfl.model.backbones import resnet
from gfl.tensors.precision import FP32, Policy
from gfl.tensors.variables import Variables, child, flatten, leaf, unflatten

NORM_EPS = 1e-5


class Constants(NamedTuple):
    """What training never changes: frozen convolutions with their norms folded in, statistics of the other norms."""

    folded: dict[str, Tensor]  # path -> tensor, replaces the variables of these convolutions
    pairs: tuple[tuple[str, str], ...]  # (convolution, norm) still to fold each step
    inv_std: Tensor  # (sum of channels of these norms,)
    mean: Tensor


@dataclass(frozen=True)
class Prepared:
    """Variables ready for `forward`: norms folded, weights in the compute dtype. Made by `prepare` only."""

    tree: Variables


def freeze(variables: Variables, cfg: resnet.ResNetConfig) -> Constants:
    """Compute once what no training step changes. Call again after loading other weights."""
    if cfg.norm != "frozen_bn":
        empty = torch.zeros(0)
        return Constants({}, (), empty, empty)
    folded: dict[str, Tensor] = {}
    pairs, inv_stds, means = [], [], []
    with torch.no_grad():
        for conv_path, norm_path in resnet.conv_norm_pairs(cfg):
            conv, norm = child(variables, f"backbone.{conv_path}"), child(variables, f"backbone.{norm_path}")
            inv_std = torch.rsqrt(leaf(norm, "running_var") + NORM_EPS)
            if resnet.is_frozen(norm_path, cfg):
                scale = leaf(norm, "weight") * inv_std
                folded[f"backbone.{conv_path}.weight"] = leaf(conv, "weight") * scale.view(-1, 1, 1, 1)
                folded[f"backbone.{conv_path}.bias"] = leaf(norm, "bias") - leaf(norm, "running_mean") * scale
            else:
                pairs.append((f"backbone.{conv_path}", f"backbone.{norm_path}"))
                inv_stds.append(inv_std)
                means.append(leaf(norm, "running_mean").clone())
        none = torch.zeros(0)
        return Constants(
            folded, tuple(pairs), torch.cat(inv_stds) if pairs else none, torch.cat(means) if pairs else none
        )


def prepare(variables: Variables, constants: Constants, policy: Policy = FP32) -> Prepared:
    """Fold the norms and cast the weights, differentiably; the vector arithmetic runs once over all norms."""
    flat = flatten(variables)
    if constants.pairs:
        scale = torch.cat([flat[f"{norm}.weight"] for _, norm in constants.pairs]) * constants.inv_std
        shift = torch.cat([flat[f"{norm}.bias"] for _, norm in constants.pairs]) - constants.mean * scale
        channels = [flat[f"{conv}.weight"].shape[0] for conv, _ in constants.pairs]
        for (conv, _), s, t in zip(
            constants.pairs, torch.split(scale, channels), torch.split(shift, channels), strict=True
        ):
            flat[f"{conv}.weight"] = flat[f"{conv}.weight"] * s.view(-1, 1, 1, 1)
            flat[f"{conv}.bias"] = t
    flat.update(constants.folded)
    for path, tensor in list(flat.items()):
        if tensor.ndim == 4:
            dtype = policy.dtype_of(path)
            flat[path] = tensor.to(dtype)
            bias = path.removesuffix("weight") + "bias"
            if bias in flat:
                flat[bias] = flat[bias].to(dtype)
    return Prepared(unflatten(flat))
