"""The files of a table: listed, checked, and read in the columns of the present schema version."""

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from harness.results import schema
from harness.results.places import Place, RemotePlace
from harness.results.schema import arrow_schema

_VERSION_KEY, _TABLE_KEY = b"initbench.schema_version", b"initbench.table"
_ROWS_FOR_THREADS = 10_000
_OF_SYSTEMS = ("desktop.ini", "thumbs.db", "icon\r")

REQUESTS_AT_ONCE = 32
"""How many objects of a store are read at once, because each answer is waited for."""


_MANY: dict[str, Any] = {"compression": "zstd"}
# a file of few rows is all footer: statistics and dictionaries would make it half as large again, and to begin zstd
# anew for each column takes most of the time of reading it
_FEW: dict[str, Any] = {"compression": "snappy", "write_statistics": False, "use_dictionary": False}


class UnreadableError(Exception):
    """One file cannot be used, and why."""


def files(folder: Place, table: str) -> list[Place]:
    """Return the files that hold a table, by name; what plainly does not is left out, see :func:`passed_over`."""
    return sorted((path for path, is_ours in _listed(folder, table) if is_ours), key=lambda path: path.stem)


def passed_over(folder: Place) -> list[str]:
    """Return the names of Parquet files that are plainly none of ours, as :func:`is_foreign` says, or that are empty.

    Files of ours are never empty, because they get their names when they are whole. Those that are were made by a
    synchronisation, an archive that was unpacked in part, or a system that crashed.
    """
    return sorted(
        f"{table}/{path.name}" for table in schema.TABLES for path, is_ours in _listed(folder, table) if not is_ours
    )


def is_foreign(name: str) -> bool:
    """Return whether a name is one that systems, editors and synchronisations give and that this program never gives.

    Hidden names and those with a leading underscore are what readers of Parquet folders pass over as well.
    """
    return name.startswith((".", "_", "~")) or name.lower() in _OF_SYSTEMS


def _listed(folder: Place, table: str) -> Iterator[tuple[Place, bool]]:
    """Each Parquet file, and whether it may be one of ours."""
    place = folder / table
    if isinstance(place, RemotePlace):
        for own in place.objects():
            if own.suffix == ".parquet" and own.parent == place:
                yield own, not is_foreign(own.name) and own.size != 0
        return
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as inside:
        for entry in inside:
            if entry.name.endswith(".parquet"):
                yield place / entry.name, not is_foreign(entry.name) and not _is_empty(entry)


def _is_empty(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_file() and entry.stat().st_size == 0
    return False


def _open(path: Place, table: str, dictionary: Sequence[str]) -> tuple[pq.ParquetFile, int]:
    """The file, its footer and columns checked, and its schema version."""
    if isinstance(path, RemotePlace):
        file = pq.ParquetFile(path.opened(), read_dictionary=dictionary, pre_buffer=True)
    else:
        _require_regular(path)
        file = pq.ParquetFile(_source(path), read_dictionary=dictionary)
    own = file.schema_arrow
    metadata = own.metadata or {}
    if metadata.get(_TABLE_KEY) != table.encode():
        raise UnreadableError(f"{path}: not a '{table}' file of initbench")
    version = metadata.get(_VERSION_KEY, b"none").decode(errors="replace")
    readable = [str(number) for number in range(schema.OLDEST_VERSION, schema.SCHEMA_VERSION + 1)]
    if version not in readable:
        newer = version.isdecimal() and int(version) > schema.SCHEMA_VERSION
        fix = "; a newer initbench wrote it, install that" if newer else ""
        raise UnreadableError(f"{path}: schema version {version}, this program reads {', '.join(readable)}{fix}")
    if not own.equals(_stored(table, int(version), tuple(dictionary))):
        raise UnreadableError(f"{path}: columns differ from schema version {version}")
    return file, int(version)


def _source(path: Path) -> Path | pa.BufferReader:
    """Return what pyarrow reads a file from; it takes no path that is no UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return pa.BufferReader(path.read_bytes())
    return path


def _require_regular(path: Path) -> None:
    """Refuse what is no file: a pipe would be waited for, and a device read, without an end."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if path.is_symlink():
            raise UnreadableError(f"{path}: cannot be read as Parquet (a link to a file that is gone)") from error
        raise
    if not stat.S_ISREG(mode):
        raise UnreadableError(f"{path}: cannot be read as Parquet (no regular file)")


@cache
def _stored(table: str, version: int, dictionary: tuple[str, ...]) -> pa.Schema:
    """The schema as it is read, with some columns as dictionaries."""
    stored = arrow_schema(table, version)
    for name in dictionary:
        index = stored.get_field_index(name)
        field = stored.field(index)
        stored = stored.set(index, field.with_type(pa.dictionary(pa.int32(), field.type)))
    return stored


def read_file(
    path: Place, table: str, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()
) -> pa.Table:
    """Read one file, in the columns of the present schema version.

    Args:
        path: the file.
        table: the table that it should hold.
        columns: the columns wanted, in this order; None: all.
        dictionary: columns of text that come as dictionaries.

    Raises:
        UnreadableError: it is truncated, foreign, or of a version that is not known.
        FileNotFoundError: it is gone.
        UsageError: the store that it lies in cannot be reached, or denies access.
    """
    try:
        file, version = _open(path, table, dictionary)
        present = None
        if columns is not None:
            there = arrow_schema(table, version).names
            present = [name for name in columns if name in there]
        # of small files many are read at once, and threads within each would only wait for each other
        content = file.read(columns=present, use_threads=file.metadata.num_rows > _ROWS_FOR_THREADS)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        if isinstance(path, RemotePlace) and path.is_fault(error):
            raise path.fault(error) from error
        reason = str(error).splitlines()[0]
        raise UnreadableError(f"{path}: cannot be read as Parquet ({reason})") from error
    whole = schema.completed(content, table, target(table, columns, dictionary))
    return whole.replace_schema_metadata({**(whole.schema.metadata or {}), _VERSION_KEY: str(version)})


def target(table: str, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()) -> pa.Schema:
    """The schema of what :func:`read_file` returns."""
    full = _stored(table, schema.SCHEMA_VERSION, tuple(dictionary))
    return full if columns is None else pa.schema([full.field(name) for name in columns], metadata=full.metadata)


def read_files(
    paths: Sequence[Place], table: str, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()
) -> list[pa.Table | UnreadableError]:
    """What :func:`read_file` returns or raises for each file; the error of a file that is gone is raised."""

    def attempt(path: Place) -> pa.Table | UnreadableError:
        try:
            return read_file(path, table, columns, dictionary)
        except UnreadableError as error:
            return error

    remote = any(isinstance(path, RemotePlace) for path in paths)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE if remote else None) as pool:
        return list(pool.map(attempt, paths))


def write_rows(content: pa.Table, file: BinaryIO, *, few: bool) -> None:
    """Write rows as one Parquet file.

    Args:
        content: the rows, in the columns of the present schema version.
        file: open for writing.
        few: the rows are those of one trial.
    """
    pq.write_table(content, file, **(_FEW if few else _MANY))


def version_of(content: pa.Table) -> int:
    """The schema version of the file that :func:`read_file` read."""
    return int(content.schema.metadata[_VERSION_KEY])
