"""Whether the kernels keep to their tensors' memory: a GPU would stop at what the interpreter reads without a word."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from triton.runtime.interpreter import InterpreterBuilder

from kernels import launch, triton_kernels

Spans = list[tuple[int, int]]
"""First and last byte + 1 of each tensor's storage."""


def spans(arguments: Sequence[object]) -> Spans:
    storages = [tensor.untyped_storage() for tensor in arguments if isinstance(tensor, torch.Tensor)]
    return [(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]


def require_within(pointers: Any, mask: Any, allowed: Spans) -> None:
    """Every address that the mask lets through, and the number that begins there, lies in one storage."""
    addresses = np.asarray(pointers.data)[np.asarray(mask.data).astype(bool)].astype(np.int64)
    if not addresses.size:
        return
    first, end = int(addresses.min()), int(addresses.max()) + pointers.get_element_ty().primitive_bitwidth // 8
    if not any(low <= first and end <= high for low, high in allowed):
        raise AssertionError("an address outside of the tensors")


@contextmanager
def kept() -> Iterator[None]:
    """Within, an access outside of a launch's own tensors fails; a GPU's own are not seen."""
    if not triton_kernels.INTERPRETED:
        yield
        return
    start, load, store = launch._start, InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store
    allowed: Spans = []

    def guarded_start(kernel: object, programs: int, choice: object, *arguments: object, **constants: object) -> None:
        allowed[:] = spans(arguments)
        start(kernel, programs, choice, *arguments, **constants)

    def guarded(access: Callable[..., Any], place_of_mask: int) -> Callable[..., Any]:
        def checked(builder: InterpreterBuilder, pointers: Any, *rest: Any) -> Any:
            require_within(pointers, rest[place_of_mask], allowed)
            return access(builder, pointers, *rest)

        return checked

    with (
        mock.patch.object(launch, "_start", guarded_start),
        mock.patch.object(InterpreterBuilder, "create_masked_load", guarded(load, 0)),
        mock.patch.object(InterpreterBuilder, "create_masked_store", guarded(store, 1)),
    ):
        yield
