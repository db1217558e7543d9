"""The section ``sweep`` of a trial's config, and a trial's place in its sweep; see ``harness.config``."""

from dataclasses import dataclass, field
from typing import Any

from harness.bounds import above, at_least, bound

# in a YAML file, off without quotation marks is false
_STACKS = ("off", "auto")
MOST_STACKED = 512
"""The most trials of one launch that can be asked for: each holds a lock, and a process may open about 1,000 files."""


@dataclass(frozen=True)
class SweepConfig:
    """How the trials of a sweep are run: in how many processes, how many in a launch, for how long, and which of them.

    ``workers`` is a number of processes, or auto: one for each GPU, or on a CPU one for each core. ``stack`` is how
    many trials a worker trains in one launch: off, at most so many, or auto, which is off on a CPU and on a GPU as many
    as its memory allows.
    """

    workers: Any = field(
        default=1,
        metadata=bound(
            lambda given: given == "auto" or (type(given) is int and given >= 1),
            "neither a number of processes nor auto",
            "give a whole number of at least 1, or auto",
        ),
    )
    stack: Any = field(
        default="auto",
        metadata=bound(
            lambda given: given in _STACKS or given is False or (type(given) is int and 1 <= given <= MOST_STACKED),
            "no possible number of trials",
            f"give a whole number from 1 to {MOST_STACKED}, auto or off",
        ),
    )
    trial_timeout_s: float | None = above(0, default=None)
    resume: bool = False
    trials_per_job: int = at_least(1, default=1)


@dataclass(frozen=True)
class SweepPlace:
    """Which trial of which sweep it is, and in what company it runs.

    Attributes:
        sweep_id: what all trials of one command share.
        size: how many trials that command planned.
        index: which of them this is, counted from 1.
        simultaneous_trials: how many of them run at the same time on this machine, this one included.
    """

    sweep_id: str
    size: int
    index: int
    simultaneous_trials: int = 1
