"""A against A: how much two runs of one program differ, what that lets a gate see, and thresholds that follow.

All folders hold the same configs and seeds, measured by the same program on the same machine. Every two of them are
paired as base and candidate would be. For each arm and measure

* the noise floor is the largest change that the folders do not exclude: the end farthest from zero of the intervals of
  all pairs of folders. A drift of the machine from one folder to the next is in it;
* the deviation is that of the differences of pairs, over all pairs of folders (root mean square);
* the threshold of a kind is the largest noise floor of its measures, rounded up, and at least ``Kind.floor``;
  that of a kind that is not judged is the default.

The minimum detectable effect is the smallest true change that the gate calls a regression with the power of the rules.
It counts every arm and measure that is judged as a comparison of the family. Where runs repeat bit by bit (convergence
on a CPU) there is no noise here; what a changed program does to other seeds is then seen in a comparison alone.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from harness.analysis.comparison import paired
from harness.compare import checks
from harness.compare.differences import MeasureDifferences, measure_differences
from harness.compare.judgement import Rules
from harness.compare.measures import KINDS, Kind, for_people, on_scale, thresholds_with
from harness.compare.pairs import seed_results
from harness.compare.power import pairs_needed, repetitions_needed, reported
from harness.compare.preparation import named_arms, prepare
from harness.errors import UsageError
from harness.results import SPEED, text_of

if TYPE_CHECKING:
    import pandas as pd

_FORMAT = "initbench thresholds 1"
_LEARNING = ",".join(name for name, kind in KINDS.items() if kind.learning)


class _Numbers(TypedDict):
    threshold: float
    comparisons: int
    alpha: float
    power: float


@dataclass(frozen=True)
class Noise:
    """What one arm and measure does where nothing changed.

    Attributes:
        arm: its label.
        measure: name.
        kind: of the measure.
        n: pairs, of the folders that have the fewest.
        floor: the largest change that is not excluded, as people read it.
        deviation: of the differences of pairs, on the scale of the measure.
        detectable: the smallest true change that the gate reports; infinity if n can show none.
        effect: what shall be seen.
        pairs: seeds needed for it; None if no number will do.
        repetitions: of every trial needed for it with n seeds; None if no number will do.
    """

    arm: str
    measure: str
    kind: str
    n: int
    floor: float
    deviation: float
    detectable: float
    effect: float
    pairs: int | None
    repetitions: int | None


@dataclass(frozen=True)
class Calibration:
    """The noise of all arms and measures, and the thresholds.

    Attributes:
        noise: one per arm and measure.
        thresholds: kind -> threshold.
        family: comparisons that the power is corrected for.
        rules: level and power.
        errors: why nothing was measured; then all else is empty.
    """

    noise: tuple[Noise, ...]
    thresholds: Mapping[str, float]
    family: int
    rules: Rules
    errors: tuple[str, ...] = ()


def calibrate(
    sides: "Sequence[pd.DataFrame]", names: Sequence[str], rules: Rules, effects: Mapping[str, float]
) -> Calibration:
    """Measure the noise of several runs of one program.

    Args:
        sides: the trials of at least two folders.
        names: what to call them.
        rules: level, power and what is judged; its thresholds are not used.
        effects: kind -> the change that shall be seen; twice the threshold for the others.
    """
    differences, errors = _differences_of(sides, names, rules)
    if errors:
        return Calibration((), {}, 0, rules, tuple(errors))
    floors = {key: _floor(several, rules) for key, several in differences.items()}
    thresholds = {
        name: _threshold(kind, [floors[key] for key in differences if differences[key][0].measure.kind == kind])
        for name, kind in KINDS.items()
    }
    wanted = {name: effects.get(name, 2 * threshold) for name, threshold in thresholds.items()}
    noise = (
        _noise(several, floors[key], rules, thresholds=thresholds, effects=wanted, family=len(differences))
        for key, several in differences.items()
    )
    return Calibration(tuple(noise), thresholds, len(differences), rules)


def _differences_of(
    sides: "Sequence[pd.DataFrame]", names: Sequence[str], rules: Rules
) -> tuple[dict[tuple[str, str], list[MeasureDifferences]], list[str]]:
    """For every arm and measure the differences between every two folders."""
    by_measure: dict[tuple[str, str], list[MeasureDifferences]] = defaultdict(list)
    every = [seed_results(side) for side in sides]
    arms = named_arms([result for results in every for result in results])
    for one, other in combinations(range(len(sides)), 2):
        prepared = prepare(every[one], every[other], (names[one], names[other]), arms)
        errors = checks.incomparable(prepared, allow_missing=False, allow_hardware=False)
        errors += [
            f"{line}; run them where the processor has a name, or leave speed out by --judge {_LEARNING}"
            for line in checks.unknown_hardware(prepared, rules.judged)
        ]
        if errors:
            return {}, errors
        for own in measure_differences(prepared, rules):
            if not own.skip and len(own.differences):
                by_measure[own.arm, own.measure.name].append(own)
    return dict(by_measure), []


def _floor(several: Sequence[MeasureDifferences], rules: Rules) -> float:
    """As people read it."""
    ends = [0.0]
    for own in several:
        test = paired(own.differences, 1 - rules.alpha)
        ends += [test.mean] if test.interval is None else [test.interval.low, test.interval.high]
    return for_people(several[0].measure.kind, max(abs(end) for end in ends))


def _threshold(kind: Kind, floors: Sequence[float]) -> float:
    """What no measure of the kind exceeded; where none was measured, the default."""
    return max(kind.floor, *map(_rounded_up, floors)) if floors else kind.threshold


def _rounded_up(value: float) -> float:
    """To two digits."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    # a value of two digits must stay as it is, although its quotient is not exact
    return round(math.ceil(value / unit - 1e-9) * unit, 12)


