"""Trials that are finished and not published yet, as readers see them: each once, also while a publisher is at work.

A publisher writes a trial's rows into parts before it removes the trial's entry in the spool. So whoever looks into the
spool first and lists the parts afterwards misses no trial: an entry that is gone by then is in a part that is listed.
A trial that is in both is counted once.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from harness.results import spool
from harness.results.places import Place, RemotePlace
from harness.results.schema import TABLES, arrow_schema
from harness.results.table_files import REQUESTS_AT_ONCE
from harness.wording import one_line


class Unpublished(NamedTuple):
    """The readable entries of a spool.

    Attributes:
        tables: table -> their rows in the columns of the present schema version.
        owners: who will publish -> the ids of the trials.
        problems: a line for each entry that cannot be used.
    """

    tables: dict[str, pa.Table]
    owners: dict[str, list[str]]
    problems: list[str]

    @property
    def trials(self) -> int:
        """How many trials there are."""
        return len(self.tables["trials"])

    def beside(self, table: str, published: pa.ChunkedArray, dictionary: Sequence[str] = ()) -> pa.Table:
        """Return the rows of a table of those trials that have none in its parts.

        Args:
            table: name.
            published: ``trial_id`` of every row in the parts.
            dictionary: columns of text that are wanted as dictionaries.
        """
        rows = self.tables[table]
        ids = pc.unique(published.cast(pa.string())) if len(rows) else pa.array([], pa.string())
        rows = rows.filter(pc.invert(pc.is_in(rows["trial_id"], value_set=ids)))
        for name in dictionary:
            index = rows.schema.get_field_index(name)
            encoded = rows[name].dictionary_encode()
            rows = rows.set_column(index, rows.schema.field(name).with_type(encoded.type), encoded)
        return rows


def unpublished(folder: Place) -> Unpublished:
    """Read the spool of a results folder; list the parts only after that.

    Raises:
        UsageError: the store that the folder lies in cannot be reached, or denies access.
    """
    paths = _entries(folder)
    with ThreadPoolExecutor(REQUESTS_AT_ONCE if isinstance(folder, RemotePlace) else None) as pool:
        contents = list(pool.map(_content, paths))
    rows: dict[str, list[pa.Table]] = {table: [] for table in TABLES}
    owners: dict[str, list[str]] = {}
    seen: dict[str, Place] = {}
    problems = []
    for path, content in zip(paths, contents, strict=True):
        if isinstance(content, str):
            problems.append(one_line(f"{path}: {content}"))
        elif content is not None and path.stem in seen:
            problems.append(f"{path}: holds the trial of {seen[path.stem]}, which counts; remove what is wrong")
        elif content is not None:
            seen[path.stem] = path
            owners.setdefault(path.parent.name, []).append(path.stem)
            for table in TABLES:
                rows[table].append(content[table])
    tables = {table: pa.concat_tables([arrow_schema(table).empty_table(), *rows[table]]) for table in TABLES}
    return Unpublished({table: content.combine_chunks() for table, content in tables.items()}, owners, problems)


def _entries(folder: Place) -> list[Place]:
    """Every file that looks like a spooled trial."""
    if not isinstance(folder, RemotePlace):
        return list(spool.entries(folder))
    place = folder / spool.SPOOL
    return [
        own
        for own in place.objects()
        if own.suffix == spool.ENTRY and own.parent.parent == place and spool.NAME.fullmatch(own.parent.name)
    ]


def _content(path: Place) -> dict[str, pa.Table] | str | None:
    """A trial's rows, or what is wrong with its entry; None: it has been published."""
    try:
        return remote_entry(path) if isinstance(path, RemotePlace) else spool.load_entry(path)
    except spool.UnusableEntryError as error:
        newer = isinstance(error, spool.NewerEntryError)
        then = "look at it, or remove it" if isinstance(path, RemotePlace) else "the next run sets it aside"
        return f"{error}; {'read it with that program' if newer else then}"
    except FileNotFoundError:
        return None


def remote_entry(path: RemotePlace) -> dict[str, pa.Table]:
    """Read the object of a spooled trial.

    Raises:
        UnusableEntryError: it is not the trial that its name says.
        FileNotFoundError: it is gone.
        UsageError: the store cannot be reached, or denies access.
    """
    tables = spool.read_entry(io.BytesIO(path.read_bytes()))
    if tables["trials"]["trial_id"][0].as_py() != path.stem:
        raise spool.UnusableEntryError("its trial_id is not its file's name")
    return tables
