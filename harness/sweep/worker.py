"""What runs in a worker process: it imports torch once and trains trial after trial, each recorded before the next.

A worker leaves Ctrl-C and a closed terminal to its parent, which ends it by SIGTERM: the trial in hand is then recorded
as killed. If the parent vanishes, the worker ends itself.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from harness import output
from harness.arguments import in_one_line
from harness.config import SweepPlace, TrialConfig
from harness.errors import UsageError
from harness.trial_line import LINE_COLUMNS

if TYPE_CHECKING:
    from harness.stacked_trials import StackReport

_LAST_WORDS_S, _LOOK_S = 10.0, 0.05
_STANDARD_ERROR, _MOST_FILES = 2, 1024
_LONGEST_TEXT = 1_000
FROM_A_TERMINAL = (signal.SIGINT, signal.SIGHUP)
"""Signals that a terminal sends to all its processes; a worker leaves them to its parent."""

BEGUN, STEP, SECONDS = range(3)
"""Places in what a worker shows of its progress: monotonic time of the trial's begin, updates made, training time."""


@dataclass(frozen=True)
class Slot:
    """Where a worker runs.

    Attributes:
        number: counted from 0.
        cores: the CPU cores that it is pinned to; none: all that the command has.
        gpu: the one GPU that it sees, as in ``CUDA_VISIBLE_DEVICES``; None: all.
    """

    number: int
    cores: tuple[int, ...] = ()
    gpu: str | None = None


@dataclass(frozen=True)
class TrialTask:
    """A trial for a worker to run.

    Attributes:
        trial_id: its id.
        config: as composed; the worker resolves it.
        place: in its sweep.
        title: what to call it, such as ``[3/12] init=zero seed=1``.
        owner: who publishes its rows.
    """

    trial_id: str
    config: TrialConfig
    place: SweepPlace
    title: str
    owner: str
    size: ClassVar[int] = 1
    """How many trials it is."""


@dataclass(frozen=True)
class StackTask:
    """Several trials for a worker to train by the same launches.

    Attributes:
        trials: two or more, alike in all but what :data:`harness.stackable.OWN` and the optimizer's numbers say.
    """

    trials: tuple[TrialTask, ...]

    @property
    def size(self) -> int:
        """How many trials it is."""
        return len(self.trials)

    @property
    def config(self) -> TrialConfig:
        """The config of the first trial, for what all of them have in common."""
        return self.trials[0].config

    @property
    def title(self) -> str:
        """What to call it, such as ``[3/12] init=zero seed=1 and 3 more``."""
        return f"{self.trials[0].title} and {len(self.trials) - 1} more"


_progress: Any = None
"""Three numbers that the parent reads; see :data:`BEGUN`."""
_is_busy = False
_folder = "."
"""The folder of the command, which relative paths mean."""

_unusable: UsageError | None = None
"""Why no trial can run here, such as an installation of PyTorch that is broken."""


def begin(slot: Slot, progress: Any) -> None:  # noqa: ANN401 - shared memory has no public type
    """Settle in the slot, then import what trials need; runs once in each worker."""
    global _progress, _folder, _unusable  # noqa: PLW0603 - a worker process has one of each
    _progress = progress
    try:
        _folder = os.getcwd()  # noqa: PTH109 - text is enough
        _settle(slot)
    except Exception as error:  # noqa: BLE001 - a broken installation or machine raises anything
        # raised here it would end the process without a word
        _unusable = UsageError(in_one_line(error))
    signal.signal(signal.SIGTERM, _interrupt)


def _settle(slot: Slot) -> None:
    _keep_files()
    # what a user's initializer prints must not fail its trial where the command's reader has left
    output.forgive()
    for number in FROM_A_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    # the parent blocks them until here, where Python would otherwise end with a traceback
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FROM_A_TERMINAL)
    if slot.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = slot.gpu
    if slot.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, slot.cores)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    # torch reads cores and GPUs when it is imported
    import harness.trial  # noqa: F401


def _keep_files() -> None:
    """Let no command that a trial starts inherit the pipe by whose end the parent notices that of this process."""
    try:
        names = os.listdir("/dev/fd")  # noqa: PTH208 - names that are numbers
    except OSError:
        # Linux has it in /proc, which is missing in some sandboxes
        names = [str(number) for number in range(_MOST_FILES)]
    for name in names:
        # the listing's own is closed by now
        with suppress(OSError):
            if int(name) > _STANDARD_ERROR:
                os.set_inheritable(int(name), False)


def work(task: TrialTask | StackTask) -> "dict[str, Any] | StackReport | None":
    """Run one trial, or those of a stack, and spool their rows.

    Returns:
        of a trial what its line shows, see :data:`harness.trial_line.LINE_COLUMNS`; None if it was interrupted. Its row
        lies in the results folder. Of a stack what became of those trials that have no row.

    Raises:
        UsageError: the config cannot be run here; there is no row.
        OSError: the rows could not be written.
    """
    global _is_busy  # noqa: PLW0603 - see begin
    if _unusable is not None:
        raise _unusable
    from harness import device

    config = task.trials[0].config if isinstance(task, StackTask) else task.config
    device.settle_process(config.device)
    # an initializer of an earlier trial may have gone elsewhere
    os.chdir(_folder)
    _progress[:] = (time.monotonic(), 0.0, 0.0)
    _is_busy = True
    try:
        return _run_stack(task) if isinstance(task, StackTask) else _run_trial(task)
    except KeyboardInterrupt:
        return None
    finally:
        _is_busy = False
        _progress[BEGUN] = 0.0


def _run_trial(task: TrialTask) -> dict[str, Any]:
    from harness import trial

    result = trial.run_trial(
        task.config, on_progress=_advance, place=task.place, trial_id=task.trial_id, owner=task.owner
    )
    return {name: _short(result.trial[name]) for name in LINE_COLUMNS}


def _run_stack(task: StackTask) -> "StackReport":
    from harness import stacked_trials

    orders = [stacked_trials.Order(own.trial_id, own.config, own.place, own.owner) for own in task.trials]
    return stacked_trials.run_stack(orders, on_progress=_advance)


def _short(value: Any) -> Any:  # noqa: ANN401 - of any column
    # an answer that the pipe does not take at once would be half of one if the process were killed meanwhile, and the
    # pool would wait for the other half for ever
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


def _advance(step: int, seconds: float) -> None:
    _progress[STEP], _progress[SECONDS] = step, seconds


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    if _is_busy:
        raise KeyboardInterrupt
    os._exit(0)


def _end_with_the_parent() -> NoReturn:
    """End this process soon after its parent, however that ended: a killed parent leaves no orphan."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    with suppress(ProcessLookupError):
        os.kill(os.getpid(), signal.SIGTERM)
    deadline_s = time.monotonic() + _LAST_WORDS_S
    while _is_busy and time.monotonic() < deadline_s:
        time.sleep(_LOOK_S)
    os._exit(1)


def progress_of(progress: Sequence[float]) -> tuple[float, int, float]:
    """Return monotonic time of the begin (0: no trial is running), updates made and training seconds."""
    return progress[BEGUN], int(progress[STEP]), progress[SECONDS]
