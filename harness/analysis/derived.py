"""Settings that follow from others, and so must not part arms that differ in an axis alone.

The settings of a schedule that were left to their defaults follow from the number of steps, and under ``train.epochs``
that number follows from the batch size and the number of images.
"""

from collections.abc import Set as AbstractSet

import numpy as np
import pandas as pd

from harness.optimizers import SCHEDULES

_OF_SCHEDULES = ("schedule_step", "warmup_steps")
_DATA = ("batch_size", "train_images")


def derived(table: pd.DataFrame, axes: AbstractSet[str]) -> set[str]:
    """Return the columns that follow from the axes and the other columns.

    Args:
        table: of :class:`harness.analysis.settings.Settings`.
        axes: names of the columns that vary within a family; they are never among the result.
    """
    if "steps" not in table:
        return set()
    found = {name for name in _OF_SCHEDULES if name in table and name not in axes and _is_default(table, name)}
    if (
        "steps" not in axes
        and any(name in axes and name in table for name in _DATA)
        and _passes_are_equal(table, found)
    ):
        found.add("steps")
    return found


def _is_default(table: pd.DataFrame, name: str) -> bool:
    """Whether each arm has the value that its schedule takes for so many steps."""
    takers = [schedule for schedule, settings in SCHEDULES.items() if name in settings]
    if "schedule" in table:
        return all(
            pd.isna(value) or (schedule in takers and value == SCHEDULES[schedule][name](int(steps)))
            for schedule, steps, value in table[["schedule", "steps", name]].itertuples(index=False)
        )
    # all arms have one schedule, which is no column here
    pairs = list(table[["steps", name]].itertuples(index=False))
    return any(all(value == SCHEDULES[taker][name](int(steps)) for steps, value in pairs) for taker in takers)


def _passes_are_equal(table: pd.DataFrame, found: AbstractSet[str]) -> bool:
    """Whether arms that are equal in all else go equally often through their images, the last batch full."""
    batch, images = (
        table[name].to_numpy(dtype=float, na_value=np.nan) if name in table else np.ones(len(table)) for name in _DATA
    )
    steps = table["steps"].to_numpy(dtype=float)
    above, most = (steps - 1) * batch / images, steps * batch / images
    same = [str(name) for name in table if name not in {*_DATA, "steps", *found}]
    keys = table[same].astype(str).agg(" ".join, axis=1).to_numpy() if same else np.zeros(len(table))
    bounds = pd.DataFrame({"above": above, "most": most}).groupby(keys)
    return bool((bounds["above"].max() < bounds["most"].min()).all())
