"""Engines: how the steps of a training are executed; :class:`harness.train.Engine` is what each offers."""

from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from harness.config import TrialConfig
from harness.engine import graph
from harness.engine.compiled import Compiled
from harness.engine.eager import Eager
from harness.engine.graph import Graph
from harness.errors import TimeBudgetError, let_go
from harness.train import Batches, Engine, optimizer_for
from harness.wording import error_text

__all__ = ["Engine", "Prepared", "Rewindable", "build", "prepare"]


@runtime_checkable
class Rewindable(Engine, Protocol):
    """An engine that was compiled or captured, and takes some steps to be set against eager before it trains."""

    def rewind(self) -> None:
        """Begin at step 0 again with a fresh optimizer; the parameters are the caller's business."""


_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@dataclass(frozen=True)
class Prepared:
    """An engine that is ready to train.

    Attributes:
        engine: at step 0.
        name: which one it is: eager, compiled or graph.
        exact: whether its arithmetic is that of eager, bit for bit.
        reason: why it is eager where graph was asked for; None: it is what was asked for.
    """

    engine: Engine
    name: str
    exact: bool = True
    reason: str | None = None


def build(config: TrialConfig, network: nn.Module, batches: Batches, losses: torch.Tensor) -> Eager:
    """Return the eager engine, with a fresh optimizer.

    Args:
        config: of the trial.
        network: what is trained; its parameters are updated in place.
        batches: of each step.
        losses: float32 (steps,) on the device of the network; filled as training goes.
    """
    optimizer = optimizer_for(network, config.optimizer, steps=config.train.steps)
    return Eager(network, optimizer, batches, losses)


def prepare(config: TrialConfig, network: nn.Module, batches: Batches, losses: torch.Tensor) -> Prepared:
    """Return the engine that a config names, compiled or captured where it is; the network stays as it is.

    The arguments are those of :func:`build`.

    Raises:
        Exception: whatever torch raises where the steps cannot be compiled or captured, and nothing is to fall back to.
    """
    if config.engine.name == "graph":
        return _graph_or_eager(config, network, batches, losses)
    if config.engine.name == "compiled":
        new_optimizer = partial(optimizer_for, network, config.optimizer, steps=config.train.steps)
        compiled = Compiled(network, new_optimizer, batches, losses)
        compiled.prepare()
        return Prepared(compiled, "compiled", exact=False)
    return Prepared(build(config, network, batches, losses), "eager")


def _graph(config: TrialConfig, network: nn.Module, batches: Batches, losses: torch.Tensor) -> Graph:
    """Captured; a function of its own, so that where capturing fails no frame holds what was made."""
    made = Graph(network, config.optimizer, batches, losses, config.train)
    made.prepare()
    return made


def _graph_or_eager(config: TrialConfig, network: nn.Module, batches: Batches, losses: torch.Tensor) -> Prepared:
    if config.engine.fallback and any(isinstance(module, _DROPOUTS) for module in network.modules()):
        reason = "dropout: its masks in a CUDA graph were never compared with those of eager"
        return Prepared(build(config, network, batches, losses), "eager", reason=reason)
    try:
        made = _graph(config, network, batches, losses)
    except (TimeBudgetError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if not config.engine.fallback:
            raise
        # what failed holds graphs and their memory
        let_go(error)
        losses.fill_(torch.nan)
        return Prepared(build(config, network, batches, losses), "eager", reason=error_text(error))
    exact = config.device.deterministic and graph.same_arithmetic(config.optimizer, losses.device)
    return Prepared(made, "graph", exact=exact)
