"""A stand-in for CANN's deformable convolution and its backward: the shapes alone, for traces on fake tensors."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gfl.tensors import deform
from gfl.tensors.native_deform import by_cann

FORWARD, BACKWARD = "npu::npu_deformable_conv2d", "npu::npu_deformable_conv2dbk"


@torch.library.custom_op(FORWARD, mutates_args=())
def npu_deformable_conv2d(
    x: Tensor,
    weight: Tensor,
    places: Tensor,
    bias: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    deformable_groups: int,
    modulated: bool,
) -> tuple[Tensor, Tensor]:
    raise NotImplementedError("it has no numbers")


@torch.library.custom_op(BACKWARD, mutates_args=())
def npu_deformable_conv2dbk(
    x: Tensor, upstream: Tensor, sampled: Tensor, weight: Tensor, places: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    raise NotImplementedError("it has no numbers")


@npu_deformable_conv2d.register_fake
def _forward(x: Tensor, weight: Tensor, places: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    batch, _, rows, columns = places.shape
    sampled = (batch, x.shape[1], rows * weight.shape[2], columns * weight.shape[3])
    return x.new_empty((batch, weight.shape[0], rows, columns)), x.new_empty(sampled)


@npu_deformable_conv2dbk.register_fake
def _backward(
    x: Tensor, upstream: Tensor, sampled: Tensor, weight: Tensor, places: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    like = (torch.empty_like(each) for each in (x, weight, places))
    return (*like, weight.new_empty(weight.shape[0]))  # type: ignore[return-value]  # three and one


def _keep(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, places = inputs[:3]
    ctx.save_for_backward(x, weight, places, output[1])  # type: ignore[arg-type]  # tensors, by the signature


def _differentiate(ctx: torch.autograd.function.FunctionCtx, upstream: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, places, sampled = ctx.saved_tensors  # type: ignore[attr-defined]  # torch's own
    return (*npu_deformable_conv2dbk(x, upstream, sampled, weight, places), *[None] * 7)


npu_deformable_conv2d.register_autograd(_differentiate, setup_context=_keep)


@pytest.fixture
def on_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deformable layers as on an NPU."""
    monkeypatch.setattr(deform, "operator_for", lambda device: by_cann)
