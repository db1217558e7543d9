"""``kernels.conv2d`` is ``F.conv2d``: every argument, layout and type, forward and backward."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DEVICE, INTERPRETED, assert_equal, assert_right, gradients, random_inputs, torchs, whole_inputs

from kernels import conv2d, geometry, launch, tiles

CASES = {
    "one number": ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    "primes": ((3, 5, 7, 11), (13, 5, 3, 3), {"padding": 1}),
    "the article's first layer": ((1, 1, 28, 28), (32, 1, 3, 3), {"padding": 1}),
    "the article's other layers": ((2, 32, 14, 14), (32, 32, 3, 3), {"padding": 1}),
    "wider than any tile": ((1, 33, 5, 5), (130, 33, 1, 1), {}),
    "one filter": ((2, 19, 6, 5), (1, 19, 3, 3), {"padding": (0, 1)}),
    "kernel 1x7": ((2, 3, 6, 9), (5, 3, 1, 7), {"padding": (0, 3)}),
    "kernel 5x5, stride 3": ((2, 4, 13, 11), (6, 4, 5, 5), {"stride": 3, "padding": 2}),
    "stride pair": ((2, 3, 9, 8), (4, 3, 3, 3), {"stride": (1, 2), "padding": 1}),
    "dilation 2": ((2, 3, 9, 8), (4, 3, 3, 3), {"dilation": 2, "padding": 2}),
    "dilation and stride pairs": ((1, 2, 11, 9), (3, 2, 3, 2), {"dilation": (2, 3), "stride": (2, 1), "padding": 1}),
    "groups": ((2, 6, 6, 6), (9, 2, 3, 3), {"groups": 3, "padding": 1}),
    "depthwise": ((2, 7, 6, 6), (7, 1, 3, 3), {"groups": 7, "padding": 1}),
    "depthwise, two filters each": ((1, 3, 6, 6), (6, 1, 5, 5), {"groups": 3, "padding": 2}),
    "padding beyond the kernel": ((2, 2, 3, 3), (3, 2, 2, 2), {"padding": 4}),
    "same, even kernel": ((2, 2, 5, 6), (3, 2, 4, 2), {"padding": "same"}),
    "same, dilation": ((2, 2, 7, 6), (3, 2, 2, 3), {"padding": "same", "dilation": 3}),
    "valid": ((2, 2, 5, 6), (3, 2, 2, 3), {"padding": "valid"}),
    "many pixels": ((5, 3, 18, 17), (20, 3, 3, 3), {"padding": 1}),
    "empty batch": ((0, 3, 6, 6), (4, 3, 3, 3), {}),
}


# a zero-padded copy, which torch makes and we do not
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@pytest.mark.parametrize("case", CASES)
def test_output_and_gradients_are_torchs(case: str) -> None:
    x, weight, arguments = CASES[case]
    assert_right(conv2d, random_inputs(x, weight), **arguments)


def test_the_cases_use_several_tiles_and_splits() -> None:
    """Else the loops over tiles and parts would not be tested."""
    (images, _, height, width), (filters, *_), _ = CASES["many pixels"]
    pixels = images * height * width
    choice = tiles.choose(tiles.WEIGHT_GRADIENT, tiles.FMA, channels=0, depth=0, rows=filters, columns=27, pools=False)
    assert tiles.splits(pixels, 1, choice.tile.K) > 3
    assert pixels % choice.tile.K
    sizes = {"channels": 3, "depth": 27, "rows": pixels, "columns": filters}
    assert pixels > 3 * tiles.choose(tiles.FORWARD, tiles.FMA, **sizes, pools=False).tile.M


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", ["primes", "groups", "kernel 5x5, stride 3", "depthwise", "empty batch"])
def test_types_of_16_bits(case: str, dtype: torch.dtype) -> None:
    x, weight, arguments = CASES[case]
    assert_right(conv2d, random_inputs(x, weight, dtype=dtype), **arguments)


@pytest.mark.parametrize("precision", [name for name in geometry.PRECISIONS if name != "ieee"])
@pytest.mark.parametrize(
    "case", ["primes", "the article's first layer", "wider than any tile", "groups", "many pixels"]
)
def test_every_precision(case: str, precision: str) -> None:
    """Only on a GPU are its products not exact."""
    x, weight, arguments = CASES[case]
    assert_right(conv2d, random_inputs(x, weight), precision=precision, **arguments)


def test_without_a_bias() -> None:
    assert_right(conv2d, random_inputs((2, 3, 6, 6), (4, 3, 3, 3), bias=False), padding=1)


def test_one_image_without_a_batch() -> None:
    inputs = random_inputs((3, 7, 6), (4, 3, 3, 3))
    assert_right(conv2d, inputs, padding=1)
    assert conv2d(*inputs).stride() == torchs(*inputs).stride()


VIEWS = {
    "sliced": lambda x: torch.cat([x, x], dim=3)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second image": lambda x: x.repeat_interleave(2, 0)[::2],
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("view", VIEWS)
def test_any_strides_of_the_input(view: str) -> None:
    x, weight, bias = random_inputs((3, 4, 6, 6), (5, 4, 3, 3))
    assert_right(conv2d, [VIEWS[view](x), weight, bias], padding=1)


@pytest.mark.parametrize("view", ["transposed", "channels last", "sliced"])
def test_any_strides_of_the_weight(view: str) -> None:
    x, weight, bias = random_inputs((2, 4, 6, 6), (5, 4, 3, 3))
    assert_right(conv2d, [x, VIEWS[view](weight), bias], padding=1)


def test_any_strides_of_the_incoming_gradient() -> None:
    inputs = [tensor.requires_grad_() for tensor in random_inputs((2, 3, 6, 6), (4, 3, 3, 3))]
    # a sum's gradient is one number, expanded
    ours = torch.autograd.grad(conv2d(*inputs).sum(), inputs)
    wanted = torch.autograd.grad(torchs(*(t.double() for t in inputs)).sum(), inputs)
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


SHAPES = {"plain": (2, 3, 5, 4), "one channel": (2, 1, 5, 4), "one pixel": (2, 3, 1, 1), "one image": (1, 3, 5, 4)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("taps", [1, 3])
def test_the_output_lies_as_torchs(shape: str, taps: int) -> None:
    """Contiguous or channels last, by torch's rule, for each layout of input and weight, the ambiguous ones too."""
    x, weight, _ = random_inputs(SHAPES[shape], (4, SHAPES[shape][1], taps, taps))
    layouts = (torch.contiguous_format, torch.channels_last)
    for of_x, of_weight in itertools.product(layouts, layouts):
        pair = x.contiguous(memory_format=of_x), weight.contiguous(memory_format=of_weight)
        wanted = torchs(*pair, padding=taps // 2)
        assert conv2d(*pair, padding=taps // 2).stride() == wanted.stride(), (of_x, of_weight)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_gradients_lie_as_what_they_are_of(layout: torch.memory_format) -> None:
    """So that adding them to ``.grad`` needs no copy."""
    x, weight, bias = random_inputs((2, 3, 5, 4), (4, 3, 3, 3))
    leaves = [t.contiguous(memory_format=layout).requires_grad_() for t in (x, weight)]
    for gradient, leaf in zip(torch.autograd.grad(conv2d(*leaves, bias).sum(), leaves), leaves, strict=True):
        assert gradient.stride() == leaf.stride()


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_only_the_gradients_that_are_needed_are_computed(wanted: tuple[int, ...], launches: list[str]) -> None:
    inputs = random_inputs((2, 3, 6, 6), (4, 3, 3, 3))
    for index in wanted:
        inputs[index].requires_grad_()
    y = conv2d(*inputs)
    exact = torchs(*inputs)
    assert launches == ["forward_kernel"]
    leaves = [inputs[index] for index in wanted]
    ours, theirs = (torch.autograd.grad((out * out.detach()).sum(), leaves) for out in (y, exact))
    kernels = ["input_gradient_kernel"] * (0 in wanted)
    kernels += ["weight_gradient_kernel", "add_parts_kernel"] * bool({1, 2} & set(wanted))
    assert launches[1:] == kernels
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_same_bits_each_time(dtype: torch.dtype) -> None:
    inputs = [t.requires_grad_() for t in random_inputs((4, 3, 17, 13), (8, 3, 3, 3), dtype=dtype)]
    first, *others = (torch.autograd.grad((conv2d(*inputs) ** 2).sum(), inputs) for _ in range(4))
    for again in others:
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_parts_are_added_in_their_order() -> None:
    """Float32 addition is not associative: another order gives other bits, and atomics would give any."""
    parts = torch.randn(1, 7, 300, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(7).view(1, 7, 1)
    weight, bias = torch.empty(1, 200, device=DEVICE), torch.empty(1, 100, device=DEVICE)
    launch._add_parts(parts.to(DEVICE), weight, bias, parts=7)
    wanted = torch.zeros(300)
    for part in parts[0]:
        wanted += part
    backwards = torch.zeros(300)
    for part in parts[0].flip(0):
        backwards += part
    assert torch.equal(torch.cat([weight[0], bias[0]]).cpu(), wanted)
    assert not torch.equal(wanted, backwards)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
def test_on_the_sample_inputs_of_torchs_own_tests() -> None:
    from torch.testing._internal.common_methods_invocations import sample_inputs_conv2d

    count = 0
    for sample in sample_inputs_conv2d(None, DEVICE, torch.float32, requires_grad=False):
        inputs = [sample.input, *(value for value in sample.args if isinstance(value, torch.Tensor))]
        names = ("bias", "stride", "padding", "dilation", "groups")
        rest = dict(zip(names, sample.args[1:], strict=False)) | sample.kwargs
        if isinstance(rest.pop("bias", None), torch.Tensor):
            assert len(inputs) == 3
        assert_right(conv2d, inputs, **rest)
        count += 1
    assert count >= 10


MOVES = {"plain": {}, "padded": {"padding": 1, "groups": 2}, "stride 2": {"stride": 2, "padding": 1}}


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")
@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("where", ["x", "weight", "dy"])
def test_what_is_not_finite_stays_where_torch_keeps_it(where: str, move: str) -> None:
    """But for dx where a weight is not finite: a tap that does not land is 0 times it, so all of its channel is not."""
    x, weight, bias = whole_inputs((2, 4, 7, 6), (6, 4 // MOVES[move].get("groups", 1), 3, 3))
    dy = torch.ones_like(torchs(x, weight, **MOVES[move]))
    # where taps beyond the last, which the last step has, would look at it
    {"x": x, "weight": weight, "dy": dy}[where][1, 1, 5 if where == "x" else 2, 1] = float("nan")
    ours = gradients(conv2d, [x, weight, bias], dy, **MOVES[move])
    wanted = gradients(torchs, [t.double() for t in (x, weight, bias)], dy.double(), **MOVES[move])
    if where == "weight":
        assert ours[1][:, 1].isnan().all()
        ours[1][:, 1] = wanted[1][:, 1]
    assert_equal(ours, wanted)


sizes = st.integers(1, 6)


# a GPU compiles each anew
@settings(max_examples=25 if INTERPRETED else 8)
@given(
    images=st.integers(0, 3),
    channels=sizes,
    filters=sizes,
    image=st.tuples(sizes, sizes),
    taps=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
)
def test_any_convolution(images, channels, filters, image, taps, stride, padding, dilation, groups) -> None:
    fits = all(
        side + 2 * around >= space * (count - 1) + 1
        for side, around, space, count in zip(image, padding, dilation, taps, strict=True)
    )
    if not fits:
        image = tuple(space * count for space, count in zip(dilation, taps, strict=True))
    arguments = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    inputs = random_inputs((images, groups * channels, *image), (groups * filters, channels, *taps))
    assert_right(conv2d, inputs, **arguments)
