"""A few real training steps on a copy of the model, and what passes through its layers and tensors meanwhile.

Signals are seen by hooks on modules and on their outputs. "Root mean square" is over a whole tensor, the norm of a
gradient over all of its entries. All sums are taken in float64, because squares of small float32 numbers are none.
"""

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.diagnosis.batches import Batch, examples_in, first_examples, first_float, in_dtype, leaves, output_of
from harness.diagnosis.case import Case, Layer, trainable
from harness.looking import same_randomness
from harness.moments import in_float64, mean_of_examples, norm
from harness.wording import error_text

SAME_ROWS = 1e-6
"""Rows of a weight that differ by less than this share of the longest one are the same: copies with rounding."""
SAME_GRADIENT_ROWS = 1e-4
"""The same of rows of a gradient, which is a sum over a batch and rounds more."""

_RATES = frozenset(("lr", "initial_lr", "max_lr", "min_lr"))
"""Keys of an optimizer's groups that hold learning rates; the last three are those of torch's schedulers."""
_NO_VARIATION = 1e-10
_PARTS = {nn.LSTM: 4, nn.LSTMCell: 4, nn.GRU: 3, nn.GRUCell: 3, nn.MultiheadAttention: 3}


@dataclass
class Passed:
    """Sums up what passed through a layer at one step, over all of its calls.

    Attributes:
        calls: how often the module was called.
        input_energy: sum of squares of its first floating-point input; None if it has none, such as an embedding.
        output_energy: sum of squares of its first floating-point output.
        output_count: numbers in it.
        varying_energy: sum of squares of that output's deviations from their mean over the examples (dimension 0); all
            of it where the input is the same for every example, so that the output cannot vary.
        gradient_energy: sum of squares of the loss's gradient with respect to that output.
    """

    calls: int = 0
    input_energy: float | None = None
    output_energy: float = 0.0
    output_count: int = 0
    varying_energy: float = 0.0
    gradient_energy: float = 0.0

    @property
    def output_rms(self) -> float:
        """Root mean square of the output."""
        return math.sqrt(self.output_energy / self.output_count) if self.output_count else 0.0

    @property
    def varying_rms(self) -> float:
        """Root mean square of what differs from example to example in the output."""
        return math.sqrt(self.varying_energy / self.output_count) if self.output_count else 0.0

    @property
    def gradient_norm(self) -> float:
        """Norm of the gradient with respect to the output."""
        return math.sqrt(self.gradient_energy)


@dataclass(frozen=True)
class TensorStep:
    """One trainable tensor at one step.

    Attributes:
        gradient_norm: 0 for a gradient of zeros; None if the loss does not depend on the tensor at all.
        moved: whether the update changed any bit of it.
        held: whether the optimizer holds it, with a learning rate that is not 0.
        same_rows: whether a weight has more than one row (unit) and all of them are the same.
        same_gradient_rows: the same of its gradient, looked at only where the weight's rows were the same at first.
    """

    gradient_norm: float | None
    moved: bool
    held: bool = True
    same_rows: bool = False
    same_gradient_rows: bool = False


@dataclass(frozen=True)
class Step:
    """The model before one update, on that update's own batch.

    Attributes:
        loss: before the update.
        tensors: parameter name -> what it did.
        passed: layer name -> what passed.
        inputs_rms: root mean square of the batch's first floating-point tensor; 1 if it has none.
        output_gradient_norm: of the loss with respect to the model's output; 0 if every example is fitted.
    """

    loss: float
    tensors: dict[str, TensorStep]
    passed: dict[str, Passed]
    inputs_rms: float
    output_gradient_norm: float

    def has_gradient(self, parameter: str) -> bool:
        """Say whether any entry of the parameter's gradient is not 0."""
        return bool(self.tensors[parameter].gradient_norm)

    @property
    def moved(self) -> set[str]:
        """Names of the parameters that the update changed."""
        return {name for name, tensor in self.tensors.items() if tensor.moved}


@dataclass(frozen=True)
class Change:
    """Says what is done to the copy before its first step.

    Attributes:
        fill: called with the copy and its first batch.
        rate: factor on every learning rate.
        dtype: number format; None: the model's own.
        examples: of each batch this many; None: all.
    """

    fill: Callable[[nn.Module, Batch], None] | None = None
    rate: float = 1.0
    dtype: torch.dtype | None = None
    examples: int | None = None


@dataclass
class Course:
    """Steps that were taken.

    Attributes:
        model: the copy as they left it.
        examples: in the first batch.
        rates: learning rates of the optimizer's groups.
        steps: each of them.
    """

    model: nn.Module
    examples: int
    rates: tuple[float, ...] = ()
    steps: list[Step] = field(default_factory=list)

    def steps_with_gradient(self, parameter: str) -> list[int]:
        """Indices of the steps at which a parameter had a gradient."""
        return [index for index, step in enumerate(self.steps) if step.has_gradient(parameter)]


