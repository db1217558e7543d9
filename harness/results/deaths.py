"""What becomes of a trial whose process has died: its owner records the death, or lets it be run again.

The owner is who publishes the trial, and its publisher is open meanwhile.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.results import spool
from harness.results.locking import HeldError, UnlockableError, locked
from harness.results.notes import UnusableNoteError, ended_row, read_json, remove_note, set_aside
from harness.results.parts import published_row
from harness.results.places import Place, RemotePlace
from harness.results.stores import row_of
from harness.results.writing import PARTIAL, lock_path, note_path, spool_trial

_DEAD_WAIT_S = 10.0


def record_death(
    folder: Place,
    trial_id: str,
    owner: str,
    *,
    status: str,
    error_type: str,
    error_message: str,
    row: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Give a trial its row after its process has died; the owner's publisher, which must be open, publishes it.

    Args:
        folder: the results folder.
        trial_id: the trial.
        owner: of this process.
        status: how the trial ended.
        error_type: column of the row.
        error_message: column of the row.
        row: what was planned, for a trial that died before its note was written; in a store, where there are no notes,
            for any trial.

    Returns:
        the trial's row; the one that it wrote itself if it died after its end.

    Raises:
        LookupError: there is no trace of the trial, and no row was given.
        OSError: the row cannot be written.
        UsageError: the store cannot be reached, or denies access.
    """
    end = {"status": status, "error_type": error_type, "error_message": error_message}
    if isinstance(folder, RemotePlace):
        own = row_of(folder, owner, trial_id)
        if own is None:
            own = _ended_row(folder, trial_id, end, row)
            spool_trial(folder, owner, {"trials": [own], "curves": [], "layers": []}, holder=owner)
        return own
    with _lock_of_dead(folder, trial_id):
        own = _own_row(folder, trial_id, owner)
        if own is None:
            own = _planned_row(folder, trial_id, end, row)
            spool_trial(folder, owner, {"trials": [own], "curves": [], "layers": []}, holder=owner)
        _remove_traces(folder, trial_id)
    return own


def withdraw(folder: Place, trial_id: str, owner: str) -> dict[str, Any] | None:
    """Return the row that a trial wrote before its process ended, or let it be begun again under the same id.

    Args:
        folder: the results folder.
        trial_id: the trial, which no process runs any more.
        owner: of this process.

    Returns:
        its row; None: it had none, and all traces of it are gone.

    Raises:
        UsageError: the store cannot be reached, or denies access.
    """
    if isinstance(folder, RemotePlace):
        return row_of(folder, owner, trial_id)
    with _lock_of_dead(folder, trial_id):
        own = _own_row(folder, trial_id, owner)
        _remove_traces(folder, trial_id)
    return own


def _remove_traces(folder: Path, trial_id: str) -> None:
    """Remove the note of a dead trial, and what it was writing when it was killed."""
    remove_note(folder, trial_id)
    for path in (folder / PARTIAL).glob(f"*-{trial_id}-*"):
        path.unlink(missing_ok=True)


@contextmanager
def _lock_of_dead(folder: Path, trial_id: str) -> Iterator[None]:
    """Hold the lock of a trial whose process has died, if nothing else does."""
    path = lock_path(folder, trial_id)
    with ExitStack() as held:
        # a process that the trial started may have its lock and outlive it; nobody else records this trial's death,
        # because its owner lives
        with suppress(HeldError, UnlockableError):
            held.enter_context(locked(path, wait_s=_DEAD_WAIT_S))
        yield
        with suppress(OSError):
            path.unlink()


def _own_row(folder: Path, trial_id: str, owner: str) -> dict[str, Any] | None:
    """The row that a trial wrote before it died."""
    path = spool.entry_path(folder, owner, trial_id)
    try:
        rows: list[dict[str, Any]] = spool.load_entry(path)["trials"].to_pylist()
    except FileNotFoundError:
        # a trial that has a note is not published
        has_note = os.path.lexists(note_path(folder, trial_id))
        return None if has_note else published_row(folder, owner, trial_id)
    except spool.UnusableEntryError:
        set_aside(path)
        return None
    return rows[0]


def _planned_row(folder: Path, trial_id: str, end: Mapping[str, str], row: Mapping[str, Any] | None) -> dict[str, Any]:
    path = note_path(folder, trial_id)
    try:
        return ended_row(read_json(path), trial_id, end)
    except FileNotFoundError:
        pass
    except UnusableNoteError:
        set_aside(path)
    return _ended_row(folder, trial_id, end, row)


def _ended_row(folder: Place, trial_id: str, end: Mapping[str, str], row: Mapping[str, Any] | None) -> dict[str, Any]:
    if row is None:
        raise LookupError(f"{folder}: no trace of the trial {trial_id}")
    return ended_row(row, trial_id, end)
