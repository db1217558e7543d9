"""Stored plans: what each sweep meant to run, so that what is missing has a name after any end.

``.plans/<sweep_id>.parquet`` in the results folder has a row for each planned trial; the schema's metadata holds the
command. A file is written once and whole, before the first trial. A results folder may come from anywhere: what is no
plan is named and skipped.
"""

import io
import json
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import UsageError
from harness.results.locking import locked
from harness.results.places import Place, RemotePlace
from harness.results.publishing import publish_file
from harness.results.table_files import is_foreign
from harness.results.writing import WAIT_S, lock_path, partial_path
from harness.wording import one_line

PLANS = ".plans"
"""The folder of plans within a results folder."""

_COLUMNS = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("overrides", pa.list_(pa.string())),
        pa.field("title", pa.string()),
        pa.field("done_by", pa.string()),
    ]
)
_KEY = b"initbench.plan"
_SWEEP_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LARGEST_BYTES = 256 << 20
_TEXTS = ("sweep_id", "command", "typed_in", "results_dir", "planned_at")


@dataclass(frozen=True)
class StoredPlan:
    """What one command meant to run.

    Attributes:
        sweep_id: what its trials have in common.
        command: what was typed, quoted for a shell.
        typed_in: the folder that it was typed in.
        results_dir: ``results.dir`` as it was typed.
        planned_at: UTC, ISO 8601.
        environment: provenance columns of the ``trials`` table as they were then (commit, package versions, hardware).
        overrides: of each trial, in the order of the plan.
        titles: of each trial, what the sweep varies.
        done_by: of each trial, the id of the earlier trial that made it unnecessary; None: it is to run.
    """

    sweep_id: str
    command: str
    typed_in: str
    results_dir: str
    planned_at: str
    environment: dict[str, Any] = field(repr=False)
    overrides: list[list[str]] = field(repr=False)
    titles: list[str] = field(repr=False)
    done_by: list[str | None] = field(repr=False)


class StoredPlans(NamedTuple):
    """The plans in a results folder, the oldest first, and a line for each file that is none."""

    plans: list[StoredPlan]
    problems: list[str]


class _NoPlanError(Exception):
    """A file in the folder of plans cannot be used, and why."""


def write_plan(folder: Place, plan: StoredPlan) -> None:
    """Write a plan into a results folder that :func:`harness.results.prepare` made, whole and durable.

    Raises:
        OSError: it cannot be written, or there is one of that sweep.
    """
    _put(folder, f"{plan.sweep_id}.parquet", _encoded(plan))


def _encoded(plan: StoredPlan) -> bytes:
    about = {name: getattr(plan, name) for name in (*_TEXTS, "environment")}
    columns = {"overrides": plan.overrides, "title": plan.titles, "done_by": plan.done_by}
    schema = _COLUMNS.with_metadata({_KEY: json.dumps(about, default=str)})
    try:
        whole = pa.Table.from_pydict({"index": range(1, len(plan.titles) + 1), **columns}, schema=schema)
    except UnicodeEncodeError as error:
        problem = "the plan of a sweep cannot hold a name that is no UTF-8"
        raise UsageError(f"results.dir={plan.results_dir}: {problem}; rename it, or use a UTF-8 locale") from error
    content = io.BytesIO()
    pq.write_table(whole, content, compression="zstd")
    return content.getvalue()


def plans(folder: Place) -> StoredPlans:
    """Read the plans that are stored in a results folder."""
    read, problems = [], []
    for name, content in _stored(folder):
        try:
            if isinstance(content, _NoPlanError):
                raise content
            read.append(_plan(name.removesuffix(".parquet"), content))
        except _NoPlanError as error:
            problems.append(one_line(f"{folder / PLANS / name}: no plan of a sweep ({error}); look or remove"))
    return StoredPlans(sorted(read, key=lambda plan: (plan.planned_at, plan.sweep_id)), problems)


