"""The general distribution of an edge's distance (GFL section 3.2): reg_max + 1 logits, bins 0..reg_max in strides."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def bins_like(edge_logits: Tensor) -> Tensor:
    """The bins 0..reg_max as float32 (R,), for logits (...,R)."""
    return torch.arange(edge_logits.shape[-1], dtype=torch.float32, device=edge_logits.device)


def gather_anchors(edge_logits: Tensor, index: Tensor) -> Tensor:
    """The distributions of chosen anchors: (B,A,E,R), int64 (B,N) -> (B,N,E,R)."""
    B, _, E, R = edge_logits.shape
    wide_index = index.unsqueeze(-1).expand(B, index.shape[1], E * R)
    return rearrange(edge_logits.flatten(2).gather(1, wide_index), "b n (e r) -> b n e r", e=E)


def integral(edge_logits: Tensor) -> Tensor:
    """Mean of each edge's distribution.

    Args:
      edge_logits: float (...,R), before softmax; R = reg_max + 1 bins.

    Returns:
      The distance of each edge from the anchor's centre, (...), in strides: 0 to reg_max.

    Reference:
      Li et al., Generalized Focal Loss, arXiv 2006.04388, eq. 4.

    >>> integral(torch.tensor([0.0, 0.0, 0.0]))
    tensor(1.)
    """
    return (edge_logits.softmax(dim=-1) * bins_like(edge_logits)).sum(dim=-1)


def mean_and_std(edge_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each edge's distribution: (...,R) -> two (...), in strides."""
    probabilities, bins = edge_logits.softmax(dim=-1), bins_like(edge_logits)
    mean = (probabilities * bins).sum(dim=-1)
    spread = bins - mean.unsqueeze(-1)
    return mean, (probabilities * spread * spread).sum(dim=-1).sqrt()
