"""Stacked training: R models of one architecture take their steps together, each with its own loss and optimizer.

Shapes: R models, N batch, C channels, H height, W width. Images are (N, C, H, W) and labels (N,) where all models train
on the same batch, else (R, N, C, H, W) and (R, N).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from harness.backends import Kernel
from harness.config import OptimizerConfig
from harness.engine.eager import RightAnswers, plain_step
from harness.engine.stacked_network import StackedNetwork
from harness.engine.stacked_optimizer import Make, StackedOptimizer
from harness.fusion import Trained
from harness.models import Network
from harness.stackable import unstackable
from harness.train import Batch, Batches, batch_source, optimizer_for

__all__ = ["StackedTraining", "stacked_batches", "unstackable"]


@dataclass(frozen=True)
class OwnBatches:
    """The batches of each step, one for each model.

    Attributes:
        images: x_NCHW, all training images, on the device.
        labels: theirs.
        indices: int64 (R, steps, N) on the device, which images a model gets in a step.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor

    def __call__(self, step: int) -> Batch:
        """Return images (R, N, C, H, W) and labels (R, N) of a step."""
        return self._gathered(self.indices[:, step])

    def at(self, step_number: torch.Tensor) -> Batch:
        """Return those of the step that a tensor (1,) on the device counts, with no work of Python."""
        return self._gathered(self.indices.index_select(1, step_number).squeeze(1))

    def _gathered(self, chosen_RN: torch.Tensor) -> Batch:
        images = self.images.index_select(0, chosen_RN.flatten())
        return images.view(*chosen_RN.shape, *images.shape[1:]), self.labels[chosen_RN]


def stacked_batches(
    images_NCHW: torch.Tensor, labels: torch.Tensor, indices: Sequence[torch.Tensor | None], batch_size: int
) -> Batches | OwnBatches:
    """Return step -> batch for R models: one batch for all where they agree in every step, else one for each.

    Args:
        images_NCHW: all training images, on the device.
        labels: theirs, (images,).
        indices: of each model, (steps, batch_size) on the device; None: the first images in every step.
        batch_size: images of a step.
    """
    chosen = [each for each in indices if each is not None]
    first = chosen[0] if chosen else None
    if first is None or (len(chosen) == len(indices) and all(torch.equal(each, first) for each in chosen)):
        return batch_source(images_NCHW, labels, first, batch_size)
    always = torch.arange(batch_size, device=first.device).expand_as(first)
    return OwnBatches(images_NCHW, labels, torch.stack([always if each is None else each for each in indices]))


class StackedTraining:
    """Trains R models by the same steps, each as it would be trained alone.

    On a GPU all models are computed by one network (:class:`Together`), so that a step costs as many launches as that
    of one model. On a CPU they take each step in turn (:class:`InTurn`), by the very operations of training alone: a
    model ends with the same bits whoever shares the stack, and a convolution of R groups would be slower than R
    convolutions.

    Whatever happens to a model stays its own: no number of one, NaN among them, enters what is computed of another.

    Args:
        networks: R networks of the same architecture, filled, on one device. They always show the trained values.
        kernel: what computes the convolutions.
        optimizers: settings of each model.
        batches: step -> images and labels, see :func:`stacked_batches`.
        steps: length of the training, which schedules of the learning rate need.
        losses: (R, steps) on the device; each step fills its column.
        together: how the models are computed; None: as the device suggests.

    Attributes:
        losses: as given.
        together: whether one network computes all models.
    """

    def __init__(  # noqa: PLR0917 - what R trials need, by the order of their making
        self,
        networks: Sequence[Network],
        kernel: Kernel,
        optimizers: Sequence[OptimizerConfig],
        batches: Callable[[int], Batch],
        steps: int,
        losses: torch.Tensor,
        *,
        together: bool | None = None,
    ) -> None:
        if together is None:
            together = losses.device.type != "cpu"
        self.losses, self.together = losses, together
        self._networks, self._batches = list(networks), batches
        self._dropped: set[int] = set()
        self._new_way = partial(Together if together else InTurn, networks, kernel, optimizers, steps)
        self._way = self._new_way()

    def rewind(self) -> None:
        """Begin at step 0 again with fresh optimizers; the parameters are the caller's business."""
        self._way = self._new_way()
        self.losses.fill_(torch.nan)

    def run(self, window: range) -> None:
        """Take these steps."""
        if len(self._dropped) == len(self._networks):
            return
        self._take(window)
        for model in self._dropped:
            # computed on, but no longer part of its trial
            self.losses[model, window.start : window.stop] = torch.nan

    def _take(self, window: range) -> None:
        for step in window:
            self._way.step(self._batches(step), self.losses[:, step], self._dropped)

    def rates(self) -> list[float]:
        """Return the learning rate of each model's next update."""
        return self._way.rates()

    def right(self) -> list[int]:
        """Return how many images each model answered right in the steps since the last call, before their updates."""
        return self._way.right()

    def drop(self, model: int) -> None:
        """End the training of a model: its network and its row of the losses keep what they show now.

        Args:
            model: its place among the networks, from 0.
        """
        self._dropped.add(model)
        network = self._networks[model]
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.data = tensor.data.clone(memory_format=torch.preserve_format)


