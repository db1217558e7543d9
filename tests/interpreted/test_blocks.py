"""The fused blocks are torch's composition: the same values, ties, zeros and gradients.

On whole numbers every sum is exact, so that gates cannot differ by rounding and the two must be equal bit for bit.
"""

import pytest
import torch
import torch.nn.functional as F
from oracle import DEVICE, assert_equal, gradients, random_inputs, torchs, whole, whole_inputs

from kernels import ConvolutionError, conv2d_pool_relu, conv2d_relu


def relu(*inputs, **settings):
    return F.relu(torchs(*inputs, **settings))


def relu_then_pool(*inputs, **settings):
    return F.max_pool2d(F.relu(torchs(*inputs, **settings)), 2)


def pool_then_relu(*inputs, **settings):
    return F.relu(F.max_pool2d(torchs(*inputs, **settings), 2))


BLOCKS = {"relu": (conv2d_relu, relu), "pool_relu": (conv2d_pool_relu, pool_then_relu)}
SHAPES = {
    "first layer": ((2, 1, 12, 12), (32, 1, 3, 3)),
    "other layers": ((2, 32, 6, 6), (32, 32, 3, 3)),
    "odd sizes": ((3, 5, 7, 9), (6, 5, 3, 3)),
    "many tiles": ((3, 2, 16, 16), (20, 2, 3, 3)),
}


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest):
    return BLOCKS[request.param]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_values_and_gradients_are_torchs_bit_for_bit(block, shape: str, layout: torch.memory_format) -> None:
    ours, theirs = block
    x, weight, bias = whole_inputs(*SHAPES[shape])
    inputs = [x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), bias]
    with torch.no_grad():
        y = theirs(*inputs, padding=1)
    assert (y == 0).any(), "no output is shut, so the gate is not tested"
    dy = whole(y.shape)
    assert_equal(gradients(ours, inputs, dy, padding=1), gradients(theirs, inputs, dy, padding=1))


@pytest.mark.parametrize("settings", [{"stride": 2}, {"dilation": 2}, {"groups": 2}, {"padding": 3}], ids=str)
def test_every_way_the_filter_moves(block, settings: dict[str, int]) -> None:
    ours, theirs = block
    inputs = whole_inputs((2, 4, 11, 9), (6, 4 // settings.get("groups", 1), 3, 3))
    assert_equal(gradients(ours, inputs, None, **settings), gradients(theirs, inputs, None, **settings))


def test_values_on_normal_numbers(block) -> None:
    """Relu and the maximum stretch no difference."""
    ours, theirs = block
    inputs = random_inputs((2, 32, 7, 6), (32, 32, 3, 3))
    output, exact = ours(*inputs, padding=1), theirs(*(tensor.double() for tensor in inputs), padding=1)
    size = 3 * (32 * 9) ** 0.5
    torch.testing.assert_close(output.cpu().double(), exact, rtol=0, atol=290 * 2.0**-24 * size * 6)


def test_pooling_first_is_the_same_function() -> None:
    """Values and gradients, ties and zeros included: so a quarter of the relus does."""
    inputs = whole_inputs((3, 4, 8, 8), (8, 4, 3, 3))
    assert_equal(gradients(pool_then_relu, inputs, None), gradients(relu_then_pool, inputs, None))


@pytest.mark.parametrize("zeroed", ["weight", "input"])
def test_a_zero_kernel_leaves_everything_behind_it_unmoved(block, zeroed: str) -> None:
    """relu'(0) = 0: the gradient of what gives exactly 0 is exactly 0."""
    ours, _ = block
    x, weight, _ = whole_inputs((2, 3, 6, 6), (4, 3, 3, 3))
    inputs = [x * (zeroed != "input"), weight * (zeroed != "weight"), torch.zeros(4, device=DEVICE)]
    y, *rest = gradients(ours, inputs, None, padding=1)
    assert not y.any()
    assert not any(gradient.any() for gradient in rest)


def one_tap(values: list[list[float]]) -> list[torch.Tensor]:
    """Inputs for which the convolution's output is these values."""
    return [tensor.to(DEVICE) for tensor in (torch.tensor([[values]]), torch.ones(1, 1, 1, 1), torch.zeros(1))]


WINDOWS = {
    "the first of equals": [[2.0, 2.0], [2.0, 2.0]],
    "a tie of the last two": [[0.0, 1.0], [3.0, 3.0]],
    "none positive": [[-1.0, -2.0], [0.0, -0.0]],
    "negative zero": [[-0.0, -0.0], [-0.0, -0.0]],
    "infinity": [[1.0, float("inf")], [float("inf"), 0.0]],
    "minus infinity": [[float("-inf"), float("-inf")], [float("-inf"), float("-inf")]],
    "NaN": [[5.0, float("nan")], [7.0, 1.0]],
    "two NaN": [[float("nan"), 5.0], [7.0, float("nan")]],
}


@pytest.mark.parametrize("window", WINDOWS)
def test_ties_and_strange_numbers_go_where_torch_sends_them(block, window: str) -> None:
    x, *rest = one_tap(WINDOWS[window])
    results = [gradients(lambda x, function=function: function(x, *rest), [x], None) for function in block]
    assert_equal(*results)


def test_too_small_to_pool_is_refused() -> None:
    with pytest.raises(ConvolutionError, match=r"an output of \(1, 6\) is too small"):
        conv2d_pool_relu(torch.ones(1, 1, 3, 6, device=DEVICE), torch.ones(1, 1, 3, 1, device=DEVICE))


def test_16_bit_outputs_tie_as_they_are_stored() -> None:
    """1 and 1 + 2^-12 are one number in float16: torch, which stores it before it pools, sees a tie, and so do we."""
    x = torch.tensor([[[[1.0, 1.0], [0.0, 0.0]], [[0.0, 2.0**-12], [0.0, 0.0]]]], dtype=torch.float16)
    inputs = [x, torch.ones(1, 2, 1, 1, dtype=x.dtype), torch.zeros(1, dtype=x.dtype)]
    dx = gradients(conv2d_pool_relu, [tensor.to(DEVICE) for tensor in inputs], None)[1]
    assert dx[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]
