"""A Core ML package computed without Core ML: its program, read back from the file, an operator at a time in PyTorch.

Each operator is what coremltools' documentation of MIL says it is, as far as the detector's programs use it; what they
do not use raises KeyError, TypeError or ValueError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = {"fp32": torch.float32, "int32": torch.int32, "bool": torch.bool}


def run_package(package: Path, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs of a .mlpackage, by name."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    function = load(spec, spec.specificationVersion, model.weights_dir).functions["main"]
    assert set(inputs) == set(function.inputs)
    values = dict(inputs)

    def value_of(var: Any) -> Any:
        if isinstance(var, (list, tuple)):
            return [value_of(each) for each in var]
        if var.val is None:
            return values[var.name]
        return var.val if isinstance(var.val, str) else torch.as_tensor(var.val)

    for op in function.operations:
        if op.op_type == "const":
            continue
        given = {name: value_of(var) for name, var in op.inputs.items() if var is not None}
        found = OPERATORS[op.op_type](**given)
        found = found if isinstance(found, tuple) else (found,)
        for var, value in zip(op.outputs, found, strict=True):
            assert tuple(var.shape) == tuple(value.shape), (op.op_type, var.name)
            values[var.name] = value
    return {var.name: values[var.name] for var in function.outputs}


def padded(x: Tensor, pad_type: str, pad: Tensor, value: float) -> Tensor:
    """A picture's rows and columns with borders; pad: top, bottom, left, right."""
    top, bottom, left, right = pad.tolist() if pad_type == "custom" else [0] * 4
    if pad_type not in ("custom", "valid"):
        raise ValueError(pad_type)
    return F.pad(x, (left, right, top, bottom), value=value)


def conv(
    x: Tensor, weight: Tensor, strides: Tensor, pad_type: str, pad: Tensor, dilations: Tensor, groups: Tensor,
    bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    x = padded(x, pad_type, pad, 0.0)
    return F.conv2d(x, weight, bias, strides.tolist(), dilation=dilations.tolist(), groups=int(groups))


def max_pool(x: Tensor, kernel_sizes: Tensor, strides: Tensor, pad_type: str, pad: Tensor, ceil_mode: Tensor) -> Tensor:
    return F.max_pool2d(
        padded(x, pad_type, pad, -torch.inf), kernel_sizes.tolist(), strides.tolist(), ceil_mode=bool(ceil_mode)
    )


def slice_by_index(
    x: Tensor, begin: Tensor, end: Tensor, end_mask: Tensor | None = None, squeeze_mask: Tensor | None = None
) -> Tensor:
    """From begin to end, or to the last where end_mask is set; the axes of squeeze_mask keep `begin` alone."""
    places: list[slice | int] = []
    for axis, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        whole = end_mask is not None and bool(end_mask[axis])
        single = squeeze_mask is not None and bool(squeeze_mask[axis])
        places.append(first if single else slice(first, None if whole else last))
    return x[tuple(places)]


def topk(
    x: Tensor, k: Tensor, axis: Tensor, ascending: Tensor, sort: Tensor, return_indices: Tensor,
    output_indices_dtype: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    found = torch.topk(x, int(k), int(axis), largest=not ascending, sorted=bool(sort))
    return (found.values, found.indices.to(DTYPES[output_indices_dtype]))[: 1 + bool(return_indices)]


def gather(x: Tensor, indices: Tensor, axis: Tensor, batch_dims: Tensor, validate_indices: Tensor) -> Tensor:
    if int(axis) or int(batch_dims):
        raise ValueError((axis, batch_dims))
    return x[indices.long()]


def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor) -> Tensor:
    if interleave:
        raise ValueError(interleave)
    return torch.cat(list(values), int(axis))


def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    (axis,) = axes.tolist()
    return x.unsqueeze(axis)


def matmul(x: Tensor, y: Tensor, transpose_x: Tensor, transpose_y: Tensor) -> Tensor:
    return torch.matmul(x.mT if transpose_x else x, y.mT if transpose_y else y)


def upsample_nearest_neighbor(x: Tensor, scale_factor_height: Tensor, scale_factor_width: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=(float(scale_factor_height), float(scale_factor_width)))


def reduced(by: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda x, axes, keep_dims: by(x, tuple(axes.tolist()), bool(keep_dims))


OPERATORS: dict[str, Callable[..., Any]] = {
    **{each.__name__: each for each in (conv, max_pool, slice_by_index, topk, gather, concat, expand_dims, matmul)},
    "abs": lambda x: x.abs(),
    "add": lambda x, y: x + y,
    "batch_norm": lambda x, mean, variance, gamma, beta, epsilon: F.batch_norm(
        x, mean, variance, gamma, beta, eps=float(epsilon)
    ),
    "cast": lambda x, dtype: x.to(DTYPES[dtype]),
    "clip": lambda x, alpha, beta: x.clamp(alpha, beta),
    "equal": lambda x, y: x == y,
    "floor": lambda x: x.floor(),
    "gather_along_axis": lambda x, indices, axis, validate_indices: torch.gather(x, int(axis), indices.long()),
    "greater": lambda x, y: x > y,
    "greater_equal": lambda x, y: x >= y,
    "less": lambda x, y: x < y,
    "linear": lambda x, weight, bias: F.linear(x, weight, bias),
    "maximum": lambda x, y: torch.maximum(x, y),
    "minimum": lambda x, y: torch.minimum(x, y),
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "reduce_max": reduced(torch.amax),
    "reduce_mean": reduced(torch.mean),
    "reduce_sum": reduced(torch.sum),
    "relu": lambda x: x.relu(),
    "reshape": lambda x, shape: x.reshape(shape.tolist()),
    "select": lambda cond, a, b: torch.where(cond, a, b),
    "sigmoid": lambda x: x.sigmoid(),
    "softmax": lambda x, axis: x.softmax(int(axis)),
    "sqrt": lambda x: x.sqrt(),
    "square": lambda x: x.square(),
    "squeeze": lambda x, axes: x.squeeze(tuple(axes.tolist())),
    "sub": lambda x, y: x - y,
    "tile": lambda x, reps: x.repeat(reps.tolist()),
    "transpose": lambda x, perm: x.permute(perm.tolist()),
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
}
