"""Sums over a tensor's entries in float64, because squares of small and of large float32 numbers are none.

Shapes: a batch is (N, ...), its examples along dimension 0.
"""

from collections.abc import Callable

import torch


def in_float64(values: torch.Tensor) -> torch.Tensor:
    """Convert a tensor on a CPU to float64, without its gradient; one elsewhere is returned as it is.

    A CPU converts a whole tensor and then adds it up in less time than it converts number by number within the sum,
    with the same bits. A GPU does not, and its memory is scarcer.
    """
    return values.detach().double() if values.device.type == "cpu" else values.detach()


def norm(values: torch.Tensor) -> torch.Tensor:
    """Return the Euclidean norm of all entries: float64 (), on the tensor's device."""
    length: torch.Tensor = torch.linalg.vector_norm(in_float64(values), dtype=torch.float64)
    return length


def energy(values: torch.Tensor) -> float:
    """Return the sum of squares of all entries."""
    length = float(norm(values))
    # not length**2, which raises where the product is infinite
    return length * length


def moment(values: torch.Tensor) -> float:
    """Return the mean square of all entries."""
    return energy(values) / values.numel()


def mean(values: torch.Tensor) -> float:
    """Return the mean of all entries."""
    return float(in_float64(values).mean(dtype=torch.float64))


def mean_of_examples(values: torch.Tensor) -> torch.Tensor:
    """Return the mean over the examples: (N, ...) -> float64 (1, ...)."""
    return _over_examples(in_float64(values), torch.mean)


def mean_square_of_examples(values: torch.Tensor) -> torch.Tensor:
    """Return the mean square over the examples: (N, ...) -> float64 (1, ...)."""
    return _over_examples(values.detach().double().square(), torch.mean)


def sum_of_squares_of_examples(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares over the examples: (N, ...) -> float64 (1, ...)."""
    return _over_examples(values.detach().double().square(), torch.sum)


def _over_examples(values: torch.Tensor, reduced: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Reduce dimension 0 of a tensor whose other dimensions are first put into the order of their strides.

    On a CPU torch takes three times longer to reduce dimension 0 of a channels-last tensor than that of a matrix.
    """
    strides = values.stride()
    order = sorted(range(1, values.ndim), key=lambda dimension: strides[dimension], reverse=True)
    flat = reduced(values.permute(0, *order).flatten(1), dim=0, dtype=torch.float64)
    shaped = flat.view([1, *(values.shape[dimension] for dimension in order)])
    back = [1 + order.index(dimension) for dimension in range(1, values.ndim)]
    return shaped.permute(0, *back).contiguous()
