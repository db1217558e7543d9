"""The part of gpu_acceptance.py about engines and stacks: the same training first, then how fast each is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import harness
from harness.timing import quartiles

if TYPE_CHECKING:
    import pandas as pd

Command = Callable[..., int]
"""Runs ``python -m harness.run -m`` with these overrides; returns the exit code."""

# two orders of summation, at the first step and grown over the steps of a stack's trial
FIRST_RTOL, LAST_RTOL = 1e-4, 1e-2


@dataclass(frozen=True)
class EnginesPlan:
    """What is run.

    Attributes:
        device: under test.
        engines: each but eager trains one trial, and eager one beside them; eager alone is the stack of one.
        stacks: trials that share a launch; the first is 1, a trial alone.
        steps: of each engine's trial.
        stack_steps: of each stacked trial.
    """

    device: str
    engines: tuple[str, ...]
    stacks: tuple[int, ...]
    steps: int
    stack_steps: int


@dataclass
class EnginesOutcome:
    """The rows of ``trials``: by engine, and of each stack by seed."""

    by_engine: "dict[str, pd.Series[Any]]" = field(default_factory=dict)
    by_stack: "dict[int, list[pd.Series[Any]]]" = field(default_factory=dict)


def plan_of(device: str, steps: int) -> EnginesPlan:
    """Return the plan; a processor captures no graph, and compiling for it shows nothing of a GPU."""
    if device == "cpu":
        return EnginesPlan(device, ("eager",), (1, 2), min(steps, 4), min(steps, 4))
    return EnginesPlan(device, ("eager", "compiled", "graph"), (1, 16, 64), steps, min(steps, 200))


def run(plan: EnginesPlan, folder: Path, command: Command) -> EnginesOutcome | None:
    """Train by each engine, then in stacks of each size; None if a trial is not ok."""
    outcome, common = EnginesOutcome(), ["experiment=article", "init=glorot", "kernel=torch", f"device={plan.device}"]
    sizes = [f"train.steps={plan.steps}", f"train.eval_every={plan.steps}", "results.dir=engines", "sweep.stack=off"]
    if len(plan.engines) > 1:
        if command(*common, f"engine={','.join(plan.engines)}", *sizes):
            return None
        for _, row in harness.load(folder / "engines").trials.iterrows():
            outcome.by_engine[row["engine"]] = row
    for size in plan.stacks:
        name = f"stack-{size}"
        # a trial alone is timed twice, so that there is more than one to set the stacks against
        seeds = f"seed=range(0,{max(2, size)})"
        sizes = [f"train.steps={plan.stack_steps}", f"train.eval_every={plan.stack_steps}", f"results.dir={name}"]
        # alone is eager: what a plain loop over trials would be
        alone = ["engine=eager"] if size == 1 else []
        if command(*common, seeds, *sizes, *alone, f"sweep.stack={size}"):
            return None
        trials = harness.load(folder / name).trials.sort_values("seed")
        outcome.by_stack[size] = [row for _, row in trials.iterrows()]
    if not outcome.by_engine:
        outcome.by_engine["eager"] = outcome.by_stack[1][0]
    return outcome


def checks(plan: EnginesPlan, outcome: EnginesOutcome) -> Iterator[tuple[str, str, bool]]:
    """Yield name, value and whether it passed: who trained, and whether each engine and stack trains the same."""
    ran = sorted(outcome.by_engine)
    yield "engines that trained", ", ".join(ran), ran == sorted(plan.engines)
    eager = outcome.by_engine.get("eager")
    for name, row in outcome.by_engine.items():
        if name == "eager" or eager is None:
            continue
        error = row["engine_error"]
        if name == "graph":
            yield "graph to eager, steps compared before training", f"{error:.1e} (0 wanted)", error == 0
            same = row["final_weights_sha256"] == eager["final_weights_sha256"]
            yield "graph to eager, final weights", "bit-equal" if same else "differ", same
        else:
            yield _close(f"{name} to eager, last loss, relative", row, eager, "train_loss_last", LAST_RTOL)
    for size, rows in outcome.by_stack.items():
        sharing = sorted({int(row["stacked_trials"]) for row in rows})
        yield f"stack of {size}: trials that shared a launch", str(sharing), sharing == [size]
        if size > 1:
            for seed, alone in enumerate(outcome.by_stack[1]):
                yield from _same_trial(f"stack of {size}, seed {seed}", rows[seed], alone)


def _same_trial(name: str, row: "pd.Series[Any]", alone: "pd.Series[Any]") -> Iterator[tuple[str, str, bool]]:
    same = row["initial_weights_sha256"] == alone["initial_weights_sha256"]
    yield f"{name}: initial weights as alone", "bit-equal" if same else "differ", same
    yield _close(f"{name}: first loss to alone, relative", row, alone, "train_loss_first", FIRST_RTOL)
    yield _close(f"{name}: last loss to alone, relative", row, alone, "train_loss_last", LAST_RTOL)


def _close(
    name: str, row: "pd.Series[Any]", wanted: "pd.Series[Any]", column: str, rtol: float
) -> tuple[str, str, bool]:
    error = abs(row[column] - wanted[column]) / abs(wanted[column])
    return name, f"{error:.1e} (at most {rtol:g})", bool(error <= rtol)


def speeds(outcome: EnginesOutcome) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return head and lines: images/s of all trials of a launch, and the ratio to a trial alone by eager."""
    lines: list[tuple[str, ...]] = []
    eager = outcome.by_engine["eager"]["images_per_s_median"]
    for name, row in outcome.by_engine.items():
        rate = "{images_per_s_median:,.0f} ({images_per_s_q25:,.0f} to {images_per_s_q75:,.0f})".format(**row)
        lines.append((f"engine={name}", "1", rate, f"{row['images_per_s_median'] / eager:.2f}"))
    alone = quartiles([row["images_per_s_median"] for row in outcome.by_stack[1]])
    assert alone is not None
    for size, rows in outcome.by_stack.items():
        # a row holds its share of the launch
        found = quartiles([size * row["images_per_s_median"] for row in rows])
        assert found is not None
        rate = f"{found.median:,.0f} ({found.q25:,.0f} to {found.q75:,.0f})"
        engines = ", ".join(sorted({row["engine"] for row in rows}))
        lines.append((f"sweep.stack={size} ({engines})", str(size), rate, f"{found.median / alone.median:.2f}"))
    return ("batch 50", "trials a launch", "images/s of all: median (quartiles)", "to eager alone"), lines
