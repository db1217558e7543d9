"""The worker processes of a sweep: as many as asked for, each replaced when it dies, each trial ended in time.

Each worker is an executor of the standard library with a single process. That pool notices every way a process can
end, an exit with code 0 among them, and takes no thread that polls. Pebble, which has time limits of its own, waits
for ever where a task leaves its process by ``os._exit(0)``, and a broken loky or multiprocessing pool takes the tasks
of its other workers along.
"""

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from harness.cores import granted_cores, usable_cores
from harness.errors import UsageError
from harness.sweep import worker
from harness.sweep.worker import Slot, StackTask, TrialTask

if TYPE_CHECKING:
    from harness.stacked_trials import StackReport

_SPAWN = multiprocessing.get_context("spawn")
_LOOK_S, _MOMENT_S = 0.2, 0.001
GRACE_S = 5.0
"""A trial that goes on for so long after its time, or after it was told to stop, is killed."""
_WRITING_S = 0.1
"""What each trial of a stack gets besides to record itself as killed."""

_OUT_OF_MEMORY_COUNTS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


Task = TrialTask | StackTask
"""What a worker is given: a trial, or several that share their launches."""
Answer = Any
"""What :func:`harness.sweep.worker.work` returns for it."""

_CANNOT_START = (BrokenProcessPool, OSError, RuntimeError)
"""What a pool raises that has lost its process, or that cannot start one."""


@dataclass(frozen=True)
class Death:
    """How a worker ended amid its trial: what the trial's row will say."""

    status: str
    error_type: str
    error_message: str


@dataclass(frozen=True)
class Ended:
    """What became of a task.

    Attributes:
        task: the task.
        row: of a trial, what its line shows of its row; None if it was interrupted or could not be run.
        report: of a stack, what became of its trials; None if it was interrupted or could not be run.
        error: what the worker raised.
        death: how the worker died amid it.
    """

    task: Task
    row: dict[str, Any] | None = None
    report: "StackReport | None" = None
    error: BaseException | None = None
    death: Death | None = None


@dataclass(frozen=True)
class Glance:
    """What a worker is running: its task, updates made of each trial, seconds of training."""

    task: Task
    step: int
    seconds: float


class _RememberingContext(SpawnContext):
    """Starts processes and remembers the last, whose end the pool notices and does not describe."""

    process: BaseProcess | None = None

    def Process(self, *arguments: Any, **settings: Any) -> BaseProcess:  # type: ignore[override] # noqa: ANN401, N802
        """Make a process as the standard library does."""
        self.process = SpawnProcess(*arguments, **settings)
        return self.process


@dataclass
class _Worker:
    """A slot with its process and the task in hand."""

    slot: Slot
    progress: Any = field(default_factory=lambda: _SPAWN.RawArray("d", 3))
    executor: ProcessPoolExecutor | None = None
    process: BaseProcess | None = None
    task: Task | None = None
    future: "Future[Answer] | None" = None
    timed_out: bool = False
    killed: bool = False
    gone_s: float = 0.0
    oom_kills: tuple[int, ...] = ()

    def submit(self, task: Task) -> "Future[Answer]":
        self.task, self.timed_out, self.killed, self.gone_s = task, False, False, 0.0
        try:
            self.future = self._hand_over(task)
        except _CANNOT_START:
            # it died while it had nothing to do, which costs no trial, or the system has too many processes just now
            self.close()
            try:
                self.future = self._hand_over(task)
            except _CANNOT_START as error:
                # so does the next one, which is this trial's end and not the sweep's
                self.future = Future()
                self.future.set_exception(error)
        return self.future

    def _hand_over(self, task: Task) -> "Future[Answer]":
        if self.executor is None:
            self._start()
        assert self.executor is not None
        self.progress[:] = (0.0, 0.0, 0.0)
        self.oom_kills = _oom_kills()
        return self.executor.submit(worker.work, task)

    def _start(self) -> None:
        context = _RememberingContext()
        with _deaf():
            self.executor = ProcessPoolExecutor(
                1, mp_context=context, initializer=worker.begin, initargs=(self.slot, self.progress)
            )
            # a first task makes it start its process
            self.executor.submit(int)
        self.process = context.process

    def signal(self, number: int) -> None:
        """Send a signal to the process, if it lives."""
        if self.process is not None and self.process.pid is not None and self.process.exitcode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    def interrupt(self, number: int) -> None:
        """Tell the trial in hand to record itself as killed, or kill it."""
        self.killed = True
        self.signal(number)

    def close(self) -> None:
        """Let go of a process that has died, or end one that is idle."""
        _end([self])

    def is_over(self) -> bool:
        """Whether the task in hand has ended, or its process has."""
        assert self.future is not None
        if self.future.done():
            return True
        if self.process is None or self.process.exitcode is None:
            return False
        # the pool does not notice an end as long as a process that the trial forked lives
        self.gone_s = self.gone_s or time.monotonic()
        return time.monotonic() > self.gone_s + GRACE_S

    def ended(self) -> Ended:
        """What became of the task whose future is done."""
        assert self.task is not None
        assert self.future is not None
        task, error = self.task, self.future.exception() if self.future.done() else BrokenProcessPool()
        answer = None if error is not None else self.future.result()
        self.task = self.future = None
        if not isinstance(error, BrokenProcessPool):
            own = {"row": answer} if isinstance(task, TrialTask) else {"report": answer}
            return Ended(task, **own, error=error)
        process = self.process
        self.close()
        return Ended(task, death=self._death(None if process is None else exit_code_of(process)))

    def _death(self, exit_code: int | None) -> Death:
        if self.timed_out:
            return Death("timeout", "TimeoutError", "sweep.trial_timeout_s ran out; its process had to be killed")
        if self.killed:
            return Death("killed", "InterruptedError", "interrupted; its process had to be killed")
        return death_of(exit_code, memory_ran_out=_oom_kills() != self.oom_kills)


