"""A trial's rows written whole or not at all, and the trials that were killed before theirs.

Below the results folder: ``trials``, ``curves`` and ``layers`` with one immutable file per trial, and ``.running``
with one file per trial that has begun and not ended. A trial that was killed outright leaves the last, from which its
row is written later.
"""

import json
import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from harness.errors import UsageError
from harness.results import merging
from harness.results.schema import TABLES, arrow_schema

Row = Mapping[str, Any]


def new_trial_id() -> str:
    """UTC time and random digits, so that names sort by time and never collide."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def prepare(folder: Path) -> list[str]:
    """Make the results folder, check that it can be written, and set right what was killed earlier.

    That is :func:`recover` and :func:`harness.merging.finish`.

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
    merging.finish(folder)
    return recover(folder)


def write_table(folder: Path, table: str, trial_id: str, rows: Sequence[Row]) -> None:
    """Write the file under a temporary name, flush it to the disk, then rename it: readers see all of it or nothing."""
    partial = _partial(folder, table, trial_id)
    content = pa.Table.from_pylist([dict(row) for row in rows], schema=arrow_schema(table))
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
        write_table(self._folder, "curves", self._trial_id, curves)
        write_table(self._folder, "layers", self._trial_id, layers)
        write_table(self._folder, "trials", self._trial_id, [trial])
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
        write_table(folder, "trials", path.stem, [row])
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
    return pa.schema([field.with_nullable(True) for field in arrow_schema("trials")])
