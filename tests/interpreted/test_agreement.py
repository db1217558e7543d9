"""``kernels.conv2d`` takes what ``F.conv2d`` takes and refuses what it refuses, in one line.

Where the two differ on purpose (types and transforms that the kernels do not compute), a test says so.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DEVICE, INTERPRETED, assert_equal, gradients, random_inputs, torchs, whole, whole_inputs
from test_private_apis import TORCHS_CASES, PrivateApi, require, require_report

from kernels import ConvolutionError, conv2d, conv2d_pool_relu, conv2d_relu, conv2d_stacked, launch

X, W, B = (2, 4, 6, 6), (6, 4, 3, 3), (6,)

TAKEN = {
    "a number of NumPy": {"stride": np.int64(2), "padding": np.int32(1)},
    "a pair of NumPy's": {"stride": (np.int64(2), 1)},
    "groups of NumPy": {"groups": np.int64(2)},
    "a tensor": {"stride": torch.tensor(2)},
    "a size": {"dilation": torch.Size((1, 2))},
    "a list of one": {"stride": [2], "padding": [1], "dilation": [1]},
    "same, a list": {"padding": "same", "stride": [1]},
    "steps beyond the image": {"stride": 50, "padding": 1},
    "much padding": {"padding": (9, 4)},
}


@pytest.mark.parametrize("what", TAKEN)
def test_arguments_that_torch_takes_are_taken(what: str) -> None:
    inputs = whole_inputs(X, (6, 4 // int(TAKEN[what].get("groups", 1)), 3, 3))
    assert_equal([conv2d(*inputs, **TAKEN[what])], [torchs(*inputs, **TAKEN[what])])


NUMBERS = ("stride", "padding", "dilation")
NOT_WHOLE = {
    "a truth value": True,
    "a fraction": 1.0,
    "a fraction in a pair": (1.0, 1),
    "nothing": None,
    "an empty pair": (),
    "text": "2",
    "four": (1, 1, 1, 1),
    "a fractional tensor": torch.tensor(1.5),
    "a truth value of NumPy": np.bool_(1),
    "a range": range(1, 3),
    "bytes": b"\x01\x02",
    "more than 64 bits": 2**65,
}


@pytest.mark.parametrize("what", NOT_WHOLE)
@pytest.mark.parametrize("name", [*NUMBERS, "groups"])
def test_what_is_no_whole_number_is_refused_in_one_line(name: str, what: str) -> None:
    inputs = random_inputs(X, W)
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        F.conv2d(*inputs, **{name: NOT_WHOLE[what]})
    with pytest.raises(ConvolutionError, match=f"^{name}=.*: give a whole number") as error:
        conv2d(*inputs, **{name: NOT_WHOLE[what]})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments", [{"stride": 2**31, "padding": 1}, {"dilation": 2**31}, {"padding": (0, 2**31)}], ids=str
)
def test_numbers_of_more_than_32_bits_are_refused_in_one_line(arguments: dict[str, int]) -> None:
    """The kernels count in 32; torch computes those which reach beyond the image, to no use."""
    x, weight, bias = random_inputs(X, (6, 4, 1, 1))
    with pytest.raises(ConvolutionError, match=r"2147483648\)?: give .* and below 2\*\*31$"):
        conv2d(x, weight, bias, **arguments)
    assert conv2d(x, weight, bias, stride=2**31 - 1, dilation=2**31 - 1).shape == (2, 6, 1, 1)


TOO_LARGE = {
    "pixels": ((2**20, 1, 64, 64), (1, 1, 1, 1), {}, "4294967296 pixels in a batch"),
    "an image": ((1, 2**16, 256, 256), (1, 2**16, 1, 1), {}, "4294967296 numbers in an image"),
    "an output": ((1, 1, 256, 256), (2**16, 1, 1, 1), {}, "4294967296 numbers in an output"),
    "a weight": ((1, 2**16, 1, 1), (2**15, 2**16, 1, 1), {}, "2147516416 numbers in a model"),
    "padding": ((1, 1, 2, 2), (1, 1, 1, 1), {"padding": 2**30, "stride": 2**30}, "2147483650 rows with padding"),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_more_numbers_than_32_bits_count_are_refused_in_one_line(what: str) -> None:
    x, weight, arguments, words = TOO_LARGE[what]
    tensors = [torch.empty(shape, dtype=torch.float16, device="meta") for shape in (x, weight)]
    with pytest.raises(ConvolutionError, match=f": {words}; at most 2147467264 are possible$"):
        conv2d(*tensors, **arguments)


def test_more_numbers_to_add_up_than_32_bits_count_are_refused() -> None:
    """Those of the gradient of an input that several models share."""
    parts, total = (torch.empty((models, 2**31), device="meta") for models in (2, 1))
    with pytest.raises(ConvolutionError, match=r"^2147483648 numbers to add up, .* at most 2147467264"):
        launch._add_parts(parts, total, None, parts=2)


@pytest.mark.parametrize("place", range(3))
def test_what_is_no_tensor_is_refused_in_one_line(place: int) -> None:
    inputs: list = random_inputs(X, W)
    inputs[place] = inputs[place].tolist()
    name = ("input", "weight", "bias")[place]
    with pytest.raises(TypeError):
        F.conv2d(*inputs)
    for function in (conv2d, conv2d_relu, conv2d_pool_relu, conv2d_stacked):
        with pytest.raises(ConvolutionError, match=f"^{name} is of type list; give a tensor$"):
            function(*inputs)


def test_a_layout_of_another_library_is_refused_in_one_line() -> None:
    x, weight, bias = random_inputs(X, W)
    with pytest.raises(ConvolutionError, match=r"^input is torch._mkldnn; only dense tensors are allowed$"):
        conv2d(x.cpu().to_mkldnn(), weight, bias)


def test_a_stacks_bias_is_asked_for_each_model() -> None:
    x, weight, bias = random_inputs(X, (3, *W))
    with pytest.raises(ConvolutionError, match=r"^bias \(6,\): .* each of 6 output channels of each of 3 models$"):
        conv2d_stacked(x, weight, bias[0])


def test_the_erroneous_inputs_of_torchs_own_tests_are_refused() -> None:
    from torch.testing._internal.common_methods_invocations import error_inputs_conv2d

    count = 0
    for error in error_inputs_conv2d(None, DEVICE):
        sample = error.sample_input
        # its float64, which we refuse anyway, as float32: the reason must be the generator's
        tensors = [t.float() if t.dtype == torch.float64 else t for t in (sample.input, *sample.args)]
        with pytest.raises((RuntimeError, ValueError)):
            F.conv2d(*tensors, **sample.kwargs)
        with pytest.raises(ConvolutionError) as refusal:
            conv2d(*tensors, **sample.kwargs)
        assert "\n" not in str(refusal.value)
        count += 1
    assert count >= 8


def test_autocast_leaves_whole_numbers_alone_as_torchs_does() -> None:
    """So they are refused, not quietly rounded to 8 bits."""
    x, weight, _ = (tensor.long() for tensor in whole_inputs(X, W))
    with torch.autocast("cpu", torch.bfloat16):
        assert torchs(x, weight).dtype == torch.int64
    with torch.autocast(DEVICE.type, torch.bfloat16), pytest.raises(ConvolutionError, match="input is int64"):
        conv2d(x, weight)


def test_autocast_reaches_mapped_and_stacked_models() -> None:
    x, weight, bias = whole_inputs(X, (3, *W))
    wanted = torch.stack([torchs(x, w, b) for w, b in zip(weight, bias, strict=True)])
    with torch.autocast(DEVICE.type, torch.bfloat16):
        for output in (torch.vmap(conv2d, (None, 0, 0))(x, weight, bias), conv2d_stacked(x, weight, bias)):
            assert output.dtype == torch.bfloat16
            assert_equal([output], [wanted.bfloat16()])


FORWARD_MODE = {
    "jvp": lambda function, w: torch.func.jvp(function, (w,), (w,)),
    "jacfwd": lambda function, w: torch.func.jacfwd(function)(w),
    "hessian": lambda function, w: torch.func.hessian(lambda v: function(v).square().sum())(w),
}


HOW = {
    "eager": lambda derivative: derivative,
    "compiled": lambda derivative: torch.compile(derivative, backend="aot_eager"),
    "compiled in one graph": lambda derivative: torch.compile(derivative, backend="aot_eager", fullgraph=True),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("transform", FORWARD_MODE)
def test_forward_mode_is_refused_in_one_line(transform: str, how: str) -> None:
    """Within one graph the compiler raises an error of its own, which quotes the line, or that it knows no Hessian.

    That of torch 2.11 does so for every compiled call, and says of a Hessian that it cannot transform the function.
    """
    x, weight, _ = random_inputs((1, 2, 3, 3), (2, 2, 2, 2))
    # else the compiler remembers, from another case, to leave the function alone
    torch.compiler.reset()
    unknown = "|Observed exception|functorch transforms" if transform == "hessian" and how != "eager" else ""
    words = f"no forward-mode derivative{unknown}"
    errors = {"eager": ConvolutionError, "compiled": (ConvolutionError, torch._dynamo.exc.TorchRuntimeError)}
    compilers = (torch._dynamo.exc.Unsupported, torch._dynamo.exc.TorchRuntimeError)
    with pytest.raises(errors.get(how, compilers), match=words):
        HOW[how](lambda: FORWARD_MODE[transform](lambda w: conv2d(x, w), weight))()


def test_what_does_not_depend_on_the_variable_has_a_forward_mode() -> None:
    x, weight, _ = random_inputs((1, 2, 3, 3), (2, 2, 2, 2))
    y = conv2d(x, weight)
    tangent = torch.func.jvp(lambda v: v * conv2d(x, weight), (y,), (torch.ones_like(y),))[1]
    assert_equal([tangent], [y])


WINDOW = ([1, 1], [0] * 4, [1, 1], 1, "ieee", 0)
OPERATORS = {
    "convolution": lambda op, v: op(v, v, None, *WINDOW)[0],
    "convolution_input_gradient": lambda op, v: op(v, None, v, [3, 3], False, False, *WINDOW),
    "convolution_weight_gradient": lambda op, v: op(v, v, None, [2, 2, 1, 1], False, True, True, *WINDOW)[0],
}


@pytest.mark.parametrize("name", OPERATORS)
def test_forward_mode_of_an_operator_is_refused(name: str) -> None:
    """What torch makes of it is 0."""
    operator = getattr(torch.ops.initbench, name)
    point = torch.ones(1, 2, 2, 2, 2, device=DEVICE)
    with pytest.raises(ConvolutionError, match="no forward-mode derivative"):
        torch.func.jvp(lambda v: OPERATORS[name](operator, v), (point,), (point,))


def test_what_is_changed_before_the_backward_pass_is_noticed() -> None:
    """By torch's counter of versions: else the gradient would silently be another function's."""
    inputs = [t.requires_grad_() for t in random_inputs(X, W)]
    y = conv2d_relu(*inputs)
    y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = conv2d(*inputs)
    # a convolution's own output is not needed
    y.relu_().sum().backward()


def test_backward_twice_adds_the_same_bits() -> None:
    inputs = [t.requires_grad_() for t in random_inputs(X, W)]
    loss = conv2d_pool_relu(*inputs).sum()
    loss.backward(retain_graph=True)
    first = [t.grad.clone() for t in inputs]
    loss.backward()
    assert all(torch.equal(t.grad, 2 * once) for t, once in zip(inputs, first, strict=True))


def test_memory_of_every_kind_is_poisoned() -> None:
    """What the kernels' results are made with is unset memory, and the fixture must reach each."""
    strided = torch.empty_strided((2, 3), (1, 2), device=DEVICE)
    assert strided.isnan().all()
    assert strided.new_empty(4, dtype=torch.bfloat16).isnan().all()
    assert (torch.empty_strided((2, 3), (3, 1), dtype=torch.uint8, device=DEVICE) == 255).all()


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "turned": lambda t: t.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2),
    "half of the channels": lambda t: torch.cat([t, t], 1)[:, : t.shape[1]],
    "half of the last channels": lambda t: LAYOUTS["channels last"](torch.cat([t, t], 1))[:, : t.shape[1]],
    "one channel for all": lambda t: t[:, :1].expand_as(t),
    "one pixel for all": lambda t: t[:, :, :1, :1].expand_as(t),
}
layouts = st.sampled_from(sorted(LAYOUTS))
small = st.sampled_from([1, 1, 2, 3])


