"""Writing into an object store: trials are spooled and published as in a folder, without its locks and renames.

An object is there whole or not at all, and lasts when the store has answered. What a store lacks are locks, which tell
a living process from a killed one. So each owner publishes its own trials alone, and nobody recovers those of others:
``validate`` names what a killed process left in the spool, and ``compact`` copies it into parts.
"""

import io
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import UsageError
from harness.results import spool
from harness.results.places import RemotePlace
from harness.results.schema import arrow_schema
from harness.results.table_files import files, read_files, write_rows
from harness.results.unpublished import remote_entry

_PAUSES_S = (1.0, 4.0, 16.0)


def prepare_store(folder: RemotePlace) -> None:
    """Write and remove an object, so that a failure comes before the training and not after it.

    Raises:
        UsageError: the store cannot be reached, denies access, or has no such bucket.
    """
    probe = folder / spool.SPOOL / f"probe-{uuid.uuid4().hex[:8]}"
    probe.put(b"initbench")
    probe.remove()


def put_entry(folder: RemotePlace, owner: str, trial_id: str, tables: spool.Tables) -> None:
    """Spool a trial, which lasts when this returns. A network that fails for some seconds does not cost the trial.

    Raises:
        UsageError: the store cannot be reached, or denies access.
    """
    content = io.BytesIO()
    spool.write_entry(content, tables)
    place = _entry(folder, owner, trial_id)
    for pause_s in _PAUSES_S:
        try:
            return place.put(content.getvalue())
        except UsageError:
            time.sleep(pause_s)
    return place.put(content.getvalue())


def row_of(folder: RemotePlace, owner: str, trial_id: str) -> dict[str, Any] | None:
    """Return the row that a trial has written, be it published or not; None: it has written none.

    Raises:
        UsageError: the store cannot be reached, or denies access.
    """
    try:
        contents = [remote_entry(_entry(folder, owner, trial_id))["trials"]]
    except (FileNotFoundError, spool.UnusableEntryError):
        paths = [path for path in files(folder, "trials") if path.stem == trial_id or f"-{owner}-" in path.stem]
        ids = zip(paths, read_files(paths, "trials", ["trial_id"]), strict=True)
        # all of a part is fetched only if the trial is in it, because a sweep may have thousands of deaths
        known = ((path, own["trial_id"].to_pylist()) for path, own in ids if isinstance(own, pa.Table))
        has = [path for path, own in known if trial_id in own]
        contents = [own for own in read_files(has, "trials") if isinstance(own, pa.Table)]
    rows = (row for own in contents for row in own.filter(pc.equal(own["trial_id"], trial_id)).to_pylist())
    return next(rows, None)


def _entry(folder: RemotePlace, owner: str, trial_id: str) -> RemotePlace:
    return folder / spool.SPOOL / owner / f"{trial_id}{spool.ENTRY}"


class StoredSpool:
    """An owner's part of the spool in a store; one process publishes it, from one thread."""

    def __init__(self, folder: RemotePlace, owner: str, lines: list[str]) -> None:
        """Take a place.

        Args:
            folder: the results folder.
            owner: whose trials they are.
            lines: where to say what could not be used.
        """
        self._folder, self._owner, self._lines = folder, owner, lines
        self._place = folder / spool.SPOOL / owner
        self._parts = 0

    def publish(self) -> int:
        """Publish every trial that is there and return how many.

        Raises:
            UsageError: the store cannot be reached, or denies access. The next try goes on from there.
        """
        there = self._place.objects()
        for manifest in _named(there, spool.MANIFEST):
            self._complete(manifest)
        count = 0
        # trials of a manifest that was completed are gone by now, and passed over
        for trials in spool.batches(_named(there, spool.ENTRY), self._load, lambda own: own.size or 0):
            name = self._name(list(trials))
            manifest = self._place / f"{name}{spool.MANIFEST}"
            manifest.put(json.dumps(list(trials)).encode())
            self._write(name, trials)
            self._remove(manifest, list(trials))
            count += len(trials)
        return count

    def leave(self) -> None:
        """Remove the place if nothing is in it."""
        self._place.remove_empty()

    def _name(self, trial_ids: Sequence[str]) -> str:
        """A new name for a part, which sorts by time; a lone trial's part has the name of the trial."""
        self._parts += 1
        if trial_ids == [self._owner]:
            return self._owner
        return f"part-{datetime.now(UTC):%Y%m%dT%H%M%S}-{self._owner}-{self._parts:04d}"

    def _complete(self, manifest: RemotePlace) -> None:
        """Finish a part that an earlier try has begun, by writing the same objects again."""
        trial_ids = json.loads(manifest.read_bytes())
        trials = {trial_id: self._load(_entry(self._folder, self._owner, trial_id)) for trial_id in trial_ids}
        whole = {trial_id: tables for trial_id, tables in trials.items() if tables is not None}
        # a trial leaves the spool when all tables are written, so where one is gone nothing is left to write
        if len(whole) == len(trial_ids):
            self._write(manifest.stem, whole)
        self._remove(manifest, trial_ids)

    def _load(self, path: RemotePlace) -> spool.Tables | None:
        """The rows of a spooled trial; None if it is gone or cannot be used, which is said once."""
        try:
            return remote_entry(path)
        except FileNotFoundError:
            return None
        except spool.UnusableEntryError as error:
            line = f"{path}: {error}; look at it, or remove it"
            self._lines += [] if line in self._lines else [line]
            return None

    def _write(self, name: str, trials: Mapping[str, spool.Tables]) -> None:
        """Write the objects of a part; trials last, so that a trial there has all its details."""
        for table in spool.ORDER:
            content = io.BytesIO()
            whole = pa.concat_tables([arrow_schema(table).empty_table(), *(own[table] for own in trials.values())])
            write_rows(whole.combine_chunks(), content, few=len(trials) == 1)
            (self._folder / table / f"{name}.parquet").put(content.getvalue())

    def _remove(self, manifest: RemotePlace, trial_ids: Sequence[str]) -> None:
        for trial_id in trial_ids:
            _entry(self._folder, self._owner, trial_id).remove()
        manifest.remove()


def _named(objects: Sequence[RemotePlace], suffix: str) -> list[RemotePlace]:
    return [own for own in objects if own.suffix == suffix]
