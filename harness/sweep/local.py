"""Trials of a plan run on this machine: fed to workers one by one, recorded, published, and told of as they end."""

import dataclasses
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import results
from harness.audience import Audience
from harness.config import SweepPlace, TrialConfig
from harness.cores import usable_cores
from harness.errors import UsageError
from harness.sweep.composer import Composer
from harness.sweep.plan import PlannedTrial
from harness.sweep.stacks import StackPlanner
from harness.sweep.worker import Slot, StackTask, TrialTask
from harness.sweep.workers import GRACE_S, Death, Ended, Workers, slots_for, threads_each
from harness.wording import counted

_STORE_GRACE_S = 60.0
"""As :data:`GRACE_S` where rows go to an object store, to which a trial writes its last words several times."""


@dataclass(frozen=True)
class Company:
    """How many trials run side by side, and on what.

    Attributes:
        workers: processes.
        threads: CPU threads of each trial; None: as its config says, or torch's default.
        gpus: the GPUs that are given out, as in ``CUDA_VISIBLE_DEVICES``; none: each trial's config says which.
        jobs: how many jobs like this one share the machine.
        has_own_cores: whether each worker is pinned to cores of its own.
    """

    workers: int
    threads: int | None
    gpus: tuple[str, ...] = ()
    jobs: int = 1
    has_own_cores: bool = True

    @property
    def simultaneous_trials(self) -> int:
        """How many trials run at the same time on this machine."""
        return self.workers * self.jobs

    def slots(self) -> list[Slot]:
        """Return where the workers run; jobs that share a machine cannot tell whose the cores are, and pin none."""
        slots = slots_for(self.workers, threads=self.threads, gpus=list(self.gpus))
        if self.jobs == 1 and self.has_own_cores:
            return slots
        return [dataclasses.replace(slot, cores=()) for slot in slots]


def company_of(config: TrialConfig, most: int) -> Company:
    """Return how many workers a sweep gets on this machine.

    Args:
        config: of one of its trials, as composed.
        most: how many trials there are to run; more workers would have nothing to do.
    """
    if config.sweep.workers == 1:
        return Company(1, None)
    gpus = () if config.device.name == "cpu" else _gpus()
    wanted = config.sweep.workers if config.sweep.workers != "auto" else (len(gpus) or len(usable_cores()))
    workers = max(1, min(wanted, most))
    if workers == 1:
        return Company(1, None)
    threads = config.device.threads or threads_each(workers)
    return Company(workers, threads, gpus if config.device.index == 0 else ())


def _gpus() -> tuple[str, ...]:
    """The GPUs that torch would see, as in ``CUDA_VISIBLE_DEVICES``."""
    import torch

    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return tuple(names[:count])


def settled(config: TrialConfig, company: Company) -> TrialConfig:
    """Return a trial's config with its worker's share of the cores."""
    if company.threads is None or config.device.threads is not None:
        return config
    return dataclasses.replace(config, device=dataclasses.replace(config.device, threads=company.threads))


