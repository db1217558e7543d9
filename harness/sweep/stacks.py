"""Which trials of a sweep share a launch: like ones are gathered from a window ahead and handed out as stacks."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from harness.bounds import refusal
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.stackable import MOST_BY_ITSELF, most_in_stack, stack_key, unstackable
from harness.sweep.composer import Composer
from harness.sweep.plan import PlannedTrial
from harness.sweep.worker import StackTask, TrialTask

WINDOW = 1024
"""The most trials that are composed ahead while the stacks of none of them is full."""

_GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""What drivers of GPUs of NVIDIA, AMD and of a Windows host show; torch knows better and takes seconds to import."""


def may_have_gpu(config: TrialConfig) -> bool:
    """Return whether a trial may run on a GPU here, as far as that can be told without torch."""
    if config.device.name == "cpu" or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return False
    return any(Path(device).exists() for device in _GPU_DEVICES)


class StackPlanner:
    """Gathers trials that can share a launch.

    A stack is handed out as soon as it is full, so that the first trial does not wait until the last one is composed.
    Where none is full within :data:`WINDOW` trials, or no trial is left, the largest comes first.
    """

    def __init__(self, config: TrialConfig) -> None:
        """Take ``sweep.stack`` from the config of one of the sweep's trials."""
        asked = most_in_stack(config)
        self._most = asked if asked is not None else MOST_BY_ITSELF if may_have_gpu(config) else 1
        self._limits: dict[str, int] = {}

    @property
    def most(self) -> int:
        """The most trials of a stack; 1: each trial runs alone."""
        return self._most

    def limit(self, config: TrialConfig, most: int) -> None:
        """Let stacks of trials like this one be no larger from now on, because the device cannot hold more."""
        key = stack_key(config)
        self._limits[key] = max(1, min(most, self._limit(key)))

    def plan(self, tasks: Iterable[TrialTask]) -> Iterator[TrialTask | StackTask]:
        """Yield the trials as stacks, or alone where no other one can share their launch.

        Args:
            tasks: composed one after the other as they are asked for.
        """
        if self._most == 1:
            yield from tasks
            return
        coming = iter(tasks)
        waiting: dict[str, list[TrialTask]] = {}
        while True:
            key, alone = self._fill(waiting, coming)
            if alone is not None:
                yield alone
            elif key is None:
                return
            else:
                yield self._next(waiting, key)

    def cut(self, tasks: Sequence[TrialTask], most: int) -> list[TrialTask | StackTask]:
        """Cut trials that can share a launch into stacks of at most so many."""
        return [as_task(tasks[begin : begin + most]) for begin in range(0, len(tasks), most)]

    def _limit(self, key: str) -> int:
        return self._limits.get(key, self._most)

    def _fill(
        self, waiting: dict[str, list[TrialTask]], coming: Iterator[TrialTask]
    ) -> tuple[str | None, TrialTask | None]:
        """Take trials until a stack is full; the key of the largest one, or a trial that must run alone."""
        full = next((key for key, own in waiting.items() if len(own) >= self._limit(key)), None)
        count = sum(map(len, waiting.values()))
        while full is None and count < WINDOW:
            task = next(coming, None)
            if task is None:
                break
            if unstackable(task.config) is not None:
                return None, task
            key = stack_key(task.config)
            waiting.setdefault(key, []).append(task)
            count += 1
            full = key if len(waiting[key]) >= self._limit(key) else None
        return full or max(waiting, key=lambda key: len(waiting[key]), default=None), None

    def _next(self, waiting: dict[str, list[TrialTask]], key: str) -> TrialTask | StackTask:
        most, gathered = self._limit(key), waiting.pop(key)
        if left := gathered[most:]:
            waiting[key] = left
        return as_task(gathered[:most])


def as_task(trials: Sequence[TrialTask]) -> TrialTask | StackTask:
    """Return what a worker is given for these trials."""
    return trials[0] if len(trials) == 1 else StackTask(tuple(trials))


def refuse_useless(
    first: TrialConfig, trials: Iterable[PlannedTrial], composer: Composer, *, per_job: int | None = None
) -> None:
    """Refuse a number of trials in a launch that would have no effect.

    Args:
        first: config of the sweep's first trial.
        trials: of the sweep; the first :data:`WINDOW` of them are looked at.
        composer: from overrides to a config.
        per_job: how many trials a job of a launcher has; None: the command itself runs them all.

    Raises:
        UsageError: no two of the trials can share a launch.
    """
    asked = most_in_stack(first)
    if asked is None or asked == 1:
        return
    if per_job == 1:
        fix = "give sweep.trials_per_job >= 2 or leave sweep.stack out"
        raise refusal("sweep.stack", asked, "a job of one trial has nothing to stack", fix)
    configs = list(_composed(islice(trials, WINDOW), composer))
    keys = [stack_key(config) for config in configs if unstackable(config) is None]
    # one that is wrong says so when it is run
    if len(set(keys)) == len(keys) and configs:
        problem = "no two trials differ in init, seed or the optimizer's numbers alone"
        why, fix = (problem, "leave it out") if keys else (unstackable(configs[0]), "or leave sweep.stack out")
        raise refusal("sweep.stack", asked, str(why), fix)


def _composed(trials: Iterable[PlannedTrial], composer: Composer) -> Iterator[TrialConfig]:
    for trial in trials:
        with suppress(UsageError):
            yield composer.config(trial.overrides, number=trial.index - 1)
