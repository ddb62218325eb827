"""The table of operators on an NPU: what it says of those that a detector meets."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gfl.operators.npu import CALLS_HOST, COMPOSITE, FALLS_BACK, KERNEL, UNKNOWN, npu_support, npu_table


@pytest.mark.parametrize(
    ("operator", "support"),
    [
        ("aten::convolution", KERNEL),
        ("aten::add.Tensor", KERNEL),
        ("aten::detach", COMPOSITE),
        ("aten::zeros_like", COMPOSITE),
        ("aten::_assert_async", FALLS_BACK),
        ("aten::huber_loss", FALLS_BACK),
        ("aten::logit", CALLS_HOST),
        ("aten::logit_", CALLS_HOST),
        ("aten::std_mean.correction", CALLS_HOST),
        ("aten::scatter_reduce_.two", CALLS_HOST),
        ("aten::no_such_operator", UNKNOWN),
        ("prim::device", UNKNOWN),
        ("add.Tensor", UNKNOWN),
    ],
)
def test_operator_is_supported_as_the_table_says(operator: str, support: str) -> None:
    assert npu_support(operator) == support


@pytest.mark.parametrize(
    ("operator", "support"),
    [
        ("aten::argmax", KERNEL),  # argmax.out
        ("aten::scatter.src", KERNEL),  # scatter.src_out
        ("aten::lgamma", FALLS_BACK),  # lgamma.out
        ("aten::lgamma_", FALLS_BACK),
        ("aten::copysign.Tensor", FALLS_BACK),  # copysign.out
    ],
)
def test_structured_operator_has_the_support_of_its_out_form(operator: str, support: str) -> None:
    assert npu_table()[operator.removeprefix("aten::")] == COMPOSITE
    assert npu_support(operator) == support


def test_table_is_whole() -> None:
    """1,499 kernels, 1,639 composites and 391 of neither kind; six of the first two call the host."""
    assert Counter(npu_table().values()) == {KERNEL: 1495, COMPOSITE: 1637, FALLS_BACK: 391, CALLS_HOST: 6}


def test_table_ships_in_the_wheel() -> None:
    setup = Path(__file__).resolve().parent.parent / "setup.py"
    assert '"gfl.operators": ["npu_operators.txt"]' in setup.read_text(encoding="utf-8")
