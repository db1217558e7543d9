"""Engines: how the steps of a training are executed; :class:`harness.train.Engine` is what each offers."""

import torch
from torch import nn

from harness.config import TrialConfig
from harness.engine.eager import Eager
from harness.train import Batches, Engine, optimizer_for

__all__ = ["Engine", "build"]


def build(config: TrialConfig, network: nn.Module, batches: Batches, losses: torch.Tensor) -> Engine:
    """Return what trains a network as a config says, with a fresh optimizer.

    Args:
        config: of the trial.
        network: what is trained; its parameters are updated in place.
        batches: of each step.
        losses: float32 (steps,) on the device of the network; filled as training goes.
    """
    optimizer = optimizer_for(network, config.optimizer, steps=config.train.steps)
    return Eager(network, optimizer, batches, losses)
