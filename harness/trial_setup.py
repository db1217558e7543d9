"""What a trial trains: data, batches and the network on the device, filled and diagnosed."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from harness import data, diagnosis, fusion, initializers, kernel_choice, own_models
from harness.config import TrialConfig
from harness.data import Digits
from harness.diagnosis import Diagnosis, Finding
from harness.diagnosis.case import Optimizer
from harness.own_models import AnyNetwork
from harness.train import Batch, Batches, batch_source, optimizer_of


@dataclass(frozen=True)
class TrialSetup:
    """All that training needs, on the device.

    Attributes:
        network: in the trial's memory format.
        digits: images as the trial scales them, and labels.
        batch: images and labels of each step.
        trained: the same network by the trial's kernel; what is on the training clock.
    """

    network: AnyNetwork
    digits: Digits
    batch: Batches
    trained: fusion.Trained


def assemble(config: TrialConfig, target: torch.device) -> TrialSetup:
    """Data, batches and the network, which initializers have yet to fill, on the device.

    Raises:
        DataError: the data cannot be had.
        UsageError: a network of the user's own cannot be built.
    """
    digits = data.to_device(data.load(config.data), config.data, target)
    train = config.train
    indices = data.batch_indices(config.data, steps=train.steps, batch_size=train.batch_size, seed=config.seed)
    on_device = None if indices is None else indices.to(target)
    batch = batch_source(digits.train_images, digits.train_labels, on_device, train.batch_size)
    network = own_models.network_of(config.model, seed=config.seed)
    network.to(target).to(memory_format=kernel_choice.memory_format(config, target))
    return TrialSetup(network, digits, batch, fusion.Trained(network, kernel_choice.kernel_of(config)))


def initialise(config: TrialConfig, setup: TrialSetup) -> None:
    """Fill the parameters in place.

    Raises:
        ValueError: an initializer refused.
    """
    initializers.apply(config.init, setup.network, seed=config.seed, activation=config.model.activation)
    initializers.adapt(config.init, setup.network, *setup.batch(0), seed=config.seed)


def diagnose(config: TrialConfig, setup: TrialSetup) -> Diagnosis:
    """Say why the filled network will or will not learn, from a few steps on copies; see :mod:`harness.diagnosis`."""
    batch, optimizer = _as_trained(config, setup)
    return diagnosis.diagnose(own_models.subject(setup.network), batch, optimizer=optimizer)


def finding(config: TrialConfig, setup: TrialSetup) -> Finding:
    """Return the diagnosis of the whole network alone, without looking for the cause."""
    batch, optimizer = _as_trained(config, setup)
    return diagnosis.finding(own_models.subject(setup.network), batch, optimizer=optimizer)


def _as_trained(config: TrialConfig, setup: TrialSetup) -> tuple[Callable[[int], Batch], Optimizer]:
    return (lambda step: setup.batch(step % config.train.steps)), partial(
        optimizer_of, config=config.optimizer, steps=config.train.steps
    )
