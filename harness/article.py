"""The article's experiment: what its zero-kernel run printed, and what exact arithmetic says that run must do.

With conv2's kernel and all biases zero and relu between, every gradient but the last bias's is zero. The logits are then that bias
b for every image, and with q the class shares of the fixed batch, b <- b - lr * (softmax(b) - q).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

PRINTED_LR = 1e-6
"""The learning rate that the printed differences need; the listing says 1e-4."""

PRINTED_DIFFERENCE = {
    **dict.fromkeys((0, 2, 4, 5, 7, 8), 1.9999e-05),
    **dict.fromkeys((1, 3, 9), -3.9998e-05),
    6: 1.4e-11,
}
"""Class -> initial minus final fc2.bias, as the article printed it."""


@dataclass(frozen=True)
class Trajectory:
    """The exact run of a network in which only the last bias moves.

    Attributes:
        losses: mean cross entropy in nats before each update and after the last, (steps + 1,).
        bias: the last bias after all updates, (classes,).
    """

    losses: list[float]
    bias: list[float]


def trajectory(class_counts: Sequence[int], *, lr: float, steps: int) -> Trajectory:
    """Run the closed form in float64 from a zero bias.

    Args:
        class_counts: images of each class in the fixed batch.
        lr: learning rate of plain gradient descent.
        steps: updates.
    """
    images = sum(class_counts)
    share = [count / images for count in class_counts]
    bias = [0.0] * len(share)
    losses = []
    for _ in range(steps):
        losses.append(_loss(bias, share))
        normaliser = math.fsum(math.exp(b) for b in bias)
        bias = [b - lr * (math.exp(b) / normaliser - q) for b, q in zip(bias, share, strict=True)]
    return Trajectory([*losses, _loss(bias, share)], bias)


def _loss(bias: Sequence[float], share: Sequence[float]) -> float:
    """Mean of log sum exp(b) - b[label] over the batch."""
    log_normaliser = math.log(math.fsum(math.exp(b) for b in bias))
    return log_normaliser - math.fsum(b * q for b, q in zip(bias, share, strict=True))
