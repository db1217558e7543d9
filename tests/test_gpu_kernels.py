"""The Triton kernels on a CUDA GPU: the interpreter's own tests again, natively, and what only a GPU can show.

A CUDA graph can be captured only if nothing waits for the device and nothing is allocated but by torch.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is there for Linux only")

from kernels import ConvolutionError, conv2d, conv2d_pool_relu, conv2d_relu, conv2d_stacked

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU that torch can use"),
]
DEVICE = "cuda"
ROOT = Path(__file__).parent.parent
SHARED = sorted(path.name for path in (ROOT / "tests/interpreted").glob("test_*.py") if path.name != "test_mutants.py")
"""Test files for both; wrong kernels stay with the interpreter, for after a wrong address a GPU runs nothing more."""

Function = Callable[..., torch.Tensor]


def run_natively(name: str) -> "subprocess.CompletedProcess[str]":
    variables = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    variables |= {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/interpreted/{name}"]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=900, check=False)


@pytest.fixture(scope="module", autouse=True)
def runs(request: pytest.FixtureRequest) -> Iterator[dict[str, Future]]:
    """The selected files, each in a process, on as many cores as there are, beside the tests here: most compile."""
    ours = [item for item in request.session.items if getattr(item, "originalname", "") == "test_passes_natively"]
    selected = [item.callspec.params["name"] for item in ours]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(run_natively, name) for name in selected}


def stacked(*inputs: torch.Tensor, **settings: object) -> torch.Tensor:
    return conv2d_stacked(*inputs, epilogue="pool_relu", **settings)


MODELS = 3
FUNCTIONS = {"conv2d": conv2d, "relu": conv2d_relu, "pool_relu": conv2d_pool_relu, "stacked": stacked}


def drawn(name: str, seed: int, device: str = DEVICE) -> list[torch.Tensor]:
    """Input, weight, bias, and gradient of the output."""
    models, pooled = (MODELS,) * (name == "stacked"), name in {"pool_relu", "stacked"}
    shapes = ((5, 32, 14, 14), (32, 32, 3, 3), (32,), (5, 32, *((7, 7) if pooled else (14, 14))))
    random = torch.Generator().manual_seed(seed)
    return [torch.randn((*models, *shape), generator=random).to(device) for shape in shapes]


def step(function: Function, tensors: Sequence[torch.Tensor], **settings: object) -> list[torch.Tensor]:
    """Output and the gradients of input, weight and bias."""
    *inputs, dy = tensors
    leaves = [tensor if tensor.requires_grad else tensor.detach().requires_grad_() for tensor in inputs]
    y = function(*leaves, padding=1, **settings)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def assert_same_bits(ours: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> None:
    names = ("output", "input gradient", "weight gradient", "bias gradient")
    for name, one, other in zip(names, ours, wanted, strict=True):
        assert torch.equal(one.cpu(), other.cpu()), name


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_cuda_graph_of_both_passes_gives_the_same_bits(
    name: str, layout: torch.memory_format, precision: str
) -> None:
    function = FUNCTIONS[name]
    tensors = drawn(name, seed=0)
    if name != "stacked":
        tensors = [t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in tensors]
    static = [tensor.requires_grad_(index < 3) for index, tensor in enumerate(tensors)]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step(function, static, precision=precision)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step(function, static, precision=precision)
    for seed in (1, 2):
        new = drawn(name, seed=seed)
        with torch.no_grad():
            for old, value in zip(static, new, strict=True):
                old.copy_(value)
        for result in results:
            result.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        # as the graph's inputs lie: another layout may add up in another order
        eager = [tensor.detach().clone(memory_format=torch.preserve_format) for tensor in static]
        assert_same_bits(results, step(function, eager, precision=precision))


@pytest.mark.filterwarnings("ignore")  # the compiler's own
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_without_a_graph_break_gives_the_same_bits(name: str) -> None:
    function, tensors = FUNCTIONS[name], drawn(name, seed=0)
    compiled = torch.compile(function, fullgraph=True)
    try:
        assert_same_bits(step(compiled, tensors), step(function, tensors))
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_work_goes_into_the_current_stream(name: str) -> None:
    """The input is written there late: what were launched into another stream would read it too early."""
    function, tensors = FUNCTIONS[name], drawn(name, seed=0)
    wanted = step(function, tensors)
    late, *others = [tensor.clone() for tensor in tensors]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # so that the stream has memory of its own: allocating may wait
        step(function, [late, *others])
    late.fill_(float("nan"))
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        # about half a second
        torch.cuda._sleep(10**9)
        late.copy_(tensors[0])
        ours = step(function, [late, *others])
        assert not side.query(), "it was waited for, or the delay was too short for this test to show anything"
    side.synchronize()
    assert_same_bits(ours, wanted)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_gpu_computes_whichever_is_current(name: str) -> None:
    """With one GPU, on that; with more, tensors of each while the first is current."""
    wanted = step(FUNCTIONS[name], drawn(name, seed=0))
    for index in range(torch.cuda.device_count()):
        ours = step(FUNCTIONS[name], drawn(name, seed=0, device=f"{DEVICE}:{index}"))
        assert {tensor.device.index for tensor in ours} == {index}
        assert torch.cuda.current_device() == 0
        if torch.cuda.get_device_capability(index) == torch.cuda.get_device_capability(0):
            assert_same_bits(ours, wanted)


@pytest.mark.parametrize("moved", range(3))
def test_tensors_on_two_devices_are_refused_in_one_line(moved: int) -> None:
    inputs = drawn("conv2d", seed=0)[:3]
    inputs[moved] = inputs[moved].cpu()
    with pytest.raises(ConvolutionError, match="on one device") as error:
        conv2d(*inputs)
    assert "\n" not in str(error.value)


def test_the_cpu_is_refused_in_one_line() -> None:
    with pytest.raises(ConvolutionError, match=r"need a GPU, and this is cpu.*TRITON_INTERPRET=1"):
        conv2d(*(tensor.cpu() for tensor in drawn("conv2d", seed=0)[:3]))


def test_tf32_is_not_inherited_from_torch() -> None:
    """``precision`` alone says how float32 is multiplied."""
    tensors = drawn("conv2d", seed=0)
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    by_flag = {}
    try:
        for flag in (False, True):
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = flag
            by_flag[flag] = step(conv2d, tensors, precision="ieee")
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
    assert_same_bits(by_flag[True], by_flag[False])
    exact = F.conv2d(*(tensor.cpu().double() for tensor in tensors[:3]), padding=1)
    assert float((by_flag[True][0].cpu().double() - exact).norm() / exact.norm()) < 1e-6


def test_offsets_beyond_32_bits() -> None:
    """An output of 2^31 numbers and some (4.3 GB): its last image is that image alone, and so is its gradient."""
    images = 2**31 // (64 * 32 * 32) + 3
    if torch.cuda.mem_get_info()[0] < 12 * 2**30:
        pytest.skip("needs 12 GiB of free GPU memory")
    random = torch.Generator().manual_seed(0)
    weight = torch.randn((64, 1, 3, 3), generator=random).half().to(DEVICE).requires_grad_()
    x = torch.zeros((images, 1, 32, 32), dtype=torch.half, device=DEVICE)
    x[-1] = torch.randn((1, 32, 32), generator=random).half().to(DEVICE)
    y = conv2d(x, weight, padding=1)
    alone = conv2d(x[-1:], weight, padding=1)
    assert y.numel() > 2**31
    assert torch.equal(y[-1:], alone)
    (gradient,) = torch.autograd.grad(y, weight, y.detach())
    (wanted,) = torch.autograd.grad(alone, weight, alone.detach())
    # all other images are zero and add nothing, but the sum is cut into other parts
    torch.testing.assert_close(gradient, wanted, rtol=2e-3, atol=1e-2)
    one = x[-1:].clone().requires_grad_()
    (dx,) = torch.autograd.grad(conv2d(x.requires_grad_(), weight, padding=1), x, y.detach())
    (dx_alone,) = torch.autograd.grad(conv2d(one, weight, padding=1), one, alone.detach())
    assert torch.equal(dx[-1:], dx_alone)


@pytest.mark.parametrize("name", SHARED)
def test_passes_natively(name: str, runs: dict[str, Future]) -> None:
    """Agreement with float64, gradients, blocks, precisions, determinism, vmap, autocast: every test, none skipped."""
    done = runs[name].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(r"\d+ passed in .*", summary), summary