def _noise(
    several: Sequence[MeasureDifferences],
    floor: float,
    rules: Rules,
    *,
    thresholds: Mapping[str, float],
    effects: Mapping[str, float],
    family: int,
) -> Noise:
    first, n = several[0], min(len(own.differences) for own in several)
    kind = first.measure.kind
    deviation = _deviation(several)
    threshold, effect = (on_scale(kind, of[kind.name]) for of in (thresholds, effects))
    numbers = _Numbers(threshold=threshold, comparisons=family, alpha=rules.alpha, power=rules.power)
    return Noise(
        arm=first.arm,
        measure=first.measure.name,
        kind=kind.name,
        n=n,
        floor=floor,
        deviation=deviation,
        detectable=for_people(kind, reported(deviation, n, **numbers)) if n > 1 else math.inf,
        effect=effects[kind.name],
        pairs=pairs_needed(deviation, effect, **numbers),
        repetitions=repetitions_needed(deviation, effect, n, **numbers),
    )


def _deviation(several: Sequence[MeasureDifferences]) -> float:
    variances = [float(own.differences.var(ddof=1)) for own in several if len(own.differences) > 1]
    return math.sqrt(np.mean(variances)) if variances else math.inf


def as_file(calibration: Calibration, sides: "Sequence[pd.DataFrame]", names: Sequence[str]) -> dict[str, Any]:
    """What is written as thresholds: the values, and by what they were measured."""
    first = sides[0]
    return {
        "format": _FORMAT,
        "thresholds": dict(calibration.thresholds),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "folders": list(names),
        "hardware": _hardware(first),
        "level": 1 - calibration.rules.alpha,
        "noise": [{key: finite(value) for key, value in asdict(noise).items()} for noise in calibration.noise],
    }


def _hardware(trials: "pd.DataFrame") -> dict[str, list[str]]:
    return {column: sorted(map(text_of, trials[column].dropna().unique())) for column in SPEED}


def finite(value: Any) -> Any:  # noqa: ANN401 - whatever JSON may hold
    """None for NaN and infinities, which JSON lacks."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def foreign(path: Path, trials: "pd.DataFrame") -> list[str]:
    """A note if the thresholds of a file were measured on hardware other than that of these trials."""
    there, here = json.loads(path.read_text()).get("hardware"), _hardware(trials)
    if there == here:
        return []
    return [f"the thresholds in {path} were measured on other hardware ({there}) than BASE ({here})."]


def read_thresholds(path: Path) -> dict[str, float]:
    """The thresholds of a file that a calibration wrote.

    Raises:
        UsageError: it is none.
    """
    try:
        return thresholds_with(_checked(json.loads(path.read_text())))
    except OSError as error:
        raise UsageError(f"--thresholds {path}: cannot be read ({error.strerror}); --calibrate writes one") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"--thresholds {path}: no thresholds of --calibrate ({reason})") from error


def _checked(content: Mapping[str, Any]) -> dict[str, float]:
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']}, this program reads {_FORMAT}")
    thresholds = {str(name): float(value) for name, value in content["thresholds"].items()}
    if unknown := sorted(set(thresholds) - set(KINDS)):
        raise ValueError(f"unknown {', '.join(unknown)}; known are {', '.join(KINDS)}")
    if not all(0 < value < math.inf for value in thresholds.values()):
        raise ValueError("a threshold is no positive number")
    return thresholds
