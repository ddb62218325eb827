"""gfl/tensors/memory_format.py: the layout that a device's convolutions are fastest with."""

from __future__ import annotations

import pytest
import torch

from gfl.tensors.memory_format import convolution_format

LARGE, SMALL = (512, 640), (128, 128)


@pytest.mark.parametrize(
    ("device", "capability", "canvases", "expected"),
    [
        ("cpu", "AVX2", (LARGE,), torch.contiguous_format),
        ("cpu", "AVX512", (LARGE, SMALL), torch.channels_last),
        ("cpu", "AVX512", (SMALL,), torch.contiguous_format),
        ("cpu", "AVX512", (), torch.channels_last),
        ("cpu", "DEFAULT", (LARGE,), torch.channels_last),
        ("cuda", "AVX2", (SMALL,), torch.channels_last),
    ],
)
def test_format_follows_device_processor_and_size(
    device: str,
    capability: str,
    canvases: tuple[tuple[int, int], ...],
    expected: torch.memory_format,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert convolution_format(torch.device(device), canvases) == expected
