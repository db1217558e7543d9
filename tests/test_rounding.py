"""The rounding model of the kernels: its constants are those of the number formats, its bound holds and is tight."""

import math

import pytest
import torch

from kernels import rounding


@pytest.mark.parametrize(
    ("dtype", "expected"), [(torch.float32, 2.0**-24), (torch.float16, 2.0**-11), (torch.bfloat16, 2.0**-8)]
)
def test_storing_errs_by_half_a_unit(dtype: torch.dtype, expected: float) -> None:
    assert rounding.store_rounding(dtype, interpreted=False) == expected
    cut_off = dtype == torch.bfloat16
    assert rounding.store_rounding(dtype, interpreted=True) == expected * (2 if cut_off else 1)


def test_lengths_are_those_of_the_sums() -> None:
    """Ones everywhere: each number of a result is the length of its own sum."""
    x, weight = torch.ones(2, 3, 6, 6, requires_grad=True), torch.ones(5, 3, 3, 3, requires_grad=True)
    y = torch.nn.functional.conv2d(x, weight)
    dx, dweight = torch.autograd.grad(y.sum(), [x, weight])
    sums = {"output": y, "input gradient": dx, "weight gradient": dweight, "bias gradient": y[:, 0]}
    pixels = y[:, 0].numel()
    for name, tensor in sums.items():
        expected = pixels if name == "bias gradient" else int(tensor.max())
        assert rounding.sum_length(name, weight.shape, pixels) == expected, name


@pytest.mark.parametrize("length", [9, 288, 20_000])
def test_float32_sums_stay_within_what_is_allowed_and_tf32_factors_do_not(length: int) -> None:
    random = torch.Generator().manual_seed(length)
    left, right = (torch.randn(64, length, generator=random) for _ in range(2))
    exact = (left.double() * right.double()).sum(1)
    allowed = rounding.allowed_error(length, rounding.FACTOR_ROUNDING["ieee"])

    def error(factor: torch.Tensor) -> float:
        return float(((factor * right).sum(1).double() - exact).norm() / exact.norm())

    cut = (left.view(torch.int32) & ~0x1FFF).view(torch.float32)
    assert error(left) <= allowed
    assert error(cut) > allowed
    assert error(cut) <= rounding.allowed_error(length, 2 * rounding.FACTOR_ROUNDING["tf32"])


def test_allowed_error_is_the_formula() -> None:
    assert rounding.allowed_error(288, 2.0**-11) == pytest.approx(4 * (2.0**-10 + 2.0**-24 * math.sqrt(144)))
    assert rounding.allowed_error(0, 0.0) == 0
