"""Workers: where they run, how a death is told, and what signals to a sweep leave behind, with real processes."""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest
from command_processes import STUBBORN, Process, assert_none_is_left, descendants, started, wait_until, workers_of
from conftest import run_command

import harness
from harness.config import SweepPlace
from harness.errors import TimeBudgetError
from harness.results import problems_in
from harness.sweep import workers
from harness.sweep.worker import TrialTask
from harness.sweep.workers import Death, death_of, slots_for, threads_each
from harness.time_limit import time_limit

RESULTS = "outputs/results"
ON_ONE_THREAD = ("device=cpu", "device.threads=1", "model=mlp", "train.warmup_steps=1")
# a trial of a moment, one without end, and one that must not begin
ENDLESS = ("-m", "train.steps=6,1000000,7", "train.eval_every=1000000", "train.window_steps=20", *ON_ONE_THREAD)

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.fixture(autouse=True)
def _heeds_hang_ups() -> Iterator[None]:
    """What nohup has started ignores them, and so would the commands that these tests start."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("exit_code", "memory_ran_out", "expected"),
    [
        (0, False, ("crashed", "SystemExit", "its process left with exit code 0")),
        (3, False, ("crashed", "SystemExit", "its process left with exit code 3")),
        (-signal.SIGSEGV, False, ("crashed", "SIGSEGV", "its process crashed: Segmentation fault (SIGSEGV)")),
        (-signal.SIGABRT, True, ("crashed", "SIGABRT", "its process crashed: Aborted (SIGABRT)")),
        (-signal.SIGKILL, False, ("killed", "SIGKILL", "its process was ended from outside by SIGKILL")),
        (-signal.SIGKILL, True, ("oom", "SIGKILL", "the system's out-of-memory killer ended its process")),
        (-signal.SIGTERM, True, ("killed", "SIGTERM", "its process was ended from outside by SIGTERM")),
    ],
)
def test_a_death_is_told_by_its_exit_code(
    exit_code: int, *, memory_ran_out: bool, expected: tuple[str, str, str]
) -> None:
    assert death_of(exit_code, memory_ran_out=memory_ran_out) == Death(*expected)


def test_a_signal_without_a_name_is_told_by_its_number() -> None:
    unnamed = signal.SIGRTMIN + 5
    assert unnamed not in set(signal.Signals)
    assert death_of(-unnamed, memory_ran_out=False).error_type == f"signal {unnamed}"


CORES = [0, 1, 2, 3, 8, 9]


@pytest.mark.parametrize(
    ("count", "threads", "cores"),
    [
        (1, None, [()]),
        (2, None, [(0, 1, 2), (3, 8, 9)]),
        (3, 2, [(0, 1), (2, 3), (8, 9)]),
        (4, 1, [(0,), (1,), (2,), (3,)]),
        (4, None, [(0,), (1,), (2,), (3,)]),
        (3, 3, [(), (), ()]),
        (7, None, [()] * 7),
    ],
)
def test_cores_are_divided_where_there_are_enough(
    monkeypatch: pytest.MonkeyPatch, count: int, threads: int | None, cores: list[tuple[int, ...]]
) -> None:
    """No core is given to two workers, and no worker has fewer cores than threads."""
    monkeypatch.setattr(workers, "usable_cores", lambda: CORES)
    monkeypatch.setattr(workers, "granted_cores", lambda: None)
    slots = slots_for(count, threads=threads, gpus=[])
    assert [slot.cores for slot in slots] == cores
    assert [slot.number for slot in slots] == list(range(count))
    assert {slot.gpu for slot in slots} == {None}
    assert threads_each(count) == max(1, len(CORES) // count)


def test_gpus_are_given_out_in_turn() -> None:
    assert [slot.gpu for slot in slots_for(5, threads=1, gpus=["0", "GPU-ab"])] == ["0", "GPU-ab", "0", "GPU-ab", "0"]


def loop() -> NoReturn:
    """For ever, without a look at anything."""
    while True:
        pass


def test_a_time_limit_ends_a_loop_and_leaves_the_timer_as_it_was() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeBudgetError, match=r"^limit_s=0\.05 reached$"), time_limit(0.05, "limit_s"):
        loop()
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.parametrize("seconds", [None, 60.0, 1e300])
def test_a_time_limit_that_is_not_reached_changes_nothing(seconds: float | None) -> None:
    with time_limit(seconds, "limit_s"):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_time_limit_does_nothing_in_another_thread() -> None:
    """Where there is no timer, which must not fail the trial either."""
    ended: list[str] = []

    def work() -> None:
        with time_limit(0.01, "limit_s"):
            time.sleep(0.05)
        ended.append("well")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == ["well"]


def trials_below(folder: Path) -> pd.DataFrame:
    """The rows, each once, of a sound folder."""
    trials = harness.load(folder / RESULTS).trials
    parts = pd.concat([pd.read_parquet(path) for path in (folder / RESULTS / "trials").glob("*.parquet")])
    assert sorted(parts["trial_id"]) == sorted(trials["trial_id"])
    assert trials["trial_id"].is_unique
    assert problems_in(folder / RESULTS) == []
    return trials


def notes(folder: Path) -> list[Path]:
    return list((folder / RESULTS / ".running").glob("*.json"))


@contextmanager
def amid_the_second_trial(folder: Path, *arguments: str) -> Iterator[Process]:
    """The sweep when its first trial is published and its second one runs; at the end none of its processes is left."""
    with started(folder, *arguments) as process:
        wait_until(lambda: list((folder / RESULTS / "trials").glob("*.parquet")), "no first trial")
        wait_until(lambda: notes(folder), "no second trial")
        time.sleep(0.5)
        own = [process.pid, *descendants(process.pid)]
        assert len(own) >= 3, "parent, resource tracker, worker"
        yield process
        assert_none_is_left(own)


def to_parent(process: Process, number: int) -> None:
    process.send_signal(number)


def to_all(process: Process, number: int) -> None:
    os.killpg(process.pid, number)


Send = Callable[[Process, int], None]
NO_ROW = r"without a row: 1 trial: \[3/3\] train.steps=7\n  run them: python -m harness.run .* sweep.resume=true\n"


@needs_proc
@pytest.mark.parametrize(
    ("number", "send"),
    [(signal.SIGINT, to_all), (signal.SIGTERM, to_parent), (signal.SIGTERM, to_all), (signal.SIGHUP, to_all)],
    ids=["Ctrl-C", "SIGTERM", "SIGTERM to all", "closed terminal"],
)
def test_a_signal_to_a_sweep_costs_the_trial_in_hand_and_no_more(tmp_path: Path, number: int, send: Send) -> None:
    with amid_the_second_trial(tmp_path, *ENDLESS) as process:
        send(process, number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    safe = "interrupted: finished trials are safe, those in hand are recorded as killed\n"
    assert re.fullmatch(safe + NO_ROW, stderr), stderr
    assert "Traceback" not in stdout
    trials = trials_below(tmp_path).set_index("steps")
    assert trials["status"].to_dict() == {6: "ok", 1000000: "killed"}, "the third has not begun"
    assert trials.loc[1000000, "error_message"] == "interrupted (Ctrl-C or a termination signal)"
    assert notes(tmp_path) == []


@needs_proc
def test_a_second_signal_kills_a_trial_that_does_not_end(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(STUBBORN)
    (tmp_path / "conf/init").mkdir(parents=True)
    (tmp_path / "conf/init/stubborn.yaml").write_text("# mine\nweight: stubborn\nmodules: [mine]\n")
    choices = ("-m", "--config-dir=conf", "init=he,stubborn", "train.steps=2", *ON_ONE_THREAD)
    with amid_the_second_trial(tmp_path, *choices) as process:
        to_all(process, signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None, "it waits for the trial"
        sent = time.monotonic()
        to_all(process, signal.SIGINT)
        process.communicate(timeout=60)
        assert time.monotonic() - sent < workers.GRACE_S, "the second signal did it, not the end of its patience"
    assert process.returncode == 1
    trials = trials_below(tmp_path).set_index("init")
    assert trials["status"].to_dict() == {"he": "ok", "stubborn": "killed"}
    assert trials.loc["stubborn", "error_message"] == "interrupted; its process had to be killed"


@needs_proc
@pytest.mark.parametrize("wait_s", [0.0, 0.1, 0.25, 0.5])
def test_ctrl_c_while_a_worker_starts_prints_no_traceback(tmp_path: Path, wait_s: float) -> None:
    with started(tmp_path, *ENDLESS) as process:
        wait_until(lambda: workers_of(process.pid), "no worker")
        own = [process.pid, *descendants(process.pid)]
        time.sleep(wait_s)
        to_all(process, signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert_none_is_left(own)
    assert process.returncode == 1
    assert stderr.startswith("interrupted: ")
    assert "Traceback" not in stdout + stderr
    assert notes(tmp_path) == []


@needs_proc
def test_a_worker_killed_while_it_starts_costs_a_trial_that_has_a_row(tmp_path: Path) -> None:
    """Long before the trial has written its note."""
    with started(tmp_path, "-m", "seed=0,1", "train.steps=2", *ON_ONE_THREAD) as process:
        wait_until(lambda: workers_of(process.pid), "no worker")
        time.sleep(0.2)
        os.kill(workers_of(process.pid)[0], signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (1, "")
    assert "failed: [1/2] seed=0: killed after 0 steps: its process was ended from outside by SIGKILL" in stdout
    assert trials_below(tmp_path).set_index("seed")["status"].to_dict() == {0: "killed", 1: "ok"}


@needs_proc
def test_a_killed_parent_leaves_no_orphan_and_no_trial_without_a_row(tmp_path: Path) -> None:
    with amid_the_second_trial(tmp_path, *ENDLESS) as process:
        process.kill()
        process.wait()
    done = run_command("train.steps=3", *ON_ONE_THREAD, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    trials = trials_below(tmp_path).set_index("steps")
    assert trials["status"].to_dict() == {6: "ok", 1000000: "killed", 3: "ok"}
    assert notes(tmp_path) == []


@needs_proc
def test_an_idle_worker_that_dies_costs_no_trial() -> None:
    """Between two trials, when it has nothing to do: the next task goes to a new one."""
    with workers.Workers(slots_for(1, threads=None, gpus=[])) as own:
        (one,) = own._workers
        one._start()
        assert one.process is not None
        one.executor.submit(int).result()  # type: ignore[union-attr]
        first = one.process
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        wait_until(lambda: one.executor._broken, "the pool did not notice")  # type: ignore[union-attr]
        assert one.submit(None).exception() is not None  # type: ignore[arg-type]
        assert one.process is not None
        assert one.process.pid != first.pid
        assert not isinstance(one.future.exception(), workers.BrokenProcessPool)  # type: ignore[union-attr]
        one.task = None


def test_the_exit_code_is_waited_for_where_the_pool_was_told_first() -> None:
    process = multiprocessing.get_context("spawn").Process(target=os._exit, args=(7,))
    process.start()
    assert process.pid is not None
    _, status = os.waitpid(process.pid, 0)
    assert process.exitcode is None, "the system tells one of two"

    def note() -> None:
        process._popen.returncode = os.waitstatus_to_exitcode(status)  # type: ignore[attr-defined]

    later = threading.Timer(0.2, note)
    later.start()
    assert workers.exit_code_of(process) == 7
    later.join()


def test_a_process_that_cannot_be_started_costs_one_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the system has too many; the next trial has its chance."""

    def full(*_: object, **_settings: object) -> NoReturn:
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", full)
    config = harness.load_config(["device=cpu"])
    tasks = (TrialTask(str(index), config, SweepPlace("s", 2, index, 1), "", "s") for index in (1, 2))
    with workers.Workers(slots_for(1, threads=None, gpus=[])) as own:
        ended = list(own.run(tasks, lambda _: None))
    assert [(one.task.trial_id, type(one.error)) for one in ended] == [("1", BlockingIOError), ("2", BlockingIOError)]
