"""Batches of any shape: pairs of inputs and targets, each a tensor or nested tuples, lists and dicts of tensors."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from harness import looking

Batch = tuple[Any, Any]
"""Inputs (a tensor, a tuple of arguments or a dict of keywords) and targets, as the loss takes them."""
Batches = Iterable[Batch] | Callable[[int], Batch]
"""A DataLoader, a list, a generator, or a function step -> batch."""


def leaves(value: object) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested tuples, lists, dicts, dataclasses and namespaces, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from leaves(part)
    elif dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace):
        for part in vars(value).values():
            yield from leaves(part)


def first_float(value: object) -> torch.Tensor | None:
    """Return the first floating-point tensor, or None if there is none."""
    return next((tensor for tensor in leaves(value) if tensor.is_floating_point()), None)


def mapped(function: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:  # noqa: ANN401 - nested containers
    """Apply a function to every tensor in nested tuples, lists and dicts."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: mapped(function, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [mapped(function, part) for part in value]
        # a named tuple takes its fields one by one
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def in_dtype(batch: Batch, dtype: torch.dtype) -> Batch:
    """Convert a batch's floating-point tensors."""
    converted: Batch = mapped(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, batch)
    return converted


def examples_in(batch: Batch) -> int:
    """Return the length of the first target that has one; 0 if none has."""
    return next((len(tensor) for tensor in leaves(batch[1]) if tensor.ndim), 0)


def first_examples(batch: Batch, count: int) -> Batch:
    """Cut every tensor to its first entries, if all have one entry per example; else return the batch as it is."""
    length = examples_in(batch)
    if length <= count or any(len(tensor) != length for tensor in leaves(batch) if tensor.ndim):
        return batch
    cut: Batch = mapped(lambda tensor: tensor[:count] if tensor.ndim else tensor, batch)
    return cut


def output_of(model: nn.Module, inputs: Any) -> Any:  # noqa: ANN401 - whatever the model takes and gives
    """Call a model on a batch's inputs."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    # a packed sequence is a named tuple, and one argument
    if isinstance(inputs, tuple | list) and not hasattr(inputs, "_fields"):
        return model(*inputs)
    return model(inputs)


class Taken:
    """Step -> batch on a device. Batches are taken when they are first asked for, kept, and repeated from the start.

    They are kept where they are, because a GPU may not have room for them all.

    Attributes:
        differ: whether there is more than one.
    """

    def __init__(self, batches: Batches, device: torch.device) -> None:
        """Take the first two.

        Raises:
            TypeError: the batches are not pairs, or nothing that can be iterated over or called.
            ValueError: there is none.
        """
        self._device, self._kept = device, list[Batch]()
        self._more = _pairs(batches)
        # a shuffled DataLoader draws random numbers; they go on from where the program is, which gets its own back
        self._random = looking.states()
        self(1)
        self.differ = len(self._kept) > 1 and self._kept[1][0] is not self._kept[0][0]

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step."""
        while len(self._kept) <= step:
            following = self._next()
            if following is None and not self._kept:
                raise ValueError("batches: there is none; give at least one (inputs, targets)")
            if following is None:
                break
            self._kept.append(following)
        return self._placed(self._kept[step % len(self._kept)])

    def others(self, count: int) -> Iterator[Batch]:
        """Yield so many further batches, which are not kept; where there are no more, those that are.

        Batches of steps must have been asked for before, because these come behind them.
        """
        for index in range(count):
            following = self._next()
            yield self._placed(following or self._kept[index % len(self._kept)])

    def _placed(self, batch: Batch) -> Batch:
        # a copy, because the model may work in place
        placed: Batch = mapped(lambda tensor: tensor.detach().to(self._device, copy=True), batch)
        return placed

    def _next(self) -> Batch | None:
        of_program = looking.states()
        try:
            looking.put(self._random)
            following = next(self._more, None)
            self._random = looking.states()
        finally:
            looking.put(of_program)
        return following


def _pairs(batches: Batches) -> Iterator[Batch]:
    for batch in _one_by_one(batches):
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
            raise TypeError(f"batches: one is a {type(batch).__name__}{size}; each must be a pair (inputs, targets)")
        yield batch[0], batch[1]


def _one_by_one(batches: Batches) -> Iterator[Any]:
    if isinstance(batches, tuple) and len(batches) == 2 and isinstance(batches[0], torch.Tensor | Mapping):
        # a pair of tensors is one batch, not two
        yield batches
    elif isinstance(batches, torch.Tensor | str | Mapping) or not (isinstance(batches, Iterable) or callable(batches)):
        raise TypeError(
            f"batches={type(batches).__name__}: give an iterable of pairs (inputs, targets), such as a DataLoader"
        )
    elif isinstance(batches, Iterable):
        yield from batches
    else:
        first, second = batches(0), batches(1)
        yield first
        # a function that always gives the same batch would otherwise be asked for ever more of it
        if second[0] is first[0]:
            return
        yield second
        step = 2
        while True:
            yield batches(step)
            step += 1