Ended = Callable[[Course], bool]


def watch(case: Case, steps: int, change: Change | None = None, *, ended: Ended = lambda _course: False) -> Course:
    """Train a copy for some steps; it stops earlier where ``ended`` says so or the loss is no finite number."""
    change = change or Change()
    with torch.inference_mode(mode=False), torch.enable_grad(), same_randomness():
        model, optimizer = case.copy(change.dtype)
        if change.fill:
            change.fill(model, batch_of(case, 0, change))
        for group in optimizer.param_groups:
            for rate in _RATES & group.keys():
                group[rate] *= change.rate
        rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
        course = Course(model, examples_in(batch_of(case, 0, change)), rates)
        apart = _rows_apart(model)
        same_at_first = {
            name: apart[name] for name, value in trainable(model).items() if _same_rows(value, SAME_ROWS, apart[name])
        }
        for index in range(steps):
            step = _step(case, model, optimizer, batch_of(case, index, change), same_at_first)
            course.steps.append(step)
            if not math.isfinite(step.loss) or ended(course):
                break
    return course


def settled(case: Case, course: Course, patience: int) -> bool:
    """Say whether nothing more will be seen: all weights learn, or no further one has begun to for ``patience`` steps.

    A gradient that makes its way through the model gains at least a layer a step.
    """
    taken = len(course.steps)
    if taken < patience:
        return False
    now, before = _progress(case, course.steps), _progress(case, course.steps[: taken - patience + 1])
    return now[1] == len(_judged(case)) or now == before


def _judged(case: Case) -> list[str]:
    return [name for layer in case.layers.values() for name in layer.judged]


def _progress(case: Case, steps: Sequence[Step]) -> tuple[int, int]:
    """Count the weights that had a gradient, and those that had one which tells their units apart."""
    names = _judged(case)
    seen = [name for name in names if any(step.has_gradient(name) for step in steps)]
    apart = [
        name
        for name in seen
        if any(step.has_gradient(name) and not step.tensors[name].same_gradient_rows for step in steps)
    ]
    return len(seen), len(apart)


def batch_of(case: Case, step: int, change: Change) -> Batch:
    """The batch of a step, as a change asks for it."""
    batch = case.batches(step)
    if change.examples is not None:
        batch = first_examples(batch, change.examples)
    return batch if change.dtype is None else in_dtype(batch, change.dtype)


def _step(
    case: Case, model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch, same_at_first: dict[str, int]
) -> Step:
    parameters = trainable(model)
    held = {id(value) for group in optimizer.param_groups if group["lr"] for value in group["params"]}
    loss, passed, sent = backward(case, model, batch)
    before = {name: value.detach().clone() for name, value in parameters.items()}
    gradients = {name: value.grad for name, value in parameters.items()}
    seen = {name: _gradient_of(gradient, same_at_first.get(name)) for name, gradient in gradients.items()}
    same = {name for name, parts in same_at_first.items() if _same_rows(before[name], SAME_ROWS, parts)}
    _update(optimizer)
    tensors = {
        name: TensorStep(
            norm,
            moved=not before[name].equal(parameters[name].detach()),
            held=id(parameters[name]) in held,
            same_rows=name in same,
            same_gradient_rows=same_rows,
        )
        for name, (norm, same_rows) in seen.items()
    }
    model.zero_grad(set_to_none=True)
    inputs = first_float(batch[0])
    return Step(loss, tensors, passed, 1.0 if inputs is None else _rms(inputs), sent)


def _update(optimizer: torch.optim.Optimizer) -> None:
    try:
        optimizer.step()
    except (TypeError, AttributeError) as error:
        other = "give a function parameters -> optimizer, or another one, such as SGD"
        raise TypeError(f"optimizer={type(optimizer).__name__}: its step failed ({error}); {other}") from error


def backward(case: Case, model: nn.Module, batch: Batch) -> tuple[float, dict[str, Passed], float]:
    """Pass a batch forward and backward; the parameters' ``.grad`` hold the gradients.

    Returns:
        the loss, what passed each layer, and the norm of the gradient with respect to the model's output.
    """
    passed = {name: Passed() for name in case.layers}
    sent = Passed()
    with _hooked(model, case.layers, passed):
        output = output_of(model, batch[0])
        loss = _loss_of(case, output, batch[1])
        for seen in leaves(output):
            # some models return the loss too
            if seen.is_floating_point() and seen.requires_grad and seen is not loss:
                seen.register_hook(functools.partial(_add_gradient, sent))  # type: ignore[no-untyped-call]
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach()), passed, sent.gradient_norm


