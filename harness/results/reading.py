"""Results read as Arrow tables and frames; what cannot be read is named in one line and the rest still read."""

import stat
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.results import schema
from harness.results.duplicates import Repeats, once
from harness.results.schema import TABLES, arrow_schema
from harness.wording import one_line

if TYPE_CHECKING:
    import pandas as pd

_VERSION_KEY, _TABLE_KEY = b"initbench.schema_version", b"initbench.table"
_ATTEMPTS, _PAUSE_S = 20, 0.01
_ROWS_FOR_THREADS = 10_000
_CHUNKS = 100

_Result = TypeVar("_Result")


class Frames(NamedTuple):
    """The three tables as data frames, joined by ``trial_id``."""

    trials: "pd.DataFrame"
    curves: "pd.DataFrame"
    layers: "pd.DataFrame"


class Content(NamedTuple):
    """What is in a table's files.

    Attributes:
        rows: each row once.
        problems: a line for each file that cannot be read, or contradicts another.
        remarks: a line if rows are there twice and the same.
        versions: schema version -> how many files have it.
    """

    rows: pa.Table
    problems: list[str]
    remarks: list[str]
    versions: Counter[int]


class Loaded(NamedTuple):
    """A results folder.

    Attributes:
        frames: what :func:`load` returns.
        lines: what it warns of.
        versions: schema version -> how many files of trials have it.
    """

    frames: Frames
    lines: list[str]
    versions: Counter[int]


class UnreadableError(Exception):
    """One file cannot be used, and why."""


def require_results(folder: Path) -> None:
    """Check that a folder holds results.

    Raises:
        UsageError: it does not.
    """
    try:
        is_file, has_trials = folder.is_file(), (folder / "trials").is_dir()
    except OSError as error:
        # such as a name that is too long
        raise UsageError(f"{folder}: cannot be read ({error.strerror}); give the results.dir of a run") from error
    if is_file:
        raise UsageError(f"{folder}: is a file; give the folder that is the results.dir of a run")
    if not has_trials:
        raise UsageError(f"{folder}: no results there (it has no folder 'trials'); give the results.dir of a run")


def files(folder: Path, table: str) -> list[Path]:
    """The files that hold a table, by name."""
    return sorted((folder / table).glob("*.parquet"), key=lambda path: path.stem)


def _open(path: Path, table: str, dictionary: Sequence[str]) -> tuple[pq.ParquetFile, int]:
    """The file, its footer and columns checked, and its schema version."""
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


