"""The training loop. It yields at the end of each timing window; what is done there is not on the training clock."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.config import OptimizerConfig, TrainConfig
from harness.errors import DivergedError, TimeBudgetError
from harness.looking import own_randomness
from harness.optimizers import OPTIMIZERS
from harness.timing import Stopwatch

Batch = tuple[torch.Tensor, torch.Tensor]
"""Images x_NCHW (N, 1, 28, 28) float32 and labels (N,) int64, on the training device."""


def optimizer_for(network: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return a fresh optimizer over all of the network's parameters, with the settings that it takes."""
    return optimizer_of(network.parameters(), config)


def optimizer_of(parameters: Iterable[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Return a fresh optimizer over some parameters."""
    optimizer = OPTIMIZERS[config.name]
    settings = {name: getattr(config, name) for name in optimizer.settings}
    made: torch.optim.Optimizer = getattr(torch.optim, optimizer.torch_class)(list(parameters), **settings)
    return made


@dataclass(frozen=True)
class WindowEnd:
    """Where training stands between two timing windows.

    Attributes:
        step: updates made so far.
        steps: updates made in the window that ends here; 0 before the first.
        seconds: training time of that window.
        evaluate: whether ``step`` is on the evaluation grid.
    """

    step: int
    steps: int
    seconds: float
    evaluate: bool


def batch_source(
    images_NCHW: torch.Tensor, labels: torch.Tensor, indices: torch.Tensor | None, batch_size: int
) -> Callable[[int], Batch]:
    """Step -> its batch: gathered by ``indices`` (steps, batch_size) on the device, or the first images always."""
    if indices is None:
        fixed = images_NCHW[:batch_size], labels[:batch_size]
        return lambda _: fixed

    def gathered(step: int) -> Batch:
        chosen = indices[step]
        return images_NCHW.index_select(0, chosen), labels.index_select(0, chosen)

    return gathered


def take_steps(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[int], Batch],
    steps: range,
    losses: torch.Tensor,
) -> None:
    """Plain training steps; ``losses[step]`` gets the loss before the update, and nothing waits for the device."""
    for step in steps:
        losses[step] = plain_step(network, optimizer, batch(step))


def plain_step(network: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> torch.Tensor:
    """One update; returns the loss before it, detached and still on the device."""
    images_NCHW, labels = batch
    loss = F.cross_entropy(network(images_NCHW), labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Callable[[int], Batch],
    config: TrainConfig,
    losses: torch.Tensor,
) -> Iterator[WindowEnd]:
    """Train ``config.steps`` steps, yielding before the first and after each window.

    Windows are ``config.window_steps`` long and cut at the evaluation grid: step 0, each multiple of
    ``config.eval_every``, the last step. The clock runs inside a window only, and what is done between two windows
    changes none of the random numbers that dropout draws in training.

    Args:
        network: on the device of ``losses``.
        optimizer: over its parameters.
        batch: step -> batch.
        config: steps, grid and windows.
        losses: float32 (steps,) on the device; filled as training goes.

    Raises:
        DivergedError: a loss is not finite; found at the end of its window, naming its step.
        TimeBudgetError: ``config.max_seconds`` of training time have passed.
    """
    with own_randomness():
        yield WindowEnd(0, 0, 0.0, evaluate=True)
    watch = Stopwatch(losses.device)
    for window in windows(config):
        with watch:
            take_steps(network, optimizer, batch, window, losses)
        _check_finite(losses, window)
        on_grid = window.stop % config.eval_every == 0 or window.stop == config.steps
        with own_randomness():
            yield WindowEnd(window.stop, len(window), watch.laps_s[-1], evaluate=on_grid)
        if config.max_seconds is not None and watch.total_s > config.max_seconds and window.stop < config.steps:
            raise TimeBudgetError(f"train.max_seconds={config.max_seconds} reached after {window.stop} steps")


def windows(config: TrainConfig) -> Iterator[range]:
    """The timing windows: ranges of steps that cover the training and never cross a step of the evaluation grid."""
    start = 0
    while start < config.steps:
        next_grid = (start // config.eval_every + 1) * config.eval_every
        stop = min(start + config.window_steps, next_grid, config.steps)
        yield range(start, stop)
        start = stop


def _check_finite(losses: torch.Tensor, window: range) -> None:
    finite = torch.isfinite(losses[window.start : window.stop]).tolist()
    if False in finite:
        raise DivergedError(window.start + finite.index(False))
