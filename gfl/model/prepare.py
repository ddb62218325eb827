"""Variables made ready for the forward pass: batch-norms folded into their convolutions, weights cast.

The statistics of a batch-norm are frozen, so folding it scales the convolution's weights and gives it a bias. `freeze`
computes once what training never changes; `prepare` does the rest, differentiably, in every step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gfl.model.backbones import stages
from gfl.tensors.precision import FP32, Policy
from gfl.tensors.variables import Variables, child, flatten, leaf, unflatten

NORM_EPS = 1e-5  # of a batch-norm


class Constants(NamedTuple):
    """What training never changes; the norms below are those that are trained, C their channels taken together."""

    folded: dict[str, Tensor]  # path -> weight or bias of each frozen convolution, its norm folded in
    pairs: tuple[tuple[str, str], ...]  # paths of each other convolution and its norm, folded in every step
    inv_std: Tensor  # float32 (C,): 1 / sqrt(running_var + NORM_EPS)
    mean: Tensor  # float32 (C,): running_mean


@dataclass(frozen=True)
class Prepared:
    """Variables ready for `detector.forward`; a type of its own, so that nobody folds twice or forgets to."""

    tree: Variables


def freeze(variables: Variables, cfg: stages.StagesConfig) -> Constants:
    """Fold the frozen batch-norms, and read the statistics of the others."""
    folded: dict[str, Tensor] = {}
    pairs, inv_stds, means = [], [], []
    with torch.no_grad():
        norm_paths = [path.removesuffix(".running_var") for path in flatten(variables) if path.endswith(".running_var")]
        for norm_path in norm_paths:
            conv_path = _convolution_before(norm_path)
            conv, norm = child(variables, conv_path), child(variables, norm_path)
            inv_std = torch.rsqrt(leaf(norm, "running_var") + NORM_EPS)
            if stages.is_frozen(norm_path.removeprefix("backbone."), cfg):
                scale = leaf(norm, "weight") * inv_std
                folded[f"{conv_path}.weight"] = leaf(conv, "weight") * scale.view(-1, 1, 1, 1)
                folded[f"{conv_path}.bias"] = leaf(norm, "bias") - leaf(norm, "running_mean") * scale
            else:
                pairs.append((conv_path, norm_path))
                inv_stds.append(inv_std)
                means.append(leaf(norm, "running_mean").clone())
    none = torch.zeros(0)
    return Constants(folded, tuple(pairs), torch.cat(inv_stds) if pairs else none, torch.cat(means) if pairs else none)


def _convolution_before(norm: str) -> str:
    """The path of the convolution before a batch-norm: conv2 for bn2, convs.0 for bns.0, stem.3 for stem.4."""
    parent, _, name = norm.rpartition(".")
    if name.isdigit() and not parent.endswith("bns"):
        return f"{parent}.{int(name) - 1}"
    return norm.removesuffix(name).replace("bns.", "convs.") + name.replace("bn", "conv")


def prepare(variables: Variables, constants: Constants, policy: Policy = FP32) -> Prepared:
    """Fold the trained norms and cast the weights: new tensors, through which gradients flow to the variables.

    constants: what `freeze` made of the same variables; policy: the dtype that convolutions compute in. The vector
    arithmetic of the fold runs once over all norms.
    """
    flat = flatten(variables)
    if constants.pairs:
        scale = torch.cat([flat[f"{norm}.weight"] for _, norm in constants.pairs]) * constants.inv_std
        shift = torch.cat([flat[f"{norm}.bias"] for _, norm in constants.pairs]) - constants.mean * scale
        channels = [flat[f"{conv}.weight"].shape[0] for conv, _ in constants.pairs]
        rows = zip(constants.pairs, torch.split(scale, channels), torch.split(shift, channels), strict=True)
        for (conv, _), s, t in rows:
            flat[f"{conv}.weight"] = flat[f"{conv}.weight"] * s.view(-1, 1, 1, 1)
            flat[f"{conv}.bias"] = t
    flat.update(constants.folded)
    for path, tensor in list(flat.items()):
        if tensor.ndim == 4:  # the weight of a convolution, or of a matrix product that is stored as one
            dtype = policy.dtype_of(path)
            flat[path] = tensor.to(dtype)
            bias = path.removesuffix("weight") + "bias"
            if bias in flat:
                flat[bias] = flat[bias].to(dtype)
    return Prepared(unflatten(flat))