def copy_plans(source: Place, draft: Place) -> None:
    """Copy the plans of a results folder into a draft that nobody sees yet; what is no plan is left out."""
    for plan in plans(source).plans:
        if isinstance(draft, RemotePlace):
            (draft / PLANS / f"{plan.sweep_id}.parquet").put(_encoded(plan))
            continue
        (draft / PLANS).mkdir(exist_ok=True)
        (draft / PLANS / f"{plan.sweep_id}.parquet").write_bytes(_encoded(plan))


def remove_plan(folder: Place, sweep_id: str) -> None:
    """Remove the plan of a sweep that could not begin; the folder goes with its last plan."""
    path = folder / PLANS / f"{sweep_id}.parquet"
    if isinstance(path, RemotePlace):
        path.remove()
        return
    path.unlink(missing_ok=True)
    with suppress(OSError):
        path.parent.rmdir()


def _put(folder: Place, name: str, content: bytes) -> None:
    """The only place that writes a plan."""
    if isinstance(folder, RemotePlace):
        (folder / PLANS / name).put(content)
        return
    sweep_id = Path(name).stem
    # whatever lies in .partial without its owner's lock may be removed by another command
    with locked(lock_path(folder, sweep_id), wait_s=WAIT_S):
        (folder / PLANS).mkdir(exist_ok=True)
        partial = partial_path(folder, "plan", sweep_id, ".parquet")
        publish_file(partial, folder / PLANS / name, lambda file: file.write(content))


def _stored(folder: Place) -> Iterator[tuple[str, bytes | _NoPlanError]]:
    """The only place that reads plans: each file's name and content, or why it is not read."""
    if isinstance(folder, RemotePlace):
        plans_there = (own for own in (folder / PLANS).objects() if own.suffix == ".parquet")
        yield from ((own.name, own.read_bytes()) for own in plans_there if (own.size or 0) <= _LARGEST_BYTES)
        return
    if (folder / PLANS).is_symlink() or not (folder / PLANS).is_dir():
        return
    for path in sorted(own for own in (folder / PLANS).glob("*.parquet") if not is_foreign(own.name)):
        try:
            status = path.lstat()
            if not stat.S_ISREG(status.st_mode):
                yield path.name, _NoPlanError("it is no regular file")
            elif status.st_size > _LARGEST_BYTES:
                yield path.name, _NoPlanError(f"it has more than {_LARGEST_BYTES:,} bytes")
            else:
                yield path.name, path.read_bytes()
        except OSError as error:
            yield path.name, _NoPlanError(f"it cannot be read, {error.strerror}")


def _plan(sweep_id: str, content: bytes) -> StoredPlan:
    try:
        table = pq.read_table(io.BytesIO(content))
        about = json.loads((table.schema.metadata or {})[_KEY])
        texts = {name: about[name] for name in _TEXTS}
        environment = dict(about["environment"])
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _NoPlanError(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}") from error
    _require_texts(texts)
    if not _SWEEP_ID.fullmatch(sweep_id) or texts["sweep_id"] != sweep_id:
        raise _NoPlanError("its sweep_id is not its file's name")
    if not table.schema.equals(_COLUMNS) or table["index"].to_pylist() != list(range(1, len(table) + 1)):
        raise _NoPlanError("its columns are others")
    if any(table[name].null_count for name in ("overrides", "title")):
        raise _NoPlanError("a trial has no overrides or no title")
    overrides, titles, done_by = (table[name].to_pylist() for name in ("overrides", "title", "done_by"))
    if any(None in own for own in overrides):
        raise _NoPlanError("an override is null")
    return StoredPlan(**texts, environment=environment, overrides=overrides, titles=titles, done_by=done_by)


def _require_texts(texts: Mapping[str, object]) -> None:
    """Require texts that a folder can be named by, and a command of this program, because people will type it."""
    if not all(isinstance(text, str) and "\0" not in text for text in texts.values()):
        raise _NoPlanError("its metadata are not text")
    command = str(texts["command"])
    if command and not command.startswith("python -m harness.run"):
        raise _NoPlanError("its command is not python -m harness.run")
