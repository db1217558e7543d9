"""What is wrong with a results folder, as ``python -m harness.results validate`` says it."""

import shlex
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from harness.results import schema
from harness.results.duplicates import KEYS
from harness.results.locking import is_held
from harness.results.notes import UnusableNoteError, killed_row, owner_of
from harness.results.places import Place, RemotePlace
from harness.results.reading import passed_over_line, read, require_results
from harness.results.recovery import linked, notes
from harness.results.schema import STATUSES
from harness.results.spool import SET_ASIDE, SPOOL, named, owner_folder, owners, strangers
from harness.results.unpublished import Unpublished, unpublished
from harness.results.writing import RUNNING, lock_path
from harness.wording import counted, few, one_line


class Checked(NamedTuple):
    """A results folder, checked.

    Attributes:
        trials: how many it has.
        problems: a line for each kind of fault.
        notes: a line for each thing that is no fault and good to know.
    """

    trials: int
    problems: list[str]
    notes: list[str]


def check(folder: str | Place) -> Checked:
    """Look at everything in a results folder and change nothing.

    Raises:
        UsageError: the folder holds no results, or the store that it lies in cannot be reached.
    """
    place = require_results(folder)
    waiting = unpublished(place)
    lines = list(waiting.problems)
    tables = {}
    versions = Counter[int]()
    for table, names in KEYS.items():
        content = read(place, table, (*names, "status") if table == "trials" else names, spooled=waiting)
        tables[table] = content.rows
        versions += content.versions
        lines += [*content.problems, *content.remarks]
    lines += _key_problems(place, tables)
    said = [*passed_over_line(place), *_mixed(place, versions), *_unpublished(place, waiting)]
    if not isinstance(place, RemotePlace):
        lines += _foreign(place)
        lines += _unfinished(place, set(tables["trials"]["trial_id"].to_pylist()))
        said += _set_aside(place)
    return Checked(len(tables["trials"]), [one_line(line) for line in lines], [one_line(line) for line in said])


def problems_in(folder: str | Place) -> list[str]:
    """Everything that is wrong with a results folder, one line for each kind; an empty list if it is sound.

    Raises:
        UsageError: the folder holds no results.
    """
    return check(folder).problems


def _mixed(folder: Place, versions: Counter[int]) -> Iterator[str]:
    if len(versions) > 1:
        which = ", ".join(f"{version} ({counted(count, 'file')})" for version, count in sorted(versions.items()))
        yield (
            f"files of several schema versions: {which}; other programs may refuse to read them together: "
            f"{_compact(folder)} writes a copy in version {schema.SCHEMA_VERSION}"
        )


def _unpublished(folder: Place, waiting: Unpublished) -> Iterator[str]:
    remote = isinstance(folder, RemotePlace)
    left = {
        owner: ids
        for owner, ids in waiting.owners.items()
        # who holds its lock is at work, and a store has no locks
        if isinstance(folder, RemotePlace) or not is_held(lock_path(folder, owner))
    }
    if not left:
        return
    by_copy = f"unless their run goes on, {_compact(folder)} copies them into parts"
    then = by_copy if remote else "the next run into this folder publishes them"
    count = counted(sum(map(len, left.values())), "finished trial")
    yield f"{SPOOL}: {count} of {few(sorted(left))}, which other programs do not see yet; {then}"


def _compact(folder: Place) -> str:
    return f"`python -m harness.results compact {shlex.quote(str(folder))} DST`"


def _set_aside(folder: Path) -> Iterator[str]:
    if linked(folder):
        return
    of_spool = [owner_folder(folder, owner) for owner in owners(folder)]
    notes_aside = named(folder / RUNNING, SET_ASIDE)
    spooled = [path for place in (folder / SPOOL, *of_spool) for path in named(place, SET_ASIDE)]
    for place, noun, paths in ((RUNNING, "note", notes_aside), (SPOOL, "file", spooled)):
        if paths:
            names = few(path.name for path in paths)
            yield f"{place}: {counted(len(paths), noun)} that no run could use; look or remove: {names}"


def _key_problems(folder: Place, tables: dict[str, pa.Table]) -> Iterator[str]:
    unknown: dict[str, list[str]] = defaultdict(list)
    ended = []
    for row in tables["trials"].to_pylist():
        if row["status"] not in STATUSES:
            unknown[row["status"]].append(row["trial_id"])
        if row["status"] == "ok":
            ended.append(row["trial_id"])
    for status, ids in sorted(unknown.items()):
        yield from _said("trials", ids, f"has the unknown status '{status}'", f"have the unknown status '{status}'")
    for table in ("curves", "layers"):
        yield from _detail_problems(folder, table, tables[table], tables["trials"]["trial_id"].combine_chunks())
    lacking = sorted(set(ended) - set(pc.unique(tables["curves"]["trial_id"]).to_pylist()))
    yield from _said("curves", lacking, "is ok and has no rows", "are ok and have no rows")


def _said(table: str, ids: Sequence[str], one: str, many: str) -> Iterator[str]:
    """One line for the same fault of any number of trials."""
    if ids:
        yield (
            f"{table}: the trial {ids[0]} {one}"
            if len(ids) == 1
            else f"{table}: {len(ids):,} trials {many}: {few(ids)}"
        )


def _detail_problems(folder: Place, table: str, keys: pa.Table, trial_ids: pa.Array) -> Iterator[str]:
    ids = pc.unique(keys["trial_id"])
    alone = ids.filter(pc.invert(pc.is_in(ids, value_set=trial_ids))).to_pylist()
    if alone:
        # a trial may have ended since trials were read
        alone = sorted(set(alone) - set(read(folder, "trials", ("trial_id",)).rows["trial_id"].to_pylist()))
    yield from _said(
        table, alone, "has no terminal row in trials (its writer was killed)",
        "have no terminal row in trials (their writer was killed)",
    )  # fmt: skip


def _foreign(folder: Path) -> Iterator[str]:
    for name in linked(folder):
        yield f"{folder / name}: is a link, which no run follows; remove the link"
    for path in strangers(folder):
        yield f"{path}: it is no folder of finished trials; the next run sets it aside"


def _is_attended(folder: Path, note: Path) -> bool:
    return any(is_held(lock_path(folder, owner)) for owner in (note.stem, owner_of(note)) if owner)


def _unfinished(folder: Path, recorded: Collection[str]) -> Iterator[str]:
    begun = []
    for path in notes(folder):
        # a trial that is running now, or whose owner is about to record its end, is no fault
        if _is_attended(folder, path):
            continue
        try:
            killed_row(path)
        except UnusableNoteError as error:
            yield f"{path}: {error}; the next run sets it aside"
        except FileNotFoundError:
            continue
        else:
            if path.stem not in recorded:
                begun.append(path.stem)
    then = "the next run into this folder records"
    yield from _said(
        "trials", begun, f"began and has no row; {then} it as killed", f"began and have no row; {then} them as killed"
    )
