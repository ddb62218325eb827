"""The auditor itself: it sees what breaks each rule, names the line that did it, and lets pass what keeps the rules."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from audit import (
    RULES,
    Auditor,
    Rule,
    argument_trap,
    bfloat16,
    boolean_mask,
    corrected_deviation,
    double_precision,
    dynamic_shape,
    first_difference,
    host_constant,
    host_read,
    integer_reduction,
    without_kernel,
)
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gfl.operators.trace import OpTrace

Step = Callable[[Tensor], object]  # of a float32 (1,4,4)

BREACHES: list[tuple[Rule, str, Step]] = [
    (dynamic_shape, "nonzero", torch.nonzero),
    (dynamic_shape, "where with one argument", lambda x: torch.where(x > 0)),
    (dynamic_shape, "masked_select", lambda x: torch.masked_select(x, x > 0)),
    (dynamic_shape, "unique", torch.unique),
    (dynamic_shape, "unique_consecutive", torch.unique_consecutive),
    (dynamic_shape, "bincount", lambda x: torch.bincount(x.int().flatten())),
    (dynamic_shape, "repeat_interleave", lambda x: torch.repeat_interleave(x.int().flatten())),
    (boolean_mask, "read by a mask", lambda x: x[x > 0]),
    (boolean_mask, "write by a mask", lambda x: x.index_put_((x > 0,), torch.zeros(()))),
    (boolean_mask, "mask of one axis", lambda x: x[:, x[0, :, 0] > 0]),
    (host_read, "item", lambda x: x.amax().item()),
    (host_read, "float", lambda x: float(x[0, 0, 0])),
    (host_read, "if", lambda x: 1 if x.amax() > 0 else 2),
    (host_read, "equal", lambda x: torch.equal(x, x)),
    (host_read, "tolist", lambda x: x.tolist()),
    (host_read, "numpy", lambda x: x.numpy()),
    (host_read, "asarray", np.asarray),
    (host_read, "cpu", lambda x: x.cpu()),
    (host_constant, "tensor", lambda x: x + torch.tensor([1.0, 2.0, 3.0, 4.0])),
    (double_precision, "double", lambda x: x.double()),
    (double_precision, "linspace", lambda x: torch.linspace(0, 1, 4, dtype=torch.float64)),
    (integer_reduction, "sum of int32 is int64", lambda x: x.int().sum()),
    (integer_reduction, "sum of a mask is int64", lambda x: (x > 0).sum(dim=1)),
    (integer_reduction, "cumsum", lambda x: x.long().cumsum(0)),
    (integer_reduction, "sort", lambda x: x.long().sort()),
    (integer_reduction, "topk", lambda x: x.long().topk(2)),
    (integer_reduction, "argmax", lambda x: x.long().argmax(dim=1)),
    (integer_reduction, "max of int32", lambda x: x.int().max(dim=1)),
    (integer_reduction, "amax of int32", lambda x: x.int().amax(dim=1)),
    (without_kernel, "scatter_reduce", lambda x: x.scatter_reduce(0, torch.zeros_like(x).long(), x, "amax")),
    (without_kernel, "logit", torch.logit),
    (without_kernel, "std_mean", torch.std_mean),
    (without_kernel, "var_mean", torch.var_mean),
    (without_kernel, "unfold_backward", lambda x: x.clone().requires_grad_().unfold(1, 2, 1).mean().backward()),
    (without_kernel, "huber_loss", lambda x: F.huber_loss(x, x)),
    (without_kernel, "the out form of a structured operator", torch.lgamma),
    (corrected_deviation, "std", lambda x: x.std()),
    (corrected_deviation, "var", lambda x: x.var(dim=1, correction=1)),
    (argument_trap, "unsorted topk", lambda x: x.topk(2, sorted=False)),
    (argument_trap, "scale factor", lambda x: F.interpolate(x.unsqueeze(0), scale_factor=2.0)),
    (argument_trap, "dtype of a sum", lambda x: x.sum(dtype=torch.float32)),
    (argument_trap, "dtype of a softmax's sum", lambda x: x.mean(dim=1, dtype=torch.float32)),
    (argument_trap, "dilated pooling", lambda x: F.max_pool2d(x, 2, 1, dilation=2)),
    (bfloat16, "mm", lambda x: x[0].bfloat16() @ x[0].bfloat16()),
    (bfloat16, "linear", lambda x: F.linear(x.bfloat16(), x[0].bfloat16())),
    (bfloat16, "gather", lambda x: x.bfloat16().gather(1, torch.zeros((1, 1, 4), dtype=torch.int64))),
    (
        bfloat16,
        "batch_norm",
        lambda x: F.batch_norm(x.unsqueeze(0).bfloat16(), torch.zeros(1).bfloat16(), torch.ones(1).bfloat16()),
    ),
]

LAWFUL: dict[str, Step] = {
    "integers index": lambda x: x[:, torch.arange(2)],
    "integers write": lambda x: x.index_put_((torch.arange(1),), torch.zeros(())),
    "where with three arguments": lambda x: torch.where(x > 0, x, 0.0),
    "int64 is an index": lambda x: x.gather(1, x.argmax(dim=1, keepdim=True)),
    "scatter": lambda x: torch.zeros_like(x).scatter(1, x.argmax(dim=1, keepdim=True), x),
    "sum of float32": lambda x: (x > 0).float().sum(dim=1),
    "amax of float32": lambda x: x.amax(dim=1),
    "topk": lambda x: x.topk(2),
    "deviation without a correction": lambda x: x.std(correction=0),
    "size": lambda x: F.interpolate(x.unsqueeze(0), size=(8, 8)),
    "pooling": lambda x: F.max_pool2d(x, 3, 2, 1),
    "bfloat16 convolution": lambda x: F.conv2d(x.bfloat16(), x.bfloat16().unsqueeze(0)),
    "backward": lambda x: x.clone().requires_grad_().square().sum().backward(),
}


def numbers() -> Tensor:
    return torch.arange(16.0).view(1, 4, 4) / 16 + 0.01


@pytest.mark.parametrize(
    ("rule", "step"), [(r, s) for r, _, s in BREACHES], ids=[f"{r.__name__}: {n}" for r, n, _ in BREACHES]
)
def test_auditor_sees_what_breaks_a_rule(rule: Rule, step: Step) -> None:
    with Auditor() as audit:
        step(numbers())
    assert audit.broken == {rule}, audit.violations


@pytest.mark.parametrize("name", LAWFUL)
def test_auditor_lets_pass_what_keeps_the_rules(name: str) -> None:
    with Auditor() as audit:
        LAWFUL[name](numbers())
    assert audit.violations == []


def test_every_rule_has_a_step_that_breaks_it() -> None:
    assert {rule for rule, _, _ in BREACHES} == set(RULES)


def test_copy_from_a_device_to_the_host_is_a_read() -> None:
    with FakeTensorMode(), Auditor() as audit:
        there = torch.ones(3, device="meta")
        there.to("cpu")
        torch.empty(3).copy_(there)
    assert len(audit.violations) == 2
    assert all("the host waits for a copy" in sentence for sentence in audit.violations)


def test_copy_from_the_host_to_a_device_is_none() -> None:
    with FakeTensorMode(), Auditor() as audit:
        torch.ones(3).to("meta")
    assert audit.violations == []


def test_what_a_fake_tensor_refuses_is_told_all_the_same() -> None:
    with FakeTensorMode(), Auditor() as audit, pytest.raises(RuntimeError):
        torch.ones(3).nonzero()
    assert audit.broken == {dynamic_shape}


def test_violation_is_one_sentence_with_operator_tensors_and_line() -> None:
    x = torch.ones(2, 3)
    with Auditor() as audit:
        torch.nonzero(x)
    line = test_violation_is_one_sentence_with_operator_tensors_and_line.__code__.co_firstlineno + 3
    name = test_violation_is_one_sentence_with_operator_tensors_and_line.__name__
    assert audit.violations == [
        f"aten::nonzero(float32 [2, 3]) at tests/test_audit.py:{line}, in {name}: "
        "the shape of its result depends on values"
    ]


def test_violation_in_backward_names_the_node_and_who_asked() -> None:
    x = torch.ones(4, requires_grad=True)
    y = x.unfold(0, 2, 1).mean()
    with Auditor() as audit:
        y.backward()
    (sentence,) = audit.violations
    assert "in backward of UnfoldBackward0, called at tests/test_audit.py:" in sentence


def trace_of(step: Step, x: Tensor) -> OpTrace:
    with OpTrace() as trace:
        step(x)
    return trace


def test_traces_of_equal_shapes_are_equal() -> None:
    one, two = (trace_of(lambda x: (x + 1.0).topk(2), x) for x in (numbers(), -numbers()))
    assert first_difference(one.ops, two.ops) is None
    assert len(one.ops) == 2


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (lambda x: x[:, :3] + 1.0, "operator 0 is"),
        (lambda x: x + 2.0, "operator 0 is aten::add.Tensor(float32 [1, 4, 4], 1.0) in one trace and"),
        (lambda x: x.half() + 1.0, "operator 0 is"),
        (lambda x: (x + 1.0) * 2.0, "1 operators in one trace and 2 in the other"),
    ],
)
def test_traces_differ_in_operators_shapes_dtypes_and_numbers(step: Step, told: str) -> None:
    first = trace_of(lambda x: x + 1.0, numbers())
    assert told in str(first_difference(first.ops, trace_of(step, numbers()).ops))


def test_trace_tells_what_computes() -> None:
    trace = trace_of(
        lambda x: (torch.empty_like(x).detach().view(16), x.transpose(1, 2).unsqueeze(0), x + 1), numbers()
    )
    assert [op.name for op in trace.ops if op.computes] == ["aten::add.Tensor"]


def test_trace_holds_the_dtypes_that_go_in_and_come_out() -> None:
    (op,) = trace_of(lambda x: x.half(), numbers()).ops
    assert op.dtypes == (torch.float32, torch.float16)
