"""A sweep run by a launcher of Hydra, on this machine or on others: joblib, submitit (Slurm) or Ray.

The trials are cut into jobs. What comes back is what the results folder holds: rows are shown as the jobs publish them,
so that a sweep looks the same whatever ran it, and a job that died costs its own trials.
"""

import math
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

import harness
from harness import results
from harness.audience import Audience
from harness.compose import CONF_DIR, typed_overrides
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.sweep import engines
from harness.sweep.engines import Engine
from harness.sweep.job import Job, JobReport, company_in_job, packed
from harness.sweep.local import Company
from harness.sweep.outcome import rows_of_sweep
from harness.sweep.patience import DeadJob, first_line, waiting_for_all
from harness.sweep.plan import Plan, PlannedTrial
from harness.sweep.plan import composed as compose
from harness.trial_line import LINE_COLUMNS
from harness.wording import few

_LOOK_S, _SETTLE_S, _IMPATIENT_S = 0.5, 15.0, 5.0
_LATE_S = 70.0
"""A shared file system may show what another machine has written so much later (NFS: 60 s)."""
_SHOWN = ("trial_id", "sweep_id", "sweep_index", *LINE_COLUMNS)


@dataclass
class LaunchedSweep:
    """Trials of one sweep in jobs of a launcher.

    Attributes:
        engine: the launcher.
        plan: of the sweep.
        folder: its results folder as typed.
        first: the config of its first trial.
        composed: the command as Hydra composed it.
        loader: Hydra's, which composed it.
        trials_per_job: how many trials make a job.
        audience: is told.
        refused: the trials that could not be run as they were asked for.
    """

    engine: Engine
    plan: Plan
    folder: str
    first: TrialConfig
    composed: DictConfig
    loader: ConfigLoaderImpl
    trials_per_job: int
    audience: Audience
    refused: set[int] = field(default_factory=set)
    _is_launching: bool = False
    _interrupted_s: float = -_IMPATIENT_S

    def check(self) -> None:
        """Refuse what cannot work before anything is made.

        Raises:
            UsageError: the jobs' logs would go to a place that is no folder.
        """
        if self.engine.has_logs and "://" in (place := self._logs()):
            fix = "give a folder that all machines share, as in hydra.sweep.dir=FOLDER"
            raise UsageError(f"hydra.sweep.dir={place}: is no folder, and the jobs keep their logs there; {fix}")

    def _logs(self) -> str:
        return str(OmegaConf.select(self.composed, "hydra.sweep.dir"))

    @property
    def company(self) -> Company:
        """How the trials of a job run, if its machine is like this one."""
        at_a_time = engines.at_a_time(self.engine, self.composed, self.jobs)
        most = min(self.trials_per_job, self.plan.size)
        return company_in_job(self.first, most=most, jobs=at_a_time or 1)

    def run(self, trials: Sequence[PlannedTrial]) -> None:
        """Run the trials; return when every job has ended, or when the command was told to stop."""
        size = self.trials_per_job
        chunks = [trials[begin : begin + size] for begin in range(0, len(trials), size)]
        if not chunks:
            return
        with ExitStack() as stack:
            place = self._jobs_folder(stack)
            stack.enter_context(results.alive(self.folder, self.plan.sweep_id))
            watch = stack.enter_context(_Watch(self.folder, self.plan, self.audience, len(trials)))
            launcher = self._launcher(place)
            answers = self._launch(launcher, [self._overrides(chunk) for chunk in chunks])
            reports = [report for each in enumerate(answers) if (report := self._report(*each, len(chunks)))]
            if len(reports) < len(chunks):
                self._settle()
            watch.wait_for({index for report in reports for index in report.ended})

    def interrupt(self) -> None:
        """Stop waiting for the jobs; once more at once does nothing, because the first time is being dealt with."""
        self.audience.is_interrupted = True
        now_s = time.monotonic()
        if self._is_launching and now_s > self._interrupted_s + _IMPATIENT_S:
            self._interrupted_s = now_s
            raise KeyboardInterrupt

    def _jobs_folder(self, stack: ExitStack) -> str:
        """Where the launcher keeps what it needs: with logs a folder that all machines share."""
        if self.engine.has_logs:
            return str(Path(self._logs(), self.plan.sweep_id).absolute())
        return stack.enter_context(tempfile.TemporaryDirectory(prefix="initbench-", ignore_cleanup_errors=True))

    def _launcher(self, place: str) -> Launcher:
        """The launcher as Hydra's own sweeper sets it up; each job composes these settings again."""
        quoted = place.replace("'", "\\'")
        pinned = [f"hydra.sweep.dir='{quoted}'", "hydra.sweep.subdir=.", "hydra.output_subdir=null"]
        pinned += ["hydra.job.chdir=false", *typed_overrides(self.composed.hydra)]
        config = compose(self.loader, [*self._hydra_overrides(), *pinned], self.composed.hydra.job.config_name)
        engines.adapt(self.engine, config)
        return Plugins.instance().instantiate_launcher(
            hydra_context=HydraContext(config_loader=self.loader, callbacks=Callbacks(config)),
            task_function=self._job(),
            config=config,
        )

    def _hydra_overrides(self) -> list[str]:
        return cast("list[str]", OmegaConf.to_container(self.composed.hydra.overrides.hydra, resolve=False))

    def _job(self) -> Job:
        places = {each.provider: each.path.removeprefix("file://") for each in self.loader.get_search_path().get_path()}
        own = places["main"] == str(CONF_DIR)
        return Job(
            self.plan.sweep_id, self.plan.size, self.folder, self.plan.folder, self.plan.trials[0].overrides,
            config_path=None if own else places["main"],
            config_dir=places.get("command-line"),
            config_name=self.composed.hydra.job.config_name,
            hydra_overrides=tuple(self._hydra_overrides()),
            import_path=tuple(str(Path(place).absolute()) for place in sys.path),
            command_process=(socket.gethostname(), os.getpid()),
            jobs=self.jobs,
            trials_per_job=min(self.trials_per_job, self.plan.size),
            at_a_time=engines.at_a_time(self.engine, self.composed, self.jobs),
            has_log=self.engine.has_logs,
        )  # fmt: skip

    def _overrides(self, chunk: Sequence[PlannedTrial]) -> list[str]:
        # the first trial's, which are known to compose: a job's own settings must not fail with one of its trials
        return [*self.plan.trials[0].overrides, packed(chunk)]

    def _launch(self, launcher: Launcher, overrides: Sequence[Sequence[str]]) -> Sequence[Any]:
        """What each job answered; nothing if the launcher gave up or the command was told to stop."""
        if self.audience.is_interrupted:
            # it came while the jobs were made
            return []
        self._is_launching = True
        try:
            with _importable(), waiting_for_all(self.engine) as submitted:
                try:
                    return launcher.launch(overrides, initial_job_idx=0)
                except KeyboardInterrupt:
                    self._stop(submitted)
        except Exception as error:  # noqa: BLE001 - whatever a launcher raises is one line
            if not self.audience.is_interrupted:
                self.audience.lose(f"hydra/launcher={self.engine.name} gave up: {first_line(error)}")
        finally:
            self._is_launching = False
        return []

    def _report(self, number: int, answer: Any, jobs: int) -> JobReport | None:  # noqa: ANN401 - of any launcher
        """What a job says of its trials; None: it died."""
        title = f"job {number + 1} of {jobs}"
        if isinstance(answer, DeadJob):
            self.audience.lose(f"{title} died: {answer.message}")
            return None
        assert isinstance(answer, JobReturn)
        report = answer._return_value  # noqa: SLF001 - its property prints before it raises
        if answer.status != JobStatus.COMPLETED:
            self.audience.lose(f"{title} failed: {first_line(report)}")
            return None
        assert isinstance(report, JobReport)
        self.refused |= set(report.refused)
        for message in report.messages:
            self.audience.refuse(message)
        for line in report.broken:
            self.audience.lose(line)
        if report.is_interrupted and not self.audience.is_interrupted:
            self.audience.lose(f"{title} was told to stop before its end")
        return report

    def _stop(self, submitted: Sequence[Any]) -> None:
        """End the jobs; those of Slurm are the user's to end."""
        if not self.engine.outlives_its_command:
            for job in submitted:
                job.cancel(check=False)
            return
        ids = sorted({job.job_id.partition("_")[0] for job in submitted})
        go_on = f"the jobs {few(ids, most=10)} go on" if ids else "jobs that Slurm has taken go on (squeue --me)"
        cancel = f"scancel {' '.join(ids) or 'ID'}"
        self.audience.interruption = f"finished trials are safe, and {go_on} and write their rows; end them: {cancel}"

    def _settle(self) -> None:
        """Record what dead jobs left, once nothing of theirs runs any more."""
        until_s = time.monotonic() + (0 if self.engine.outlives_its_command else _SETTLE_S)
        folder = results.place_of(self.folder)
        while results.has_living(folder, f"{self.plan.sweep_id}-") and time.monotonic() < until_s:
            time.sleep(_LOOK_S)
        for line in results.recover(folder).lines:
            self.audience.note(line)

    @property
    def jobs(self) -> int:
        """How many jobs the whole plan makes."""
        return math.ceil(self.plan.size / self.trials_per_job)


