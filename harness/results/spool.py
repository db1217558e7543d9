"""Where finished trials lie until they are published: one file a trial, whole and flushed as soon as it is there.

Below the results folder: ``.spool/<owner>/<trial_id>.arrow``, where the owner is who will publish the trial, and
``.spool/<owner>/<part>.json``, the manifest of a part that is being published (see :mod:`harness.results.parts`).

An entry is three Arrow IPC streams one after the other: trials, curves, layers. The schema of each says in its metadata
which table and which schema version it is, and how many rows follow, so that a cut file is never taken for a whole one.
The descriptions of the columns, which take more room than a trial's values, are left out.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from harness.results import schema
from harness.results.places import RemotePlace
from harness.results.schema import TABLES, arrow_schema
from harness.results.table_files import is_foreign

SPOOL = ".spool"
"""The folder of finished trials that are not published yet, within a results folder."""

ENTRY, MANIFEST = ".arrow", ".json"
"""How the names of a spooled trial and of a manifest end."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What the id of a trial or of an owner looks like; a name that does not match leads nowhere and is not used."""

SET_ASIDE = ".unreadable"
"""The end of the name of what was set aside in ``.running`` and ``.spool``."""

_VERSION, _TABLE, _ROWS = b"initbench.schema_version", b"initbench.table", b"initbench.rows"
_BEGIN = b"\xff\xff\xff\xff"
_LARGEST_BYTES = 1 << 30
_MOST_TRIALS, _MOST_BYTES = 1000, 128 << 20

ORDER = ("layers", "curves", "trials")
"""The tables in the order in which a part of them is written: a trial in the last has all its details."""

Tables = Mapping[str, pa.Table]
"""Table -> the rows of one trial."""

AnyPlace = TypeVar("AnyPlace", Path, RemotePlace)


class UnusableEntryError(Exception):
    """A file in the spool is no trial; the message says why."""


class NewerEntryError(UnusableEntryError):
    """A spooled trial is of a schema version that a later program wrote, which can still publish it."""


def owner_folder(folder: Path, owner: str) -> Path:
    """Return the place of an owner's trials in a results folder.

    Raises:
        ValueError: the owner's name could lead elsewhere.
    """
    if not NAME.fullmatch(owner):
        raise ValueError(f"owner={owner}: is no name; give up to 100 letters, digits, '.', '_' or '-'")
    return folder / SPOOL / owner


def entry_path(folder: Path, owner: str, trial_id: str) -> Path:
    """Return the file of one spooled trial."""
    return owner_folder(folder, owner) / f"{trial_id}{ENTRY}"


def owners(folder: Path) -> list[str]:
    """Return who has a folder in the spool, sorted; links, files and foreign names are passed over."""
    place = folder / SPOOL
    if place.is_symlink() or not place.is_dir():
        return []
    with os.scandir(place) as inside:
        return sorted(item.name for item in inside if item.is_dir(follow_symlinks=False) and NAME.fullmatch(item.name))


def strangers(folder: Path) -> list[Path]:
    """Return what lies in the spool and is no owner's folder, sorted; hidden names and what was set aside are not."""
    place = folder / SPOOL
    if place.is_symlink() or not place.is_dir():
        return []
    own = set(owners(folder))
    return sorted(
        path
        for path in place.iterdir()
        if path.name not in own and not is_foreign(path.name) and not path.name.endswith(SET_ASIDE)
    )


def named(place: Path, suffix: str) -> list[Path]:
    """Return what an owner's folder holds with that suffix, usable or not, sorted by name."""
    try:
        with os.scandir(place) as inside:
            names = (item.name for item in inside if item.name.endswith(suffix))
            return sorted(place / name for name in names if not is_foreign(name))
    except FileNotFoundError:
        return []


def entry_of(folder: Path, trial_id: str) -> Path | None:
    """Return the file of a spooled trial, whoever owns it; None if there is none."""
    paths = (entry_path(folder, owner, trial_id) for owner in owners(folder))
    return next((path for path in paths if os.path.lexists(path)), None)


def entries(folder: Path) -> Iterator[Path]:
    """Yield every file that looks like a spooled trial, owner after owner."""
    for owner in owners(folder):
        yield from named(owner_folder(folder, owner), ENTRY)


