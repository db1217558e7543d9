"""One look at a network between two timing windows: scores in evaluation mode, and what each tensor and layer did.

Nothing here changes the network, its buffers or the random numbers that it draws in training; see ``harness.looking``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch

from harness import data, metrics, signals
from harness.config import TrialConfig
from harness.data import Digits
from harness.metrics import Score, TensorProbe
from harness.models import Network
from harness.train import WindowEnd


@dataclass(frozen=True)
class Look:
    """What one evaluation saw.

    Attributes:
        scores: columns of ``curves`` -> value.
        probes: one entry for each parameter.
        test_logits: logits (N, classes) of all test images.
    """

    scores: dict[str, float | None]
    probes: list[TensorProbe]
    test_logits: torch.Tensor


def evaluate(network: Network, digits: Digits, config: TrialConfig, initial: Mapping[str, torch.Tensor]) -> Look:
    """Score the network and describe its tensors.

    Args:
        network: as it is now.
        digits: the images and labels that it is scored on, on its device.
        config: of the trial.
        initial: parameter name -> its initial value, on the same device.
    """
    batch_size = config.train.batch_size
    test_logits = metrics.logits_of(network, digits.test_images)
    seen = data.train_eval_count(config.data, batch_size)
    train_logits = metrics.logits_of(network, digits.train_images[:seen])
    scores: dict[str, float | None] = {
        **_columns("train", metrics.score(train_logits, digits.train_labels[:seen])),
        **_columns("test", metrics.score(test_logits, digits.test_labels)),
        **_validation(network, digits),
    }
    probes = min(batch_size, data.TRAIN_EVAL_IMAGES)
    batch_signals = signals.record(network, digits.train_images[:probes], digits.train_labels[:probes])
    return Look(scores, metrics.probe(network, initial, batch_signals), test_logits)


def training_columns(ends: Sequence[WindowEnd], losses: torch.Tensor, batch_size: int) -> dict[str, float | None]:
    """Return the columns of ``curves`` that training itself gives, without another pass through the network.

    Args:
        ends: ends of all windows so far; the last one is where the network is looked at.
        losses: float32 (steps,), the loss of each step's batch before its update.
        batch_size: images of a step.
    """
    since = list(takewhile(lambda end: not end.evaluate, reversed(ends[:-1])))
    steps = sum(end.steps for end in [ends[-1], *since])
    columns: dict[str, float | None] = {"lr": ends[-1].lr, "batch_loss": None, "batch_accuracy": None}
    if steps:
        right = sum(end.right for end in [ends[-1], *since])
        of_batches = losses[ends[-1].step - steps : ends[-1].step]
        columns |= {"batch_loss": float(of_batches.double().mean()), "batch_accuracy": right / (steps * batch_size)}
    return columns


def _validation(network: Network, digits: Digits) -> dict[str, float | None]:
    """Score the images that are held out; null without any."""
    if digits.validation_images is None or digits.validation_labels is None:
        return {"validation_loss": None, "validation_accuracy": None}
    logits = metrics.logits_of(network, digits.validation_images)
    return {**_columns("validation", metrics.score(logits, digits.validation_labels))}


def _columns(split: str, score: Score) -> dict[str, float]:
    return {f"{split}_loss": score.loss, f"{split}_accuracy": score.accuracy}
