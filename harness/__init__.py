"""Train many small networks that differ in their initial weights; measure convergence, speed and what each layer did.

For notebooks::

    import harness
    config = harness.load_config(["init=zero", "train.steps=200"])
    result = harness.run_trial(config)
    trials, curves, layers = harness.load("outputs/results")

For a model of your own, whatever it is made of::

    harness.diagnose(model, batches, optimizer=optimizer)

Importing this package imports neither torch nor pandas; the functions do when they are first called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.compose import load_config
from harness.config import TrialConfig

if TYPE_CHECKING:
    import torch

    from harness.diagnosis import Diagnosis
    from harness.diagnosis.batches import Batches
    from harness.diagnosis.case import Loss, Optimizer
    from harness.results import Frames
    from harness.trial import TrialResult

__all__ = ["TrialConfig", "diagnose", "load", "load_config", "run_trial"]
__version__ = "0.1.0"


def run_trial(config: TrialConfig) -> "TrialResult":
    """Run one trial and write its rows below ``config.results.dir``; see :func:`harness.trial.run_trial`."""
    from harness import trial

    return trial.run_trial(config)


def diagnose(
    model: "torch.nn.Module",
    batches: "Batches",
    *,
    loss: "Loss | None" = None,
    optimizer: "Optimizer | None" = None,
    steps: int | None = None,
) -> "Diagnosis":
    """Say why a model will or will not learn, and which tensor is at fault; see :func:`harness.diagnosis.diagnose`.

    Args:
        model: any ``torch.nn.Module``, filled with its initial values. It is left as it was.
        batches: pairs (inputs, targets), such as a DataLoader.
        loss: (output of the model, targets) -> a single number; None: cross entropy.
        optimizer: of this model, or a function parameters -> optimizer; None: SGD with learning rate 0.01.
        steps: how many steps are watched at most; None: two more than the model has layers with weights.
    """
    from torch.nn.functional import cross_entropy

    from harness import diagnosis

    return diagnosis.diagnose(model, batches, loss=loss or cross_entropy, optimizer=optimizer, steps=steps)


def load(folder: str | Path) -> "Frames":
    """Read a results folder as the frames (trials, curves, layers); see :func:`harness.results.load`."""
    from harness import results

    return results.load(folder)
