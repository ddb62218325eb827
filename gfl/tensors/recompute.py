"""Activations that are computed a second time in the backward pass instead of being kept for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from torch import Tensor
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result", Tensor, tuple[Tensor, Tensor])


def call(function: Callable[[Tensor], Result], x: Tensor, *, recompute: bool) -> Result:
    """function(x); recompute: of what it computes keep the result alone, and compute it again for the gradient.

    Values and gradients are the same either way. The function draws no random numbers.
    """
    if not recompute:
        return function(x)
    return cast(Result, checkpoint(function, x, use_reentrant=False, preserve_rng_state=False))
