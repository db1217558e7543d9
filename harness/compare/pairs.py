"""Trials as units (all repetitions of a key on a device), and units of two sides as pairs."""

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MEASURED = ("ok", "diverged")
"""Statuses whose trials count as results."""

HARDWARE = ("device_model", "cpu_model", "threads")
"""Columns that two machines must share for their speeds to be compared."""

CHANCE = 0.1
"""The accuracy that a diverged network is given: it answers every one of the ten digits alike."""

CHOICES = (
    "init", "kernel", "model", "activation", "depth", "width", "stride", "biases", "padding_mode", "pooling", "data",
    "batches", "scaling", "optimizer", "lr", "momentum", "weight_decay", "steps", "batch_size", "eval_every",
    "kernel_precision", "tf32", "memory_format", "deterministic",
)  # fmt: skip
COLUMNS = (
    "trial_id", "trial_key", "status", "error_type", "error_message", "seed", "device", "config", "targets",
    "steps_to_target", "test_loss_last", "test_accuracy_last", "images_per_s_median", "final_weights_sha256",
    "torch_version", "gpu_driver", "git_commit", "git_dirty", "measured_at", *HARDWARE, *CHOICES,
)  # fmt: skip
"""The columns of trials that a comparison reads."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Unit:
    """One config with its seed on one device: the average of its repetitions.

    Attributes:
        key: ``trial_key``.
        device: cpu or cuda.
        arm: hash of the config without its seed, and the device.
        seed: the seed.
        status: ``ok`` or ``diverged`` if any repetition is, else how the last one ended.
        message: the error of the last repetition.
        values: measure's name -> value; a measure that the unit does not have is not in it.
        targets: those whose first crossing was recorded.
        weights: hash of the final weights; None if unknown, or if repetitions differ.
        reproducible: whether all repetitions ended with the same bits; None for a single one.
        hardware: column of ``HARDWARE`` -> what the measured repetitions ran on.
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
    hardware: Mapping[str, frozenset[str]]
    reached: frozenset[float]
    row: Row = field(repr=False)

    @property
    def measured(self) -> bool:
        """Whether it has results."""
        return self.status in MEASURED


@dataclass(frozen=True)
class Pair:
    """The same config and seed on both sides."""

    base: Unit
    candidate: Unit


@dataclass(frozen=True)
class Pairing:
    """What two sides have in common and what not."""

    pairs: list[Pair]
    only_base: list[Unit]
    only_candidate: list[Unit]


def units(trials: "pd.DataFrame") -> list[Unit]:
    """One unit per ``trial_key`` and device, by arm and seed.

    Args:
        trials: with the columns ``COLUMNS``.
    """
    groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in _plain_rows(trials):
        groups[row["trial_key"], _device(row)].append(row)
    found = [_unit(key, device, rows) for (key, device), rows in groups.items()]
    return sorted(found, key=lambda unit: (unit.arm, unit.seed, unit.key))


def _plain_rows(trials: "pd.DataFrame") -> Iterator[Row]:
    """Rows in the order they were measured in, with None for every kind of missing value."""
    there = [name for name in COLUMNS if name in trials.columns]
    ordered = trials[there].sort_values(["measured_at", "trial_id"])
    for values in zip(*(ordered[name].tolist() for name in there), strict=True):
        yield {name: None if _is_missing(value) else value for name, value in zip(there, values, strict=True)}


def _is_missing(value: object) -> bool:
    # pandas has NA, NaT, None and NaN; NA compares to NA, and NaN and NaT differ from themselves
    return value is None or type(value).__name__ == "NAType" or (not hasattr(value, "__len__") and value != value)  # noqa: PLR0124


def _device(row: Row) -> str:
    """The device; of a trial that never got that far the one that was asked for."""
    return str(row["device"] or json.loads(row["config"])["device"]["name"])


