"""A results folder made ready for a run: it can be written, killed trials get their rows, left-overs are removed.

A results folder may come from anywhere. Nothing that lies in ``.running`` or ``.partial`` can make this program touch
a file outside the folder, and what cannot be used there is named, set aside and never in the way.
"""

import errno
import json
import os
import re
import stat
import uuid
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from harness.errors import UsageError
from harness.results import schema
from harness.results.locking import HeldError, UnlockableError, is_held, locked
from harness.results.publishing import flush_folder
from harness.results.writing import PARTIAL, RUNNING, arrow_rows, lock_path, write_table
from harness.wording import few, one_line

_TRIAL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PARTIAL_FILE = re.compile(rf"(?:{'|'.join(schema.TABLES)}|note)-(?P<owner>.+)-[0-9a-f]{{8}}\.(?:parquet|json)")
_PROBE = re.compile(r"\.?(?P<owner>probe-[0-9a-f]{8})")
_LARGEST_NOTE_BYTES = 1 << 20
_WAIT_S = 60.0

SET_ASIDE = ".unreadable"
"""The end of the name of what was set aside in ``.running``."""


class Recovered(NamedTuple):
    """What was set right in a results folder.

    Attributes:
        trial_ids: the trials that were killed outright and have their row now.
        lines: a line for each note that cannot be used.
    """

    trial_ids: list[str]
    lines: list[str]


class UnusableNoteError(Exception):
    """A note in ``.running`` cannot become a row; the message says why."""


def prepare(folder: Path) -> Recovered:
    """Make the results folder, try all that writing a trial needs, and set right what was killed earlier.

    Raises:
        UsageError: it cannot be written.
        OSError: the disk is too full for the row of a killed trial.
    """
    try:
        _make(folder)
        _probe(folder)
    except UnlockableError as error:
        raise UsageError(f"results.dir={folder}: cannot lock a file there ({error}); give another folder") from error
    except OSError as error:
        raise UsageError(
            f"results.dir={folder}: cannot write there ({error.strerror}); give a folder that you may write"
        ) from error
    recovered = recover(folder)
    _clean(folder)
    return recovered


def _make(folder: Path) -> None:
    for name in (*schema.TABLES, RUNNING, PARTIAL):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in linked(folder):
        raise UsageError(f"results.dir={folder}: {name} is a link, which may lead outside; remove the link")


def linked(folder: Path) -> list[str]:
    """The folders of tables, notes and unfinished files that are links; no run follows them."""
    return [name for name in (*schema.TABLES, RUNNING, PARTIAL) if (folder / name).is_symlink()]


def _probe(folder: Path) -> None:
    """Do everything that recording a trial needs, so that a failure comes before the training and not after it."""
    owner = f"probe-{uuid.uuid4().hex[:8]}"
    with locked(lock_path(folder, owner), wait_s=_WAIT_S):
        place = folder / PARTIAL / owner
        try:
            with place.open("xb") as file:
                file.write(b"initbench")
                file.flush()
                os.fsync(file.fileno())
        finally:
            place.unlink(missing_ok=True)
        # a folder and not a file is renamed, because readers would take a file in a table for part of it
        place.mkdir()
        try:
            for table in schema.TABLES:
                place = place.rename(folder / table / f".{owner}")
                flush_folder(place.parent)
        finally:
            place.rmdir()


def recover(folder: Path) -> Recovered:
    """Give each trial that was killed outright (kill -9, power cut, out-of-memory killer) its ``killed`` row.

    Notes that cannot be used are renamed within ``.running``.

    Raises:
        OSError: a row cannot be written.
    """
    trial_ids, lines = [], []
    for path in notes(folder):
        try:
            with locked(lock_path(folder, path.stem)):
                if _recover_one(folder, path):
                    trial_ids.append(path.stem)
        except HeldError:
            # its process is alive
            continue
        except UnusableNoteError as error:
            lines.append(one_line(f"{path}: {error}"))
        except UnlockableError as error:
            lines.append(one_line(f"{path}: left alone, because its lock cannot be taken ({error})"))
    return Recovered(trial_ids, lines)