def _end(workers: list[_Worker]) -> None:
    """End idle processes together; one that goes on, because a trial has left a thread in it, is killed."""
    processes = []
    for one in workers:
        if one.executor is not None:
            # nobody waits for its task, and where a process that the trial forked keeps its end from being noticed, the
            # pool's thread would wait for an answer, and Python for the thread
            one.executor._pending_work_items.clear()  # noqa: SLF001
            one.executor.shutdown(wait=False, cancel_futures=True)
        processes += [] if one.process is None else [one.process]
        one.executor = one.process = None
    until_s = time.monotonic() + GRACE_S
    for process in processes:
        process.join(max(0.0, until_s - time.monotonic()))
    for process in processes:
        process.kill()
        process.join()


def exit_code_of(process: BaseProcess) -> int | None:
    """Return the exit code of a process that has ended.

    The pool's own thread waits for the process too. Only one of the two is told by the system, and the other one's
    ``exitcode`` is None until the first has noted the code.
    """
    until_s = time.monotonic() + GRACE_S
    while process.exitcode is None and time.monotonic() < until_s:
        time.sleep(_MOMENT_S)
    return process.exitcode


def death_of(exit_code: int | None, *, memory_ran_out: bool) -> Death:
    """Return how a process ended, in words.

    Args:
        exit_code: as :attr:`multiprocessing.Process.exitcode` gives it: negative for a signal.
        memory_ran_out: whether the system's out-of-memory killer was at work meanwhile.
    """
    if exit_code is None or exit_code >= 0:
        return Death("crashed", "SystemExit", f"its process left with exit code {exit_code}")
    number = -exit_code
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL and memory_ran_out:
        return Death("oom", name, "the system's out-of-memory killer ended its process")
    if number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        return Death("killed", name, f"its process was ended from outside by {name}")
    return Death("crashed", name, f"its process crashed: {signal.strsignal(number)} ({name})")


def _oom_kills() -> tuple[int, ...]:
    """How many processes the out-of-memory killer has ended, in this container and on this machine."""
    counts = []
    for path in _OUT_OF_MEMORY_COUNTS:
        with suppress(OSError, ValueError):
            counts += [int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith("oom_kill ")]
    return tuple(counts)


