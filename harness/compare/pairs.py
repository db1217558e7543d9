"""The result of each config and seed, over all repetitions of its key; and those of two sides as pairs."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from harness.results import CHOICES, COUNTED, ENVIRONMENT, HARDWARE, SPEED, is_missing, text_of

if TYPE_CHECKING:
    import pandas as pd

CHANCE = 0.1
"""The accuracy that a diverged network is given: it answers every one of the ten digits alike."""

COLUMNS = (
    "trial_id", "trial_key", "arm_key", "status", "error_type", "error_message", "seed", "targets",
    "steps_to_target", "test_loss_last", "test_accuracy_last", "images_per_s_median", "final_weights_sha256",
    "measured_at", *HARDWARE, *ENVIRONMENT, *CHOICES,
)  # fmt: skip
"""The columns of trials that a comparison reads."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SeedResult:
    """One config with its seed on one device: the average of its repetitions.

    Attributes:
        key: ``trial_key``.
        device: cpu or cuda.
        arm: ``arm_key``.
        seed: the seed.
        status: ``ok`` or ``diverged`` if any repetition is, else how the last one ended.
        message: the error of the last repetition.
        values: measure's name -> value; a measure that it does not have is not in it.
        targets: those whose first crossing was recorded.
        weights: hash of the final weights; None if unknown, or if repetitions differ.
        reproducible: whether all repetitions ended with the same bits; None for a single one.
        speed: column of ``SPEED`` -> the conditions that the measured repetitions ran under.
        reached: targets that some repetition reached.
        row: the last measured repetition's row (the last one's if none was measured).
    """

    key: str
    device: str
    arm: str
    seed: int
    status: str
    message: str
    values: Mapping[str, float]
    targets: frozenset[float]
    weights: str | None
    reproducible: bool | None
    speed: Mapping[str, frozenset[str]]
    reached: frozenset[float]
    row: Row = field(repr=False)

    @property
    def measured(self) -> bool:
        """Whether it has results."""
        return self.status in COUNTED


@dataclass(frozen=True)
class Pair:
    """The same config and seed on both sides."""

    base: SeedResult
    candidate: SeedResult


@dataclass(frozen=True)
class Pairing:
    """What two sides have in common and what not."""

    pairs: list[Pair]
    only_base: list[SeedResult]
    only_candidate: list[SeedResult]


def seed_results(trials: "pd.DataFrame") -> list[SeedResult]:
    """Return one result for each ``trial_key``, by arm and seed.

    Args:
        trials: with the columns ``COLUMNS``.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in _plain_rows(trials):
        groups[row["trial_key"]].append(row)
    results = [_result(key, rows) for key, rows in groups.items()]
    return sorted(results, key=lambda result: (result.arm, result.seed, result.key))


def _plain_rows(trials: "pd.DataFrame") -> Iterator[Row]:
    """Rows in the order they were measured in, with None for every kind of missing value."""
    there = [name for name in COLUMNS if name in trials.columns]
    ordered = trials[there].sort_values(["measured_at", "trial_id"])
    for values in zip(*(ordered[name].tolist() for name in there), strict=True):
        yield {name: None if is_missing(value) else value for name, value in zip(there, values, strict=True)}


def _result(key: str, rows: Sequence[Row]) -> SeedResult:
    measured = [row for row in rows if row["status"] in COUNTED]
    used = measured or rows
    last = used[-1]
    hashes = {row["final_weights_sha256"] for row in measured}
    (weights,) = hashes if len(hashes) == 1 else (None,)
    failed = ": ".join(filter(None, [last["status"], last.get("error_type"), last.get("error_message")]))
    return SeedResult(
        key=key,
        device=str(last["device"]),
        arm=str(last["arm_key"]),
        seed=int(last["seed"]),
        status="ok" if any(row["status"] == "ok" for row in measured) else str(last["status"]),
        message="" if measured else " ".join(failed.split()),
        values=_values(measured),
        targets=frozenset(float(target) for target in last["targets"]) if measured else frozenset(),
        weights=weights,
        reproducible=len(hashes) == 1 if len(measured) > 1 else None,
        speed={name: frozenset(text_of(row.get(name)) for row in measured) for name in SPEED},
        reached=frozenset(target for row in measured for target, at in _crossings(row) if at is not None),
        row=last,
    )


def _values(measured: Sequence[Row]) -> dict[str, float]:
    """Means over repetitions, of throughput the median; only what is finite."""
    lists: dict[str, list[float]] = defaultdict(list)
    for row in measured:
        for name, value in _values_of(row):
            if value is not None and math.isfinite(value):
                lists[name].append(float(value))
    return {name: median(values) if name == "images/s" else fmean(values) for name, values in lists.items()}


def _crossings(row: Row) -> Iterator[tuple[float, float | None]]:
    """Each target and the step at which it was reached."""
    reached = row["steps_to_target"]
    for position, target in enumerate(row["targets"]):
        missing = reached is None or is_missing(reached[position])
        yield float(target), None if missing else float(reached[position])


def _values_of(row: Row) -> Iterator[tuple[str, float | None]]:
    budget = float(row["steps"])
    for target, at in _crossings(row):
        yield f"steps to {target:g}", budget if at is None else min(at, budget)
    if row["status"] == "ok":
        yield "test loss", row["test_loss_last"]
        yield "test accuracy", row["test_accuracy_last"]
        yield "images/s", row["images_per_s_median"]
    else:
        yield "test accuracy", CHANCE


def pair_up(base: Iterable[SeedResult], candidate: Iterable[SeedResult]) -> Pairing:
    """Pair results of both sides with the same key; a candidate that was killed is as good as missing."""
    ours = {result.key: result for result in base}
    theirs = {result.key: result for result in candidate if result.status != "killed"}
    pairs = [Pair(result, theirs[key]) for key, result in ours.items() if key in theirs]
    return Pairing(
        pairs,
        [result for key, result in ours.items() if key not in theirs],
        [result for key, result in theirs.items() if key not in ours],
    )
