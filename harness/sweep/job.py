"""What a job of a launcher does: it runs its share of a sweep in worker processes of its own, and publishes the rows.

A job may run on another machine, where it has the command's folder as its own if there is one. It says nothing but what
:class:`JobReport` holds; the command reads the rows.
"""

import base64
import contextlib
import dataclasses
import json
import multiprocessing
import os
import signal
import socket
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from omegaconf import DictConfig

from harness import results
from harness.audience import Audience
from harness.config import TrialConfig
from harness.cores import usable_cores
from harness.errors import UsageError
from harness.sweep import engines
from harness.sweep.composer import Composer
from harness.sweep.local import Company, LocalSweep, company_of
from harness.sweep.outcome import rows_of_sweep
from harness.sweep.plan import PlannedTrial, loader_of
from harness.sweep.stacks import StackPlanner
from harness.sweep.workers import threads_each

TRIALS = "trials_of_job"
"""The key of the override that tells a job its trials."""


@dataclass(frozen=True)
class JobReport:
    """What a job answers. The rows are in the results folder.

    Attributes:
        ended: the trials that have a row, counted from 1 in the sweep.
        refused: those that could not be run as they were asked for.
        messages: why, each once.
        broken: a line for whatever was lost.
        is_interrupted: whether the job was told to stop.
    """

    ended: tuple[int, ...]
    refused: tuple[int, ...] = ()
    messages: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    is_interrupted: bool = False


class JobAudience(Audience):
    """Keeps for the command what a job would say.

    Attributes:
        messages: what is wrong with trials, each once.
        broken_lines: a line for whatever was lost.
    """

    def __init__(self, *, has_log: bool) -> None:
        """Take whether to print a line for each trial, because the job's output is a log of its own."""
        super().__init__()
        self.messages: list[str] = []
        self.broken_lines: list[str] = []
        self._has_log = has_log

    def say(self, line: str) -> None:
        """Print a line if the job has a log."""
        if self._has_log:
            print(line, flush=True)

    def refuse(self, message: str) -> None:
        """Keep what is wrong with a trial."""
        if message not in self.messages:
            self.messages.append(message)

    def lose(self, line: str) -> None:
        """Keep what was lost."""
        self.broken_lines.append(line)