@contextmanager
def _deaf() -> Iterator[None]:
    """Let no process that is started in the block die of a signal that a terminal sends to all; it inherits the mask.

    A worker takes the signals over in :func:`harness.sweep.worker.begin`. The standard library's own process beside
    the workers ignores Ctrl-C by itself and would die of a hang-up.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, worker.FROM_A_TERMINAL)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Workers:
    """Processes that run tasks side by side. Use it as a context manager: at its end no process is left."""

    def __init__(self, slots: list[Slot], *, grace_s: float = GRACE_S) -> None:
        """Start nothing yet.

        Args:
            slots: where they run.
            grace_s: how long a trial may go on that was told to stop, or whose time is over; then it is killed.

        Raises:
            UsageError: processes cannot share memory on this machine.
        """
        try:
            self._workers = [_Worker(slot) for slot in slots]
        except OSError as error:
            problem = f"the processes of a sweep cannot share memory ({error.strerror})"
            raise UsageError(f"-m: {problem}; mount /dev/shm writable, or run each trial without -m") from error
        self._grace_s = grace_s
        self._is_stopping = False
        self._stop_by_s = float("inf")
        self._coming: Task | None = None
        self._again: deque[Task] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._workers:
            if one.task is not None:
                one.signal(signal.SIGKILL)
        _end(self._workers)

    def stop(self, *, at_once: bool = False) -> None:
        """Begin no further task and interrupt those in hand; ``at_once`` kills them."""
        for one in self._workers:
            if one.task is not None:
                one.interrupt(signal.SIGKILL if at_once else signal.SIGTERM)
        self._is_stopping = True
        count = max((one.task.size for one in self._workers if one.task is not None), default=0)
        grace_s = self._grace_s + _WRITING_S * count
        self._stop_by_s = min(self._stop_by_s, time.monotonic() + grace_s)

    def run(self, tasks: Iterator[Task], look: Callable[[list[Glance]], None]) -> Iterator[Ended]:
        """Run tasks until there are no more, or until :meth:`stop`.

        Args:
            tasks: asked for the next one while the last one runs, so that no worker waits for it.
            look: called several times a second with what is running.

        Yields:
            each task that ended, as soon as it did.
        """
        self._coming = next(tasks, None)
        while True:
            self._hand_out(tasks)
            futures = [one.future for one in self._workers if one.future is not None]
            if not futures:
                return
            wait(futures, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
            self._end_what_is_late()
            look([self._glance(one) for one in self._workers if one.task is not None])
            over = [one.ended() for one in self._workers if one.future is not None and one.is_over()]
            if all(own.error is None and own.death is None for own in over):
                # what is done with their rows takes a while, and no worker need wait for it
                self._hand_out(tasks)
            yield from over

    def again(self, tasks: Sequence[Task]) -> None:
        """Run these before all others; only while :meth:`run` is waiting for what is done with a task that ended."""
        self._again.extend(tasks)

    def _hand_out(self, tasks: Iterator[Task]) -> None:
        for one in self._workers:
            if one.task is None and not self._is_stopping and (self._again or self._coming is not None):
                one.submit(self._again.popleft() if self._again else self._taken(tasks))
                if self._is_stopping:
                    # told to stop meanwhile, when it had no task yet
                    one.interrupt(signal.SIGTERM)

    def _taken(self, tasks: Iterator[Task]) -> Task:
        task = self._coming
        assert task is not None
        self._coming = next(tasks, None)
        return task

    def _glance(self, one: _Worker) -> Glance:
        assert one.task is not None
        _, step, seconds = worker.progress_of(one.progress)
        return Glance(one.task, step, seconds)

    def _end_what_is_late(self) -> None:
        now_s = time.monotonic()
        for one in self._workers:
            if one.task is None:
                continue
            limit_s = one.task.config.sweep.trial_timeout_s
            begun_s, _, _ = worker.progress_of(one.progress)
            count = one.task.size
            if limit_s is not None and begun_s and now_s > begun_s + count * limit_s + self._grace_s:
                one.timed_out = True
                one.signal(signal.SIGKILL)
            elif now_s > self._stop_by_s:
                one.signal(signal.SIGKILL)


def slots_for(workers: int, *, threads: int | None, gpus: list[str]) -> list[Slot]:
    """Return where so many workers run: the cores divided among them, the GPUs given out in turn.

    Args:
        workers: how many.
        threads: CPU threads of each trial, as asked for; None: cores / workers.
        gpus: the GPUs to give out, as in ``CUDA_VISIBLE_DEVICES``.
    """
    cores = usable_cores()
    each = threads or threads_each(workers)
    # what has a share of the time of all cores would only meet its neighbours on the first ones
    is_divided = workers > 1 and workers * each <= len(cores) and granted_cores() is None
    return [
        Slot(
            number,
            cores=tuple(cores[number * each : (number + 1) * each]) if is_divided else (),
            gpu=gpus[number % len(gpus)] if gpus else None,
        )
        for number in range(workers)
    ]


def threads_each(workers: int) -> int:
    """Return the CPU threads of each of so many workers."""
    return max(1, len(usable_cores()) // workers)
