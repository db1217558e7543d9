"""What is wrong with a results folder, as ``python -m harness.results validate`` says it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from harness.results import merging
from harness.results.duplicates import KEYS
from harness.results.reading import read, require_results
from harness.results.schema import STATUSES
from harness.wording import few


def problems_in(folder: Path) -> list[str]:
    """Everything that is wrong with a results folder, one line for each kind; an empty list if it is sound.

    Raises:
        UsageError: the folder holds no results.
    """
    require_results(folder)
    lines: list[str] = []
    tables = {}
    for table, names in KEYS.items():
        found = read(folder, table, (*names, "status") if table == "trials" else names)
        tables[table] = found.rows
        lines += [*found.problems, *found.remarks]
    return [*lines, *_key_problems(tables), *_unfinished(folder)]


def _key_problems(tables: dict[str, pa.Table]) -> Iterator[str]:
    unknown: dict[str, list[str]] = defaultdict(list)
    ended = []
    for row in tables["trials"].to_pylist():
        if row["status"] not in STATUSES:
            unknown[row["status"]].append(row["trial_id"])
        if row["status"] == "ok":
            ended.append(row["trial_id"])
    for status, ids in sorted(unknown.items()):
        yield from _said("trials", ids, f"has the unknown status '{status}'", f"have the unknown status '{status}'")
    for table in ("curves", "layers"):
        yield from _detail_problems(table, tables[table], tables["trials"]["trial_id"].combine_chunks())
    lacking = sorted(set(ended) - set(pc.unique(tables["curves"]["trial_id"]).to_pylist()))
    yield from _said("curves", lacking, "is ok and has no rows", "are ok and have no rows")


def _said(table: str, ids: Sequence[str], one: str, many: str) -> Iterator[str]:
    """One line for the same fault of any number of trials."""
    if ids:
        yield (
            f"{table}: the trial {ids[0]} {one}"
            if len(ids) == 1
            else f"{table}: {len(ids):,} trials {many}: {few(ids)}"
        )


def _detail_problems(table: str, keys: pa.Table, trial_ids: pa.Array) -> Iterator[str]:
    counts = keys.group_by(keys.schema.names, use_threads=False).aggregate([([], "count_all")])
    twice = counts.filter(pc.greater(counts["count_all"], 1)).drop_columns(["count_all"]).to_pylist()
    if twice:
        keys_of = few((", ".join(f"{name}={value}" for name, value in row.items()) for row in twice), 1)
        yield f"{table}: more than one row for {keys_of}"
    ids = pc.unique(keys["trial_id"])
    alone = sorted(ids.filter(pc.invert(pc.is_in(ids, value_set=trial_ids))).to_pylist())
    yield from _said(
        table, alone, "has no terminal row in trials (its writer was killed)",
        "have no terminal row in trials (their writer was killed)",
    )  # fmt: skip


def _unfinished(folder: Path) -> Iterator[str]:
    for table in merging.interrupted(folder):
        yield f"{table}: a merging was cut short; the next run or `compact` of this folder finishes it"
    begun = []
    for path in sorted((folder / ".running").glob("*.json")):
        try:
            with FileLock(path.with_suffix(".lock"), timeout=0):
                begun.append(path.stem)
        except Timeout:
            # running now, which is no fault
            continue
    then = "the next run into this folder records"
    yield from _said(
        "trials", begun, f"began and has no row; {then} it as killed", f"began and have no row; {then} them as killed"
    )
