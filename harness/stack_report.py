"""What a stack is asked to run, and what it answers."""

from dataclasses import dataclass, field

from harness.config import SweepPlace, TrialConfig


@dataclass(frozen=True)
class Order:
    """A trial that a stack is to run; see :func:`harness.run_trial`."""

    trial_id: str
    config: TrialConfig
    place: SweepPlace
    owner: str


@dataclass
class StackReport:
    """What became of those trials of a stack that have no row.

    Attributes:
        refused: trial -> why it cannot be run as it was asked for.
        broken: trial -> why its rows could not be written.
        again: the trials that did not end, because the launch failed or held no more of them.
        most: how many of those may share a launch.
        reason: why the launch failed; "" if it did not.
        holds: how many of such trials the device holds, where it is too few for all; None: that is not known.
    """

    refused: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    again: list[str] = field(default_factory=list)
    most: int = 1
    reason: str = ""
    holds: int | None = None
