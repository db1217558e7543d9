"""Describe what is to be diagnosed: model, batches, loss, optimizer, and the names of layers and tensors."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.diagnosis.batches import Batches, Taken
from harness.models import Network

Loss = Callable[..., torch.Tensor]
"""``(output of the model, targets) -> a single number``, a tensor without dimensions."""
Optimizer = torch.optim.Optimizer | Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
"""An optimizer of the model, or what makes one from parameters."""

_DEFAULT_LR = 0.01


@dataclass(frozen=True)
class Layer:
    """A module that holds trainable tensors of its own.

    Attributes:
        name: as it is called in the result.
        path: as ``model.get_submodule`` takes it.
        judged: names of the tensors by which it is judged: its matrices and kernels, or else its first tensor.
        matrix: whether these are matrices and kernels.
        whole: whether the module holds no other layers, so that what passes it tells of its own tensors.
    """

    name: str
    path: str
    judged: tuple[str, ...]
    matrix: bool
    whole: bool = True


@dataclass(frozen=True)
class Case:
    """All that the few training steps need. Nothing here is ever trained: :meth:`copy` gives what is.

    Attributes:
        model: as it was given.
        optimizer: of that model, or what makes one.
        batches: step -> its batch, on the model's device.
        loss: see :data:`Loss`.
        layers: name -> layer, in the model's order.
    """

    model: nn.Module
    optimizer: Optimizer
    batches: Taken
    loss: Loss
    layers: dict[str, Layer]

    def copy(self, dtype: torch.dtype | None = None) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Copy the model, in training mode, and the optimizer for the copy."""
        # one memo, so that the copied optimizer holds the copied parameters
        memo: dict[int, Any] = {}
        model = copy.deepcopy(self.model, memo).to(dtype)
        if isinstance(self.optimizer, torch.optim.Optimizer):
            optimizer = copy.deepcopy(self.optimizer, memo)
            # its class says which attributes are state, and forgets those of a subclass
            more = {name: value for name, value in vars(self.optimizer).items() if name not in vars(optimizer)}
            vars(optimizer).update(copy.deepcopy(more, memo))
        else:
            optimizer = self.optimizer(trainable(model).values())
        # a model in training mode keeps the parts that its owner has set to evaluation, such as frozen batch norms
        if not model.training:
            model.train()
        model.zero_grad(set_to_none=True)
        return model, optimizer


def case_of(model: nn.Module, batches: Batches, loss: Loss, optimizer: Optimizer | None) -> Case:
    """Check and complete what a user gave.

    Raises:
        TypeError: an argument is of a kind that is not understood.
        ValueError: the model has no trainable tensor or cannot be copied, or there is no batch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model={type(model).__name__}: not a module; give a torch.nn.Module")
    tensors = trainable(model)
    if not tensors:
        raise ValueError("model: it has no parameter with requires_grad=True; there is nothing to train")
    if any(isinstance(value, nn.parameter.UninitializedParameter) for value in tensors.values()):
        raise ValueError("model: it has lazy layers that were never run; call the model on one batch first")
    _check_optimizer(model, optimizer)
    _check_loss(loss)
    with torch.inference_mode(mode=False):
        taken = Taken(batches, next(iter(tensors.values())).device)
    case = Case(model, optimizer or _default_optimizer, taken, loss, layers_of(model))
    try:
        optimizer = case.copy()[1]
    except Exception as error:
        raise ValueError(
            f"model: it or its optimizer cannot be copied ({error}), and only copies are trained"
        ) from error
    if isinstance(optimizer, torch.optim.LBFGS):
        raise TypeError("optimizer: LBFGS runs the model several times a step; give another, such as SGD")
    return case


def _default_optimizer(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=_DEFAULT_LR)


def _check_optimizer(model: nn.Module, optimizer: Optimizer | None) -> None:
    if isinstance(optimizer, torch.optim.Optimizer):
        own = {id(value) for value in model.parameters()}
        if not any(id(value) in own for group in optimizer.param_groups for value in group["params"]):
            raise ValueError("optimizer: it holds no parameter of this model; make it from model.parameters()")
    elif optimizer is not None and not callable(optimizer):
        wanted = "give an optimizer of this model, a function parameters -> optimizer, or nothing for plain SGD"
        raise TypeError(f"optimizer={type(optimizer).__name__}: not understood; {wanted}")


def _check_loss(loss: Loss) -> None:
    if isinstance(loss, type):
        raise TypeError(f"loss={loss.__name__}: a class; give an instance, {loss.__name__}()")
    if not callable(loss):
        raise TypeError(f"loss={loss!r}: not understood; give a function (output, targets) -> a single number")


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter that training changes. A :class:`Network` has the short names of its config."""
    named = model.tensors() if isinstance(model, Network) else dict(model.named_parameters())
    return {name: value for name, value in named.items() if value.requires_grad}


def original_of(model: nn.Module) -> nn.Module:
    """Return the model within one that ``torch.compile`` made, whose graph our hooks would break at every layer."""
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def owners_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name of each trainable tensor -> the module that holds it."""
    owners = {id(value): module for module in model.modules() for value in module.parameters(recurse=False)}
    return {name: owners[id(value)] for name, value in trainable(model).items()}


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Every module with trainable tensors of its own; of a :class:`Network` those with a weight."""
    if isinstance(model, Network):
        paths = {path.rpartition(".")[2]: path for path, _ in model.named_modules()}
        return {name: Layer(name, paths[name], (f"{name}.weight",), matrix=True) for name in model.parametrised()}
    tensors = trainable(model)
    own: dict[str, list[str]] = {}
    for path, module in model.named_modules():
        names = [name for name, _ in module.named_parameters(path, recurse=False) if name in tensors]
        if names:
            own.setdefault(_owner(path), []).extend(names)
    return {
        path or type(model).__name__: _layer(model.get_submodule(path), path, names, tensors)
        for path, names in own.items()
    }


def _owner(path: str) -> str:
    """The module that a person would name: weight_norm and its like keep a weight's parts in modules of their own."""
    parts = path.split(".")
    return ".".join(parts[: parts.index("parametrizations")] if "parametrizations" in parts else parts)


def _layer(module: nn.Module, path: str, own: list[str], tensors: Mapping[str, torch.Tensor]) -> Layer:
    matrices = [name for name in own if tensors[name].ndim > 1]
    # the recurrent weight has no gradient in a sequence of one
    judged = matrices[:1] if isinstance(module, nn.RNNBase) else matrices or own[:1]
    parts = [child for name, child in module.named_children() if name != "parametrizations" and [*child.parameters()]]
    return Layer(path or type(module).__name__, path, tuple(judged), matrix=bool(matrices), whole=not parts)


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Put gradients and buffers of a model back after the block, whatever a closure in it or in the loss does there."""
    gradients = [(value, value.grad) for value in model.parameters()]
    buffers = [(value, value.detach().clone()) for value in model.buffers()]
    for value, _ in gradients:
        value.grad = None
    try:
        yield
    finally:
        for value, gradient in gradients:
            value.grad = gradient
        with torch.no_grad():
            for buffer, kept in buffers:
                if not torch.equal(buffer, kept):
                    buffer.copy_(kept)
