"""PyTorch's device for a provider, and its outputs as arrays: what a checkpoint and an exported program share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gfl.engine.device import choose_device
from gfl.errors import InputError
from gfl.runtime.description import DETECTION_NAMES, Arrays
from gfl.runtime.providers import ProviderChoice, ProviderReport

DEVICES = {"auto": "auto", "cpu": "cpu", "cuda": "cuda", "cann": "npu"}  # provider -> PyTorch's device


def to_arrays(outputs: Sequence[Tensor], names: Sequence[str] = DETECTION_NAMES) -> Arrays:
    """A model's outputs under the names that an exported file gives them."""
    return {name: tensor.cpu().numpy() for name, tensor in zip(names, outputs, strict=True)}


def torch_device_of(choice: ProviderChoice) -> tuple[torch.device, ProviderReport]:
    """The device for a choice of provider, and the report: PyTorch runs everything on that device and counts no nodes.

    Raises InputError for a provider or options that PyTorch does not know, and for a device that is not there unless
    the choice allows the fallback to the CPU.
    """
    if choice.name not in DEVICES:
        raise InputError(
            f"got the provider {choice.name} for a model that PyTorch runs, expected one of {', '.join(DEVICES)}; "
            "export the model to .onnx, which that provider takes"
        )
    if choice.options:
        raise InputError(
            f"got the provider options {', '.join(choice.options)} for a model that PyTorch runs, expected none, since "
            "they are ONNX Runtime's; omit them, or export the model to .onnx"
        )
    notes: tuple[str, ...] = ()
    try:
        device = choose_device(DEVICES[choice.name])
    except InputError as error:
        if not choice.allow_fallback:
            raise
        device, notes = torch.device("cpu"), (f"provider {choice.name}: {error}",)
    return device, ProviderReport(f"PyTorch {device.type}", {}, notes)
