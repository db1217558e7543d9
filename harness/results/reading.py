"""Results read as Arrow tables and frames; what cannot be read is named in one line and the rest still read."""

import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pyarrow as pa

from harness.errors import UsageError
from harness.results.duplicates import Repeats, once
from harness.results.places import Place, RemotePlace, place_of
from harness.results.schema import TABLES, arrow_schema
from harness.results.spool import SPOOL
from harness.results.table_files import (
    UnreadableError,
    files,
    passed_over,
    read_file,
    read_files,
    target,
    version_of,
)
from harness.results.unpublished import Unpublished, unpublished
from harness.wording import counted, few, one_line

if TYPE_CHECKING:
    import pandas as pd

_ATTEMPTS, _PAUSE_S = 20, 0.01
_FILES_AT_ONCE = 100

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


def require_results(folder: str | Place) -> Place:
    """Check that a folder holds results, and return its place.

    Raises:
        UsageError: it does not, or it cannot be read.
    """
    place = place_of(folder)
    if isinstance(place, RemotePlace):
        if not {"trials", SPOOL} & set(place.folders()):
            raise UsageError(f"{place}: no results there (no trial has ended); give the results.dir of a run")
        return place
    try:
        is_file, has_trials = place.is_file(), (place / "trials").is_dir()
    except OSError as error:
        # such as a name that is too long
        raise UsageError(f"{place}: cannot be read ({error.strerror}); give the results.dir of a run") from error
    if is_file:
        raise UsageError(f"{place}: is a file; give the folder that is the results.dir of a run")
    if not has_trials:
        raise UsageError(f"{place}: no results there (it has no folder 'trials'); give the results.dir of a run")
    return place


def read(
    folder: Place,
    table: str,
    columns: Sequence[str] | None = None,
    dictionary: Sequence[str] = (),
    spooled: Unpublished | None = None,
) -> Content:
    """Return everything readable of a table, and what is wrong with its files.

    Args:
        folder: the results folder.
        table: name.
        columns: the columns wanted, in this order, ``trial_id`` among them; None: all.
        dictionary: columns of text that come as dictionaries.
        spooled: what was in the folder's spool a moment ago, so that it is read, and its faults are named, once for
            several tables; None: it is read now.

    Raises:
        UsageError: the store that the folder lies in cannot be reached, or denies access.
    """

    def listed() -> Content:
        waiting = unpublished(folder) if spooled is None else spooled
        content = _read_listed(files(folder, table), table, columns, dictionary)
        more = waiting.beside(table, content.rows["trial_id"], dictionary)
        rows = pa.concat_tables([content.rows, more.select(content.rows.column_names)]) if len(more) else content.rows
        return content._replace(rows=rows, problems=content.problems + (waiting.problems if spooled is None else []))

    return _steadily(folder, listed)


def _steadily(folder: Place, work: Callable[[], _Result]) -> _Result:
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


def _identity(folder: Place) -> tuple[int, int, int]:
    """What changes if another folder takes its name; with the time, because numbers of removed folders are reused."""
    if isinstance(folder, RemotePlace):
        # a store has no folders that could be replaced
        return 0, 0, 0
    status = folder.stat()
    return status.st_dev, status.st_ino, status.st_ctime_ns


class _Batch(NamedTuple):
    """What some files of a table hold: rows, of each readable file its path and number of rows, the others' faults."""

    rows: pa.Table
    lengths: list[tuple[Place, int]]
    problems: list[str]
    versions: Counter[int]


def _read_batch(paths: Sequence[Place], table: str, columns: Sequence[str] | None, dictionary: Sequence[str]) -> _Batch:
    contents = read_files(paths, table, columns, dictionary)
    problems = [str(item) for item in contents if isinstance(item, UnreadableError)]
    good = [(path, item) for path, item in zip(paths, contents, strict=True) if isinstance(item, pa.Table)]
    # the small pieces of many files take twice the memory of the whole, and make whatever comes next slow
    rows = pa.concat_tables([target(table, columns, dictionary).empty_table(), *(item for _, item in good)])
    lengths = [(path, len(item)) for path, item in good]
    return _Batch(rows.combine_chunks(), lengths, problems, Counter(version_of(item) for _, item in good))