def batches(
    paths: Iterable[AnyPlace], load: Callable[[AnyPlace], Tables | None], bytes_of: Callable[[AnyPlace], int]
) -> Iterator[dict[str, Tables]]:
    """Yield spooled trials in parts of bounded size, which bounds the memory too.

    Args:
        paths: the files or objects of the trials, whose stems are their ids.
        load: returns a trial's rows; None: it is gone or cannot be used.
        bytes_of: the size of one.
    """
    trials: dict[str, Tables] = {}
    size = 0
    for path in paths:
        own_size = bytes_of(path)
        tables = load(path)
        if tables is None:
            continue
        trials[path.stem] = tables
        size += own_size
        if len(trials) == _MOST_TRIALS or size >= _MOST_BYTES:
            yield trials
            trials, size = {}, 0
    if trials:
        yield trials


def write_entry(file: BinaryIO, tables: Mapping[str, pa.Table]) -> None:
    """Write a trial's rows.

    Args:
        file: open for writing.
        tables: table -> its rows in the columns of the present schema version; all three tables are needed.
    """
    for table in TABLES:
        content = tables[table]
        own = {_VERSION: str(schema.SCHEMA_VERSION), _TABLE: table, _ROWS: str(len(content))}
        with pa.ipc.new_stream(file, content.schema.with_metadata(own)) as stream:
            stream.write_table(content)


def read_entry(file: BinaryIO) -> dict[str, pa.Table]:
    """Read a trial's rows.

    Args:
        file: open for reading; its size should have been looked at before, because it is read whole.

    Returns:
        table -> its rows in the columns of the present schema version, with the metadata of a file of that table.

    Raises:
        NewerEntryError: a later program wrote it.
        UnusableEntryError: it is cut, foreign, or holds other than one trial.
    """
    content = file.read()
    if not content.startswith(_BEGIN):
        raise UnusableEntryError("it cannot be read as Arrow streams (another kind of file)")
    try:
        source = pa.BufferReader(content)
        tables = {table: _next_table(source, table) for table in TABLES}
        if source.tell() != len(content):
            raise UnusableEntryError("it goes on after the last table")
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnusableEntryError(f"it cannot be read as Arrow streams ({reason})") from error
    _require_one_trial(tables)
    return tables


def _next_table(source: pa.BufferReader, table: str) -> pa.Table:
    """The next stream, checked, in the columns of the present version."""
    with pa.ipc.open_stream(source) as stream:
        metadata = stream.schema.metadata or {}
        if metadata.get(_TABLE) != table.encode():
            raise UnusableEntryError(f"it holds no table '{table}' where one belongs")
        version = int(metadata.get(_VERSION, b"0"))
        if version > schema.SCHEMA_VERSION:
            raise NewerEntryError(f"it has schema version {version}, this program reads up to {schema.SCHEMA_VERSION}")
        known = version >= schema.OLDEST_VERSION
        if not known or not stream.schema.equals(arrow_schema(table, version)):
            raise UnusableEntryError(f"its columns of '{table}' differ from schema version {version}")
        content = stream.read_all()
    # Arrow takes the end of a file for the end of a stream, and values from elsewhere may point anywhere
    if len(content) != int(metadata.get(_ROWS, b"-1")):
        raise UnusableEntryError(f"rows of '{table}' are missing")
    content.validate(full=True)
    return schema.completed(content, table)


def _require_one_trial(tables: Mapping[str, pa.Table]) -> None:
    if len(tables["trials"]) != 1:
        raise UnusableEntryError("it does not hold exactly one trial")
    ids = {trial_id for content in tables.values() for trial_id in pc.unique(content["trial_id"]).to_pylist()}
    if len(ids) != 1:
        raise UnusableEntryError("it holds rows of several trials")


def load_entry(path: Path) -> dict[str, pa.Table]:
    """Read the file of a spooled trial; no link is followed, no pipe waited for, no huge file read.

    Raises:
        UnusableEntryError: it is not the trial that its name says; :class:`NewerEntryError`: of a later program.
        FileNotFoundError: it is gone, which is usual because trials are published meanwhile.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnusableEntryError(f"it cannot be opened ({error.strerror})") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableEntryError("it is no regular file")
        if status.st_size > _LARGEST_BYTES:
            raise UnusableEntryError(f"it has more than {_LARGEST_BYTES:,} bytes")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            tables = read_entry(file)
    finally:
        os.close(descriptor)
    if tables["trials"]["trial_id"][0].as_py() != path.stem or not NAME.fullmatch(path.stem):
        raise UnusableEntryError("its trial_id is not its file's name")
    return tables