def _loss_of(case: Case, output: Any, targets: Any) -> torch.Tensor:  # noqa: ANN401 - whatever the model gives
    if case.loss is F.cross_entropy and isinstance(output, torch.Tensor) and output.ndim > 1 and output.shape[1] == 1:
        other = "give loss=torch.nn.functional.mse_loss, for example"
        raise ValueError(f"loss: cross entropy (the default) over one output is always 0; {other}")
    try:
        loss = case.loss(output, targets)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        given = f"output {_shape(output)} and targets {_shape(targets)}"
        raise ValueError(
            f"loss: it failed on {given} ({error_text(error)}); give another loss or other targets"
        ) from error
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        raise ValueError(f"loss: it gave {_shape(loss)}; it must give a single number, such as a mean over the batch")
    return loss


def _shape(value: object) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__


@contextmanager
def _hooked(model: nn.Module, layers: dict[str, Layer], passed: dict[str, Passed]) -> Iterator[None]:
    hooks = []
    for name, layer in layers.items():
        hook = functools.partial(_forward, passed[name])
        hooks.append(model.get_submodule(layer.path).register_forward_hook(hook, with_kwargs=True))
    try:
        yield
    finally:
        for each in hooks:
            each.remove()


def _forward(
    passed: Passed, _module: nn.Module, inputs: tuple[object, ...], keywords: dict[str, object], output: object
) -> None:
    passed.calls += 1
    given, made = first_float((inputs, keywords)), first_float(output)
    if given is not None:
        passed.input_energy = (passed.input_energy or 0.0) + energy(given)
    if made is not None:
        numbers = _in_float64(made)
        size = energy(numbers)
        passed.output_energy += size
        passed.output_count += made.numel()
        varying = _varying(numbers, size)
        passed.varying_energy += size if varying < _NO_VARIATION * size and _is_constant(given) else varying
        if made.requires_grad:
            # on the tensor and not on the module, because an activation function may work in place behind it
            made.register_hook(functools.partial(_add_gradient, passed))  # type: ignore[no-untyped-call]


def _is_constant(given: torch.Tensor | None) -> bool:
    """Say whether the input is the same for every example, so that the output cannot vary: none, or learned numbers."""
    return given is None or given.ndim == 0 or bool((given == given[:1]).all())


def _add_gradient(passed: Passed, gradient: torch.Tensor) -> None:
    passed.gradient_energy += energy(gradient)


def energy(values: torch.Tensor) -> float:
    """Sum up the squares of a tensor's entries in float64."""
    length = _norm(values)
    # not length**2, which raises where the product is infinite
    return length * length


def _norm(values: torch.Tensor) -> float:
    # an embedding may have sparse gradients, and a layer for spectra complex ones
    numbers = values.detach().to_dense() if values.is_sparse else values.detach()
    numbers = torch.view_as_real(numbers) if numbers.is_complex() else numbers
    return float(norm(_in_float64(numbers)))


def _in_float64(values: torch.Tensor) -> torch.Tensor:
    # Apple's GPUs have no float64
    return in_float64(values.cpu() if values.device.type == "mps" else values)


def _varying(values: torch.Tensor, size: float) -> float:
    """The sum of squared deviations from the mean over dimension 0; of a single example all there is."""
    if values.ndim < 2 or len(values) < 2:
        return size
    mean = energy(mean_of_examples(values))
    return max(size - len(values) * mean, 0.0)


def _rms(values: torch.Tensor) -> float:
    return math.sqrt(energy(values) / max(values.numel(), 1))


def _gradient_of(gradient: torch.Tensor | None, parts: int | None) -> tuple[float | None, bool]:
    """Its norm, and whether its rows are the same in each of so many parts; None: that is not looked at."""
    if gradient is None:
        return None, False
    norm = _norm(gradient)
    return norm, parts is not None and norm > 0 and _same_rows(gradient, SAME_GRADIENT_ROWS, parts)


def _same_rows(values: torch.Tensor, tolerance: float, parts: int) -> bool:
    """Say whether all rows of a matrix or kernel (K, ...) are the same.

    Args:
        values: to look at.
        tolerance: share of the largest number by which rows may differ.
        parts: into so many parts of one length each the rows are cut; only those of one part are compared.
    """
    if values.ndim < 2 or values.numel() == 0 or len(values) % parts or len(values) < 2 * parts:
        return False
    rows = values.detach().to_dense() if values.is_sparse else values.detach()
    of_parts = rows.reshape(parts, len(values) // parts, -1)
    # the largest number, because squares of small ones are none
    difference, largest = (of_parts - of_parts[:, :1]).abs().max(), of_parts.abs().max()
    return bool(difference <= tolerance * largest)


def _rows_apart(model: nn.Module) -> dict[str, int]:
    """Name of a tensor -> into how many parts its rows fall that do different things, such as the gates of an LSTM."""
    apart: dict[int, int] = {}
    for module in model.modules():
        count = next((parts for kind, parts in _PARTS.items() if isinstance(module, kind)), None)
        groups = getattr(module, "groups", 1)
        count = count or (groups if isinstance(groups, int) and groups > 0 else 1)
        apart |= {id(value): count for value in module.parameters(recurse=False)}
    return {name: apart[id(value)] for name, value in trainable(model).items()}