def _read_listed(
    paths: Sequence[Place], table: str, columns: Sequence[str] | None, dictionary: Sequence[str]
) -> Content:
    empty = target(table, columns, dictionary).empty_table()
    some = (paths[first : first + _FILES_AT_ONCE] for first in range(0, len(paths), _FILES_AT_ONCE))
    batches = [_Batch(empty, [], [], Counter()), *(_read_batch(own, table, columns, dictionary) for own in some)]
    pa.default_memory_pool().release_unused()
    whole = pa.concat_tables([batch.rows for batch in batches])
    repeats = Repeats(table, lambda path: read_file(path, table))
    lengths = [own for batch in batches for own in batch.lengths]
    if not once(table, whole, [length for _, length in lengths]):
        ends = accumulate(length for _, length in lengths)
        files_rows = [
            (path, whole.slice(end - length, length)) for (path, length), end in zip(lengths, ends, strict=True)
        ]
        whole = pa.concat_tables([empty, *(repeats.new(path, rows) for path, rows in files_rows)]).combine_chunks()
    problems = [line for batch in batches for line in batch.problems]
    lines = [one_line(line) for line in (*problems, *repeats.problems)]
    versions = sum((batch.versions for batch in batches), Counter[int]())
    return Content(whole, lines, [one_line(line) for line in repeats.remarks], versions)


def load(
    folder: str | Place, *, columns: Mapping[str, Sequence[str]] | None = None, categories: bool = False
) -> Frames:
    """Read a results folder.

    Trials that are finished and not published yet are read as well. Files that cannot be read (truncated, foreign,
    another schema version) are skipped with a warning that names them; so are rows that an earlier file has as well
    (see :mod:`harness.results.duplicates`), and rows of trials without a terminal row are left out.

    Args:
        folder: the ``results.dir`` of one or more runs: a folder, or an address such as ``s3://BUCKET/FOLDER``.
        columns: table -> the columns wanted, ``trial_id`` among them; a table that is not named is empty. None: all.
        categories: give ``trial_id`` and ``parameter`` of curves and layers as pandas categories, which take a
            tenth of the memory.

    Returns:
        the frames ``trials``, ``curves`` and ``layers``; whole numbers that can be missing are pandas' nullable
        ``Int64``.

    Raises:
        UsageError: the folder holds no results, or the store that it lies in cannot be reached.
    """
    loaded = load_quietly(folder, columns=columns, categories=categories)
    for line in loaded.lines:
        warnings.warn(line, stacklevel=2)
    return loaded.frames


def load_quietly(
    folder: str | Place, *, columns: Mapping[str, Sequence[str]] | None = None, categories: bool = False
) -> Loaded:
    """As :func:`load`, for those who say in their own way what it warns of."""
    place = require_results(folder)
    return _steadily(place, lambda: _load(place, columns, categories=categories))


def _load(folder: Place, columns: Mapping[str, Sequence[str]] | None, *, categories: bool) -> Loaded:
    waiting = unpublished(folder)
    frames, lines, versions = {}, [*waiting.problems, *passed_over_line(folder)], Counter[int]()
    for table in TABLES:
        dictionary = [name for name in ("trial_id", "parameter") if categories and name in _texts(table, columns)]
        if columns is not None and table not in columns:
            frames[table] = to_frame(target(table).empty_table())
            continue
        content = read(folder, table, columns[table] if columns is not None else None, dictionary, waiting)
        lines += [*content.problems, *content.remarks]
        versions = content.versions if table == "trials" else versions
        frames[table] = to_frame(content.rows)
    known = frames["trials"]["trial_id"]
    for table in ("curves", "layers"):
        frame = frames[table]
        inside = frame["trial_id"].isin(known)
        if not inside.all():
            # only then, because it copies the largest tables
            frames[table] = frame[inside].reset_index(drop=True)
    return Loaded(Frames(**frames), lines, versions)


def passed_over_line(folder: Place) -> list[str]:
    """One line that names the files which are plainly none of ours; an empty list if there are none."""
    names = passed_over(folder)
    return [one_line(f"passed over {counted(len(names), 'hidden or empty file')}: {few(names)}")] if names else []


def _texts(table: str, columns: Mapping[str, Sequence[str]] | None) -> Sequence[str]:
    """The columns that may become categories."""
    if table == "trials":
        return ()
    return arrow_schema(table).names if columns is None else columns.get(table, ())


def to_frame(content: pa.Table) -> "pd.DataFrame":
    """Return a data frame with pandas' nullable whole numbers and flags.

    Args:
        content: is used up: a column's memory goes as soon as the frame has its values, because tables can be large.
    """
    import pandas as pd

    nullable = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = content.to_pandas(types_mapper=nullable.get, split_blocks=True, self_destruct=True)
    for name in frame:
        # the values are Arrow's own, which nobody may write to
        frame[name] = frame[name].copy()
        pa.default_memory_pool().release_unused()
    return frame
