"""The random numbers of Python, NumPy and PyTorch, kept and put back: a diagnosis changes none of a program's."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

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


@contextmanager
def same_randomness() -> Iterator[None]:
    """Give the block the same random numbers each time (dropout!), and the program its own again afterwards."""
    of_program = states()
    try:
        # not torch.manual_seed, which would also seed a GPU that the program starts later
        torch.default_generator.manual_seed(_SEED)
        if of_program[3]:
            torch.cuda.manual_seed_all(_SEED)
        random.seed(_SEED)
        np.random.seed(_SEED)  # noqa: NPY002
        yield
    finally:
        put(of_program)