def notes(folder: Path) -> list[Path]:
    """The notes in ``.running``, usable or not."""
    return [] if linked(folder) else sorted((folder / RUNNING).glob("*.json"))


def _recover_one(folder: Path, path: Path) -> bool:
    """Write the row of a note, if it has none; whether it had none."""
    if not os.path.lexists(path):
        return False
    try:
        row = killed_row(path)
    except UnusableNoteError as error:
        raise UnusableNoteError(f"{error}; {_set_aside(path)}") from error
    has_row = os.path.lexists(folder / "trials" / f"{path.stem}.parquet")
    if not has_row:
        write_table(folder, "trials", path.stem, [row])
    path.unlink()
    return not has_row


def _set_aside(path: Path) -> str:
    """Rename what cannot be used, whatever it is, and say to what; a link is renamed and not followed."""
    name = f"{path.name}{SET_ASIDE}"
    if os.path.lexists(path.with_name(name)) or len(os.fsencode(name)) > 255:
        name = f"{uuid.uuid4().hex}{SET_ASIDE}"
    try:
        path.rename(path.with_name(name))
    except OSError as error:
        return f"it cannot be set aside ({error.strerror}); remove it"
    return f"set aside as {name}, to be looked at or removed"


def killed_row(path: Path) -> dict[str, Any]:
    """The row of a trial that was killed outright, from its note, checked against the schema.

    Raises:
        UnusableNoteError: the note cannot become a row.
        FileNotFoundError: it is gone.
    """
    row = _content(path)
    if row.get("trial_id") != path.stem or not _TRIAL_ID.fullmatch(path.stem):
        raise UnusableNoteError("its trial_id is not its file's name")
    row |= {
        "status": "killed",
        "error_type": "Killed",
        "error_message": "the process died without reporting an error (kill -9, out of memory, or full disk)",
        "measured_at": datetime.now(UTC),
    }
    required = [column.name for column in schema.COLUMNS["trials"] if column.required]
    if lacking := [name for name in required if row.get(name) is None]:
        raise UnusableNoteError(f"it lacks the columns {few(lacking)}")
    try:
        arrow_rows("trials", [row])
    except (ValueError, TypeError, OverflowError, AttributeError, pa.ArrowException) as error:
        raise UnusableNoteError(f"its values do not fit the columns ({error})") from error
    return row


def _content(path: Path) -> dict[str, Any]:
    """What a note holds; a pipe is not waited for, nor a link followed, nor a huge file read."""
    try:
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise UnusableNoteError("it is no regular file")
        if status.st_size > _LARGEST_NOTE_BYTES:
            raise UnusableNoteError(f"it has more than {_LARGEST_NOTE_BYTES:,} bytes")
        row = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise UnusableNoteError(f"it cannot be read as JSON ({error})") from error
    if not isinstance(row, dict):
        raise UnusableNoteError("it holds no row")
    return row


def _clean(folder: Path) -> None:
    """Remove what killed processes left: files and folders of the names that only this program gives."""
    for path, owner in _left_over(folder):
        if is_held(lock_path(folder, owner)):
            continue
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                _remove_empty(path)
            else:
                path.unlink()
    for lock in (folder / RUNNING).glob("*.lock"):
        if not os.path.lexists(lock.with_name(f"{lock.stem}.json")):
            # taking the lock removes its file in the end; a writer that has no note yet holds it
            with suppress(HeldError, UnlockableError), locked(lock):
                pass


def _left_over(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file that may be left over, and whose it is."""
    for path in (folder / PARTIAL).iterdir():
        match = _PARTIAL_FILE.fullmatch(path.name) or _PROBE.fullmatch(path.name)
        if match:
            yield path, match["owner"]
    for table in schema.TABLES:
        for path in (folder / table).glob(".probe-*"):
            if match := _PROBE.fullmatch(path.name):
                yield path, match["owner"]


def _remove_empty(path: Path) -> None:
    """Remove a folder unless something is in it, which then is not ours."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
