"""A results folder of many small files copied into one of few large files, which is read a hundred times faster.

The source is only read. The copy is built in a hidden folder beside its place, flushed to the disk, and renamed to its
name when it is whole (see :mod:`harness.results.publishing`), so that readers of either folder see each row once,
whatever ends the process. An object store has no rename: there the copy is built in a temporary folder of this machine
and its files are put one after the other, trials last, so that whoever starts from trials sees whole results or none.

Trials that lie in the source's spool (finished, and not published yet) are copied too.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.results import schema
from harness.results.duplicates import Repeats
from harness.results.places import Place, RemotePlace, place_of
from harness.results.plans import PLANS, copy_plans
from harness.results.publishing import published
from harness.results.reading import require_results
from harness.results.table_files import UnreadableError, files, read_file, read_files
from harness.results.unpublished import unpublished
from harness.wording import counted, one_line

# a file of one row takes a hundred times its size in memory while it is not combined with others
_FILES_AT_ONCE, _BYTES_AT_ONCE = 200, 16 << 20
_GROUP_ROWS, _GROUP_BYTES = 1 << 17, 64 << 20
_PART_ROWS, _PART_BYTES = 1 << 22, 256 << 20


@dataclass(frozen=True)
class Merged:
    """What was copied of one table.

    Attributes:
        table: its name.
        files: how many files were read, those of trials that were not published yet included.
        rows: how many rows the copy has.
        parts: how many files the copy has.
        remarks: a line if rows were there twice and the same.
    """

    table: str
    files: int
    rows: int
    parts: int
    remarks: list[str]


@dataclass(frozen=True)
class Compacted:
    """What was copied of a results folder.

    Attributes:
        tables: of each table.
        left_out: how many trials had rows in curves or layers and no row in trials yet.
    """

    tables: list[Merged]
    left_out: int


class UnsoundError(UsageError):
    """Files cannot be read or contradict others, so a copy would lack rows.

    Attributes:
        problems: a line for each of these files.
    """

    def __init__(self, message: str, problems: Sequence[str]) -> None:
        super().__init__(message)
        self.problems = list(problems)


def compact(source: str | Place, target: str | Place) -> Compacted:
    """Copy a results folder into a new one with few files of the present schema version.

    Rows that are there twice and the same are copied once. Trials that have no row in ``trials`` when the copy begins
    (they are running, or were killed) are left out.

    Args:
        source: the folder; it is not changed, and runs may write into it meanwhile. Here and in the target an address
            such as ``s3://BUCKET/FOLDER`` will do.
        target: the new folder; it must not exist or be empty.

    Raises:
        UnsoundError: files cannot be read or contradict others; there is no copy.
        UsageError: the source holds no results, or the copy cannot be written.
    """
    source, target = require_results(source), place_of(target)
    try:
        if isinstance(target, RemotePlace):
            return _compact_to_store(source, target)
        # the folder that one stands in has no name until it is resolved
        target = target if target.name else target.resolve()
        _require_free(source, target)
        with published(target) as draft:
            return copy_into(source, draft)
    except FileNotFoundError as error:
        raise UsageError(f"{source}: {error.filename} is gone; wait until nothing removes files there") from error
    except (OSError, RuntimeError) as error:
        # a RuntimeError: a loop of links
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"{target}: cannot write there ({reason}); {source} is as it was") from error


def _compact_to_store(source: Place, target: RemotePlace) -> Compacted:
    """Build the copy on this machine, and put its files."""
    if isinstance(source, RemotePlace) and f"{target.path}/".startswith(f"{source.path}/"):
        raise UsageError(f"{target}: lies within {source}, where readers would see rows twice; give another DST")
    target.folders()
    if target.objects():
        raise UsageError(f"{target}: exists already; give DST a new name")
    with TemporaryDirectory(prefix="initbench-") as scratch:
        draft = Path(scratch)
        done = copy_into(source, draft)
        put: list[RemotePlace] = []
        try:
            for name in (PLANS, *reversed(schema.TABLES)):
                for path in sorted((draft / name).glob("*")):
                    put.append(target / name / path.name)
                    put[-1].put(pa.memory_map(str(path)).read_buffer())
        except BaseException:
            for own in put:
                with suppress(UsageError):
                    own.remove()
            raise
    return done


def _require_free(source: Place, target: Path) -> None:
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise UsageError(f"{target}: exists already; give DST a new name")
    if isinstance(source, Path) and target.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{target}: lies within {source}, where readers would see rows twice; give another DST")


def copy_into(source: Place, draft: Path) -> Compacted:
    """Copy a results folder into an empty folder, which nobody reads yet.

    Raises:
        UnsoundError: files cannot be read or contradict others.
    """
    waiting = unpublished(source)
    problems = list(waiting.problems)
    left_out: set[str] = set()
    tables: list[Merged] = []
    trial_ids: set[str] | None = None
    # trials first: a trial's rows in the other tables are written before the one in trials, so they are there
    for table in schema.TABLES:
        paths = files(source, table)
        repeats = Repeats(table, partial(read_file, table=table))
        parts = _Parts(draft / table)
        for content in _new_rows(paths, table, repeats, problems):
            parts.add(content if trial_ids is None else _of_trials(content, trial_ids, left_out))
        more = waiting.beside(table, pa.chunked_array([list(repeats.trial_ids)], pa.string()))
        if len(more):
            parts.add(more.replace_schema_metadata())
        parts.close()
        problems += repeats.problems
        remarks = [one_line(line) for line in repeats.remarks]
        tables.append(Merged(table, len(paths) + waiting.trials, parts.rows, parts.count, remarks))
        if trial_ids is None:
            trial_ids = {*repeats.trial_ids, *waiting.tables["trials"]["trial_id"].to_pylist()}
    if problems:
        raise UnsoundError(
            f"{source}: no copy was made, because {counted(len(problems), 'file')} cannot be copied; repair or remove "
            "what is named, or measure its trials again",
            [one_line(problem) for problem in problems],
        )
    copy_plans(source, draft)
    return Compacted(tables, len(left_out))


def _new_rows(paths: Sequence[Place], table: str, repeats: Repeats, problems: list[str]) -> Iterator[pa.Table]:
    """What is new in some files at a time, in one chunk."""
    for batch in _batches(paths):
        new = []
        for path, content in zip(batch, read_files(batch, table), strict=True):
            if isinstance(content, UnreadableError):
                problems.append(str(content))
            else:
                new.append(repeats.new(path, content).replace_schema_metadata())
        if new:
            yield pa.concat_tables(new).combine_chunks()


def _batches(paths: Sequence[Place]) -> Iterator[list[Place]]:
    batch: list[Place] = []
    size = 0
    for path in paths:
        own = _size(path)
        if batch and (len(batch) == _FILES_AT_ONCE or size + own > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += own
    if batch:
        yield batch


def _size(path: Place) -> int:
    if isinstance(path, RemotePlace):
        return path.size or 0
    return path.stat().st_size if path.exists() else 0


def _of_trials(content: pa.Table, trial_ids: Collection[str], left_out: set[str]) -> pa.Table:
    """The rows of these trials; the ids of others are added to ``left_out``."""
    others = [own for own in pc.unique(content["trial_id"]).to_pylist() if own not in trial_ids]
    if not others:
        return content
    left_out.update(others)
    return content.filter(pc.invert(pc.is_in(content["trial_id"], value_set=pa.array(others, pa.string()))))


class _Parts:
    """The files of one table in the copy: of bounded size, and with no trial's rows in two of them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder, self._schema = folder, schema.arrow_schema(folder.name)
        self._waiting: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None
        self._path = folder
        self._part_rows = self.rows = self.count = 0

    def add(self, content: pa.Table) -> None:
        """Take rows, and write those that wait when they are many."""
        self._waiting.append(content)
        if sum(map(len, self._waiting)) >= _GROUP_ROWS or sum(own.nbytes for own in self._waiting) >= _GROUP_BYTES:
            self._write()

    def close(self) -> None:
        """Write what waits; a table without rows gets a file too, from which readers learn its columns."""
        if self._waiting or not self.count:
            self._write()
        if self._writer is not None:
            self._writer.close()

    def _write(self) -> None:
        content = pa.concat_tables([self._schema.empty_table(), *self._waiting]).cast(self._schema)
        self._waiting = []
        if self._writer is None:
            self._path = self._folder / f"part-{self.count:05d}.parquet"
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
            self.count += 1
            self._part_rows = 0
        for group in _groups(content):
            self._writer.write_table(group, row_group_size=max(1, len(group)))
        self.rows += len(content)
        self._part_rows += len(content)
        # a new file begins between files of the source, each of which has all rows of its trials
        if self._part_rows >= _PART_ROWS or self._path.stat().st_size >= _PART_BYTES:
            self._writer.close()
            self._writer = None


def _groups(content: pa.Table) -> Iterator[pa.Table]:
    """The rows in slices of bounded size."""
    of_bytes = len(content) * _GROUP_BYTES // max(1, content.nbytes)
    length = max(1, min(_GROUP_ROWS, of_bytes))
    for start in range(0, max(1, len(content)), length):
        yield content.slice(start, length)
