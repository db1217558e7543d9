"""The files of a table: listed, checked, and read in the columns of the present schema version."""

import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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

REQUESTS_AT_ONCE = 32
"""How many objects of a store are read at once, because each answer is waited for."""


_MANY: dict[str, Any] = {"compression": "zstd"}
# a file of few rows is all footer: statistics and dictionaries would make it half as large again, and to begin zstd
# anew for each column takes most of the time of reading it
_FEW: dict[str, Any] = {"compression": "snappy", "write_statistics": False, "use_dictionary": False}


class UnreadableError(Exception):
    """One file cannot be used, and why."""


def files(folder: Place, table: str) -> list[Place]:
    """Return the files that hold a table, by name."""
    if isinstance(folder, RemotePlace):
        place = folder / table
        return sorted(
            (own for own in place.objects() if own.suffix == ".parquet" and own.parent == place),
            key=lambda own: own.stem,
        )
    return sorted((folder / table).glob("*.parquet"), key=lambda path: path.stem)


def _open(path: Place, table: str, dictionary: Sequence[str]) -> tuple[pq.ParquetFile, int]:
    """The file, its footer and columns checked, and its schema version."""
    if isinstance(path, RemotePlace):
        file = pq.ParquetFile(path.opened(), read_dictionary=dictionary, pre_buffer=True)
    else:
        _require_regular(path)
        file = pq.ParquetFile(path, read_dictionary=dictionary)
    own = file.schema_arrow
    metadata = own.metadata or {}
    if metadata.get(_TABLE_KEY) != table.encode():
        raise UnreadableError(f"{path}: not a '{table}' file of initbench")
    version = metadata.get(_VERSION_KEY, b"none").decode(errors="replace")
    readable = [str(number) for number in range(schema.OLDEST_VERSION, schema.SCHEMA_VERSION + 1)]
    if version not in readable:
        raise UnreadableError(f"{path}: schema version {version}, this program reads {', '.join(readable)}")
    if not own.equals(_stored(table, int(version), tuple(dictionary))):
        raise UnreadableError(f"{path}: columns differ from schema version {version}")
    return file, int(version)


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
