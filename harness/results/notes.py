"""Notes in ``.running``: what is known of a trial that has begun.

A note is the row that the trial gets if its process is killed outright, and the name of who records its end. Notes are
read with care, because a results folder may come from anywhere.
"""

import json
import os
import stat
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.results import schema
from harness.results.spool import NAME, SET_ASIDE
from harness.results.writing import OWNER, arrow_rows, note_path
from harness.wording import few

KILLED = {
    "status": "killed",
    "error_type": "Killed",
    "error_message": "the process died without reporting an error (kill -9, out of memory, or full disk)",
}
"""What is known of the end of a trial of which nobody saw it."""

_LARGEST_BYTES = 1 << 20
_LONGEST_NAME_BYTES = 255


class UnusableNoteError(Exception):
    """A note or a manifest cannot be used; the message says why."""


def killed_row(path: Path) -> dict[str, Any]:
    """Return the row of a trial that was killed outright, from its note.

    Raises:
        UnusableNoteError: the note cannot become a row.
        FileNotFoundError: it is gone.
    """
    return ended_row(read_json(path), path.stem, KILLED)


def ended_row(content: Mapping[str, Any], trial_id: str, end: Mapping[str, str]) -> dict[str, Any]:
    """Return the row of a trial that could not write its own, checked against the schema.

    Args:
        content: what its note holds.
        trial_id: the trial whose row it must be.
        end: status, error_type and error_message.

    Raises:
        UnusableNoteError: the content cannot become a row.
    """
    row = {name: value for name, value in content.items() if name != OWNER}
    if row.get("trial_id") != trial_id or not NAME.fullmatch(trial_id):
        raise UnusableNoteError("its trial_id is not its file's name")
    row |= {**end, "measured_at": datetime.now(UTC)}
    required = [column.name for column in schema.COLUMNS["trials"] if column.required]
    if lacking := [name for name in required if row.get(name) is None]:
        raise UnusableNoteError(f"it lacks the columns {few(lacking)}")
    try:
        arrow_rows("trials", [row])
    except (ValueError, TypeError, OverflowError, AttributeError, pa.ArrowException) as error:
        raise UnusableNoteError(f"its values do not fit the columns ({error})") from error
    return row


def owner_of(path: Path) -> str | None:
    """Return who records the end of a note's trial if its process dies; None: nobody but the next run."""
    try:
        owner = read_json(path).get(OWNER)
    except (UnusableNoteError, FileNotFoundError):
        return None
    usable = isinstance(owner, str) and NAME.fullmatch(owner) and owner != path.stem
    return owner if usable else None


def read_json(path: Path) -> dict[str, Any]:
    """Return what a note or a manifest holds; no pipe is waited for, no link followed, no huge file read.

    Raises:
        UnusableNoteError: it holds no object.
        FileNotFoundError: it is gone.
    """
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UnusableNoteError("it is no regular file")
        if status.st_size > _LARGEST_BYTES:
            raise UnusableNoteError(f"it has more than {_LARGEST_BYTES:,} bytes")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableNoteError(f"it cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise UnusableNoteError("it holds no row")
    return content


def remove_note(folder: Path, trial_id: str) -> None:
    """Remove a trial's note, if there is one."""
    note_path(folder, trial_id).unlink(missing_ok=True)


def set_aside(path: Path) -> str:
    """Rename what cannot be used, whatever it is, and say to what; a link is renamed and not followed."""
    name = f"{path.name}{SET_ASIDE}"
    if os.path.lexists(path.with_name(name)) or len(os.fsencode(name)) > _LONGEST_NAME_BYTES:
        name = f"{uuid.uuid4().hex}{SET_ASIDE}"
    try:
        path.rename(path.with_name(name))
    except OSError as error:
        return f"it cannot be set aside ({error.strerror}); remove it"
    return f"set aside as {name}, to be looked at or removed"
