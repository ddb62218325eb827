"""gfl/tensors/memory_format.py: the layout that a device's convolutions are fastest with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from gfl.operators.trace import OpTrace
from gfl.tensors.layers import conv
from gfl.tensors.memory_format import convolution_format
from gfl.tensors.variables import Variables, leaf

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


@pytest.mark.parametrize(("channels", "strides"), [(8, [1, 1]), (16, [2, 2])])
def test_a_narrow_convolution_whose_backward_pass_would_write_past_its_memory_has_no_stride(
    channels: int, strides: list[int]
) -> None:
    x = torch.randn(2, channels, 9, 12).to(memory_format=torch.channels_last)
    variables: Variables = {"weight": torch.randn(5, channels, 1, 1)}
    expected = F.conv2d(x.double(), leaf(variables, "weight").double(), stride=2).float()
    leaf(variables, "weight").requires_grad_()
    with OpTrace() as trace:
        y = conv(variables, x, stride=2)
    called = [op for op in trace.ops if op.func is torch.ops.aten.convolution.default]
    assert [op.arguments[0][3] for op in called] == [strides]  # type: ignore[index]  # nested containers
    torch.testing.assert_close(y, expected)
