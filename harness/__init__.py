"""Train many small networks that differ in their initial weights; measure convergence, speed and what each layer did.

For notebooks::

    import harness
    config = harness.load_config(["init=zero", "train.steps=200"])
    result = harness.run_trial(config)
    trials, curves, layers = harness.load("outputs/results")

Importing this package does not import torch; ``run_trial`` does when it is first called.
"""

from typing import TYPE_CHECKING

from harness.config import TrialConfig, load_config
from harness.results import Frames, load

if TYPE_CHECKING:
    from harness.trial import TrialResult

__all__ = ["Frames", "TrialConfig", "load", "load_config", "run_trial"]
__version__ = "0.1.0"


def run_trial(config: TrialConfig) -> "TrialResult":
    """Run one trial and write its rows below ``config.results.dir``; see :func:`harness.trial.run_trial`."""
    from harness import trial

    return trial.run_trial(config)
