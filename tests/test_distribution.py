"""The general distribution of an edge."""

from __future__ import annotations

import pytest
import reference
import torch
from torch import Tensor

from gfl.tensors.distribution import bins_like, integral, mean_and_std

BINS = 17


def random_logits(count: int, scale: float = 3.0) -> Tensor:
    return torch.randn((count, 4, BINS), generator=torch.Generator().manual_seed(0)) * scale


def peak_at(bin_: int) -> Tensor:
    """Logits whose softmax is one bin, exactly in float32."""
    return torch.where(torch.arange(BINS) == bin_, 200.0, 0.0)


def test_bins_are_the_strides_from_zero_to_reg_max() -> None:
    assert bins_like(torch.zeros(2, BINS)).tolist() == list(range(17))
    assert bins_like(torch.zeros(2, BINS, dtype=torch.float16)).dtype == torch.float32


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 50.0])
def test_integral_and_spread_agree_with_the_loops(scale: float) -> None:
    logits = random_logits(8, scale)
    mean, std = mean_and_std(logits)
    torch.testing.assert_close(integral(logits), mean, rtol=0, atol=0)
    for i, anchor in enumerate(logits.tolist()):
        for edge, values in enumerate(anchor):
            # 1e-5: a sum of 17 float32 terms up to 16
            assert float(mean[i, edge]) == pytest.approx(reference.integral(values), rel=1e-5, abs=1e-5)
            assert float(std[i, edge]) == pytest.approx(reference.spread(values), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("bin_", [0, 7, 16])
def test_a_single_bin_has_its_own_value_and_no_spread(bin_: int) -> None:
    mean, std = mean_and_std(peak_at(bin_))
    assert float(mean) == bin_
    assert float(std) == 0.0


def test_equal_logits_mean_the_middle() -> None:
    mean, std = mean_and_std(torch.full((BINS,), -5.0))
    assert float(mean) == pytest.approx(8.0)
    assert float(std) == pytest.approx(24.0**0.5)  # (17^2 - 1) / 12


def test_two_bins_are_weighed_by_their_probability() -> None:
    logits = torch.full((BINS,), -200.0)
    logits[3], logits[4] = 0.0, 3.0**0.5
    assert float(integral(logits)) == pytest.approx(3 + 1 / (1 + 2.718281828459045 ** -(3.0**0.5)))


def test_adding_a_constant_to_all_logits_changes_nothing() -> None:
    logits = random_logits(8)
    torch.testing.assert_close(integral(logits + 4.0), integral(logits), rtol=1e-5, atol=1e-5)


def test_the_integral_stays_within_the_bins_for_huge_logits() -> None:
    mean = integral(random_logits(64, scale=1e4))
    assert 0.0 <= float(mean.min()) <= float(mean.max()) <= 16.0


@pytest.mark.parametrize("bins", [2, 8, 33])
def test_the_number_of_bins_is_read_from_the_logits(bins: int) -> None:
    assert float(integral(torch.zeros(bins))) == pytest.approx((bins - 1) / 2)
