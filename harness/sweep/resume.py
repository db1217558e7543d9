"""What a results folder has of a plan already: those trials are not run again."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness import results
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.sweep.composer import Composer
from harness.sweep.local import Company, settled
from harness.sweep.plan import Plan
from harness.wording import few

if TYPE_CHECKING:
    import pyarrow as pa

_VERSIONS = "package_versions"
_COMPARED = ("git_commit", "git_dirty", "python_version", "platform", "gpu_driver", *results.HARDWARE, "threads")
_OF_A_MACHINE = {"platform", "gpu_driver", *results.HARDWARE} - {"simultaneous_trials", "threads"}
_READ = ("trial_id", "trial_key", "status", "measured_at", *_COMPARED, _VERSIONS)
_SAMPLE = 20


@dataclass(frozen=True)
class Resumed:
    """Which trials of a plan are left to run.

    Attributes:
        to_run: their places in the plan, counted from 1.
        done_by: of each planned trial, the id of the earlier one that makes it unnecessary, or None.
        lines: what to print: how many of each kind, and what differs between the earlier trials and those to come.
    """

    to_run: list[int]
    done_by: list[str | None]
    lines: list[str]


@dataclass(frozen=True)
class LeftToRun:
    """The trials of a plan that a results folder lacks, with what :class:`Resumed` says of them.

    Attributes:
        done_by: of each planned trial, the id of the earlier one that makes it unnecessary; None: it is to run.
        lines: what to print.
        environment: of the trials to come.
    """

    done_by: list[str | None]
    lines: list[str]
    environment: dict[str, Any]


def left_to_run(plan: Plan, composer: Composer, company: Company, *, in_jobs: bool) -> LeftToRun:
    """Compose and resolve every trial of a plan, and find out which of them its results folder lacks.

    A trial whose config is wrong is left to run, because running it says what is wrong.

    Args:
        plan: the plan.
        composer: from overrides to a config.
        company: how many trials run side by side, which decides the threads of each.
        in_jobs: whether jobs run them, on machines that need not be like this one.

    Raises:
        UsageError: no trial has a config that is right.
    """
    from harness.resolution import resolved

    configs: dict[int, TrialConfig] = {}
    wrong: UsageError | None = None
    for trial in plan.trials:
        try:
            config = settled(composer.config(trial.overrides, number=trial.index - 1), company)
            configs[trial.index] = resolved(config, elsewhere=in_jobs)
        except UsageError as error:
            wrong = error
    if not configs and wrong is not None:
        raise wrong
    first = next(iter(configs.values()))
    environment = columns_now(first, simultaneous_trials=company.simultaneous_trials, in_jobs=in_jobs)
    folder, wrong_ones = results.place_of(first.results.dir), plan.size - len(configs)
    known = resumed(configs.values(), folder, environment, refused=wrong_ones)
    done_by: list[str | None] = [None] * plan.size
    for index, trial_id in zip(configs, known.done_by, strict=True):
        done_by[index - 1] = trial_id
    return LeftToRun(done_by, known.lines, environment)


def resumed(
    configs: Iterable[TrialConfig], folder: results.Place, now: Mapping[str, Any], *, refused: int = 0
) -> Resumed:
    """Find out which trials of a plan a results folder lacks.

    A trial is done if there is an ``ok`` or ``diverged`` row of the same ``trial_key``; where a plan has the same trial
    several times, it needs as many rows. All others are to run, those that failed before among them.

    Args:
        configs: of the planned trials in their order, resolved (see :func:`harness.resolution.resolved`).
        folder: the results folder; one that holds no results has none of them.
        now: columns of the trials to come, see :func:`columns_now`.
        refused: how many other planned trials have a config that is wrong.
    """
    rows = _rows(folder)
    done, failed = _by_key(rows)
    used: list[int | None] = []
    sample: list[TrialConfig] = []
    failed_before = 0
    for config in configs:
        key = config.trial_key
        used.append(done[key].pop() if done.get(key) else None)
        if used[-1] is None:
            failed_before += failed[key] > 0
            failed[key] -= 1
            sample += [config] if len(sample) < _SAMPLE else []
    ids = rows["trial_id"].to_pylist()
    taken = [row for row in used if row is not None]
    to_run = [index for index, row in enumerate(used, 1) if row is None]
    counts = f"{len(taken):,} done, {failed_before:,} failed before, {len(to_run):,} to run"
    cannot = f", {refused:,} that cannot be run" if refused else ""
    lines = [f"{len(used) + refused:,} planned: {counts}{cannot}"]
    if to_run:
        lines += _differences(rows.take(taken), now) if taken else _other_threads(sample, done, rows)
    return Resumed(to_run, [None if row is None else ids[row] for row in used], lines)


def columns_now(config: TrialConfig, *, simultaneous_trials: int, in_jobs: bool = False) -> dict[str, Any]:
    """Return what :func:`resumed` compares, of a trial of this resolved config that would run now.

    Args:
        config: one of those to come, resolved.
        simultaneous_trials: how many trials will run at the same time on one machine.
        in_jobs: whether it runs on a machine that need not be like this one, and of which nothing is said.
    """
    import torch

    from harness import device, provenance, rows

    here = torch.device("cpu") if in_jobs else device.resolve(config.device)
    columns = rows.environment(provenance.environment(here))
    if not in_jobs:
        columns["memory_kept"] = device.is_to_keep_memory(config.device)
    else:
        columns = {name: value for name, value in columns.items() if name not in _OF_A_MACHINE}
    return {**columns, "simultaneous_trials": simultaneous_trials, "threads": config.device.threads}


def _rows(folder: results.Place) -> "pa.Table":
    """The rows of trials, the latest last."""
    try:
        results.require_results(folder)
    except UsageError:
        return results.arrow_schema("trials").empty_table()
    return results.read(folder, "trials", _READ).rows.sort_by("measured_at")


def _by_key(rows: "pa.Table") -> tuple[dict[str, list[int]], Counter[str]]:
    """The places of the rows of finished trials by their keys, and how many other rows each key has."""
    done: dict[str, list[int]] = {}
    failed: Counter[str] = Counter()
    statuses = rows["status"].to_pylist()
    for place, (key, status) in enumerate(zip(rows["trial_key"].to_pylist(), statuses, strict=True)):
        if status in results.COUNTED:
            done.setdefault(key, []).append(place)
        else:
            failed[key] += 1
    return done, failed


def _differences(done: "pa.Table", now: Mapping[str, Any]) -> Iterator[str]:
    """A line for each thing that is not as it was when the trials that are done were measured."""
    for name in (own for own in _COMPARED if own in now):
        counts = Counter(done[name].to_pylist())
        if set(counts) != {now[name]}:
            earlier = [f"{results.text_of(value)} ({n:,})" for value, n in counts.most_common() if value != now[name]]
            yield f"note: {name} differs: done trials have {few(earlier)}, the coming ones {results.text_of(now[name])}"
    changed: dict[str, None] = {}
    for text in set(done[_VERSIONS].to_pylist()):
        changed |= dict.fromkeys(_changed(_versions(text), _versions(now[_VERSIONS])))
    if changed:
        yield f"note: packages differ between done trials and the coming ones: {few(changed, 10)}"


def _versions(text: str | None) -> dict[str, Any]:
    try:
        versions = json.loads(text or "{}")
    except ValueError:
        return {}
    return versions if isinstance(versions, dict) else {}


def _changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each package with both versions."""
    names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    return [f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}" for name in names]


def _other_threads(sample: Sequence[TrialConfig], done: Mapping[str, object], rows: "pa.Table") -> Iterator[str]:
    """Where nothing matches: the number of threads with which the first trials would."""
    counts = sorted({n for n in rows["threads"].to_pylist() if n is not None}) if done else []
    for threads in counts:
        others = [replace(own, device=replace(own.device, threads=threads)) for own in sample]
        matching = sum(own.trial_key in done for own in others)
        if matching:
            yield (
                f"note: {matching} of the first {len(sample)} are done with {threads} threads, which is another "
                f"result: workers share the cores, so sweep.workers changes device.threads; add "
                f"device.threads={threads} to go on from them"
            )
