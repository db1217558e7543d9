"""From what a trial did to the columns of its row: pure functions, one per group of columns."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from typing import Any

from harness.config import SweepPlace, TrialConfig
from harness.initializers import gain_of
from harness.results import COLUMNS


def planned(config: TrialConfig, trial_id: str, place: SweepPlace | None = None) -> dict[str, Any]:
    """The row of a trial that has not begun: its identity, its command and every choice, all else null.

    Args:
        config: resolved, see :func:`harness.resolution.resolved`.
        trial_id: the trial's own id.
        place: in its sweep; None outside a command.
    """
    columns = COLUMNS["trials"]
    row = {column.name: attrgetter(column.source)(config) if column.source else None for column in columns}
    return row | {
        "trial_id": trial_id,
        "trial_key": config.trial_key,
        "arm_key": config.arm_key,
        "status": "error",
        "measured_at": datetime.now(UTC),
        "init_gain": gain_of(config.init, config.model.activation),
        "kernel_precision": None if config.kernel.precision == "auto" else config.kernel.precision,
        "config": json.dumps(config.as_dict()),
        "sweep_id": place and place.sweep_id,
        "sweep_size": place and place.size,
        "sweep_index": place and place.index,
        "simultaneous_trials": place.simultaneous_trials if place else 1,
        "stacked_trials": 1,
        "memory_kept": False,
        "targets": list(config.train.targets),
    }


def environment(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """The provenance columns from :func:`harness.provenance.environment`."""
    versions = dict(provenance["package_versions"])
    return {**provenance, "package_versions": json.dumps(versions), "torch_version": versions["torch"]}


def convergence(curves: Sequence[Mapping[str, Any]], targets: Sequence[float]) -> dict[str, Any]:
    """First, last and best of each metric over the evaluated steps, and when each target was first reached."""
    if not curves:
        return {}
    columns: dict[str, Any] = {}
    for metric, best in (("train_loss", min), ("train_accuracy", max), ("test_loss", min), ("test_accuracy", max)):
        values = [row[metric] for row in curves]
        # a NaN compares false with everything and would hide the best of the others
        finite = [value for value in values if value == value]  # noqa: PLR0124 - false for NaN alone
        columns |= {f"{metric}_first": values[0], f"{metric}_last": values[-1]}
        columns[f"{metric}_best"] = best(finite) if finite else None
    reached = [next((row for row in curves if row["test_accuracy"] >= target), None) for target in targets]
    columns["steps_to_target"] = [row and row["step"] for row in reached]
    columns["seconds_to_target"] = [row and row["train_time_s"] for row in reached]
    return columns
