"""Train many small networks that differ in their initial weights; measure convergence, speed and what each layer did.

For notebooks::

    import harness
    config = harness.load_config(["init=zero", "train.steps=200"])
    result = harness.run_trial(config)
    trials, curves, layers = harness.load("outputs/results")

Importing this package imports neither torch nor pandas; the functions do when they are first called.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from harness.compose import load_config
from harness.config import TrialConfig

if TYPE_CHECKING:
    from harness.results import Frames
    from harness.trial import TrialResult

__all__ = ["TrialConfig", "load", "load_config", "run_trial"]
__version__ = "0.1.0"


def run_trial(config: TrialConfig) -> "TrialResult":
    """Run one trial and write its rows below ``config.results.dir``; see :func:`harness.trial.run_trial`."""
    from harness import trial

    return trial.run_trial(config)


def load(folder: str | Path) -> "Frames":
    """Read a results folder as the frames (trials, curves, layers); see :func:`harness.results.load`."""
    from harness import results

    return results.load(folder)
