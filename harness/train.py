"""The training loop. It yields at the end of each timing window; what is done there is not on the training clock."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, OneCycleLR, StepLR

from harness.config import OptimizerConfig, TrainConfig
from harness.errors import DivergedError, TimeBudgetError
from harness.looking import own_randomness
from harness.optimizers import OPTIMIZERS
from harness.timing import Stopwatch

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images x_NCHW (N, 1, 28, 28) float32 and labels (N,) int64, on the training device."""


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer, OptimizerConfig, int], LRScheduler]] = {
    "step": lambda optimizer, config, _: StepLR(optimizer, _set(config.schedule_step), _set(config.schedule_factor)),
    "cosine": lambda optimizer, _, steps: CosineAnnealingLR(optimizer, T_max=steps),
    "one_cycle": lambda optimizer, config, steps: OneCycleLR(
        optimizer, config.lr, steps, pct_start=_set(config.warmup_steps) / steps, cycle_momentum=False
    ),
    "linear_warmup": lambda optimizer, config, _: LinearLR(
        optimizer, 1 / _set(config.warmup_steps), total_iters=_set(config.warmup_steps)
    ),
}
"""Name of ``optimizer.schedule`` -> (optimizer, config, training steps) -> torch's scheduler. ``constant`` has none.

The rate alone follows the schedule, and never the momentum. Cosine falls to 0 at the end of the training; one_cycle
rises from lr / 25 to lr and falls to lr / 250,000; linear_warmup rises from lr / warmup_steps.
"""


def _set(value: Any) -> Any:  # noqa: ANN401 - a number that may be null in the config
    assert value is not None, "OptimizerConfig.scheduled fills it in"
    return value


def optimizer_for(network: nn.Module, config: OptimizerConfig, *, steps: int | None = None) -> torch.optim.Optimizer:
    """Return a fresh optimizer over all of the network's parameters, with the settings that it takes."""
    return optimizer_of(network.parameters(), config, steps=steps)


def optimizer_of(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig, *, steps: int | None = None
) -> torch.optim.Optimizer:
    """Return a fresh optimizer over some parameters, whose learning rate follows ``config.schedule``.

    Args:
        parameters: what it updates.
        config: its settings.
        steps: length of the training, which every schedule but ``constant`` needs.

    Raises:
        ValueError: the schedule needs ``steps``.
    """
    optimizer = OPTIMIZERS[config.name]
    settings = {name: getattr(config, name) for name in optimizer.settings}
    made: torch.optim.Optimizer = getattr(torch.optim, optimizer.torch_class)(list(parameters), **settings)
    if config.schedule != "constant":
        if steps is None:
            raise ValueError(f"optimizer.schedule={config.schedule}: needs the length of the training; give steps")
        _follow_schedule(made, config.scheduled(steps), steps)
    return made


def _follow_schedule(optimizer: torch.optim.Optimizer, config: OptimizerConfig, steps: int) -> None:
    """Step the scheduler after each of the optimizer's steps but the last, so that no rate of a later step is set."""
    scheduler = SCHEDULERS[config.schedule](optimizer, config, steps)

    def follow(*_: object) -> None:
        if scheduler.last_epoch < steps - 1:
            scheduler.step()

    optimizer.register_step_post_hook(follow)


@dataclass(frozen=True)
class WindowEnd:
    """Where training stands between two timing windows.

    Attributes:
        step: updates made so far.
        steps: updates made in the window that ends here; 0 before the first.
        seconds: training time of that window.
        evaluate: whether ``step`` is on the evaluation grid.
        lr: learning rate of the next update; behind the last one, its own.
        right: how many images of the window's batches the network answered right, each before its update.
        share: of the trial's stack, how much was computed in these seconds; less than 1 once some of it have ended.
    """

    step: int
    steps: int
    seconds: float
    evaluate: bool
    lr: float = math.nan
    right: int = 0
    share: float = 1.0


