"""What torch is told of the operators holds, and what cannot be computed is refused in one clear line."""

import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from oracle import DEVICE, assert_equal, random_inputs, torchs, whole_inputs
from torch._subclasses.fake_tensor import FakeTensorMode

from kernels import ConvolutionError, conv2d, conv2d_pool_relu, conv2d_relu, conv2d_stacked
from kernels.launch import EPILOGUES

FUNCTIONS = {"none": conv2d, "relu": conv2d_relu, "pool_relu": conv2d_pool_relu}
OPERATORS = torch.ops.initbench
WINDOW = ([1, 1], [1, 1, 1, 1], [1, 1], 1, "ieee")


def stack(*shape: int, grad: bool = False) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DEVICE).requires_grad_(grad)


# torch's own check reads it
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("epilogue", EPILOGUES.values())
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck_of_the_convolution(epilogue: int, bias: bool) -> None:
    arguments = (
        stack(1, 2, 4, 6, 6, grad=True),
        stack(2, 5, 4, 3, 3, grad=True),
        stack(2, 5, grad=True) if bias else None,
    )
    torch.library.opcheck(OPERATORS.convolution, (*arguments, *WINDOW, epilogue))


@pytest.mark.parametrize("shared", [True, False])
def test_opcheck_of_the_input_gradient(shared: bool) -> None:
    dy, weight = stack(2, 2, 5, 6, 6), stack(2, 5, 4, 3, 3)
    arguments = (dy, None, weight, [6, 6], shared, False, *WINDOW, 0)
    torch.library.opcheck(OPERATORS.convolution_input_gradient, arguments)


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=str)
def test_opcheck_of_the_weight_gradient(needs: tuple[bool, bool]) -> None:
    arguments = (stack(1, 2, 4, 6, 6), stack(2, 2, 5, 6, 6), None, [5, 4, 3, 3], True, *needs, *WINDOW, 0)
    torch.library.opcheck(OPERATORS.convolution_weight_gradient, arguments)


@pytest.mark.parametrize("epilogue", FUNCTIONS)
def test_compiles_without_a_graph_break(epilogue: str) -> None:
    function = FUNCTIONS[epilogue]

    def loss(x, weight, bias):
        return (function(x, weight, bias, padding="same") * 2).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=True)
    for images in (2, 3):
        results = []
        for run in (loss, compiled):
            leaves = [t.requires_grad_() for t in whole_inputs((images, 3, 6, 6), (4, 3, 3, 3))]
            results.append([run(*leaves), *torch.autograd.grad(run(*leaves), leaves)])
        for eager, graph in zip(*results, strict=True):
            torch.testing.assert_close(eager, graph, rtol=0, atol=0)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("epilogue", FUNCTIONS)