@dataclass
class LocalSweep:
    """Trials of one sweep in workers on this machine.

    Attributes:
        sweep_id: of all its trials.
        owner: who publishes their rows; a job on another machine is an owner of its own.
        size: how many trials the whole sweep has.
        folder: its results folder, made ready.
        composer: from overrides to a config.
        company: how many run side by side.
        stacks: says which trials share a launch.
        audience: is told.
        refused: the trials that could not be run as they were asked for.
    """

    sweep_id: str
    owner: str
    size: int
    folder: str
    composer: Composer
    company: Company
    stacks: StackPlanner
    audience: Audience
    refused: set[int] = field(default_factory=set)
    _workers: Workers | None = None
    _is_over: bool = False
    _interruptions: int = 0
    _was_unpublished: bool = False
    _is_gone: bool = False

    def run(self, trials: Iterable[PlannedTrial]) -> None:
        """Run the trials; each that begins gets a row, whatever happens to it."""
        if self.company.simultaneous_trials > 1:
            # threads that wait for work in a loop keep the other workers from theirs
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        grace_s = _STORE_GRACE_S if isinstance(results.place_of(self.folder), results.RemotePlace) else GRACE_S
        with self._publishing() as publisher, Workers(self.company.slots(), grace_s=grace_s) as workers:
            self._workers = workers
            try:
                for ended in workers.run(self._launches(trials), self.audience.look):
                    if isinstance(ended.task, StackTask):
                        workers.again(self._record_stack(ended, ended.task, publisher))
                    else:
                        self._record(ended, ended.task, publisher)
                    self._say(publisher)
            finally:
                self._is_over = True
        self._say(publisher)

    @contextmanager
    def _publishing(self) -> Iterator[results.Publisher]:
        """Publish as trials end; what cannot be published is safe in the spool, and costs no other trial."""
        publisher = results.Publisher(results.place_of(self.folder), self.owner).__enter__()
        try:
            yield publisher
        finally:
            try:
                # it lets go of its lock also where it cannot publish
                publisher.__exit__(None, None, None)
            except (OSError, UsageError) as error:
                safe = "the next run into it publishes the finished trials in its .spool"
                self.audience.lose(f"results.dir={self.folder}: cannot be published ({_why(error)}); {safe}")

    def _publish(self, publisher: results.Publisher, trial_id: str) -> None:
        """Publish if it is time; what fails for a moment is tried again with the next trial."""
        try:
            publisher.ended(trial_id)
        except (OSError, UsageError) as error:
            if not self._was_unpublished:
                again = "finished trials are safe in its .spool, and it is tried again"
                self.audience.note(f"results.dir={self.folder}: cannot be published just now ({_why(error)}); {again}")
            self._was_unpublished = True

    def _say(self, publisher: results.Publisher) -> None:
        """Say what in the spool could not be published."""
        for line in publisher.lines:
            self.audience.note(line)
        publisher.lines.clear()

    def interrupt(self) -> None:
        """Stop: the first time the trials in hand record themselves as killed, the second time they are killed.

        What is left to do when all trials have ended is done all the same.
        """
        self._interruptions += 1
        self.audience.is_interrupted = True
        if self._workers is None:
            raise KeyboardInterrupt
        if not self._is_over:
            self._workers.stop(at_once=self._interruptions > 1)

    def _launches(self, trials: Iterable[PlannedTrial]) -> Iterator[TrialTask | StackTask]:
        """The trials as the workers get them; none after the end of the sweep, though some may have been composed."""
        for task in self.stacks.plan(self._tasks(trials)):
            if self._interruptions or self._is_gone:
                return
            yield task

    def _tasks(self, trials: Iterable[PlannedTrial]) -> Iterator[TrialTask]:
        for trial in trials:
            if self._interruptions or self._is_gone:
                # composing thousands of trials that are wrong takes minutes
                return
            try:
                config = settled(self.composer.config(trial.overrides, number=trial.index - 1), self.company)
                self._require_one_folder(config)
            except UsageError as error:
                self._refuse(trial.index, error)
                continue
            place = SweepPlace(self.sweep_id, self.size, trial.index, self.company.simultaneous_trials)
            yield TrialTask(results.new_trial_id(), config, place, trial.named(self.size), self.owner)

    def _refuse(self, index: int, error: UsageError) -> None:
        self.refused.add(index)
        self.audience.refuse(str(error))

    def _require_one_folder(self, config: TrialConfig) -> None:
        if config.results.dir != self.folder:
            raise UsageError(
                f"results.dir={config.results.dir}: a sweep has one results folder, here {self.folder}; "
                "give one results.dir"
            )

    def _record_stack(
        self, ended: Ended, stack: StackTask, publisher: results.Publisher
    ) -> list[TrialTask | StackTask]:
        """Record the trials of a stack that have ended; the launches in which the others are run again."""
        if ended.error is not None or (self._interruptions and ended.report is None):
            # it is the same for each of them
            for task in stack.trials:
                self._record(dataclasses.replace(ended, task=task), task, publisher)
            return []
        report, again = ended.report, []
        for task in stack.trials:
            if report is not None and task.trial_id in report.refused:
                self._refuse(task.place.index, UsageError(report.refused[task.trial_id]))
            elif report is not None and task.trial_id in report.broken:
                self.audience.lose(f"{task.title} could not be recorded: {report.broken[task.trial_id]}")
                self._stop_if_gone()
            elif (report is not None and task.trial_id in report.again) or not self._has_ended(task, publisher):
                again.append(task)
        return self._again(ended, stack, again)

    def _has_ended(self, task: TrialTask, publisher: results.Publisher) -> bool:
        """Whether a trial of a stack has its row, which is told of and published."""
        try:
            row = results.withdraw(results.place_of(self.folder), task.trial_id, self.owner)
            if row is not None:
                self.audience.ended(task.title, row)
                self._publish(publisher, task.trial_id)
        except Exception as error:  # noqa: BLE001 - one line for a user, and the next trial still runs
            self.audience.break_down(task.title, error)
            return True
        return row is not None

    def _again(self, ended: Ended, stack: StackTask, again: list[TrialTask]) -> list[TrialTask | StackTask]:
        """Cut what is left of a stack into smaller ones, and say why unless the device was merely full."""
        if not again:
            return []
        report, death = ended.report, ended.death
        most = report.most if report is not None else (len(stack.trials) + 1) // 2
        reason = report.reason if report is not None else death and death.error_message
        if report is not None and report.holds is not None:
            self.stacks.limit(stack.config, report.holds)
        if reason:
            company = "alone" if most == 1 else f"in stacks of up to {most}"
            left = f"{counted(len(again), 'trial')} of it run again {company}"
            self.audience.note(f"a launch of {len(stack.trials)} trials failed ({reason}); {left}")
        return self.stacks.cut(again, most)

    def _record(self, ended: Ended, task: TrialTask, publisher: results.Publisher) -> None:
        if isinstance(ended.error, UsageError):
            self._refuse(task.place.index, ended.error)
            return
        # an interruption can come when the trial has just ended, and then leaves the worker as an error
        if ended.error is not None and not isinstance(ended.error, KeyboardInterrupt):
            self.audience.break_down(task.title, ended.error)
            self._stop_if_gone()
            return
        try:
            row = ended.row or self._row_of_the_dead(ended, task)
            if row is not None:
                self.audience.ended(task.title, row)
                self._publish(publisher, task.trial_id)
            elif not self._interruptions:
                # the user's own module raised KeyboardInterrupt when it was imported, or somebody ended the worker
                self.audience.lose(f"{task.title}: it was interrupted before it began")
        except Exception as error:  # noqa: BLE001 - one line for a user, and the next trial still runs
            self.audience.break_down(task.title, error)

    def _stop_if_gone(self) -> None:
        """Begin no further trial where the results folder has been removed, for each would be lost like the last."""
        place = results.place_of(self.folder)
        if not self._is_gone and isinstance(place, Path) and not place.exists():
            self._is_gone = True
            self.audience.lose(f"results.dir={self.folder}: the folder was removed; no further trial is begun")

    def _row_of_the_dead(self, ended: Ended, task: TrialTask) -> dict[str, Any] | None:
        """The row of a trial whose worker died, or that was interrupted; None if it had not begun."""
        death = ended.death or Death("killed", "InterruptedError", "interrupted (Ctrl-C or a termination signal)")
        place, own = results.place_of(self.folder), None
        if death.error_type != "InterruptedError" or (ended.death and isinstance(place, results.RemotePlace)):
            # a worker can die before it has written what the trial's row would be, and in a store it writes no note
            from harness import resolution
            from harness.rows import planned

            own = planned(resolution.presumed(task.config), task.trial_id, task.place)
        end = {"status": death.status, "error_type": death.error_type, "error_message": death.error_message}
        try:
            return results.record_death(place, task.trial_id, self.owner, row=own, **end)
        except LookupError:
            return None


def _why(error: OSError | UsageError) -> str:
    return getattr(error, "strerror", None) or str(error)
