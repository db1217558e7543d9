"""Is an arm of bench_conv2d.py right? Asked before its speed is looked at, on the cell's own shapes, against float64.

Ours, on whole numbers of at most 2: every precision multiplies and adds them without rounding, so each result must be
float64's bit for bit, ties and zeros included, twice, on memory that held NaN.

All, on normal numbers, where the error is that of rounding, relative to the result (both as Euclidean norms). Ours may
err by what ``kernels.rounding`` allows, and by storing. The others may err by what tells precisions apart: Winograd's
ieee products stay below 1e-4, and tf32 passing for ieee would err by 4e-4. The gradients of a block jump where rounding
turns a relu or the winner of a window, so there they are only seen to be the same function's.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from bench_conv2d_arms import ConvolutionArm, ConvolutionInputs, inputs
from bench_conv2d_cells import PADDING, TAPS, BenchmarkCell
from bench_conv2d_clock import products
from torch import Tensor

from kernels import rounding, triton_kernels

_OTHERS_ALLOWED = {"ieee": 1e-4, "tf32": 5e-3, "bf16": 2e-2}
_TURNED = 0.2
_MODELS_CHECKED = 3

Names = dict[str, Tensor]


def whole(shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Whole numbers from -2 to 2."""
    return torch.randint(-2, 3, tuple(shape), generator=random, device=random.device).float()


def normal(shape: Sequence[int], random: torch.Generator) -> Tensor:
    """Standard normal numbers."""
    return torch.randn(tuple(shape), generator=random, device=random.device)


def random_inputs(cell: BenchmarkCell, device: torch.device, *, whole_numbers: bool) -> ConvolutionInputs:
    """The same numbers for every arm of a cell."""
    random = torch.Generator(device).manual_seed(0)
    draw = whole if whole_numbers else normal
    return inputs(cell, lambda shape: draw(shape, random))


def exact(cell: BenchmarkCell, tensors: ConvolutionInputs) -> tuple[list[int], Names]:
    """The cell's results by torch in float64: the models that were taken (first, middle, last), and their tensors."""
    taken = sorted({0, cell.models // 2, cell.models - 1})[:_MODELS_CHECKED]
    by_model = [_exact_one(cell, *(tensor[model].double() for tensor in vars(tensors).values())) for model in taken]
    return taken, {name: torch.stack([one[name] for one in by_model]) for name in by_model[0]}


def _exact_one(cell: BenchmarkCell, x: Tensor, weight: Tensor, bias: Tensor, dy: Tensor) -> Names:
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    # trying algorithms would take longer than the one run
    with products("ieee", benchmark=False):
        y = F.conv2d(leaves[0], leaves[1], leaves[2], padding=PADDING)
        if cell.is_block:
            # as it is stored before pooling: ties in the output's type are ties
            y = y.to(cell.dtype).double()
            y = F.relu(F.max_pool2d(y, 2) if cell.layer.pools else y)
        dx, dweight, dbias = torch.autograd.grad(y, leaves, dy)
    parts = {"output": y.detach(), "input gradient": dx, "weight gradient": dweight, "bias gradient": dbias}
    return {name: parts[name] for name in result_names(cell)}


def result_names(cell: BenchmarkCell) -> list[str]:
    """What an arm's work results in, in order."""
    gradients = ["weight gradient", "bias gradient"]
    if cell.is_block:
        return ["output", *([] if cell.layer.first else ["input gradient"]), *gradients]
    return {"forward": ["output"], "input gradient": ["input gradient"]}.get(cell.operation, gradients)


def results(cell: BenchmarkCell, arm: ConvolutionArm, taken: Sequence[int]) -> Names:
    """What an arm gives for these models."""
    arm_tensors = arm.common(arm.work())
    return {name: tensor[list(taken)] for name, tensor in zip(result_names(cell), arm_tensors, strict=True)}


def fault(check: Callable[[], str | None]) -> str | None:
    """What a check finds; an arm that raises is wrong too, and the others go on."""
    try:
        return check()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a compiler or driver raises is a line of the report
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            # raises if the device itself failed, by a wrong address say: nothing more can be asked of it
            torch.cuda.synchronize()
        return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def exactness_fault(cell: BenchmarkCell, arm: ConvolutionArm, taken: Sequence[int], wanted: Names) -> str | None:
    """What is wrong with the arm's results on whole numbers, or None."""
    with _poisoned_memory():
        first, again = (results(cell, arm, taken) for _ in range(2))
    for name, tensor in wanted.items():
        rounded = tensor.to(cell.dtype)
        interpreted = triton_kernels.INTERPRETED and cell.dtype == torch.bfloat16
        allowed = _store_rounding(cell) * rounded.double().abs() if interpreted else 0.0
        wrong = ~((first[name].double() - rounded.double()).abs() <= allowed)
        if wrong.any():
            return f"{name}: {int(wrong.sum())} of {wrong.numel()} whole numbers differ from float64's"
        if not torch.equal(first[name], again[name]):
            return f"{name}: a second run gives other bits"
    return None


@contextlib.contextmanager
def _poisoned_memory() -> Iterator[None]:
    """Within, fresh tensors hold NaN: what a kernel does not write shows."""
    before = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(mode=False)
        torch.utils.deterministic.fill_uninitialized_memory = before  # type: ignore[attr-defined]


def rounding_fault(
    cell: BenchmarkCell, arm: ConvolutionArm, taken: Sequence[int], wanted: Names, *, is_ours: bool
) -> str | None:
    """What is wrong with the arm's results on normal numbers, or None."""
    arm_results = results(cell, arm, taken)
    for name, tensor in wanted.items():
        error = float((arm_results[name].double() - tensor).norm() / tensor.norm())
        allowed = _allowed(cell, name, is_ours=is_ours)
        # not error > allowed: a NaN is wrong
        if not error <= allowed:
            return f"{name}: relative error {error:.1e}, at most {allowed:.1e} is rounding"
    return None


def _allowed(cell: BenchmarkCell, name: str, *, is_ours: bool) -> float:
    if cell.is_block and name != "output":
        return _TURNED
    if not is_ours:
        return _OTHERS_ALLOWED[cell.precision]
    layer = cell.layer
    length = rounding.sum_length(name, (layer.k, layer.c, TAPS, TAPS), cell.images * layer.size**2)
    return rounding.allowed_error(length, rounding.FACTOR_ROUNDING[cell.precision]) + _store_rounding(cell)


def _store_rounding(cell: BenchmarkCell) -> float:
    return rounding.store_rounding(cell.dtype, interpreted=triton_kernels.INTERPRETED)