def test_fake_tensors_have_the_real_ones_shape_and_strides(epilogue: str, layout: torch.memory_format) -> None:
    x, weight, bias = random_inputs((2, 3, 7, 6), (4, 3, 3, 3))
    inputs = [x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), bias]
    real = FUNCTIONS[epilogue](*inputs)
    with FakeTensorMode() as mode:
        fake = FUNCTIONS[epilogue](*(mode.from_tensor(tensor) for tensor in inputs))
    assert (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_computes_in_its_type(dtype: torch.dtype) -> None:
    x, weight, bias = (t.requires_grad_() for t in whole_inputs((2, 3, 6, 6), (4, 3, 3, 3)))
    with torch.autocast(DEVICE.type, dtype):
        y = conv2d(x, weight, bias)
        assert y.dtype == F.conv2d(x, weight, bias).dtype == dtype
    # small whole numbers are exact in either type
    exact = torchs(x, weight, bias)
    ours, wanted = (torch.autograd.grad(out.float().sum(), (x, weight, bias)) for out in (y, exact))
    assert all(gradient.dtype == torch.float32 for gradient in ours)
    assert_equal([y, *ours], [exact, *wanted])


X, W, B = (2, 4, 6, 6), (6, 4, 3, 3), (6,)
REFUSED = {
    "two dimensions": ((6, 6), W, B, {}, "give input (N, C, H, W)"),
    "weight of three dimensions": (X, (6, 4, 3), B, {}, "weight (K, C / groups, R, S)"),
    "bias of two dimensions": (X, W, (6, 1), {}, "bias (K,)"),
    "bias of another length": (X, W, (5,), {}, "one number for each of 6"),
    "channels": (X, (6, 3, 3, 3), B, {}, "takes 3 channels in"),
    "groups that do not divide": (X, (6, 4, 3, 3), B, {"groups": 4}, "takes 16 channels in"),
    "filters that groups do not divide": (X, (5, 2, 3, 3), (5,), {"groups": 2}, "given 4 in and 5 out"),
    "groups of 0": (X, W, B, {"groups": 0}, "groups=0"),
    "stride of 0": (X, W, B, {"stride": 0}, "stride=0"),
    "negative stride": (X, W, B, {"stride": (1, -1)}, "stride=(1, -1)"),
    "three strides": (X, W, B, {"stride": (1, 1, 1)}, "a pair"),
    "negative padding": (X, W, B, {"padding": -1}, "padding=-1"),
    "padding of another name": (X, W, B, {"padding": "full"}, "'valid' or 'same'"),
    "same with a stride": (X, W, B, {"padding": "same", "stride": 2}, "stride of 1"),
    "dilation of 0": (X, W, B, {"dilation": 0}, "dilation=0"),
    "filter larger than the image": (X, (6, 4, 7, 7), B, {}, "does not fit"),
    "dilated beyond the image": (X, W, B, {"dilation": 4}, "spans (9, 9)"),
    "no channels": ((2, 0, 6, 6), (6, 0, 3, 3), B, {}, "only the batch may be empty"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("what", REFUSED)
def test_what_torch_refuses_is_refused_in_one_line(what: str) -> None:
    x, weight, bias, settings, words = REFUSED[what]
    tensors = [torch.ones(shape, device=DEVICE) for shape in (x, weight, bias)]
    if what != "no channels":
        with pytest.raises((RuntimeError, ValueError, TypeError)):
            F.conv2d(*tensors, **settings)
    with pytest.raises(ConvolutionError) as error:
        conv2d(*tensors, **settings)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


TYPES = {
    "float64": (lambda t: t.double(), "input is float64"),
    "complex": (lambda t: t.to(torch.complex64), "input is complex64"),
    "whole": (lambda t: t.long(), "input is int64"),
    "sparse": (lambda t: t.to_sparse(), "dense"),
    "mixed": (lambda t: t.half(), "give all of one type"),
    "elsewhere": (lambda t: t.to("meta"), "on one device"),
}


@pytest.mark.parametrize("what", TYPES)
def test_what_the_kernels_do_not_compute_is_refused(what: str) -> None:
    change, words = TYPES[what]
    x, weight, bias = random_inputs(X, W)
    with pytest.raises(ConvolutionError, match=words):
        conv2d(change(x), weight, bias)


def test_an_unknown_precision_or_epilogue_is_refused() -> None:
    x, weight, _ = random_inputs(X, W)
    with pytest.raises(ConvolutionError, match="precision='fp8': choose one of ieee, tf32, tf32x3"):
        conv2d(x, weight, precision="fp8")
    with pytest.raises(ConvolutionError, match="epilogue='gelu': choose one of none, relu, pool_relu"):
        conv2d_stacked(x, weight[None], epilogue="gelu")


@pytest.mark.parametrize("epilogue", FUNCTIONS)
def test_second_derivatives_are_refused(epilogue: str) -> None:
    x, weight, bias = (t.requires_grad_() for t in random_inputs(X, W))
    y = FUNCTIONS[epilogue](x, weight, bias)
    (first,) = torch.autograd.grad(y.square().sum(), weight, create_graph=True)
    with pytest.raises(ConvolutionError, match="first derivatives only"):
        first.sum().backward()


def test_without_the_interpreter_a_cpu_is_refused() -> None:
    """By an error whose name needs no Triton."""
    code = (
        "import sys, torch, kernels\n"
        "assert issubclass(kernels.ConvolutionError, RuntimeError) and 'triton' not in sys.modules\n"
        "kernels.conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3))"
    )
    environment = {"TRITON_INTERPRET": "0"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "need a GPU, and this is cpu" in done.stderr
    assert "set TRITON_INTERPRET=1 before Python starts" in done.stderr
