"""The eager engine: torch executes each operation of a step as Python reaches it."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from harness.train import Batch

_MOST_NUMBERS = 2**20


class Eager:
    """Takes plain training steps.

    Args:
        network: what is trained, on the device of ``losses``.
        optimizer: over its parameters.
        batch: step -> batch.
        losses: float32 (steps,) on the device; filled as training goes.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Callable[[int], Batch],
        losses: torch.Tensor,
    ) -> None:
        self.losses = losses
        self._network, self._optimizer, self._batch = network, optimizer, batch
        self._right = RightAnswers()

    def run(self, window: range) -> None:
        """Take these steps."""
        take_steps(self._network, self._optimizer, self._batch, window, self.losses, right=self._right)

    def rate(self) -> float:
        """Return the learning rate of the next update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def right(self) -> int:
        """Return how many images the steps since the last call answered right."""
        return self._right.take()


class RightAnswers:
    """Counts the right answers to training batches from the logits of the steps themselves.

    Logits are kept, and compared with the labels when the count is asked for, so that a step costs no work and nothing
    waits for the device. Only where they pile up are they compared in between.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._numbers = 0
        self._counts: list[torch.Tensor] = []

    def add(self, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep the logits (N, classes) and labels (N,) of a batch."""
        self._kept.append((logits, labels))
        self._numbers += logits.numel()
        if self._numbers > _MOST_NUMBERS:
            self._compare()

    def take(self) -> int:
        """Return the count since the last time."""
        self._compare()
        counts, self._counts = self._counts, []
        return int(torch.stack(counts).sum()) if counts else 0

    def _compare(self) -> None:
        if self._kept:
            logits, labels = (torch.cat(parts) for parts in zip(*self._kept, strict=True))
            self._counts.append((logits.argmax(dim=1) == labels).sum())
            self._kept, self._numbers = [], 0


def take_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[int], Batch],
    steps: range,
    losses: torch.Tensor,
    *,
    right: RightAnswers | None = None,
) -> None:
    """Plain training steps; ``losses[step]`` gets the loss before the update, and nothing waits for the device."""
    for step in steps:
        images_NCHW, labels = batch(step)
        losses[step], logits = plain_step(network, optimizer, (images_NCHW, labels))
        if right is not None:
            right.add(logits, labels)


def plain_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """One update; returns the loss and the logits before it, detached and still on the device."""
    images_NCHW, labels = batch
    logits = network(images_NCHW)
    loss = F.cross_entropy(logits, labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach(), logits.detach()
