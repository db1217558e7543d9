"""Stacks by the graph engine: the steps of R models are captured in CUDA graphs, and a replay trains all of them.

It is the step of :class:`harness.engine.stacked.Together`, captured as that of one model is (``harness.engine.graph``).
Each distinct setting of the optimizer has a learning rate of its own on the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from harness.backends import Kernel
from harness.config import EngineConfig, OptimizerConfig, TrainConfig
from harness.engine.graph import Capture, Rate, Replays, capturable, captured, forget
from harness.engine.stacked import OwnBatches, StackedTraining, Together
from harness.errors import TimeBudgetError, let_go
from harness.models import Network
from harness.train import Batches
from harness.wording import error_text


@dataclass(frozen=True)
class Stack:
    """What a stack trains, and by what.

    Attributes:
        networks: R networks of the same architecture, filled, on one device.
        kernel: what computes their convolutions.
        optimizers: settings of each model.
        batches: of each step, see :func:`harness.engine.stacked.stacked_batches`.
        losses: float32 (R, steps) on the device; filled as training goes.
        train: windows, grid and steps.
    """

    networks: Sequence[Network]
    kernel: Kernel
    optimizers: Sequence[OptimizerConfig]
    batches: Batches | OwnBatches
    losses: torch.Tensor
    train: TrainConfig

    def eager(self) -> StackedTraining:
        """Return what trains it without a graph, at step 0."""
        steps = self.train.steps
        return StackedTraining(self.networks, self.kernel, self.optimizers, self.batches, steps, self.losses)


class StackedGraph(StackedTraining):
    """Trains R models by replaying captured steps of all of them.

    Args:
        stack: what it trains; the tensors of its networks keep their addresses but for those of a dropped model.
        capture: what captures a function; another one shows on a CPU what a graph would do.
    """

    def __init__(self, stack: Stack, *, capture: Capture = captured) -> None:
        self.losses, self.together = stack.losses, True
        self._networks, self._batches, self._optimizers = list(stack.networks), stack.batches, stack.optimizers
        self._batch_at = stack.batches.at
        self._dropped = set()
        device, steps = self.losses.device, stack.train.steps
        self._rates = {config: Rate(config, steps, device) for config in set(stack.optimizers)}
        self._together = Together(stack.networks, stack.kernel, stack.optimizers, steps, make=self._made)
        self._way = self._together
        self._step_number = torch.zeros(1, dtype=torch.int64, device=device)
        self._losses_of_step = torch.empty(len(self._networks), dtype=self.losses.dtype, device=device)
        self._replays = Replays(stack.train, capture)

    def prepare(self) -> None:
        """Capture the graphs; the networks are afterwards as they were.

        Raises:
            Exception: whatever torch raises where an operation of a step cannot be captured.
        """
        self._replays.prepare(self._step, self._together.network, self.losses.device)
        self.rewind()

    @property
    def steps_to_try(self) -> int:
        """See :class:`harness.engine.graph.Replays`."""
        return self._replays.steps_to_try

    def rewind(self) -> None:
        """Begin at step 0 again with fresh optimizers; the parameters are the caller's business."""
        for optimizer in self._together.optimizers:
            forget(optimizer)
        self._step_number.zero_()
        self._together.right()
        self.losses.fill_(torch.nan)
        for rate in self._rates.values():
            rate.follow(self._step_number)
        self._replays.done = 0

    def rates(self) -> list[float]:
        """Return the learning rate of each model's next update."""
        return [self._rates[config].at(self._replays.done) for config in self._optimizers]

    def _made(self, parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
        return capturable(parameters, config, self._rates[config].now, self.losses.device)

    def _take(self, window: range) -> None:
        self._replays.run(window)

    def _step(self) -> None:
        """One update of every model, from the device's own counter."""
        for rate in self._rates.values():
            rate.follow(self._step_number)
        self._together.step(self._batch_at(self._step_number), self._losses_of_step, set())
        self.losses.index_copy_(1, self._step_number, self._losses_of_step.unsqueeze(1))
        self._step_number.add_(1)


@dataclass(frozen=True)
class PreparedStack:
    """What is ready to train a stack.

    Attributes:
        training: at step 0.
        name: which engine it is: eager or graph.
        reason: why it is eager where graph was asked for; None: it is what was asked for.
    """

    training: StackedTraining
    name: str
    reason: str | None = None


def _graph(stack: Stack) -> StackedGraph:
    """Captured; a function of its own, so that where capturing fails no frame holds what was made."""
    made = StackedGraph(stack, capture=captured)
    made.prepare()
    return made


def prepare(config: EngineConfig, stack: Stack) -> PreparedStack:
    """Return what an engine's config names, captured where it is a graph; the networks stay as they are.

    Args:
        config: eager, or graph on a GPU.
        stack: what is trained.

    Raises:
        Exception: whatever torch raises where the steps cannot be captured, and nothing is to fall back to.
    """
    if config.name != "graph":
        return PreparedStack(stack.eager(), "eager")
    try:
        made = _graph(stack)
    except (TimeBudgetError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not config.fallback:
            raise
        reason = error_text(error)
        # what failed holds graphs and their memory
        let_go(error)
    else:
        return PreparedStack(made, "graph")
    stack.losses.fill_(torch.nan)
    return PreparedStack(stack.eager(), "eager", reason)