def _unit(key: str, device: str, rows: Sequence[Row]) -> Unit:
    measured = [row for row in rows if row["status"] in MEASURED]
    used = measured or rows
    last = used[-1]
    hashes = {row["final_weights_sha256"] for row in measured}
    (weights,) = hashes if len(hashes) == 1 else (None,)
    failed = ": ".join(filter(None, [last["status"], last.get("error_type"), last.get("error_message")]))
    return Unit(
        key=key,
        device=device,
        arm=arm_of(last["config"], device),
        seed=int(last["seed"]),
        status="ok" if any(row["status"] == "ok" for row in measured) else str(last["status"]),
        message="" if measured else " ".join(failed.split()),
        values=_values(measured),
        targets=frozenset(float(target) for target in last["targets"]) if measured else frozenset(),
        weights=weights,
        reproducible=len(hashes) == 1 if len(measured) > 1 else None,
        hardware={name: frozenset(str(row.get(name)) for row in measured) for name in HARDWARE},
        reached=frozenset(target for row in measured for target, at in _crossings(row) if at is not None),
        row=last,
    )


@lru_cache(maxsize=100_000)
def arm_of(config: str, device: str) -> str:
    """Hash of a trial's config (JSON) without its seed, its names and what does not change its result."""
    parts = json.loads(config)
    for name in ("seed", "results", "labels"):
        parts.pop(name, None)
    for name in ("root", "mirrors"):
        parts.get("data", {}).pop(name, None)
    for name in ("warmup_steps", "window_steps", "max_seconds", "targets"):
        parts.get("train", {}).pop(name, None)
    # as in trial_key, so that configs of before the choice are the same arm
    if parts.get("kernel", {}).get("precision") == "auto":
        del parts["kernel"]["precision"]
    if isinstance(gain := parts.get("init", {}).get("gain"), int):
        parts["init"]["gain"] = float(gain)
    return hashlib.sha256(json.dumps([parts, device], sort_keys=True).encode()).hexdigest()[:16]


def _values(measured: Sequence[Row]) -> dict[str, float]:
    """Means over repetitions, of throughput the median; only what is finite."""
    lists: dict[str, list[float]] = defaultdict(list)
    for row in measured:
        for name, value in _values_of(row):
            if value is not None and math.isfinite(value):
                lists[name].append(float(value))
    return {name: median(found) if name == "images/s" else fmean(found) for name, found in lists.items()}


def _crossings(row: Row) -> Iterator[tuple[float, float | None]]:
    """Each target and the step at which it was reached."""
    reached = row["steps_to_target"]
    for position, target in enumerate(row["targets"]):
        missing = reached is None or _is_missing(reached[position])
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


def pair_up(base: Iterable[Unit], candidate: Iterable[Unit]) -> Pairing:
    """Units of both sides with the same key on the same device; a candidate that was killed is as good as missing."""
    ours = {(unit.key, unit.device): unit for unit in base}
    theirs = {(unit.key, unit.device): unit for unit in candidate if unit.status != "killed"}
    pairs = [Pair(unit, theirs[at]) for at, unit in ours.items() if at in theirs]
    return Pairing(
        pairs,
        [unit for at, unit in ours.items() if at not in theirs],
        [unit for at, unit in theirs.items() if at not in ours],
    )


def labels(units_: Sequence[Unit]) -> dict[str, str]:
    """Arm -> what distinguishes it from the others, in words; no two arms have the same."""
    first = {unit.arm: unit for unit in reversed(units_)}
    varying = [
        name
        for name in CHOICES
        if name == "init" or len({str(unit.row.get(name)) for unit in first.values()}) > 1
    ]  # fmt: skip
    several_devices = len({unit.device for unit in first.values()}) > 1
    named = {}
    for arm, unit in sorted(first.items()):
        parts = [f"{name}={_shown(unit.row.get(name))}" for name in varying]
        named[arm] = " ".join([*parts, f"device={unit.device}"] if several_devices else parts)
    counts: dict[str, int] = defaultdict(int)
    for arm, label in named.items():
        counts[label] += 1
        if counts[label] > 1:
            # the choices that have columns do not tell them apart
            named[arm] = f"{label} #{counts[label]}"
    return named


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
