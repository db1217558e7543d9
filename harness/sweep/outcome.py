"""What a sweep came to, read back from the results folders: the same whatever ran its trials."""

import re
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from harness import results
from harness.results import BULK, COLUMNS
from harness.trial_line import ending

Row = dict[str, Any]

_CAUSE = ("status", "error_type", "error_message")
_TOLD_BY_NUMBERS = ("crashed", "killed")
"""Statuses whose messages are our own, and differ in an exit code or a signal."""
_ALL_TRIALS = ("trial_id", "sweep_id", "sweep_index", *_CAUSE, "steps_done", "init", "diagnosis", "diagnosis_reason")
_SHOWN = tuple(
    column.name
    for column in COLUMNS["trials"]
    if column.name not in BULK or column.name in ("moved", "unmoved", "last_bias_difference")
)


class Failure(NamedTuple):
    """Trials that failed for one cause.

    Attributes:
        ending: how the first of them ended, in words.
        indices: which trials of the sweep, counted from 1.
    """

    ending: str
    indices: list[int]


def rows_of_sweep(folder: results.Place, sweep_id: str, columns: Sequence[str]) -> pa.Table:
    """Return the rows of ``trials`` that one sweep has, published or not; ``sweep_id`` must be among the columns."""
    rows = results.read(folder, "trials", columns).rows
    return rows.filter(pc.equal(rows["sweep_id"], sweep_id))


class SweepOutcome:
    """The rows of one sweep.

    Args:
        folder: its results folder.
        sweep_id: its id.
    """

    def __init__(self, folder: str, sweep_id: str) -> None:
        self._folder = results.place_of(folder)
        self._rows = rows_of_sweep(self._folder, sweep_id, _ALL_TRIALS).sort_by([("sweep_index", "ascending")])

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def indices(self) -> set[int]:
        """The trials that have a row, counted from 1."""
        return set(self._rows["sweep_index"].to_pylist())

    def first(self, most: int) -> list[Row]:
        """The rows of the first trials, with all that the tables show of them."""
        ids = self._rows["trial_id"].slice(0, most).to_pylist()
        by_id = {row["trial_id"]: row for row in self._of_trials("trials", _SHOWN, ids)}
        return [by_id[trial_id] for trial_id in ids]

    def train_accuracies(self, trial_ids: Sequence[str]) -> dict[str, list[float]]:
        """Return the curves of some trials: id -> step after step. The table is read once, if any are asked for."""
        of_trials: dict[str, list[float]] = {trial_id: [] for trial_id in trial_ids}
        curves = self._of_trials("curves", ("trial_id", "step", "train_accuracy"), trial_ids) if trial_ids else []
        for row in sorted(curves, key=itemgetter("step")):
            of_trials[row["trial_id"]].append(row["train_accuracy"])
        return of_trials

    def _of_trials(self, table: str, columns: Sequence[str], trial_ids: Sequence[str]) -> list[Row]:
        rows = results.read(self._folder, table, columns).rows
        wanted = rows.filter(pc.is_in(rows["trial_id"], value_set=pa.array(trial_ids, pa.string())))
        return list(wanted.to_pylist())

    def failures(self) -> list[Failure]:
        """Each cause once; what trials raised is one cause if it differs only in numbers."""
        by_cause: dict[tuple[str, ...], Failure] = {}
        failed = self._rows.filter(pc.not_equal(self._rows["status"], "ok"))
        for row in failed.select([*_CAUSE, "sweep_index", "steps_done"]).to_pylist():
            key = tuple(row[name] or "" for name in _CAUSE)
            if row["status"] not in _TOLD_BY_NUMBERS:
                key = tuple(re.sub(r"\d+", "0", text) for text in key)
            by_cause.setdefault(key, Failure(ending(row), [])).indices.append(row["sweep_index"])
        return list(by_cause.values())

    def diagnoses(self) -> list[Row]:
        """Each initializer with each diagnosis and reason that it got, in the order of the sweep."""
        names = ["init", "diagnosis", "diagnosis_reason"]
        return list(_distinct(self._rows.select(names)))


def _distinct(table: pa.Table) -> Iterator[Row]:
    # pyarrow's groups come in the order of their first row
    yield from table.group_by(table.column_names, use_threads=False).aggregate([]).to_pylist()
