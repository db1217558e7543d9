"""What has become of the plans of a results folder, as ``python -m harness.results status`` and the report say it."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from harness.config import INCIDENTAL
from harness.errors import UsageError
from harness.results.locking import is_held
from harness.results.notes import UnusableNoteError, killed_row
from harness.results.places import Place, RemotePlace, place_of
from harness.results.plans import StoredPlan, plans
from harness.results.reading import read, require_results
from harness.results.recovery import has_living, notes
from harness.results.schema import STATUSES
from harness.results.writing import lock_path
from harness.wording import counted, few, hydra_quoted, one_line

FEW = 10
"""How many trials are named unless all are asked for."""

# what Hydra's grammar reads without quotes
_IS_PLAIN = re.compile(r"[A-Za-z0-9_./@:?%+-]+(?: [A-Za-z0-9_./@:?%+-]+)*")
_RANK = {status: place for place, status in enumerate(STATUSES)}


@dataclass(frozen=True)
class Progress:
    """One plan and what has become of it.

    Attributes:
        plan: as it is stored.
        statuses: status -> how many planned trials ended so, those that an earlier sweep had done included.
        running: titles of the trials that run now.
        missing: titles of the trials that have neither ended nor run now.
        is_running: whether a process of the sweep lives; None: nobody can tell.
        command: what runs all that is missing or failed, quoted for a shell.
    """

    plan: StoredPlan
    statuses: dict[str, int]
    running: list[str]
    missing: list[str]
    is_running: bool | None
    command: str

    @property
    def failed(self) -> dict[str, int]:
        """Status -> trials, of those that did not have their chance."""
        return {name: n for name, n in self.statuses.items() if name not in STATUSES or not STATUSES[name].counted}

    @property
    def is_complete(self) -> bool:
        """Whether no trial is missing, running or failed."""
        return not self.missing and not self.running and not self.failed


class Progresses(NamedTuple):
    """What has become of each plan, the oldest first, and a line for each file that is no plan."""

    plans: list[Progress]
    problems: list[str]


def progress(folder: Place) -> Progresses:
    """Say what has become of each plan of a results folder that no later plan replaces.

    Raises:
        UsageError: the folder holds no results.
    """
    require_results(folder)
    stored = plans(folder)
    if not stored.plans:
        return Progresses([], stored.problems)
    of_trial: dict[str, str] = {}
    of_place: dict[tuple[str, int], str] = {}
    names = ["trial_id", "status", "sweep_id", "sweep_index"]
    columns = [column.to_pylist() for column in read(folder, "trials", names).rows.select(names).columns]
    for trial_id, status, sweep_id, index in zip(*columns, strict=True):
        of_trial[trial_id] = status
        best = min(status, of_place.get((sweep_id, index), status), key=lambda own: _RANK.get(own, len(_RANK)))
        of_place[sweep_id, index] = best
    running = set(_running(folder))
    return Progresses(
        [_of_plan(folder, plan, of_trial, of_place, running) for plan in _latest(stored.plans)], stored.problems
    )


def _running(folder: Place) -> Iterator[tuple[Any, Any]]:
    """Sweep and place of each trial whose note's lock is held; an object store has neither."""
    if isinstance(folder, RemotePlace):
        return
    for path in notes(folder):
        try:
            row = killed_row(path)
        except (UnusableNoteError, FileNotFoundError):
            continue
        if is_held(lock_path(folder, path.stem)):
            yield row.get("sweep_id"), row.get("sweep_index")


def _latest(stored: list[StoredPlan]) -> Iterator[StoredPlan]:
    """The plans of which no later one has all trials."""
    trials = [{_determining(overrides) for overrides in plan.overrides} for plan in stored]
    for place, plan in enumerate(stored):
        if not any(trials[place] <= later for later in trials[place + 1 :]):
            yield plan


def _determining(overrides: list[str]) -> tuple[str, ...]:
    """What makes a trial, without where its results go and how it is run."""
    return tuple(sorted(text for text in overrides if text.partition("=")[0].lstrip("+") not in INCIDENTAL))


