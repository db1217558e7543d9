"""Many small files of a results folder merged into one per table, which is read a hundred times faster.

At no moment is a row lost, whatever ends the process:

1. the merged file is written under a temporary name and flushed to the disk;
2. a journal that names it and the files it replaces is put into ``.merging``;
3. the merged file gets its name, and from then on readers of this program pass over the files it replaces;
4. those are removed, and the journal after them.

If it is cut short, the next run or merging in the folder finishes or drops it by the journal. Other programs that read
the folder between 3 and 4 see rows twice.
"""

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from harness.errors import UsageError
from harness.results.duplicates import Repeats
from harness.results.reading import UnreadableError, files, journal_path, read_file, read_files, require_results
from harness.results.schema import TABLES, arrow_schema

_FILES_AT_ONCE = 500
_ROWS_A_GROUP = 1 << 18


@dataclass(frozen=True)
class Merged:
    """What was done to one table.

    Attributes:
        table: its name.
        files: how many files became one; 0 where there was nothing to merge.
        rows: how many rows these hold.
        problems: a line for each file that was left alone: it cannot be read, or contradicts another.
        remarks: a line if rows were there twice and the same.
    """

    table: str
    files: int
    rows: int
    problems: list[str]
    remarks: list[str] = field(default_factory=list)


def compact(folder: Path) -> list[Merged]:
    """Merge the files of each table into one; trials that are running are left alone.

    Raises:
        UsageError: the folder holds no results, cannot be written, or is being merged by another process.
    """
    require_results(folder)
    try:
        with _lock(folder):
            _finish(folder)
            return [_merge(folder, table) for table in TABLES]
    except Timeout as error:
        raise UsageError(f"{folder}: another process is merging its files; wait until it has ended") from error
    except OSError as error:
        raise UsageError(f"{folder}: cannot merge ({error.strerror}); nothing is lost") from error


def finish(folder: Path) -> None:
    """Finish or drop mergings that were cut short; does nothing while one is under way."""
    if not unfinished(folder):
        return
    try:
        with _lock(folder):
            _finish(folder)
    except Timeout:
        return


def unfinished(folder: Path) -> list[str]:
    """The tables of which a merging has begun and not ended."""
    return [table for table in TABLES if journal_path(folder, table).exists()]


def interrupted(folder: Path) -> list[str]:
    """The same, if no process is at work on them."""
    if not unfinished(folder):
        return []
    try:
        with _lock(folder):
            return unfinished(folder)
    except Timeout:
        return []


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    path = folder / ".merging"
    path.mkdir(exist_ok=True)
    with FileLock(path / ".lock", timeout=0):
        yield


def _finish(folder: Path) -> None:
    for table in TABLES:
        (folder / ".partial" / f"merged-{table}.parquet").unlink(missing_ok=True)
        path = journal_path(folder, table)
        if not path.exists():
            continue
        journal = json.loads(path.read_text())
        if (folder / table / journal["merged"]).exists():
            _remove(folder, table, journal["replaces"])
        path.unlink()


def _remove(folder: Path, table: str, names: Sequence[str]) -> None:
    for name in names:
        (folder / table / name).unlink(missing_ok=True)


def _merge(folder: Path, table: str) -> Merged:
    listed = files(folder, table)
    # after the files: a trial without a note by now has ended, and its file is whole and will never be looked for
    running = {path.stem for path in (folder / ".running").glob("*.json")}
    paths = [path for path in listed if path.stem not in running]
    if len(paths) < 2:
        return Merged(
            table, 0, 0, [str(found) for found in read_files(paths, table) if not isinstance(found, pa.Table)]
        )
    (folder / ".partial").mkdir(exist_ok=True)
    partial = folder / ".partial" / f"merged-{table}.parquet"
    try:
        done, rows, problems, remarks = _write(paths, table, partial)
        if len(done) < 2:
            return Merged(table, 0, 0, problems)
        _replace(folder, table, partial, done)
    finally:
        partial.unlink(missing_ok=True)
    return Merged(table, len(done), rows, problems, remarks)


def _write(paths: Sequence[Path], table: str, partial: Path) -> tuple[list[Path], int, list[str], list[str]]:
    """Write what is readable into one file, a part at a time, each row once.

    Returns:
        the files in it, its rows, the problems and the remarks.
    """
    done: list[Path] = []
    problems: list[str] = []
    repeats = Repeats(table, lambda path: read_file(path, table))
    waiting: list[pa.Table] = []
    total = 0
    with partial.open("wb") as file:
        with pq.ParquetWriter(file, arrow_schema(table), compression="zstd") as writer:
            for start in range(0, len(paths), _FILES_AT_ONCE):
                part = paths[start : start + _FILES_AT_ONCE]
                for path, found in zip(part, read_files(part, table), strict=True):
                    if isinstance(found, UnreadableError):
                        problems.append(str(found))
                        continue
                    known = len(repeats.problems)
                    new = repeats.new(path, found)
                    if len(repeats.problems) > known:
                        continue
                    done.append(path)
                    waiting.append(new)
                    total += len(new)
                if sum(map(len, waiting)) >= _ROWS_A_GROUP:
                    writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=_ROWS_A_GROUP)
                    waiting = []
            if waiting:
                writer.write_table(pa.concat_tables(waiting).combine_chunks(), row_group_size=_ROWS_A_GROUP)
        file.flush()
        os.fsync(file.fileno())
    return done, total, [*problems, *repeats.problems], repeats.remarks


def _replace(folder: Path, table: str, partial: Path, done: Sequence[Path]) -> None:
    """Steps 2 to 4."""
    merged = f"merged-{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}.parquet"
    journal = journal_path(folder, table)
    draft = journal.with_suffix(".draft")
    with draft.open("w") as file:
        json.dump({"merged": merged, "replaces": [path.name for path in done]}, file)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(journal)
    _flush(journal.parent)
    partial.rename(folder / table / merged)
    _flush(folder / table)
    _remove(folder, table, [path.name for path in done])
    journal.unlink()


def _flush(folder: Path) -> None:
    """Make renames within the folder last: a removal must not reach the disk before them."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
