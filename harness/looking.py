"""Looking at a network changes nothing: buffers, modes and shared random numbers are as they were afterwards.

Two kinds of layers make this necessary. Batch normalisation updates its running statistics at every forward pass in
training mode, and dropout draws from the random generators that the whole process shares.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

States = tuple[Any, Any, torch.Tensor, list[torch.Tensor]]
"""The states of Python, of NumPy's shared generator, of PyTorch on the CPU, and on every GPU."""

_SEED = 0


def states() -> States:
    """Return the state of every shared generator."""
    # asked first, because reading the states of GPUs would start CUDA in a program that uses none
    on_cuda = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    gpus = torch.cuda.get_rng_state_all() if on_cuda else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), gpus  # noqa: NPY002 - the shared one


def put(kept: States) -> None:
    """Put every shared generator into a state that :func:`states` returned."""
    random.setstate(kept[0])
    np.random.set_state(kept[1])  # noqa: NPY002
    torch.set_rng_state(kept[2])
    if kept[3]:
        torch.cuda.set_rng_state_all(kept[3])


def seed(value: int) -> None:
    """Seed every shared generator."""
    # not torch.manual_seed, which would also seed a GPU that the program starts later
    torch.default_generator.manual_seed(value)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(value)
    random.seed(value)
    # NumPy takes seeds of 32 bits
    np.random.seed(value % 2**32)  # noqa: NPY002


@contextmanager
def own_randomness() -> Iterator[None]:
    """Let the block draw as it likes: every shared generator is put back into its state afterwards."""
    of_program = states()
    try:
        yield
    finally:
        put(of_program)


@contextmanager
def same_randomness() -> Iterator[None]:
    """Give the block the same random numbers each time (dropout!), and the program its own again afterwards."""
    with own_randomness():
        seed(_SEED)
        yield


@contextmanager
def undisturbed(network: nn.Module) -> Iterator[None]:
    """Look at a network in the mode that it is in; dropout draws the same masks at every look.

    The buffers (running statistics of batch normalisation) are put back bit for bit, also where a module assigns new
    tensors to them, and so are the shared random generators. What else a module keeps in Python is not put back.
    """
    # by name and not as tensors alone, because `self.mean = 0.9 * self.mean + ...` leaves the old tensor as it was
    named = [(module, dict(module._buffers)) for module in network.modules()]  # noqa: SLF001
    contents = [(buffer, buffer.detach().clone()) for buffer in network.buffers()]
    try:
        with same_randomness():
            yield
    finally:
        with torch.no_grad():
            for module, buffers in named:
                module._buffers.clear()  # noqa: SLF001
                module._buffers.update(buffers)  # noqa: SLF001
            for buffer, kept in contents:
                buffer.copy_(kept)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation mode for the block: no dropout, and running statistics instead of the batch's own.

    Every module gets the mode back that it had, also where some were in evaluation mode before.
    """
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