# a GPU compiles each anew
@settings(max_examples=40 if INTERPRETED else 10)
@given(
    images=st.integers(0, 3),
    parts=st.tuples(small, small),
    groups=st.integers(1, 2),
    image=st.tuples(st.integers(2, 6), st.integers(2, 5)),
    taps=st.tuples(small, small),
    stride=st.integers(1, 2),
    lies=st.tuples(layouts, layouts, layouts),
    block=st.sampled_from(["none", "relu", "pool_relu"]),
)
def test_any_layout_of_anything(images, parts, groups, image, taps, stride, lies, block) -> None:
    """Equal bit for bit on whole numbers; the output's strides are torch's, ambiguous sizes included."""
    ours, theirs = {
        "none": (conv2d, F.conv2d),
        "relu": (conv2d_relu, lambda *a, **k: F.relu(F.conv2d(*a, **k))),
        "pool_relu": (conv2d_pool_relu, lambda *a, **k: F.relu(F.max_pool2d(F.conv2d(*a, **k), 2))),
    }[block]
    x, weight, bias = whole_inputs((images, groups * parts[0], *image), (groups * parts[1], parts[0], *taps))
    on_device, on_cpu = (
        [LAYOUTS[lies[0]](x.to(device)), LAYOUTS[lies[1]](weight.to(device)), bias.to(device)]
        for device in (DEVICE, "cpu")
    )
    arguments = {"stride": stride, "padding": 2, "groups": groups}
    with torch.no_grad():
        y, wanted = ours(*on_device, **arguments), theirs(*on_cpu, **arguments)
    if block == "none":
        assert y.stride() == wanted.stride()
    dy = LAYOUTS[lies[2]](whole(y.shape))
    assert_equal(gradients(ours, on_device, dy, **arguments), gradients(theirs, on_cpu, dy, **arguments))


@pytest.mark.parametrize("api", TORCHS_CASES, ids=lambda api: api.name)
def test_torchs_own_cases_are_there_and_would_be_missed(api: PrivateApi, monkeypatch: pytest.MonkeyPatch) -> None:
    require(api)
    require_report(api, monkeypatch)
