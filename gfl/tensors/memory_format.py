"""How the tensors of convolutions lie in memory: channel by channel, or with the channels of a pixel side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# With channels last, torch transposes each gradient of a 3x3 weight: below about this many pixels a picture, that takes
# longer than what the faster convolutions save.
CHANNELS_LAST_FROM = 256 * 256


def convolution_format(device: torch.device, canvases: Sequence[tuple[int, int]] = ()) -> torch.memory_format:
    """The faster format for training on a device; canvases: (height, width) px of the pictures, none: any size.

    CUDA wants channels last, the NPU keeps a format of its own. Of oneDNN's kernels for CPUs, those for AVX512 are as
    fast with channels last or faster; those for AVX2 lose a sixth of an R50's step to it, in the backward pass.
    """
    if device.type == "npu":
        return torch.contiguous_format
    if device.type == "cpu":
        small = canvases and max(height * width for height, width in canvases) < CHANNELS_LAST_FROM
        if small or torch.backends.cpu.get_cpu_capability() == "AVX2":
            return torch.contiguous_format
    return torch.channels_last
