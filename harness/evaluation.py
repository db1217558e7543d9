"""One look at a network between two timing windows: scores in evaluation mode, and what each tensor and layer did.

Nothing here changes the network, its buffers or the random numbers that it draws in training; see ``harness.looking``.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from harness import data, metrics, signals
from harness.config import TrialConfig
from harness.data import Digits
from harness.metrics import Score, TensorProbe
from harness.own_models import AnyNetwork


@dataclass(frozen=True)
class Look:
    """What one evaluation saw.

    Attributes:
        scores: columns of ``curves`` -> value.
        probes: one entry for each parameter.
        test_logits: logits (N, classes) of all test images.
    """

    scores: dict[str, float]
    probes: list[TensorProbe]
    test_logits: torch.Tensor


def evaluate(network: AnyNetwork, digits: Digits, config: TrialConfig, initial: Mapping[str, torch.Tensor]) -> Look:
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
    scores = {
        **_columns("train", metrics.score(train_logits, digits.train_labels[:seen])),
        **_columns("test", metrics.score(test_logits, digits.test_labels)),
    }
    probes = min(batch_size, data.TRAIN_EVAL_IMAGES)
    batch_signals = signals.record(network, digits.train_images[:probes], digits.train_labels[:probes])
    return Look(scores, metrics.probe(network, initial, batch_signals), test_logits)


def _columns(split: str, score: Score) -> dict[str, float]:
    return {f"{split}_loss": score.loss, f"{split}_accuracy": score.accuracy}