class _Watch:
    """Shows the rows of a sweep's jobs while they are published; a context manager that looks in a thread."""

    def __init__(self, folder: str, plan: Plan, audience: Audience, planned: int) -> None:
        self._folder, self._plan, self._audience, self._planned = results.place_of(folder), plan, audience, planned
        self._arrivals = results.Arrivals(self._folder, f"{plan.sweep_id}-", _SHOWN)
        self._shown: set[int] = set()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_looking()
        if len(self._shown) < self._planned:
            # among others those that were recorded after their job had died
            self._show(rows_of_sweep(self._folder, self._plan.sweep_id, _SHOWN).to_pylist())

    def wait_for(self, indices: set[int]) -> None:
        """Wait until the rows of trials that have ended can be seen here."""
        self._stop_looking()
        until_s = time.monotonic() + _LATE_S
        while not indices <= self._shown and time.monotonic() < until_s:
            self._show(self._arrivals.new())
            time.sleep(0 if indices <= self._shown else _LOOK_S)

    def _stop_looking(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._is_over.wait(_LOOK_S):
            # a store that is away for a moment is asked again, and at the end everybody hears of it
            with suppress(UsageError):
                self._show(self._arrivals.new())

    def _show(self, rows: Sequence[dict[str, Any]]) -> None:
        for row in sorted(rows, key=lambda row: int(row["sweep_index"])):
            index = row["sweep_index"]
            if index not in self._shown:
                self._shown.add(index)
                self._audience.ended(self._plan.trials[index - 1].named(self._plan.size), row)


@contextmanager
def _importable() -> Iterator[None]:
    """Let processes that are not of our making import this package, before they know what to run."""
    before = os.environ.get("PYTHONPATH")
    places = [str(Path(harness.__file__).parent.parent), *filter(None, [before])]
    os.environ["PYTHONPATH"] = os.pathsep.join(places)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before