class Together:
    """One network of R models: a step is one forward and one backward pass, and one update for each distinct setting.

    Args:
        networks: see :class:`StackedTraining`.
        kernel: see there.
        optimizers: see there.
        steps: see there.
        make: what makes the optimizers, see :class:`harness.engine.stacked_optimizer.StackedOptimizer`.

    Attributes:
        network: of all models.
        optimizers: that of each distinct setting.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        kernel: Kernel,
        optimizers: Sequence[OptimizerConfig],
        steps: int,
        *,
        make: Make | None = None,
    ) -> None:
        self.network = StackedNetwork(networks, kernel)
        self._parameters = list(self.network.parameters())
        self._optimizer = StackedOptimizer(self._parameters, optimizers, steps=steps, make=make)
        self.optimizers = list(self._optimizer.optimizers.values())
        self._right = torch.zeros(len(networks), dtype=torch.int64, device=self._parameters[0].device)

    def step(self, batch: Batch, losses: torch.Tensor, _dropped: set[int]) -> None:
        """Update every model, and fill its loss before the update into ``losses`` (R,)."""
        images, labels = batch
        logits = self.network(images)
        each = mean_losses(logits, labels)
        # the sum, because its gradient by a model's parameters is that of the model's own loss
        self._optimizer.step(torch.autograd.grad(each.sum(), self._parameters))
        losses.copy_(each.detach())
        self._right += (logits.detach().argmax(dim=2) == labels).sum(dim=1)

    def rates(self) -> list[float]:
        """See :meth:`StackedTraining.rates`."""
        return self._optimizer.rates()

    def right(self) -> list[int]:
        """See :meth:`StackedTraining.right`."""
        counts = self._right.tolist()
        self._right.zero_()
        return [int(count) for count in counts]


def mean_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy (R,) of each model.

    Args:
        logits: (R, N, classes).
        labels: (N,) shared by the models, or (R, N).
    """
    models, images, _ = logits.shape
    each = F.cross_entropy(logits.flatten(0, 1), labels.expand(models, images).flatten(), reduction="none")
    return each.view(models, images).mean(dim=1)


class InTurn:
    """R networks that take each step one after the other, by the operations of training alone.

    Args:
        networks: see :class:`StackedTraining`.
        kernel: see there.
        optimizers: see there.
        steps: see there.
    """

    def __init__(
        self, networks: Sequence[Network], kernel: Kernel, optimizers: Sequence[OptimizerConfig], steps: int
    ) -> None:
        self._trained = [Trained(network, kernel).train() for network in networks]
        self._optimizers = [
            optimizer_for(network, config, steps=steps)
            for network, config in zip(self._trained, optimizers, strict=True)
        ]
        self._answers = [RightAnswers() for _ in networks]

    def step(self, batch: Batch, losses: torch.Tensor, dropped: set[int]) -> None:
        """Update every model that was not dropped, and fill its loss before the update into ``losses`` (R,)."""
        images, labels = batch
        for model, (network, optimizer) in enumerate(zip(self._trained, self._optimizers, strict=True)):
            if model not in dropped:
                own = (images, labels) if labels.dim() == 1 else (images[model], labels[model])
                losses[model], logits = plain_step(network, optimizer, own)
                self._answers[model].add(logits, own[1])

    def rates(self) -> list[float]:
        """See :meth:`StackedTraining.rates`."""
        return [float(optimizer.param_groups[0]["lr"]) for optimizer in self._optimizers]

    def right(self) -> list[int]:
        """See :meth:`StackedTraining.right`."""
        return [answers.take() for answers in self._answers]
