"""Spooled trials published as files of many trials, each trial once whatever ends the process.

The files of a part, one a table, have the same name. A manifest in the spool says which trials go into them before the
first is written, and goes when the trials have left the spool. Whoever comes next with the owner's lock writes what the
manifest names and a table lacks. Rows of ``trials`` come last, so that a trial there has all its details.
"""

import json
import os
import stat
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from harness.errors import UsageError
from harness.interrupts import uninterrupted
from harness.results import spool
from harness.results.locking import HeldError, UnlockableError, let_go, take
from harness.results.notes import UnusableNoteError, read_json, remove_note, set_aside
from harness.results.places import Place, RemotePlace
from harness.results.publishing import flush_folder, publish_file
from harness.results.schema import TABLES, arrow_schema
from harness.results.stores import StoredSpool
from harness.results.writing import (
    WAIT_S,
    Row,
    lock_path,
    make_owner_folder,
    partial_path,
    spool_trial,
    write_part,
)
from harness.wording import few, one_line

_MOST_PENDING, _GROWTH, _PAUSE_S = 200, 20, 2.0

Plan = dict[str, list[str]]
"""Table -> the trials whose rows go into its part."""


class Publisher:
    """Who publishes an owner's spooled trials: one process at a time, from one thread.

    Leaving the block publishes what is left. A full disk is an OSError of any of its methods, a store that cannot be
    reached a UsageError; the trials then stay in the spool, where :func:`harness.load` sees them, and the next try goes
    on from there.

    Attributes:
        lines: a line for each file in the spool that could not be used and was set aside.
    """

    def __init__(self, folder: Place, owner: str) -> None:
        self.lines: list[str] = []
        self._folder, self._owner = folder, owner
        self._lock: FileLock | None = None
        self._spooled: Spooled | StoredSpool
        if isinstance(folder, RemotePlace):
            self._spooled = StoredSpool(folder, owner, self.lines)
        else:
            self._spooled = Spooled(folder, owner, self.lines)
        self._pending: set[str] = set()
        self._published, self._last_s = 0, -_PAUSE_S

    def __enter__(self) -> Self:
        """Take the owner's lock; a store has none, and there an owner's name must be new.

        Raises:
            UsageError: another process publishes the same trials, or the lock cannot be taken.
            OSError: the owner's place in the spool cannot be made.
        """
        if not isinstance(self._folder, RemotePlace):
            self._lock = _owners_lock(self._folder, self._owner)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Publish what is left and let go of the lock."""
        try:
            self.publish()
        finally:
            self._spooled.leave()
            if self._lock is not None and not isinstance(self._folder, RemotePlace):
                let_go(lock_path(self._folder, self._owner), self._lock)

    def spool(self, row: Row) -> None:
        """Spool the row of a trial that could not write it, and that has no curves and layers."""
        spool_trial(self._folder, self._owner, {"trials": [row], "curves": [], "layers": []}, holder=self._owner)

    def ended(self, trial_id: str) -> None:
        """Take note that a trial is spooled, and publish if enough have come together.

        The first trials appear one by one and later ones in ever larger parts, so that few files hold many trials.
        """
        self._pending.add(trial_id)
        if len(self._pending) >= enough_for_a_part(self._published) and time.monotonic() >= self._last_s + _PAUSE_S:
            self.publish()

    def publish(self) -> None:
        """Publish every trial that is spooled."""
        self._last_s = time.monotonic()
        self._published += self._spooled.publish()
        self._pending.clear()


def _owners_lock(folder: Path, owner: str) -> FileLock:
    path = lock_path(folder, owner)
    try:
        lock = take(path, wait_s=WAIT_S)
    except HeldError as error:
        what = f"another process publishes the trials of {owner}; wait until it has ended"
        raise UsageError(f"results.dir={folder}: {what}") from error
    except UnlockableError as error:
        what = f"cannot lock a file there ({error}); give another folder"
        raise UsageError(f"results.dir={folder}: {what}") from error
    try:
        make_owner_folder(folder, owner)
    except BaseException:
        let_go(path, lock)
        raise
    return lock


def enough_for_a_part(published: int) -> int:
    """How many trials make a part: 100,000 trials are at most some 600 files a table."""
    return min(_MOST_PENDING, 1 + published // _GROWTH)


class Spooled:
    """An owner's part of the spool, while this process holds the owner's lock."""

    def __init__(self, folder: Path, owner: str, lines: list[str]) -> None:
        """Take a place.

        Args:
            folder: the results folder.
            owner: whose trials they are.
            lines: where to say what could not be used.
        """
        self._folder, self._owner, self._lines = folder, owner, lines
        self._place = spool.owner_folder(folder, owner)
        self._parts = 0

    def publish(self, *, again: bool = False) -> int:
        """Publish every trial that is there and return how many.

        Args:
            again: look first whether rows are published already, as in a copy of a folder that was in use.
        """
        for path in spool.named(self._place, spool.MANIFEST):
            try:
                with uninterrupted():
                    self._complete(path)
            except UnusableNoteError as error:
                again = True
                self._lines.append(one_line(f"{path}: {error}; {set_aside(path)}"))
        count = 0
        paths = spool.named(self._place, spool.ENTRY)
        known = {table: ids_in(self._folder, table, _stems(paths) if again else set()) for table in TABLES}
        for trials in spool.batches(paths, self._load, _bytes_of):
            new = {own: tables for own, tables in trials.items() if _lacks(own, tables, known)}
            with uninterrupted():
                if new:
                    self._publish_part(new, known)
                self._remove(set(trials) - set(new))
            count += len(new)
        return count

    def leave(self) -> None:
        """Remove the place if nothing is in it."""
        with suppress(OSError):
            self._place.rmdir()

    def _load(self, path: Path) -> spool.Tables | None:
        """The rows of a spooled trial; None if it is gone or cannot be used, which is said."""
        try:
            return spool.load_entry(path)
        except FileNotFoundError:
            return None
        except spool.NewerEntryError as error:
            self._lines.append(one_line(f"{path}: {error}; left for that program to publish"))
        except spool.UnusableEntryError as error:
            self._lines.append(one_line(f"{path}: {error}; {set_aside(path)}"))
        return None

    def _publish_part(self, trials: Mapping[str, spool.Tables], known: Mapping[str, set[str]]) -> None:
        plan = {table: [trial_id for trial_id in trials if trial_id not in known[table]] for table in TABLES}
        name = self._free_name(list(trials))
        manifest = json.dumps(plan).encode()
        path = self._place / f"{name}{spool.MANIFEST}"
        partial = partial_path(self._folder, "manifest", self._owner, spool.MANIFEST)
        publish_file(partial, path, lambda file: file.write(manifest))
        self._write(name, plan, trials)
        self._remove(trials)
        path.unlink()

    def _free_name(self, trial_ids: Sequence[str]) -> str:
        """A new name for a part, which sorts by time; a lone trial's part has the name of the trial."""
        name = self._owner
        while trial_ids != [name] or self._is_taken(name):
            self._parts += 1
            name = f"part-{datetime.now(UTC):%Y%m%dT%H%M%S}-{self._owner}-{self._parts:04d}"
            if not self._is_taken(name):
                break
        return name

    def _is_taken(self, name: str) -> bool:
        paths = [self._folder / table / f"{name}.parquet" for table in TABLES]
        return any(map(os.path.lexists, [*paths, self._place / f"{name}{spool.MANIFEST}"]))

    def _write(self, name: str, plan: Plan, trials: Mapping[str, spool.Tables]) -> None:
        """Write the files of a part that are not there."""
        for table in spool.ORDER:
            if os.path.lexists(self._folder / table / f"{name}.parquet"):
                continue
            contents = [trials[trial_id][table] for trial_id in plan[table] if trial_id in trials]
            whole = pa.concat_tables([arrow_schema(table).empty_table(), *contents]).combine_chunks()
            write_part(self._folder, table, name, whole, owner=self._owner, few=len(trials) == 1)

    def _remove(self, trial_ids: Collection[str]) -> None:
        """Remove from the spool what is published; notes first, so that none is taken for a trial without a row."""
        for trial_id in trial_ids:
            with suppress(OSError):
                remove_note(self._folder, trial_id)
        for trial_id in trial_ids:
            # a folder of that name is no trial of ours
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):
                (self._place / f"{trial_id}{spool.ENTRY}").unlink()
        if trial_ids:
            # after a power cut a trial must not be back in the spool without its manifest
            flush_folder(self._place)

    def _complete(self, path: Path) -> None:
        """Finish a part that another process, or an earlier try, has begun.

        Raises:
            UnusableNoteError: the manifest, or a file of its name, is not what this program writes.
        """
        plan = _plan_of(path)
        trial_ids = sorted({trial_id for own in plan.values() for trial_id in own})
        are_there = [_is_there(self._folder / table / f"{path.stem}.parquet", plan) for table in TABLES]
        if not all(are_there):
            paths = [self._place / f"{trial_id}{spool.ENTRY}" for trial_id in trial_ids]
            trials = {own.stem: tables for own in paths if (tables := self._load(own)) is not None}
            if any(own.stem not in trials and os.path.lexists(own) for own in paths):
                # a later program wrote them, and completes them
                return
            if gone := set(trial_ids) - set(trials):
                said = f"the rows of {few(sorted(gone))} are gone from the spool; measure them again"
                self._lines.append(one_line(f"{path}: {said}"))
            self._write(path.stem, plan, trials)
        self._remove(trial_ids)
        path.unlink()