@dataclass(frozen=True)
class Batches:
    """The batch of each step: ``batches(step)``; see :func:`batch_source`.

    Attributes:
        images: x_NCHW, all that are trained on, on the training device.
        labels: theirs.
        indices: int64 (steps, batch_size) on the device, which images a step gets; None: the first ones, always.
        size: images of a batch.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor | None
    size: int

    @cached_property
    def first(self) -> Batch:
        """The first images and labels, without a copy."""
        return self.images[: self.size], self.labels[: self.size]

    def __call__(self, step: int) -> Batch:
        """Return images and labels of a step."""
        if self.indices is None:
            return self.first
        return self._gathered(self.indices[step])

    def at(self, step_number: torch.Tensor) -> Batch:
        """Return images and labels of the step that a tensor (1,) on the device counts, with no work of Python."""
        if self.indices is None:
            return self.first
        return self._gathered(self.indices.index_select(0, step_number).squeeze(0))

    def _gathered(self, chosen: torch.Tensor) -> Batch:
        return self.images.index_select(0, chosen), self.labels.index_select(0, chosen)


def batch_source(
    images_NCHW: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor | None, batch_size: int
) -> Batches:
    """Step -> its batch: gathered by ``indices`` (steps, batch_size) on the device, or the first images always."""
    return Batches(images_NCHW, labels, indices, batch_size)


class Engine(Protocol):
    """What executes training steps: it trains one network, and knows its batches and its optimizer.

    Attributes:
        losses: float32 (steps,) on the device of the network; ``losses[step]`` gets the loss before the update.
    """

    losses: torch.Tensor

    def run(self, window: range) -> None:
        """Take these steps, and wait for the device nowhere; the caller's clock runs."""

    def rate(self) -> float:
        """Return the learning rate of the next update; behind the last one, its own."""

    def right(self) -> int:
        """Return how many images the steps since the last call answered right, each before its update."""


def train(engine: Engine, config: TrainConfig) -> Iterator[WindowEnd]:
    """Train ``config.steps`` steps, yielding before the first and after each window.

    Windows are ``config.window_steps`` long and cut at the evaluation grid: step 0, each multiple of
    ``config.eval_every``, the last step. The clock runs inside a window only, and what is done between two windows
    changes none of the random numbers that dropout draws in training.

    Args:
        engine: takes the steps, and fills its losses as training goes.
        config: steps, grid and windows.

    Raises:
        DivergedError: a loss is not finite; found at the end of its window, naming its step.
        TimeBudgetError: ``config.max_seconds`` of training time have passed.
    """
    with own_randomness():
        yield WindowEnd(0, 0, 0.0, evaluate=True, lr=engine.rate())
    watch = Stopwatch(engine.losses.device)
    for window in windows(config):
        with watch:
            engine.run(window)
        check_finite(engine.losses, window)
        on_grid = window.stop % config.eval_every == 0 or window.stop == config.steps
        with own_randomness():
            seconds, answers = watch.laps_s[-1], engine.right()
            yield WindowEnd(window.stop, len(window), seconds, on_grid, engine.rate(), answers)
        check_budget(config, watch.total_s, window.stop)


def windows(config: TrainConfig) -> Iterator[range]:
    """The timing windows: ranges of steps that cover the training and never cross a step of the evaluation grid."""
    start = 0
    while start < config.steps:
        next_grid = (start // config.eval_every + 1) * config.eval_every
        stop = min(start + config.window_steps, next_grid, config.steps)
        yield range(start, stop)
        start = stop


def check_budget(config: TrainConfig, seconds: float, step: int) -> None:
    """End a training that took too long and has not reached its end.

    Args:
        config: its length and ``max_seconds``.
        seconds: of training so far; of a stack, the trial's share of them.
        step: updates made.

    Raises:
        TimeBudgetError: ``config.max_seconds`` have passed.
    """
    if config.max_seconds is not None and seconds > config.max_seconds and step < config.steps:
        raise TimeBudgetError(f"train.max_seconds={config.max_seconds} reached after {step} steps")


def check_finite(losses: torch.Tensor, window: range) -> None:
    """End a training whose loss is no finite number any more.

    Args:
        losses: (steps,), filled up to the end of the window.
        window: the steps that are looked at.

    Raises:
        DivergedError: naming the first step of the window whose loss is not finite.
    """
    finite = torch.isfinite(losses[window.start : window.stop]).tolist()
    if False in finite:
        raise DivergedError(window.start + finite.index(False))
