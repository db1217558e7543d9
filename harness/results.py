"""Results as Parquet: written whole or not at all, read as frames, checked by ``python -m harness.results validate``.

Below the results folder: ``trials``, ``curves`` and ``layers`` with one immutable file per trial, and ``.running``
with one file per trial that has begun and not ended. A trial that was killed outright leaves the last, from which its
row is written later. ``python -m harness.results compact`` merges the files of each table into one.
"""

import json
import os
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from harness import compaction
from harness.errors import UsageError
from harness.reading import Frames, load, read, require_results
from harness.repeats import KEYS
from harness.schema import STATUSES, TABLES, schema
from harness.wording import few

__all__ = ["Frames", "Running", "load", "main", "new_trial_id", "prepare", "problems_in", "recover"]

Row = Mapping[str, Any]


def new_trial_id() -> str:
    """UTC time and random digits, so that names sort by time and never collide."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def prepare(folder: Path) -> list[str]:
    """Make the results folder, check that it can be written, and set right what was killed earlier.

    That is :func:`recover` and :func:`harness.compaction.finish`.

    Returns:
        the ids of the recovered trials.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        for name in (*TABLES, ".running", ".partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        trial = folder / ".partial" / uuid.uuid4().hex
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise UsageError(
            f"results.dir={folder}: cannot write there ({error.strerror}); give a folder that you may write"
        ) from error
    compaction.finish(folder)
    return recover(folder)


def _write_table(folder: Path, table: str, trial_id: str, rows: Sequence[Row]) -> None:
    """Write the file under a temporary name, flush it to the disk, then rename it: readers see all of it or nothing."""
    partial = _partial(folder, table, trial_id)
    content = pa.Table.from_pylist([dict(row) for row in rows], schema=schema(table))
    try:
        with partial.open("wb") as file:
            # a file of few rows is all footer: statistics and dictionaries would make it half as large again, and
            # to begin zstd anew for each column takes most of the time of reading it
            pq.write_table(content, file, compression="snappy", write_statistics=False, use_dictionary=False)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(folder / table / f"{trial_id}.parquet")
    finally:
        # still there only if the disk is full or the write was interrupted
        partial.unlink(missing_ok=True)


def _partial(folder: Path, table: str, trial_id: str) -> Path:
    return folder / ".partial" / f"{table}-{trial_id}.parquet"


class Running:
    """A trial between its begin and its row: a locked file that holds the row it gets if it is killed outright."""

    def __init__(self, folder: Path, row: Row) -> None:
        self._folder, self._trial_id = folder, str(row["trial_id"])
        self._path = folder / ".running" / f"{self._trial_id}.json"
        self._lock = FileLock(self._path.with_suffix(".lock"))
        self._lock.acquire()
        self._path.write_text(json.dumps(dict(row), default=str))

    def finish(self, trial: Row, curves: Sequence[Row], layers: Sequence[Row]) -> None:
        """Write the trial's rows, its terminal row last, and end."""
        _write_table(self._folder, "curves", self._trial_id, curves)
        _write_table(self._folder, "layers", self._trial_id, layers)
        _write_table(self._folder, "trials", self._trial_id, [trial])
        self._path.unlink()
        self._lock.release()
        Path(self._lock.lock_file).unlink(missing_ok=True)


def recover(folder: Path) -> list[str]:
    """Give each trial that was killed outright (kill -9, power cut, out-of-memory killer) its ``killed`` row.

    Returns:
        the ids of the trials that got one.
    """
    recovered = []
    for path in sorted((folder / ".running").glob("*.json")):
        lock = FileLock(path.with_suffix(".lock"), timeout=0)
        try:
            with lock:
                if _recover_one(folder, path):
                    recovered.append(path.stem)
        except Timeout:
            # its process is alive
            continue
        Path(lock.lock_file).unlink(missing_ok=True)
    return recovered


def _recover_one(folder: Path, path: Path) -> bool:
    if not path.exists():
        return False
    has_row = (folder / "trials" / f"{path.stem}.parquet").exists()
    if not has_row:
        row = _interrupted_row(path)
        if row is None:
            return False
        _write_table(folder, "trials", path.stem, [row])
    for table in TABLES:
        _partial(folder, table, path.stem).unlink(missing_ok=True)
    path.unlink()
    return not has_row


def _interrupted_row(path: Path) -> dict[str, Any] | None:
    """The row in a ``.running`` file; None if the process was killed while it wrote even this."""
    try:
        row: dict[str, Any] = json.loads(path.read_text())
        pa.Table.from_pylist([{**row, "measured_at": None}], schema=_planned_schema())
    except (ValueError, OverflowError, TypeError, pa.ArrowException):
        path.unlink()
        return None
    killed = {
        "status": "killed",
        "error_type": "Killed",
        "error_message": "the process ended without a word (kill -9, or a full disk?)",
    }
    return {**row, **killed, "measured_at": datetime.now(UTC)}


def _planned_schema() -> pa.Schema:
    """What a row can hold before it has ended."""
    return pa.schema([field.with_nullable(True) for field in schema("trials")])


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
    for table in compaction.interrupted(folder):
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


_USAGE = "usage: python -m harness.results validate|compact DIR"
_HELP = f"""{_USAGE}

validate  check the results folder DIR: a line for each fault
compact   merge the files of each table in DIR into one, which loads quickly; no row is lost, whatever ends the process

Exit codes: 0 all is sound, 1 something is not (a line says what), 2 a wrong command."""


def main(arguments: Sequence[str]) -> int:
    """``validate DIR`` or ``compact DIR``: 0 if all is sound, 1 with a line per problem, 2 if the command is wrong."""
    if {"-h", "--help"} & set(arguments):
        print(_HELP)
        return 0
    match arguments:
        case ["validate", folder]:
            command = _validate
        case ["compact", folder]:
            command = _compact
        case _:
            print(_USAGE, file=sys.stderr)
            return 2
    try:
        return command(Path(folder))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _validate(folder: Path) -> int:
    lines = problems_in(folder)
    for line in lines:
        print(line)
    count = len(read(folder, "trials", ["trial_id"]).rows)
    print(f"{folder}: trials: {count:,}, {f'problems: {len(lines)}' if lines else 'all sound'}")
    return 1 if lines else 0


def _compact(folder: Path) -> int:
    problems, remarks = [], []
    for merged in compaction.compact(folder):
        problems += merged.problems
        remarks += merged.remarks
        done = f"{merged.files:,} files with {merged.rows:,} rows are one now" if merged.files else "nothing to merge"
        print(f"{merged.table}: {done}")
    for line in problems:
        print(f"left alone: {line}")
    for line in remarks:
        print(line)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