def _bytes_of(path: Path) -> int:
    return os.lstat(path).st_size if os.path.lexists(path) else 0


def _stems(paths: Sequence[Path]) -> set[str]:
    return {path.stem for path in paths}


def _plan_of(manifest: Path) -> Plan:
    """What a manifest says, checked: no name in it leads anywhere else."""
    plan: Mapping[str, Any] = read_json(manifest)
    if set(plan) != set(TABLES) or not all(isinstance(own, list) for own in plan.values()):
        raise UnusableNoteError("it is no manifest of a part")
    names = [name for own in plan.values() for name in own]
    if not all(isinstance(name, str) and spool.NAME.fullmatch(name) for name in names):
        raise UnusableNoteError("it names what is no trial")
    return dict(plan)


def _lacks(trial_id: str, tables: spool.Tables, known: Mapping[str, set[str]]) -> bool:
    """Whether the files of some table lack rows of the trial; every trial has a row in trials."""
    return any(len(tables[table]) and trial_id not in known[table] for table in TABLES)


def _is_there(path: Path, plan: Plan) -> bool:
    """Whether a file of a part has been written; whatever else has its name cannot be completed."""
    if not os.path.lexists(path):
        return False
    ids = ids_of(path)
    # a trial may have no rows in the other tables
    if ids is None or (path.parent.name == "trials" and not ids >= set(plan["trials"])):
        raise UnusableNoteError(f"{path.parent.name}/{path.name} is no file of this part")
    return True


def ids_in(folder: Path, table: str, wanted: set[str]) -> set[str]:
    """Return which of these trials have rows in the files of a table; files that cannot be read are passed over."""
    known: set[str] = set()
    for path in (folder / table).glob("*.parquet") if wanted else ():
        known |= wanted & (ids_of(path) or set())
    return known


def published_row(folder: Path, owner: str, trial_id: str) -> dict[str, Any] | None:
    """Return the row of a trial that this owner has published; None if it has not."""
    for path in (folder / "trials").glob(f"part-*-{owner}-*.parquet"):
        if trial_id in (ids_of(path) or ()):
            rows: list[dict[str, Any]] = pq.read_table(path, filters=[("trial_id", "==", trial_id)]).to_pylist()
            return rows[0]
    return None


def ids_of(path: Path) -> set[str] | None:
    """Return the trials of a Parquet file; None if it cannot be read. A pipe is not waited for."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return None
        ids = pq.ParquetFile(path, read_dictionary=["trial_id"]).read(columns=["trial_id"])["trial_id"]
        return set(pc.unique(ids).cast(pa.string()).to_pylist())
    except (OSError, KeyError, pa.ArrowException):
        return None
