"""A trial's rows written whole or not at all, and durable as soon as they are written.

Below the results folder: ``trials``, ``curves`` and ``layers`` with immutable files, ``.running`` with a note per trial
that has begun and not ended, and ``.partial`` with files that are being written. A file in ``.partial`` carries the id
of its trial, and a living writer holds the lock of that id, so what a killed one left behind can be told apart.
"""

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from harness.results import schema
from harness.results.locking import let_go, take
from harness.results.publishing import publish_file

Row = Mapping[str, Any]

RUNNING, PARTIAL = ".running", ".partial"
"""The folders of what is not finished, within a results folder."""

_WAIT_S = 60.0


def new_trial_id() -> str:
    """UTC time and random digits, so that names sort by time and never collide."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def lock_path(folder: Path, owner: str) -> Path:
    """The lock that a living writer holds; ``owner`` is its trial's id."""
    return folder / RUNNING / f"{owner}.lock"


def partial_path(folder: Path, kind: str, owner: str, suffix: str) -> Path:
    """A new name in ``.partial`` that says whose the file is."""
    return folder / PARTIAL / f"{kind}-{owner}-{uuid.uuid4().hex[:8]}{suffix}"


def write_table(folder: Path, table: str, trial_id: str, rows: Sequence[Row]) -> None:
    """Write a trial's rows of a table as one file, which readers see whole or not at all.

    Raises:
        OSError: it cannot be written, or there is a file of that name already, which is left as it is.
    """
    whole = arrow_rows(table, rows)
    publish_file(
        partial_path(folder, table, trial_id, ".parquet"),
        folder / table / f"{trial_id}.parquet",
        # a file of few rows is all footer: statistics and dictionaries would make it half as large again, and
        # to begin zstd anew for each column takes most of the time of reading it
        lambda file: pq.write_table(whole, file, compression="snappy", write_statistics=False, use_dictionary=False),
    )


def arrow_rows(table: str, rows: Sequence[Row]) -> pa.Table:
    """The rows in the columns of the present schema version."""
    return pa.Table.from_pylist([dict(row) for row in rows], schema=schema.arrow_schema(table))


class Running:
    """A trial between its begin and its row: a locked note that holds the row it gets if it is killed outright."""

    def __init__(self, folder: Path, row: Row) -> None:
        self._folder, self._trial_id = folder, str(row["trial_id"])
        self._path = folder / RUNNING / f"{self._trial_id}.json"
        self._lock_path = lock_path(folder, self._trial_id)
        # a process that cleans up may hold the lock for a moment
        self._lock = take(self._lock_path, wait_s=_WAIT_S)
        note = json.dumps(dict(row), default=str).encode()
        try:
            publish_file(
                partial_path(folder, "note", self._trial_id, ".json"), self._path, lambda file: file.write(note)
            )
        except BaseException:
            let_go(self._lock_path, self._lock)
            raise

    def finish(self, trial: Row, curves: Sequence[Row], layers: Sequence[Row]) -> None:
        """Write the trial's rows, its terminal row last, and end."""
        write_table(self._folder, "curves", self._trial_id, curves)
        write_table(self._folder, "layers", self._trial_id, layers)
        write_table(self._folder, "trials", self._trial_id, [trial])
        self._path.unlink()
        let_go(self._lock_path, self._lock)
