"""A sweep from its plan to its outcome: what is there already, where trials run, what the folder holds at the end."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple

from omegaconf import DictConfig

import harness
from harness import results
from harness.audience import Audience
from harness.config import SweepConfig, TrialConfig
from harness.errors import UsageError
from harness.sweep.composer import Composer
from harness.sweep.engines import engine_of
from harness.sweep.launch import LaunchedSweep
from harness.sweep.local import Company, LocalSweep, company_of
from harness.sweep.outcome import SweepOutcome
from harness.sweep.plan import Plan, PlannedTrial, stored
from harness.sweep.resume import left_to_run
from harness.sweep.stacks import StackPlanner, refuse_useless
from harness.wording import counted

Interruptible = Callable[[Callable[[], None]], None]
"""Is given what to call when the command is told to stop."""
Watch = Callable[[int, int], AbstractContextManager[object]]
"""Makes the live table: how many trials are planned, how many of them are done -> shown while the block runs."""


class Conducted(NamedTuple):
    """A sweep that has ended.

    Attributes:
        folder: its results folder.
        outcome: its rows there.
        missing: the trials that were to run and have no row.
        refused: the trials that could not be run as they were asked for.
        is_empty: whether nothing of the sweep is in the folder, because none of its trials could be run as asked for.
    """

    folder: str
    outcome: SweepOutcome
    missing: list[PlannedTrial]
    refused: list[PlannedTrial]
    is_empty: bool


@dataclass
class SweepConductor:
    """Runs the trials of a plan that the results folder lacks.

    Attributes:
        plan: all trials.
        composer: from overrides to a config.
        composed: the command as Hydra composed it, which names the launcher.
        audience: is told.
    """

    plan: Plan
    composer: Composer
    composed: DictConfig
    audience: Audience

    def run(self, watch: Watch, on_interruption: Interruptible) -> Conducted | None:
        """Run what is to run.

        Args:
            watch: makes the live table.
            on_interruption: is given what to call when the command is told to stop.

        Returns:
            what it came to; None if the results can no longer be read, which the audience is told.

        Raises:
            UsageError: the plan, its first trial or the results folder is wrong; nothing has run.
        """
        first = self.composer.config(self.plan.trials[0].overrides)
        self.composer.refuse_unknown(trial.overrides for trial in self.plan.trials)
        folder = first.results.dir
        launched = self._launched(first)
        new = results.missing_folders(folder)
        self.audience.recovered(results.prepare(folder))
        sweep = launched or self._local(first)
        todo = self._store(first, sweep.company, in_jobs=launched is not None)
        on_interruption(sweep.interrupt)
        with watch(self.plan.size, self.plan.size - len(todo)):
            sweep.run(todo)
        try:
            outcome = SweepOutcome(folder, self.plan.sweep_id)
        except UsageError as error:
            self.audience.lose(f"the trials have run, and their results cannot be read just now: {error}")
            return None
        there = outcome.indices | sweep.refused
        missing = [trial for trial in todo if trial.index not in there]
        is_empty = not len(outcome) and len(sweep.refused) == self.plan.size
        if is_empty:
            results.remove_plan(results.place_of(folder), self.plan.sweep_id)
            results.discard(folder, new)
        refused = [self.plan.trials[index - 1] for index in sorted(sweep.refused)]
        return Conducted(folder, outcome, missing, refused, is_empty)

    def _store(self, first: TrialConfig, company: Company, *, in_jobs: bool) -> list[PlannedTrial]:
        """Store the plan, so that what is missing has a name whatever happens; return the trials that are to run."""
        trials = list(self.plan.trials)
        environment, done_by = {"initbench": harness.__version__}, None
        if first.sweep.resume:
            left = left_to_run(self.plan, self.composer, company, in_jobs=in_jobs)
            for line in left.lines:
                self.audience.say(line)
            environment, done_by = left.environment, left.done_by
            trials = [trial for trial, earlier in zip(trials, done_by, strict=True) if earlier is None]
        folder = first.results.dir
        results.write_plan(
            results.place_of(folder),
            stored(self.plan, results_dir=folder, environment=environment, done_by=done_by),
        )
        return trials

    def _launched(self, first: TrialConfig) -> LaunchedSweep | None:
        """The sweep in jobs of a launcher; None: workers of this process run it."""
        engine = engine_of(self.composed)
        _refuse_varied(self.plan)
        if engine is None:
            if (per_job := first.sweep.trials_per_job) != SweepConfig().trials_per_job:
                fix = "add hydra/launcher=joblib, submitit_local, submitit_slurm or ray, or leave it out"
                raise UsageError(f"sweep.trials_per_job={per_job}: has no effect without jobs; {fix}")
            return None
        per_job = first.sweep.trials_per_job
        sweep = LaunchedSweep(
            engine, self.plan, first.results.dir, first, self.composed, self.composer.loader, per_job, self.audience
        )
        sweep.check()
        refuse_useless(first, self.plan.trials, self.composer, per_job=per_job)
        jobs = f"in {counted(sweep.jobs, 'job')} of hydra/launcher={engine.name}"
        self.audience.say(f"planned: {counted(self.plan.size, 'trial')} {jobs}, into {first.results.dir}")
        return sweep

    def _local(self, first: TrialConfig) -> LocalSweep:
        folder, company = first.results.dir, company_of(first, most=self.plan.size)
        stacks = StackPlanner(first)
        if "device.threads" in self.plan.trials.varied:
            # cores for the threads of one trial would be too few for another's
            company = replace(company, has_own_cores=False)
        refuse_useless(first, self.plan.trials, self.composer)
        self.audience.say(self._announcement(folder, company, stacks.most))
        return LocalSweep(
            self.plan.sweep_id,
            self.plan.sweep_id,
            self.plan.size,
            folder,
            self.composer,
            company,
            stacks,
            self.audience,
        )

    def _announcement(self, folder: str, company: Company, stacked: int) -> str:
        """What is planned, before anything of it runs."""
        side_by_side = "one at a time" if company.workers == 1 else f"{company.workers} at a time"
        if stacked > 1:
            launches = "one" if company.workers == 1 else f"{company.workers}"
            side_by_side = f"in stacks of up to {stacked}, {launches} at a time"
        threads = "" if company.threads is None else f", {counted(company.threads, 'thread')} each"
        return f"planned: {counted(self.plan.size, 'trial')}, {side_by_side}{threads}, into {folder}"


def _refuse_varied(plan: Plan) -> None:
    """Refuse to vary what one sweep has once; the values of all trials but the first would have no effect."""
    once = ("sweep.workers", "sweep.resume", "sweep.stack", "sweep.trials_per_job")
    for key in ("results.dir", "device.keep_memory", *once):
        if key in plan.trials.varied:
            values = plan.trials.varied[key]
            raise UsageError(f"{key}={','.join(values)}: differs among the trials of one sweep; give one value")
