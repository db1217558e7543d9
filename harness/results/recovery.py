"""A results folder made ready for a run: it can be written, killed trials get their rows, left-overs are removed.

A results folder may come from anywhere. Nothing that lies in ``.running`` or ``.partial`` can make this program touch
a file outside the folder, and what cannot be used there is named, set aside and never in the way.
"""

import errno
import os
import re
import uuid
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from harness.errors import UsageError
from harness.results import schema, spool
from harness.results.locking import HeldError, UnlockableError, is_held, locked
from harness.results.notes import (
    UnusableNoteError,
    killed_row,
    owner_of,
    set_aside,
)
from harness.results.parts import Publisher, Spooled, ids_in
from harness.results.places import Place, RemotePlace, place_of
from harness.results.plans import PLANS
from harness.results.publishing import flush_folder
from harness.results.spool import SPOOL
from harness.results.stores import prepare_store
from harness.results.table_files import is_foreign
from harness.results.writing import PARTIAL, RUNNING, WAIT_S, lock_path
from harness.wording import one_line

_PARTIAL_FILE = re.compile(
    rf"(?:{'|'.join(schema.TABLES)}|note|plan|spool|manifest)-(?P<owner>.+)-[0-9a-f]{{8}}\.(?:parquet|json|arrow)"
)
_PROBE = re.compile(r"\.?(?P<owner>probe-[0-9a-f]{8})")
_DEAD_WAIT_S = 10.0

FOLDERS = (*schema.TABLES, RUNNING, PARTIAL, spool.SPOOL)
"""What a results folder consists of."""


class Recovered(NamedTuple):
    """What was set right in a results folder.

    Attributes:
        trial_ids: the trials that were killed outright and have their row now.
        lines: a line for each note that cannot be used.
    """

    trial_ids: list[str]
    lines: list[str]


def prepare(folder: str | Place) -> Recovered:
    """Make the results folder, try all that writing a trial needs, and set right what was killed earlier.

    In an object store, nothing can tell what was killed from what runs, so nothing is set right there.

    Raises:
        UsageError: it cannot be written.
        OSError: the disk is too full for the row of a killed trial.
    """
    folder = place_of(folder, "results.dir=")
    if isinstance(folder, RemotePlace):
        try:
            prepare_store(folder)
        except UsageError as error:
            raise UsageError(f"results.dir={error}") from error
        return Recovered([], [])
    try:
        _make(folder)
        _probe(folder)
    except UnlockableError as error:
        raise UsageError(f"results.dir={folder}: cannot lock a file there ({error}); give another folder") from error
    except OSError as error:
        if error.errno == errno.EXDEV:
            problem = "cannot rename a file from one folder in it to another, which lie on different file systems"
            raise UsageError(f"results.dir={folder}: {problem}; mount it as a whole") from error
        raise UsageError(
            f"results.dir={folder}: cannot write there ({error.strerror}); give a folder that you may write"
        ) from error
    recovered = recover(folder)
    _clean(folder)
    return recovered


def _make(folder: Path) -> None:
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in linked(folder):
        raise UsageError(f"results.dir={folder}: {name} is a link, which may lead outside; remove the link")


def linked(folder: Path) -> list[str]:
    """The folders of a results folder that are links; no run follows them."""
    return [name for name in (*FOLDERS, PLANS) if (folder / name).is_symlink()]


def _probe(folder: Path) -> None:
    """Do everything that recording a trial needs, so that a failure comes before the training and not after it."""
    owner = f"probe-{uuid.uuid4().hex[:8]}"
    with locked(lock_path(folder, owner), wait_s=WAIT_S):
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
            for name in _renamed_into(folder):
                place = place.rename(folder / name / f".{owner}")
                flush_folder(place.parent)
        finally:
            place.rmdir()


def _renamed_into(folder: Path) -> Iterator[str]:
    """Yield the folders into which a finished file is renamed; each may be a file system of its own."""
    yield from (*schema.TABLES, spool.SPOOL, RUNNING)
    if (folder / PLANS).is_dir():
        yield PLANS


def missing_folders(folder: str | Place) -> list[Path]:
    """Return the results folder and those of its parents that are not there yet, the innermost first."""
    place = place_of(folder, "results.dir=")
    return [] if isinstance(place, RemotePlace) else [path for path in (place, *place.parents) if not path.exists()]


def discard(folder: str | Place, new: Sequence[Path]) -> None:
    """Remove a results folder into which nothing was recorded; what is not empty stays.

    Args:
        folder: the results folder.
        new: what :func:`missing_folders` said before it was made; nothing else is removed.
    """
    place = place_of(folder)
    if isinstance(place, RemotePlace) or place not in new:
        return
    for path in (*(place / name for name in (*schema.TABLES, RUNNING, PARTIAL, SPOOL)), *new):
        with suppress(OSError):
            path.rmdir()


