"""Sums in float64 are those that numpy gives, however a tensor lies in memory."""

import numpy as np
import pytest
import torch

from harness import moments

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 1),
    "every other": lambda x: x[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_are_those_of_numpy(layout: str) -> None:
    # squares of such numbers are zeros in float32
    x = LAYOUTS[layout](1e-30 * torch.randn(7, 4, 5, 3, generator=torch.Generator().manual_seed(0)))
    exact = x.numpy().astype(np.float64)
    assert moments.energy(x) == pytest.approx((exact**2).sum(), rel=1e-14, abs=0)
    assert moments.moment(x) == pytest.approx((exact**2).mean(), rel=1e-14, abs=0)
    assert moments.mean(x) == pytest.approx(exact.mean(), rel=1e-12, abs=0)
    wanted = {
        moments.mean_of_examples: exact.mean(axis=0, keepdims=True),
        moments.mean_square_of_examples: (exact**2).mean(axis=0, keepdims=True),
        moments.sum_of_squares_of_examples: (exact**2).sum(axis=0, keepdims=True),
    }
    for function, of_examples in wanted.items():
        np.testing.assert_allclose(function(x).numpy(), of_examples, rtol=1e-11, atol=0)
