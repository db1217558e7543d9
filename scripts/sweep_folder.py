"""A results folder as a sweep of many trials leaves it, made from the rows of one real trial."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

import harness
from harness import results
from harness.results import arrow_rows, enough_for_a_part, write_part

SEEDS, INITS = 10, 100
EVALUATIONS = 11
_OVERRIDES = ("model=mlp", "device=cpu", "device.threads=1", f"train.steps={EVALUATIONS - 1}", "train.eval_every=1")


def part_sizes(trials: int) -> Iterator[int]:
    """How many trials a sweep puts into each of its parts, when they end faster than it pauses between parts."""
    published = 0
    while published < trials:
        # the rule of the publisher, whose pauses could only make parts fewer
        size = min(enough_for_a_part(published), trials - published)
        published += size
        yield size


def make(folder: Path, trials: int) -> int:
    """Make a folder with so many trials, ten seeds an arm; returns how many files each table has."""
    results.prepare(folder)
    tables = _rows_of_one(folder.with_name(f"{folder.name}-one"))
    first = 0
    for number, size in enumerate(part_sizes(trials)):
        indices = np.arange(first, first + size)
        for table, rows in tables.items():
            whole = _repeated(rows, table, indices)
            write_part(folder, table, f"part-{number:06d}", whole, owner="made", few=size == 1)
        first += size
    return len(list((folder / "trials").glob("*.parquet")))


def _rows_of_one(folder: Path) -> dict[str, pa.Table]:
    """The rows of a trial that was really run, evaluated as often as a default one."""
    harness.run_trial(harness.load_config([*_OVERRIDES, f"results.dir={folder}"]))
    frames = {table: results.read(folder, table).rows for table in results.TABLES}
    return {table: arrow_rows(table, rows.to_pylist()) for table, rows in frames.items()}


def _repeated(rows: pa.Table, table: str, indices: npt.NDArray[np.int64]) -> pa.Table:
    """The rows once for each trial, with what tells one trial from another."""
    each = np.repeat(indices, len(rows))
    own: dict[str, list[Any]] = {"trial_id": [f"20260101T000000-{index:08x}" for index in each]}
    if table == "trials":
        arm = each // SEEDS
        own |= {"trial_key": [f"{index:016x}" for index in each], "arm_key": [f"{index:016x}" for index in arm]}
        own |= {"init": [f"init{index % INITS}" for index in arm]}
        own["sweep_index"], own["seed"] = (each + 1).tolist(), (each % SEEDS).tolist()
        own["lr"] = [float(f"{0.001 * (1 + index // INITS):.4g}") for index in arm]
    whole = pa.concat_tables([rows] * len(indices)).combine_chunks()
    for name, values in own.items():
        place = whole.schema.get_field_index(name)
        whole = whole.set_column(place, whole.schema.field(name), pa.array(values, whole.schema.field(name).type))
    return whole
