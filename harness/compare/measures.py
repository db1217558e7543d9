"""What is compared: the measures, which way is worse, on which scale, and what difference matters unless told."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from harness.analysis.intervals import Array
from harness.errors import UsageError


@dataclass(frozen=True)
class Kind:
    """A kind of measure; one threshold holds for all measures of a kind.

    Attributes:
        name: as in ``--threshold NAME=VALUE``.
        worse: 1 if a larger value is worse, -1 if a smaller one is.
        scale: key of ``SCALES``.
        threshold: the smallest change that matters: a share (0.05 is 5%), of accuracy a difference.
        floor: the smallest threshold that a calibration sets, for less is no matter even where there is no noise.
        learning: whether it is about convergence; False: about speed.
    """

    name: str
    worse: int
    scale: str
    threshold: float
    floor: float
    learning: bool


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("steps", 1, "relative", 0.10, 0.10, learning=True),
        Kind("test_loss", 1, "relative", 0.05, 0.05, learning=True),
        Kind("test_accuracy", -1, "absolute", 0.01, 0.01, learning=True),
        Kind("images_per_s", -1, "log", 0.05, 0.01, learning=False),
    )
}
"""Name -> kind."""


@dataclass(frozen=True)
class Measure:
    """One measure of a trial: a kind, and for steps the target.

    Attributes:
        kind: what it is.
        target: test accuracy to reach; None for kinds without targets.
    """

    kind: Kind
    target: float | None = None

    @property
    def name(self) -> str:
        """For people and files, e.g. ``steps to 0.9``."""
        titles = {"test_loss": "test loss", "test_accuracy": "test accuracy", "images_per_s": "images/s"}
        return f"steps to {self.target:g}" if self.target is not None else titles[self.kind.name]


def measures(targets: Iterable[float]) -> list[Measure]:
    """All of them, for these targets."""
    steps = [Measure(KINDS["steps"], target) for target in targets]
    return [*steps, *(Measure(kind) for kind in KINDS.values() if kind.name != "steps")]


def _relative(base: Array, candidate: Array) -> Array:
    return np.asarray((candidate - base) / base.mean())


def _absolute(base: Array, candidate: Array) -> Array:
    return candidate - base


def _log(base: Array, candidate: Array) -> Array:
    return np.asarray(np.log(candidate / base))


SCALES: dict[str, Callable[[Array, Array], Array]] = {"relative": _relative, "absolute": _absolute, "log": _log}
"""Scale -> differences (n,) from the values of base (n,) and candidate (n,), positive where the latter's are larger."""


def on_scale(kind: Kind, change: float) -> float:
    """A change as people give it (0.05: 5%) on the scale of the differences."""
    return math.log1p(change) if kind.scale == "log" else change


def for_people(kind: Kind, difference: float) -> float:
    """The reverse of :func:`on_scale`; infinity stays."""
    return math.expm1(difference) if kind.scale == "log" and math.isfinite(difference) else difference


def parse_values(texts: Iterable[str], option: str) -> dict[str, float]:
    """``NAME=VALUE`` texts as kind -> change; 5% is 0.05.

    Raises:
        UsageError: an unknown name, or a value that is no positive number.
    """
    changes: dict[str, float] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in KINDS:
            raise UsageError(f"{option} {text}: give NAME=VALUE; NAME is one of: {', '.join(KINDS)}")
        changes[name] = _number(value, f"{option} {text}")
    return changes


def _number(text: str, given: str) -> float:
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{given}: the value must be a positive number, such as 0.05 or 5%")
    return value


def thresholds_with(changed: Mapping[str, float]) -> dict[str, float]:
    """Kind -> threshold: those given, and the defaults of the others."""
    return {name: changed.get(name, kind.threshold) for name, kind in KINDS.items()}
