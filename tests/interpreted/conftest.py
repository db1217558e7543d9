"""Tests that run the kernels: on the CPU with TRITON_INTERPRET=1 (``test_kernels.py``), else on a GPU.

``tests/test_gpu_kernels.py`` starts them there.
"""

from collections.abc import Iterator

import bounds
import pytest
import torch
from oracle import DEVICE, INTERPRETED

from kernels import launch, tiles

if not INTERPRETED and not torch.cuda.is_available():
    raise pytest.UsageError(
        "these tests need a CUDA GPU, or TRITON_INTERPRET=1 before Python starts; tests/test_kernels.py sets it"
    )

# a wrong kernel may read where it must not, after which a GPU runs nothing more
collect_ignore = [] if INTERPRETED else ["test_mutants.py"]


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Fresh tensors hold NaN, or the largest whole number: whatever a kernel does not write shows."""
    torch.use_deterministic_algorithms(mode=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.fixture(autouse=True)
def memory_that_is_kept_to() -> Iterator[None]:
    """No kernel reads or writes outside of its tensors."""
    with bounds.kept():
        yield


@pytest.fixture(autouse=True)
def tiles_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiles that a GPU gets, not the interpreter's larger ones."""
    monkeypatch.setattr(tiles, "for_interpreter", lambda _operation, choice: choice)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels started so far."""
    names: list[str] = []
    start = launch._start

    def note(kernel: object, *arguments: object, **constants: object) -> None:
        names.append(kernel.fn.__name__)
        start(kernel, *arguments, **constants)

    monkeypatch.setattr(launch, "_start", note)
    return names