def read_file(path: Path, table: str, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()) -> pa.Table:
    """Read one file, in the columns of the present schema version.

    Args:
        path: the file.
        table: the table that it should hold.
        columns: the columns wanted, in this order; None: all.
        dictionary: columns of text that come as dictionaries.

    Raises:
        UnreadableError: it is truncated, foreign, or of a version that is not known.
        FileNotFoundError: it is gone.
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
        reason = str(error).splitlines()[0]
        raise UnreadableError(f"{path}: cannot be read as Parquet ({reason})") from error
    whole = schema.completed(content, table, target(table, columns, dictionary))
    return whole.replace_schema_metadata({**(whole.schema.metadata or {}), _VERSION_KEY: str(version)})


def target(table: str, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()) -> pa.Schema:
    """The schema of what :func:`read_file` returns."""
    full = _stored(table, schema.SCHEMA_VERSION, tuple(dictionary))
    return full if columns is None else pa.schema([full.field(name) for name in columns], metadata=full.metadata)


def read(folder: Path, table: str, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()) -> Content:
    """Everything readable of a table, and what is wrong with its files; arguments as of :func:`read_file`."""
    return _steadily(folder, lambda: _read_listed(files(folder, table), table, columns, dictionary))


def _steadily(folder: Path, work: Callable[[], _Result]) -> _Result:
    """What the work returns; it is done again if the folder was replaced, or files in it were removed, meanwhile.

    A baseline, for one, may be replaced while it is read, and its old trials must not be mixed with its new ones.
    """
    for attempt in range(_ATTEMPTS):
        time.sleep(_PAUSE_S if attempt else 0)
        try:
            before = _identity(folder)
            result = work()
            if _identity(folder) == before:
                return result
        except FileNotFoundError:
            continue
    raise UsageError(f"{folder}: its files vanish while they are read; wait until nothing changes the folder")


def _identity(folder: Path) -> tuple[int, int, int]:
    """What changes if another folder takes its name; with the time, because numbers of removed folders are reused."""
    status = folder.stat()
    return status.st_dev, status.st_ino, status.st_ctime_ns


def read_files(
    paths: Sequence[Path], table: str, columns: Sequence[str] | None = None, dictionary: Sequence[str] = ()
) -> list[pa.Table | UnreadableError]:
    """What :func:`read_file` returns or raises for each file; the error of a file that is gone is raised."""

    def attempt(path: Path) -> pa.Table | UnreadableError:
        try:
            return read_file(path, table, columns, dictionary)
        except UnreadableError as error:
            return error

    with ThreadPoolExecutor() as pool:
        return list(pool.map(attempt, paths))


def _read_listed(
    paths: Sequence[Path], table: str, columns: Sequence[str] | None, dictionary: Sequence[str]
) -> Content:
    contents = read_files(paths, table, columns, dictionary)
    good = [(path, item) for path, item in zip(paths, contents, strict=True) if isinstance(item, pa.Table)]
    problems = [str(item) for item in contents if isinstance(item, UnreadableError)]
    versions = Counter(version_of(item) for _, item in good)
    empty = target(table, columns, dictionary).empty_table()
    whole = pa.concat_tables([empty, *(item for _, item in good)])
    repeats = Repeats(table, lambda path: read_file(path, table))
    if not once(table, whole, [len(item) for _, item in good]):
        good = [(path, repeats.new(path, item)) for path, item in good]
        whole = pa.concat_tables([empty, *(item for _, item in good)])
    # a chunk for each of many files makes whatever comes next slow
    whole = whole.combine_chunks() if len(good) > _CHUNKS else whole
    lines = [one_line(line) for line in (*problems, *repeats.problems)]
    return Content(whole, lines, [one_line(line) for line in repeats.remarks], versions)


def version_of(content: pa.Table) -> int:
    """The schema version of the file that :func:`read_file` read."""
    return int(content.schema.metadata[_VERSION_KEY])


def load(folder: str | Path, *, columns: Mapping[str, Sequence[str]] | None = None, categories: bool = False) -> Frames:
    """Read a results folder.

    Files that cannot be read (truncated, foreign, another schema version) are skipped with a warning that names them;
    so are rows that an earlier file has as well (see :mod:`harness.results.duplicates`), and rows of trials without a
    terminal row are left out.

    Args:
        folder: the ``results.dir`` of one or more runs.
        columns: table -> the columns wanted, ``trial_id`` among them; a table that is not named is empty. None: all.
        categories: give ``trial_id`` and ``parameter`` of curves and layers as pandas categories, which take a
            tenth of the memory.

    Returns:
        the frames ``trials``, ``curves`` and ``layers``; whole numbers that can be missing are pandas' nullable
        ``Int64``.

    Raises:
        UsageError: the folder holds no results.
    """
    loaded = load_quietly(folder, columns=columns, categories=categories)
    for line in loaded.lines:
        warnings.warn(line, stacklevel=2)
    return loaded.frames


def load_quietly(
    folder: str | Path, *, columns: Mapping[str, Sequence[str]] | None = None, categories: bool = False
) -> Loaded:
    """As :func:`load`, for those who say in their own way what it warns of."""
    folder = Path(folder)
    require_results(folder)
    return _steadily(folder, lambda: _load(folder, columns, categories=categories))


def _load(folder: Path, columns: Mapping[str, Sequence[str]] | None, *, categories: bool) -> Loaded:
    frames, lines, versions = {}, [], Counter[int]()
    for table in TABLES:
        dictionary = [name for name in ("trial_id", "parameter") if categories and name in _texts(table, columns)]
        if columns is not None and table not in columns:
            frames[table] = to_frame(target(table).empty_table())
            continue
        content = read(folder, table, columns[table] if columns is not None else None, dictionary)
        lines += [*content.problems, *content.remarks]
        versions = content.versions if table == "trials" else versions
        frames[table] = to_frame(content.rows)
    known = frames["trials"]["trial_id"]
    for table in ("curves", "layers"):
        frame = frames[table]
        frames[table] = frame[frame["trial_id"].isin(known)].reset_index(drop=True)
    return Loaded(Frames(**frames), lines, versions)


def _texts(table: str, columns: Mapping[str, Sequence[str]] | None) -> Sequence[str]:
    """The columns that may become categories."""
    if table == "trials":
        return ()
    return arrow_schema(table).names if columns is None else columns.get(table, ())


def to_frame(content: pa.Table) -> "pd.DataFrame":
    """A data frame with pandas' nullable whole numbers and flags."""
    import pandas as pd

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = content.to_pandas(types_mapper=nullable.get)
    return frame