@dataclass(frozen=True)
class Job:
    """What every job of a sweep has in common, and what it does; small, because it travels with each of them.

    Attributes:
        sweep_id: of all its trials.
        size: how many trials the whole sweep has.
        results_dir: as typed.
        folder: the one that the command was typed in.
        overrides: of a trial that is right, for what all have in common.
        config_path: the folder of the top config; None: that of this program, wherever it is installed.
        config_dir: the user's own choices, as in ``--config-dir``.
        config_name: the top config.
        hydra_overrides: what was typed for Hydra itself.
        import_path: ``sys.path`` of the command.
        command_process: machine and process of the command, which handles signals itself.
        jobs: how many the whole sweep makes; the conditions of a trial must not depend on what is left to run.
        trials_per_job: how many trials a whole job has.
        at_a_time: how many run on one machine at the same time; None: the machine can tell.
        has_log: whether its output goes to a file of its own.
    """

    sweep_id: str
    size: int
    results_dir: str
    folder: str
    overrides: tuple[str, ...]
    config_path: str | None
    config_dir: str | None
    config_name: str
    hydra_overrides: tuple[str, ...]
    import_path: tuple[str, ...]
    command_process: tuple[str, int]
    jobs: int
    trials_per_job: int
    at_a_time: int | None
    has_log: bool

    def __call__(self, config: DictConfig) -> JobReport:
        """Run the trials that an override names.

        Raises:
            UsageError: the command's folder is not there, or the results folder cannot be written.
        """
        if multiprocessing.get_start_method(allow_none=True) not in {None, *multiprocessing.get_all_start_methods()}:
            # joblib's own, which the processes that a worker is cannot take over
            multiprocessing.set_start_method("spawn", force=True)
        with _in_folder(self.folder, self.results_dir), _importing(self.import_path):
            return self._run(engines.job_number(), unpacked(config[TRIALS]))

    def _run(self, number: int, trials: Sequence[PlannedTrial]) -> JobReport:
        owner, audience = owner_of(self.sweep_id, number), JobAudience(has_log=self.has_log)
        todo, ended = self._left(trials)
        composer = self._composer()
        first = composer.config(self.overrides)
        company = company_in_job(
            first,
            most=self.trials_per_job,
            jobs=self.at_a_time or engines.at_a_time_here(self.jobs),
        )
        stacks = StackPlanner(first)
        sweep = LocalSweep(self.sweep_id, owner, self.size, self.results_dir, composer, company, stacks, audience)
        if todo:
            with self._interruptible(sweep):
                try:
                    sweep.run(todo)
                except KeyboardInterrupt:
                    # it came before the first trial
                    audience.is_interrupted = True
        arrived = results.Arrivals(results.place_of(self.results_dir), owner, ["sweep_index"]).new()
        return JobReport(
            tuple(sorted(ended | {row["sweep_index"] for row in arrived})), tuple(sorted(sweep.refused)),
            tuple(audience.messages), tuple(audience.broken_lines), audience.is_interrupted,
        )  # fmt: skip

    def _left(self, trials: Sequence[PlannedTrial]) -> tuple[list[PlannedTrial], set[int]]:
        """The trials without a row, and the others: an engine may run a job again after its machine was lost."""
        folder = results.place_of(self.results_dir)
        results.recover(folder)
        own = rows_of_sweep(folder, self.sweep_id, ["trial_id", "sweep_id", "sweep_index"])
        ended = {trial.index for trial in trials} & set(own["sweep_index"].to_pylist())
        return [trial for trial in trials if trial.index not in ended], ended

    def _composer(self) -> Composer:
        at = {} if self.config_path is None else {"config_path": self.config_path}
        loader = loader_of(config_dir=self.config_dir, **at)
        return Composer(loader, config_name=self.config_name, hydra_overrides=self.hydra_overrides)

    @contextlib.contextmanager
    def _interruptible(self, sweep: LocalSweep) -> Iterator[None]:
        """Let the signals to end wind the trials up, as they do in a command."""
        if (socket.gethostname(), os.getpid()) == self.command_process:
            yield
            return

        def wind_up(_signal: int, _frame: FrameType | None) -> None:
            sweep.interrupt()

        before = {number: signal.signal(number, wind_up) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)


def owner_of(sweep_id: str, number: int) -> str:
    """Return who publishes the trials of a job."""
    return f"{sweep_id}-{number:05d}"


def company_in_job(config: TrialConfig, *, most: int, jobs: int) -> Company:
    """Return how the trials of a job run.

    Args:
        config: of one of them, as composed.
        most: how many a whole job has.
        jobs: how many jobs share the machine; they divide its cores.
    """
    company = company_of(config, most=most)
    if jobs == 1:
        return company
    workers = company.workers
    if config.sweep.workers == "auto" and not company.gpus:
        workers = max(1, min(workers, len(usable_cores()) // jobs))
    return dataclasses.replace(company, workers=workers, threads=threads_each(workers * jobs), jobs=jobs)


def packed(trials: Sequence[PlannedTrial]) -> str:
    """Return trials as an override for :data:`TRIALS`, in letters that need no escapes."""
    rows = [[trial.index, trial.title, *trial.overrides] for trial in trials]
    return f"+{TRIALS}='{base64.urlsafe_b64encode(zlib.compress(json.dumps(rows).encode())).decode()}'"


def unpacked(text: str) -> list[PlannedTrial]:
    """Return the trials that :func:`packed` took."""
    rows = json.loads(zlib.decompress(base64.urlsafe_b64decode(text)))
    return [PlannedTrial(index, tuple(overrides), title) for index, title, *overrides in rows]


@contextlib.contextmanager
def _in_folder(folder: str, results_dir: str) -> Iterator[None]:
    """Let relative paths mean the folder that the command was typed in, whatever the launcher made of it."""
    if not Path(folder).is_dir():
        if "://" not in results_dir:
            where = f"machine {socket.gethostname()} has no folder {folder}"
            raise UsageError(f"{where}; start the command in a folder that all machines share")
        yield
        return
    with contextlib.chdir(folder):
        yield


@contextlib.contextmanager
def _importing(import_path: Sequence[str]) -> Iterator[None]:
    """Let modules of ``init.modules`` be imported from where the command would import them."""
    before = list(sys.path)
    sys.path += [place for place in import_path if place not in before]
    try:
        yield
    finally:
        sys.path[:] = before
