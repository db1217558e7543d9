"""Trials that a results folder holds twice: counted once where their rows are equal, named where they are not.

A trial's rows in a table come from one file, the first by name that has them. What a later file holds of that trial is
left out, and a line says so: a remark if its rows are the same bit by bit, else a problem.
"""

import filecmp
from collections import defaultdict
from collections.abc import Callable, KeysView, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from harness.results.places import Place, RemotePlace
from harness.wording import few

_Whole = npt.NDArray[np.integer[Any]]

KEYS = {"trials": ("trial_id",), "curves": ("trial_id", "step"), "layers": ("trial_id", "step", "parameter")}
"""Table -> the columns that no two rows share."""


def once(table: str, content: pa.Table, lengths: Sequence[int]) -> bool:
    """Whether it is plain to see that no row is there twice; False: a closer look is needed.

    Plain is: of trials one row each, of others the rows of each trial side by side in one file, with rising steps; in
    layers a step has one row for each parameter.

    Args:
        table: name.
        content: rows of all files, one after the other.
        lengths: how many rows each file has.
    """
    if "trial_id" not in content.column_names or len(content) < 2:
        return True
    codes, distinct = _codes(content["trial_id"])
    if table == "trials":
        return distinct == len(codes)
    same = codes[1:] == codes[:-1]
    borders = np.cumsum(lengths)[:-1]
    same[borders[(borders > 0) & (borders < len(codes))] - 1] = False
    if 1 + int((~same).sum()) != distinct:
        return False
    if not {*KEYS[table]} <= {*content.column_names}:
        return True
    steps = content["step"].to_numpy()
    rising = (steps[1:] > steps[:-1]) | ~same
    if table == "curves":
        return bool(rising.all())
    parameters = _codes(content["parameter"])[0]
    return bool((rising | (steps[1:] == steps[:-1])).all()) and _one_each(np.cumsum(rising), parameters)


def _one_each(borders: _Whole, parameters: _Whole) -> bool:
    """Whether no parameter is there twice among the rows of one trial and step, which lie side by side."""
    groups, width = np.concatenate([[0], borders]), int(parameters.max()) + 1
    there = np.zeros((int(groups[-1]) + 1) * width, dtype=bool)
    there[groups * width + parameters] = True
    return int(there.sum()) == len(parameters)


def _codes(ids: pa.ChunkedArray) -> "tuple[np.ndarray[tuple[int], np.dtype[np.int32]], int]":
    """A number for each id, and how many differ."""
    if pa.types.is_dictionary(ids.type):
        ids = pa.table([ids], ["ids"]).unify_dictionaries()["ids"]
    else:
        ids = ids.dictionary_encode()
    codes = np.concatenate([np.asarray(chunk.indices) for chunk in ids.chunks])
    return codes, int(np.bincount(codes).astype(bool).sum())


class Repeats:
    """What is new in each file of a table, as they come one after the other.

    Attributes:
        problems: a line for each file that holds other values of a trial than an earlier one does.
    """

    def __init__(self, table: str, whole: Callable[[Place], pa.Table]) -> None:
        self._table, self._whole = table, whole
        # numbers, because there may be a hundred thousand files and as many trials
        self._paths: list[Place] = []
        self._owners: dict[str, int] = {}
        self._same: list[str] = []
        self.problems: list[str] = []

    @property
    def trial_ids(self) -> KeysView[str]:
        """The trials of all files so far."""
        return self._owners.keys()

    @property
    def remarks(self) -> list[str]:
        """A line if rows are there twice and the same."""
        if not self._same:
            return []
        return [f"{self._table}: rows that are there twice are counted once: {few(self._same)}"]

    def new(self, path: Place, content: pa.Table) -> pa.Table:
        """The rows of a file that no earlier one has.

        Args:
            path: the file.
            content: its rows, in some of its columns, ``trial_id`` among them.
        """
        content = self._first_of_each(path, content)
        ids = pc.unique(content["trial_id"].cast(pa.string())).to_pylist()
        shared = [trial_id for trial_id in ids if trial_id in self._owners]
        if shared:
            self._compare(path, shared)
            content = content.filter(pc.invert(pc.is_in(content["trial_id"].cast(pa.string()), pa.array(shared))))
        for trial_id in ids:
            self._owners.setdefault(trial_id, len(self._paths))
        self._paths.append(path)
        return content

    def _first_of_each(self, path: Place, content: pa.Table) -> pa.Table:
        """Without rows whose key an earlier row of the same file has."""
        if once(self._table, content, [len(content)]):
            return content
        whole, keys = self._whole(path), list(KEYS[self._table])
        numbered = whole.select(keys).append_column("row", pa.array(np.arange(len(whole))))
        first = numbered.group_by(keys, use_threads=False).aggregate([("row", "min")])
        if len(first) == len(whole):
            return content
        of_key = _counted(whole).select(keys).group_by(keys, use_threads=False).aggregate([([], "count_all")])
        differ = pc.unique(of_key.filter(pc.greater(of_key["count_all"], 1))["trial_id"]).to_pylist()
        if differ:
            which = few(sorted(differ))
            self.problems.append(
                f"{path}: holds a row of the same key twice with other values ({which}); the first counts"
            )
        else:
            self._same.append(f"{path.name} (in itself)")
        return content.take(np.sort(first["row_min"].to_numpy()))

    def _compare(self, path: Place, shared: Sequence[str]) -> None:
        """Say whether these trials' rows are those of the files that had them first."""
        owners: dict[Place, list[str]] = defaultdict(list)
        for trial_id in shared:
            owners[self._paths[self._owners[trial_id]]].append(trial_id)
        for owner, ids in owners.items():
            differ = [] if _same_bytes(owner, path) else self._differing(owner, path, ids)
            if differ:
                self.problems.append(
                    f"{path}: holds other rows than {owner.name} of the trial {few(differ)}; those of {owner.name} "
                    "count; remove what is wrong"
                )
            if len(differ) < len(ids):
                self._same.append(f"{path.name} (as in {owner.name})")

    def _differing(self, owner: Place, path: Place, ids: Sequence[str]) -> list[str]:
        """The trials of which a row is in one of the files alone."""
        sides = (self._whole(file) for file in (owner, path))
        rows = [_counted(side.filter(pc.is_in(side["trial_id"], pa.array(ids)))) for side in sides]
        counts = _counted(pa.concat_tables(side.drop_columns(["count_all"]) for side in rows))
        return sorted(pc.unique(counts.filter(pc.equal(counts["count_all"], 1))["trial_id"]).to_pylist())


def _same_bytes(one: Place, other: Place) -> bool:
    """Whether it is plain to see that two files are the same; objects of a store would have to be fetched for it."""
    if isinstance(one, RemotePlace) or isinstance(other, RemotePlace):
        return False
    return filecmp.cmp(one, other, shallow=False)


def _counted(rows: pa.Table) -> pa.Table:
    """Each row once, and in ``count_all`` how often it is there; NaN is NaN, and 0.0 is not -0.0."""
    names = rows.column_names
    comparable = pa.table([_comparable(column) for column in rows.columns], names)
    return comparable.group_by(names, use_threads=False).aggregate([([], "count_all")])


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Floats by their bits, and lists, which cannot be keys, as text."""
    if pa.types.is_floating(column.type):
        return pa.chunked_array([chunk.view(pa.int64()) for chunk in column.chunks], pa.int64())
    if pa.types.is_list(column.type):
        return pa.chunked_array([[repr(value) for value in column.to_pylist()]], pa.string())
    return column
