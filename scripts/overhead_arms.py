"""The three training loops that bench_overhead.py compares, and the gate that refuses them unless they do the same.

All train the article's network from the same weights on the same first images:

    harness    ``harness.train.train`` as a trial runs it: windows, clocks, recorded losses, non-finite check
    plain      a plain loop over an ``nn.Sequential`` in torch's default NCHW, layers in the order of the article
    tuned      the same loop with the harness's two choices: channels last, pooling before relu
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

import harness
from harness import TrialConfig, data, device, initializers, models, torch_state
from harness.engine.eager import Eager
from harness.train import batch_source, optimizer_for, train

CPU = torch.device("cpu")
GATE_STEPS, GATE_RTOL = 20, 5e-6
# rounding stays below 3e-7 here, and a learning rate off by 1% shows as 4e-5; on raw pixels rounding grows to 2e-3
GATE_OVERRIDES = ("data.scaling=unit", "optimizer.lr=0.005")


@dataclass(frozen=True)
class TrainingTask:
    """What every arm trains: images x_NCHW (N, 1, 28, 28), labels (N,), the initial parameters in order."""

    config: TrialConfig
    images_NCHW: torch.Tensor  # noqa: N815 - a shape suffix
    labels: torch.Tensor
    initial: list[torch.Tensor]


TrainingRun = Callable[[], torch.Tensor]
"""Trains all steps; float32 (steps,): the loss of each before its update."""
TrainingArm = Callable[[TrainingTask], TrainingRun]
"""Builds network and optimizer; what it returns is what is timed."""


class GateError(Exception):
    """The arms do not compute the same."""


def task(batch_size: int, steps: int, *overrides: str) -> TrainingTask:
    """A default trial on the CPU but for these."""
    config = harness.load_config(["device=cpu", f"train.batch_size={batch_size}", f"train.steps={steps}", *overrides])
    digits = data.to_device(data.load(config.data), config.data, CPU)
    network = harness_network(config)
    initializers.apply(config.init, network, seed=config.seed, activation=config.model.activation)
    initial = [value.detach().clone() for value in network.parameters()]
    return TrainingTask(config, digits.train_images[:batch_size], digits.train_labels[:batch_size], initial)


def harness_network(config: TrialConfig) -> models.Network:
    """The network as a trial builds it."""
    network = models.build(config.model)
    return network.to(memory_format=device.memory_format(config.device, CPU))


@torch.no_grad()
def fill(network: nn.Module, values: Sequence[torch.Tensor]) -> None:
    """Copy the parameters in, in order."""
    for parameter, value in zip(network.parameters(), values, strict=True):
        parameter.copy_(value)


def harness_arm(task: TrainingTask) -> TrainingRun:
    """The harness's own loop, under its own flags."""
    config = task.config
    network = harness_network(config)
    fill(network, task.initial)
    optimizer = optimizer_for(network, config.optimizer)
    batch = batch_source(task.images_NCHW, task.labels, None, config.train.batch_size)
    losses = torch.full((config.train.steps,), torch.nan)

    def run() -> torch.Tensor:
        with torch_state.set_for(config.device):
            for _ in train(Eager(network, optimizer, batch, losses), config.train):
                pass
        return losses

    return run


def plain_network(*, pool_first: bool) -> nn.Sequential:
    """The article's network in torch's own layers."""
    relu_and_pool = [nn.ReLU(), nn.MaxPool2d(2)]
    convolutions = [layer for _ in range(3) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        *(reversed(relu_and_pool) if pool_first else relu_and_pool),
        *convolutions,
        nn.Flatten(),
        nn.Linear(32 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


def plain_loop(task: TrainingTask, network: nn.Sequential, images_NCHW: torch.Tensor) -> TrainingRun:
    """The loop of a tutorial, under torch's own flags."""
    torch.use_deterministic_algorithms(mode=False)
    fill(network, task.initial)
    optimizer = torch.optim.SGD(network.parameters(), lr=task.config.optimizer.lr)

    def run() -> torch.Tensor:
        losses = []
        for _ in range(task.config.train.steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(network(images_NCHW), task.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    return run


def plain_arm(task: TrainingTask) -> TrainingRun:
    """Nothing tuned."""
    return plain_loop(task, plain_network(pool_first=False), task.images_NCHW)


def tuned_arm(task: TrainingTask) -> TrainingRun:
    """Channels last, pooling before relu."""
    network = plain_network(pool_first=True).to(memory_format=torch.channels_last)
    return plain_loop(task, network, task.images_NCHW.to(memory_format=torch.channels_last))


ARMS: dict[str, TrainingArm] = {"harness": harness_arm, "plain": plain_arm, "tuned": tuned_arm}


def gate(arms: dict[str, TrainingArm], batch_size: int) -> None:
    """Nothing may be timed unless every arm's losses are the harness's, step by step.

    Raises:
        GateError: naming arm, step and both losses.
    """
    gated = task(batch_size, GATE_STEPS, *GATE_OVERRIDES)
    ours = arms["harness"](gated)()
    for name in [name for name in arms if name != "harness"]:
        theirs = arms[name](gated)()
        wrong = ~torch.isclose(theirs, ours, rtol=GATE_RTOL, atol=0)
        if wrong.any():
            step = int(wrong.nonzero()[0])
            raise GateError(
                f"batch {batch_size}: the arm '{name}' differs at step {step}: loss {theirs[step]:.7g}, "
                f"harness {ours[step]:.7g}, allowed relative difference {GATE_RTOL:g}; no speed is reported"
            )
