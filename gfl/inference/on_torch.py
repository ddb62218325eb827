"""What a checkpoint and an exported program share when PyTorch runs them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gfl.engine.description import DETECTION_NAMES, Arrays
from gfl.engine.providers import Placement

DEVICES = {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "cann": "npu"}  # provider -> PyTorch's device


def to_arrays(outputs: Sequence[Tensor], names: Sequence[str] = DETECTION_NAMES) -> Arrays:
    """A model's outputs under the names that an exported file gives them."""
    return {name: tensor.cpu().numpy() for name, tensor in zip(names, outputs, strict=True)}


def placed_on(device: torch.device) -> Placement:
    """PyTorch runs everything on one device, and counts no nodes."""
    return Placement(f"PyTorch {device.type}", {}, ())