def _of_plan(
    folder: Place,
    plan: StoredPlan,
    of_trial: Mapping[str, str],
    of_place: Mapping[tuple[str, int], str],
    all_running: set[tuple[Any, Any]],
) -> Progress:
    statuses: Counter[str] = Counter()
    running: list[str] = []
    missing: list[str] = []
    for index, (title, done_by) in enumerate(zip(plan.titles, plan.done_by, strict=True), 1):
        place = (plan.sweep_id, index)
        status = of_place.get(place) if done_by is None else of_trial.get(done_by)
        if status is not None:
            statuses[status] += 1
        else:
            (running if place in all_running else missing).append(title)
    # in an object store nobody can tell
    is_running = None if isinstance(folder, RemotePlace) else bool(running) or has_living(folder, plan.sweep_id)
    known = {status: statuses[status] for status in (*STATUSES, *statuses) if statuses[status]}
    return Progress(plan, known, running, missing, is_running, _command(plan, folder))


def _command(plan: StoredPlan, folder: Place) -> str:
    """The stored command with ``sweep.resume=true``; quoted anew, because a folder may come from anywhere."""
    try:
        typed = shlex.split(plan.command)
    except ValueError:
        typed = plan.command.split()
    added = ["sweep.resume=true"]
    if not _is_same(Path(plan.typed_in), plan.results_dir, folder):
        # the folder was moved, or is a copy
        place = str(folder.absolute() if isinstance(folder, Path) else folder)
        added.append(f"results.dir={place if _IS_PLAIN.fullmatch(place) else hydra_quoted(place)}")
    return one_line(shlex.join([*typed, *(text for text in added if text not in typed)]))


def _is_same(typed_in: Path, results_dir: str, folder: Place) -> bool:
    try:
        place = place_of(results_dir)
    except UsageError:
        # no program has written there
        return False
    if isinstance(place, RemotePlace) or isinstance(folder, RemotePlace):
        return place == folder
    return (typed_in / place).resolve() == folder.resolve()


def described(own: Progress, most: int | None = FEW) -> Iterator[str]:
    """Yield the lines that say what has become of a plan; ``most``: how many trials are named, None: all."""
    plan = own.plan
    yield one_line(f"{plan.command} ({plan.planned_at[:16].replace('T', ' ')} UTC, sweep {plan.sweep_id})")
    yield one_line(f"  {tally(own)}")
    for what, titles in (("running now", own.running), ("missing", own.missing)):
        if titles:
            yield one_line(f"  {what}: {few(titles, len(titles) if most is None else most)}")
    if own.is_running:
        yield "  its process is running: what is missing is still to come"
    elif not own.is_complete:
        unless = " (unless the sweep still runs, which an object store does not tell)" if own.is_running is None else ""
        yield f"  to run what is missing or failed{unless}, in the folder {one_line(plan.typed_in)}:"
        yield f"    {own.command}"


def tally(own: Progress) -> str:
    """How many trials were planned and how they ended, in one line."""
    failed = own.failed
    parts = [f"{own.statuses.get(name, 0):,} {name}" for name, status in STATUSES.items() if status.counted]
    by_status = f" ({', '.join(f'{n:,} {name}' for name, n in failed.items())})" if failed else ""
    parts += [f"{sum(failed.values()):,} failed{by_status}"]
    parts += [f"{len(own.running):,} running"] if own.running else []
    return f"{len(own.plan.titles):,} planned: {', '.join([*parts, f'{len(own.missing):,} missing'])}"


def named(own: Progress) -> str:
    """The missing trials of a plan and what runs them, in one sentence; "" if none is missing."""
    if not own.missing:
        return ""
    what = f"{counted(len(own.missing), 'trial')} missing: {few(own.missing, FEW)}"
    if own.is_running:
        return one_line(f"{what}; their sweep is running.")
    return one_line(f"{what}; to run what is missing or failed, in the folder {own.plan.typed_in}: {own.command}")
