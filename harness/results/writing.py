"""A trial's rows written whole or not at all, and durable as soon as they are written.

Below the results folder: ``trials``, ``curves`` and ``layers`` with immutable files, ``.running`` with a note per trial
that has begun and not ended, ``.spool`` with the trials that have ended and are not published yet, and ``.partial``
with files that are being written. A file in ``.partial`` carries the id of its trial or owner, and a living writer
holds the lock of that id, so what a killed one left behind can be told apart.

An object store has no locks, so there are neither notes nor unfinished files in it, see :mod:`harness.results.stores`.
"""

import errno
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.results import schema, spool
from harness.results.locking import let_go, take
from harness.results.places import Place, RemotePlace
from harness.results.publishing import flush_folder, publish_file
from harness.results.stores import put_entry
from harness.results.table_files import write_rows
from harness.wording import printable

Row = Mapping[str, Any]

RUNNING, PARTIAL = ".running", ".partial"
"""The folders of what is not finished, within a results folder."""

OWNER = "owner"
"""The key of a note that says who records the end of the trial if its process dies."""

WAIT_S = 60.0
"""How long to wait for a lock that a process which cleans up may hold for a moment."""

_ATTEMPTS = 10


def new_trial_id() -> str:
    """UTC time and random digits, so that names sort by time and never collide."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:8]}"


def lock_path(folder: Path, owner: str) -> Path:
    """The lock that a living writer holds; ``owner`` is its trial's id, or its own as a publisher."""
    return folder / RUNNING / f"{owner}.lock"


def partial_path(folder: Path, kind: str, owner: str, suffix: str) -> Path:
    """A new name in ``.partial`` that says whose the file is."""
    return folder / PARTIAL / f"{kind}-{owner}-{uuid.uuid4().hex[:8]}{suffix}"


def write_table(folder: Path, table: str, trial_id: str, rows: Sequence[Row]) -> None:
    """Write a trial's rows of a table as one file, which readers see whole or not at all.

    Raises:
        OSError: it cannot be written, or there is a file of that name already, which is left as it is.
    """
    write_part(folder, table, trial_id, arrow_rows(table, rows), owner=trial_id, few=True)


def write_part(folder: Path, table: str, name: str, content: pa.Table, *, owner: str, few: bool) -> None:
    """Write rows as one Parquet file of a table.

    Args:
        folder: the results folder.
        table: the rows' table.
        name: the file's name without its suffix.
        content: the rows, in the columns of the present schema version.
        owner: whose lock this process holds.
        few: the rows are those of one trial.

    Raises:
        OSError: it cannot be written, or there is a file of that name already, which is left as it is.
    """
    publish_file(
        partial_path(folder, table, owner, ".parquet"),
        folder / table / f"{name}.parquet",
        lambda file: write_rows(content, file, few=few),
    )


def arrow_rows(table: str, rows: Sequence[Row]) -> pa.Table:
    """The rows in the columns of the present schema version."""
    columns = schema.arrow_schema(table)
    try:
        return pa.Table.from_pylist([dict(row) for row in rows], schema=columns)
    except UnicodeEncodeError:
        # names of files and the texts of errors may hold bytes that are no UTF-8; they must not cost the row
        return pa.Table.from_pylist([_encodable(row) for row in rows], schema=columns)


def _encodable(row: Row) -> dict[str, Any]:
    def shown(value: Any) -> Any:  # noqa: ANN401 - of any column
        if isinstance(value, list):
            return [shown(item) for item in value]
        return printable(value) if isinstance(value, str) else value

    return {name: shown(value) for name, value in row.items()}


def note_path(folder: Path, trial_id: str) -> Path:
    """Return the note of a trial that has begun."""
    return folder / RUNNING / f"{trial_id}.json"


def make_owner_folder(folder: Path, owner: str) -> None:
    """Make an owner's folder in the spool last, unless it is there.

    Raises:
        NotADirectoryError: something else has its name.
    """
    place = spool.owner_folder(folder, owner)
    try:
        place.mkdir()
    except FileExistsError:
        if place.is_symlink() or not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place)) from None
    else:
        flush_folder(place.parent)


def spool_trial(folder: Place, owner: str, rows: Mapping[str, Sequence[Row]], *, holder: str) -> None:
    """Write all rows of a trial as one file in the spool, which lasts when this returns.

    Args:
        folder: the results folder.
        owner: who publishes the trial.
        rows: table -> the trial's rows; of trials exactly one.
        holder: whose lock this process holds, which tells the unfinished file from a left-over.

    Raises:
        OSError: it cannot be written, or the trial is spooled already.
        UsageError: the object store cannot be reached, or denies access.
    """
    tables = {table: arrow_rows(table, rows[table]) for table in schema.TABLES}
    trial_id = str(rows["trials"][0]["trial_id"])
    if isinstance(folder, RemotePlace):
        put_entry(folder, owner, trial_id, tables)
    else:
        _spool_file(folder, owner, trial_id, tables, holder)


def _spool_file(folder: Path, owner: str, trial_id: str, tables: Mapping[str, pa.Table], holder: str) -> None:
    target = spool.entry_path(folder, owner, trial_id)
    for left in reversed(range(_ATTEMPTS)):
        make_owner_folder(folder, owner)
        try:
            publish_file(
                partial_path(folder, "spool", holder, spool.ENTRY),
                target,
                lambda file: spool.write_entry(file, tables),
            )
        except FileNotFoundError:
            # a process that published what a dead owner left may have removed the empty folder meanwhile
            if not left:
                raise
        else:
            return


class Running:
    """A trial between its begin and its row: a locked note that holds the row it gets if it is killed outright.

    In an object store there is no note. A trial that is killed outright there gets its row from its owner, if that one
    lives.
    """

    def __init__(self, folder: Place, row: Row, *, owner: str | None = None) -> None:
        """Write the note.

        Args:
            folder: the results folder, see :func:`harness.results.prepare`.
            row: the trial's row as far as it is known.
            owner: who publishes the trial and records its death, see :class:`harness.results.Publisher`; None: the
                trial is its own owner.
        """
        self._folder, self._trial_id = folder, str(row["trial_id"])
        self._owner = self._trial_id if owner is None else owner
        if not isinstance(folder, RemotePlace):
            self._begin(folder, row)

    def _begin(self, folder: Path, row: Row) -> None:
        self._lock_path = lock_path(folder, self._trial_id)
        # a process that cleans up may hold the lock for a moment
        self._lock = take(self._lock_path, wait_s=WAIT_S)
        note = json.dumps({**row, OWNER: self._owner}, default=str).encode()
        try:
            publish_file(
                partial_path(folder, "note", self._trial_id, ".json"),
                note_path(folder, self._trial_id),
                lambda file: file.write(note),
            )
        except BaseException:
            let_go(self._lock_path, self._lock)
            raise

    def finish(self, trial: Row, curves: Sequence[Row], layers: Sequence[Row]) -> None:
        """Spool the trial's rows and end. They last when this returns, and the owner's publisher publishes them."""
        rows = {"trials": [trial], "curves": curves, "layers": layers}
        spool_trial(self._folder, self._owner, rows, holder=self._trial_id)
        # the publisher removes the note too, because a published trial must have none
        self.withdraw()

    def withdraw(self) -> None:
        """Forget that the trial has begun: without a row, it can be begun again under the same id."""
        if isinstance(self._folder, RemotePlace):
            return
        note_path(self._folder, self._trial_id).unlink(missing_ok=True)
        let_go(self._lock_path, self._lock)