def recover(folder: Place) -> Recovered:
    """Publish what dead owners left, and give each trial that was killed outright its ``killed`` row.

    Outright is: by kill -9, a power cut, or the out-of-memory killer. A trial whose owner lives is left to it. What
    cannot be used is renamed within ``.running`` and ``.spool``.

    Raises:
        OSError: a row cannot be written.
    """
    lines: list[str] = []
    # an object store has no locks to tell who is dead
    if isinstance(folder, RemotePlace) or linked(folder):
        return Recovered([], lines)
    for path in spool.strangers(folder):
        lines += [one_line(f"{path}: it is no folder of finished trials; {set_aside(path)}")]
    for owner in spool.owners(folder):
        _publish_left(folder, owner, lines)
    return Recovered(_record_killed(folder, lines), lines)


def _publish_left(folder: Path, owner: str, lines: list[str]) -> None:
    """Publish an owner's trials, unless a living process does."""
    path = lock_path(folder, owner)
    try:
        with locked(path):
            left = Spooled(folder, owner, lines)
            left.publish(again=True)
            left.leave()
    except HeldError:
        pass
    except UnlockableError as error:
        place = spool.owner_folder(folder, owner)
        lines.append(one_line(f"{place}: left alone, because its lock cannot be taken ({error})"))


def notes(folder: Path) -> list[Path]:
    """The notes in ``.running``, usable or not."""
    if linked(folder):
        return []
    return sorted(path for path in (folder / RUNNING).glob("*.json") if not is_foreign(path.name))


def has_living(folder: Place, owners: str) -> bool:
    """Return whether a process lives that publishes trials, of an owner whose name begins so, or that runs one.

    An object store has no locks, so there nobody can tell.
    """
    if isinstance(folder, RemotePlace):
        return False
    locks = (folder / RUNNING).glob(f"{owners}*.lock")
    trials = [path for path in notes(folder) if (owner_of(path) or "").startswith(owners)]
    return any(map(is_held, locks)) or any(_is_attended(folder, path) for path in trials)


@contextmanager
def alive(folder: str | Place, owner: str) -> Iterator[None]:
    """Let others see for as long as the block runs that a sweep's command lives; in an object store nobody can."""
    place = place_of(folder)
    if isinstance(place, RemotePlace):
        yield
        return
    with locked(lock_path(place, owner), wait_s=WAIT_S):
        yield


def _record_killed(folder: Path, lines: list[str]) -> list[str]:
    """Write the rows of dead notes into one part; returns the trials that had none."""
    dead = [path for path in notes(folder) if not _is_attended(folder, path)]
    if not dead:
        return []
    trial_ids = []
    # a copy of a folder that was in use may hold both the note and the row of a trial
    known = ids_in(folder, "trials", {path.stem for path in dead})
    with Publisher(folder, f"recovered-{uuid.uuid4().hex[:16]}") as publisher:
        for path in dead:
            try:
                with locked(lock_path(folder, path.stem)):
                    if _record_one(folder, path, publisher, known):
                        trial_ids.append(path.stem)
            except HeldError:
                # another process cleans up too
                continue
            except UnusableNoteError as error:
                lines.append(one_line(f"{path}: {error}"))
            except UnlockableError as error:
                lines.append(one_line(f"{path}: left alone, because its lock cannot be taken ({error})"))
    lines += publisher.lines
    return trial_ids


def _is_attended(folder: Path, note: Path) -> bool:
    """Whether the trial's process lives, or else its owner, who knows better what became of it."""
    owner = owner_of(note)
    return is_held(lock_path(folder, note.stem)) or (owner is not None and is_held(lock_path(folder, owner)))


def _record_one(folder: Path, path: Path, publisher: Publisher, known: Collection[str]) -> bool:
    """Spool the row of a note, if it has none; whether it had none."""
    # in this order, because who publishes a trial removes its note first and its file in the spool after it
    has_row = path.stem in known or spool.entry_of(folder, path.stem) is not None
    try:
        row = killed_row(path)
    except FileNotFoundError:
        return False
    except UnusableNoteError as error:
        raise UnusableNoteError(f"{error}; {set_aside(path)}") from error
    if not has_row:
        publisher.spool(row)
    path.unlink(missing_ok=True)
    return not has_row


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
    for name in _renamed_into(folder):
        for path in (folder / name).glob(".probe-*"):
            if match := _PROBE.fullmatch(path.name):
                yield path, match["owner"]


def _remove_empty(path: Path) -> None:
    """Remove a folder unless something is in it, which then is not ours."""
    try:
        path.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
