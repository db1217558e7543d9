"""A sweep as a user types it: how its trials end, in what company they run, what is refused, and what is printed."""

import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from command_processes import STUBBORN, started, wait_until
from conftest import Command, run_command

import harness
from harness import allocator
from harness.cores import granted_cores, usable_cores
from harness.output import ForgivingStream

RESULTS = "outputs/results"
TINY = ("model=mlp", "device=cpu", "train.steps=2", "train.eval_every=2", "train.warmup_steps=0")

MINE = """
import ctypes
import os
import signal
import threading
import time
from multiprocessing import resource_tracker

import torch
from harness.initializers import register


@register("segfault")
def segfault(shape, *, gain, generator):
    ctypes.string_at(0)


@register("exit_0")
def exit_0(shape, *, gain, generator):
    os._exit(0)


@register("exit_3")
def exit_3(shape, *, gain, generator):
    os._exit(3)


@register("endless")
def endless(shape, *, gain, generator):
    while True:
        pass


@register("kill_9")
def kill_9(shape, *, gain, generator):
    os.kill(os.getpid(), signal.SIGKILL)


@register("leaving")
def leaving(shape, *, gain, generator):
    raise SystemExit(0)


@register("lingering")
def lingering(shape, *, gain, generator):
    threading.Thread(target=time.sleep, args=(300,)).start()
    return torch.zeros(shape)


@register("forsaken")
def forsaken(shape, *, gain, generator):
    os.system("exec sleep 300 >/dev/null 2>&1 &")
    os.kill(os.getpid(), signal.SIGKILL)


@register("forking")
def forking(shape, *, gain, generator):
    if not os.fork():
        # what holds the command's output open, be it by itself or by the standard library's tracker
        for descriptor in (0, 1, 2, resource_tracker._resource_tracker._fd):
            os.close(descriptor)
        time.sleep(300)
    os.kill(os.getpid(), signal.SIGKILL)


class Own(BaseException):
    pass


@register("own")
def own(shape, *, gain, generator):
    raise Own(os.environ["WHOSE"])


@register("telling")
def telling(shape, *, gain, generator):
    cores = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    print(f"pid {os.getpid()} cores {cores} threads {torch.get_num_threads()}", flush=True)
    return torch.randn(shape, generator=generator) * 0.01
"""

ENDINGS = {
    "segfault": ("crashed", "SIGSEGV", "its process crashed: Segmentation fault (SIGSEGV)"),
    "exit_0": ("crashed", "SystemExit", "its process left with exit code 0"),
    "exit_3": ("crashed", "SystemExit", "its process left with exit code 3"),
    "endless": ("timeout", "TimeBudgetError", "sweep.trial_timeout_s=3 reached"),
    "stubborn": ("timeout", "TimeoutError", "sweep.trial_timeout_s ran out; its process had to be killed"),
    "kill_9": ("killed", "SIGKILL", "its process was ended from outside by SIGKILL"),
    "leaving": ("error", "SystemExit", "0"),
    "own": ("error", "Own", "mine"),
}


def make_choices(folder: Path) -> None:
    """The user's own initializers as choices of ``init``, below ``--config-dir=conf``."""
    (folder / "mine.py").write_text(MINE + STUBBORN)
    (folder / "conf/init").mkdir(parents=True)
    for name in (*ENDINGS, "telling", "lingering", "forsaken", "forking"):
        (folder / f"conf/init/{name}.yaml").write_text(f"# mine\nweight: {name}\nmodules: [mine]\n")


def sweep(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """The command with the user's initializers as choices."""
    make_choices(cwd)
    return run_command("-m", "--config-dir=conf", *TINY, *arguments, cwd=cwd)


def trials_below(folder: Path, results: str = RESULTS) -> pd.DataFrame:
    """The rows of ``trials``, each once also for who reads the files by a glob."""
    trials = harness.load(folder / results).trials
    parts = pd.concat([pd.read_parquet(path) for path in (folder / results / "trials").glob("*.parquet")])
    assert sorted(parts["trial_id"]) == sorted(trials["trial_id"])
    return trials


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


@pytest.mark.slow
def test_however_a_trial_ends_it_has_a_row_and_the_sweep_goes_on(tmp_path: Path) -> None:
    inits = f"init=he,{','.join(ENDINGS)},glorot"
    settings = ("device.threads=1", "sweep.trial_timeout_s=3", "+hydra.job.env_set.WHOSE=mine")
    done = sweep(inits, *settings, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, ""), "nothing is missing, and no trial could not be recorded"
    assert "Traceback" not in done.stdout
    trials = trials_below(tmp_path).set_index("init")
    ends = trials[["status", "error_type", "error_message"]]
    assert {name: tuple(ends.loc[name]) for name in ENDINGS} == ENDINGS
    assert trials.loc[["he", "glorot"], "status"].tolist() == ["ok", "ok"]
    assert sorted(trials["sweep_index"]) == list(range(1, len(ENDINGS) + 3))
    assert set(trials["sweep_size"]) == {len(ENDINGS) + 2}
    assert len(set(trials["sweep_id"])) == 1
    failed = lines_of(done.stdout, "failed: ")
    assert len(failed) == len(ENDINGS), "none has the cause of another"
    for name, (status, kind, message) in ENDINGS.items():
        told = f"init={name}: {status} after 0 steps: {f'{kind}: ' if status == 'error' else ''}{message}"
        assert told in done.stdout
        assert len([line for line in failed if told in line]) == 1


def test_a_crash_costs_one_trial_and_one_cause_is_told_once(tmp_path: Path) -> None:
    done = sweep("init=segfault,he", "seed=0,1", "device.threads=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    trials = trials_below(tmp_path)
    statuses = trials.set_index(["init", "seed"])["status"].to_dict()
    assert statuses == {
        ("segfault", 0): "crashed", ("segfault", 1): "crashed", ("he", 0): "ok", ("he", 1): "ok",
    }  # fmt: skip
    (line,) = lines_of(done.stdout, "failed: ")
    what = r"crashed after 0 steps: its process crashed: Segmentation fault \(SIGSEGV\)"
    which = r"\[1/4\] init=segfault seed=0, \[2/4\] init=segfault seed=1"
    assert re.fullmatch(rf"failed: 2 trials: {what}: {which}", line)


def test_threads_and_processes_that_a_trial_leaves_do_not_hold_the_sweep(tmp_path: Path) -> None:
    begun_s = time.monotonic()
    done = sweep("init=forsaken,forking,lingering", "device.threads=1", cwd=tmp_path)
    assert time.monotonic() < begun_s + 200, "not until the thread has ended, or the process"
    assert (done.returncode, done.stderr) == (1, "")
    statuses = trials_below(tmp_path).set_index("init")["status"].to_dict()
    assert statuses == {"forsaken": "killed", "forking": "killed", "lingering": "ok"}


@pytest.fixture(scope="module")
def two_at_a_time(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    if len(usable_cores()) < 2:
        pytest.skip("needs two cores")
    folder = tmp_path_factory.mktemp("two")
    done = sweep("init=telling", "seed=0,1,2,3", "sweep.workers=2", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


def test_two_workers_have_their_own_cores(two_at_a_time: tuple[Path, str]) -> None:
    if granted_cores() is not None:
        pytest.skip("a container with a share of all cores pins nothing")
    _, stdout = two_at_a_time
    told = dict(re.findall(r"^pid (\d+) (cores \S+ threads \d+)$", stdout, flags=re.MULTILINE))
    assert len(told) == 2, "processes"
    cores, each = usable_cores(), len(usable_cores()) // 2
    halves = (cores[:each], cores[each : 2 * each])
    assert set(told.values()) == {f"cores {','.join(map(str, half))} threads {each}" for half in halves}
    assert f"planned: 4 trials, 2 at a time, {each} thread" in stdout


def test_company_and_threads_are_in_the_rows(two_at_a_time: tuple[Path, str]) -> None:
    folder, _ = two_at_a_time
    trials = trials_below(folder)
    assert set(trials["simultaneous_trials"]) == {2}
    assert set(trials["threads"]) == {len(usable_cores()) // 2}


def test_company_does_not_change_a_result(two_at_a_time: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = two_at_a_time
    each = len(usable_cores()) // 2
    done = sweep("init=telling", "seed=0,1,2,3", f"device.threads={each}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    together, alone = (trials_below(where).set_index("seed").sort_index() for where in (folder, tmp_path))
    assert set(alone["simultaneous_trials"]) == {1}
    for column in ("final_weights_sha256", "trial_key", "arm_key"):
        assert alone[column].tolist() == together[column].tolist()


def test_auto_is_a_worker_a_core_but_no_more_than_trials(command: Command, tmp_path: Path) -> None:
    done = command("-m", *TINY, "init=he", "seed=0,1", "sweep.workers=auto")
    assert done.returncode == 0, done.stderr
    assert set(trials_below(tmp_path)["simultaneous_trials"]) == {min(2, len(usable_cores()))}
    assert set(trials_below(tmp_path)["memory_kept"]) == {allocator.can_keep()}


def test_memory_is_kept_by_processes_of_a_command_alone(command: Command, tmp_path: Path) -> None:
    done = command(*TINY, "device=cpu", "device.keep_memory=false")
    assert done.returncode == 0, done.stderr
    assert trials_below(tmp_path)["memory_kept"].tolist() == [False]
    config = harness.load_config([*TINY, "device=cpu", f"results.dir={tmp_path / 'notebook'}"])
    assert config.device.keep_memory
    assert harness.run_trial(config).trial["memory_kept"] is False
    assert not allocator.keeps_memory()


WRONG = {
    "no worker": ("sweep.workers=0", "sweep.workers=0: neither a number of processes nor auto"),
    "word": ("sweep.workers=many", "sweep.workers=many: neither a number of processes nor auto"),
    "half a worker": ("sweep.workers=1.5", "sweep.workers=1.5: neither a number of processes nor auto"),
    "no time": ("sweep.trial_timeout_s=0", "sweep.trial_timeout_s=0.0: out of range"),
    "time that is no number": ("sweep.trial_timeout_s=nan", "sweep.trial_timeout_s=nan: out of range"),
    "no trial a job": ("sweep.trials_per_job=0", "sweep.trials_per_job=0: out of range"),
    "jobs without a launcher": ("sweep.trials_per_job=3", "sweep.trials_per_job=3: has no effect without jobs; add"),
    "memory kept and not": (
        "device.keep_memory=true,false",
        "device.keep_memory=True,False: differs among the trials of one sweep; give",
    ),
    "two numbers of workers": ("sweep.workers=1,2", "sweep.workers=1,2: differs among the trials of one sweep; give"),
    "word for a switch": ("sweep.resume=maybe", "sweep.resume: Value 'maybe'"),
}


@pytest.mark.parametrize(("choice", "message"), WRONG.values(), ids=WRONG)
def test_wrong_settings_of_a_sweep_are_one_line(command: Command, tmp_path: Path, choice: str, message: str) -> None:
    done = command("-m", *TINY, "seed=0,1", choice)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {message}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("choice", ["sweep.workers=2", "sweep.resume=true", "sweep.trials_per_job=3"])
def test_settings_of_a_sweep_are_refused_without_one(command: Command, tmp_path: Path, choice: str) -> None:
    done = command(*TINY, choice)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert re.match(rf"error: {choice.partition('=')[0]}=\w+: has no effect on a single trial; add -m", line)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_over_results_folders_is_refused(command: Command, tmp_path: Path) -> None:
    done = command("-m", "results.dir=one,two", *TINY)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == "error: results.dir=one,two: differs among the trials of one sweep; give one value"
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_in_an_experiment_file_has_its_size_and_titles(command: Command, tmp_path: Path) -> None:
    (tmp_path / "conf/experiment").mkdir(parents=True)
    text = "# @package _global_\n# a sweep\nhydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n      seed: 3,4\n"
    (tmp_path / "conf/experiment/mine.yaml").write_text(text)
    done = command("--config-dir=conf", "experiment=mine", "init=he", *TINY, "device.threads=1")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines_of(done.stdout, "[1/2] seed=3: ok")) == len(lines_of(done.stdout, "[2/2] seed=4: ok")) == 1
    trials = trials_below(tmp_path)
    assert sorted(zip(trials["sweep_index"], trials["sweep_size"], trials["seed"], strict=True)) == [
        (1, 2, 3), (2, 2, 4),
    ]  # fmt: skip


def in_a_shell(line: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """A line of bash in which ``$RUN`` is the command; its exit code is the command's own."""
    environment = {**os.environ, "RUN": f"{sys.executable} -m harness.run"}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=540, check=False,
    )  # fmt: skip


def test_a_reader_that_leaves_costs_nothing(tmp_path: Path) -> None:
    """Not even where the user's own initializer prints, in a worker."""
    make_choices(tmp_path)
    choices = " ".join(("-m", "--config-dir=conf", "init=telling", "seed=0,1,2", *TINY, "device.threads=1"))
    done = in_a_shell(f"$RUN {choices} | head -1", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("planned: 3 trials")
    assert trials_below(tmp_path)["status"].tolist() == ["ok"] * 3


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_output_is_one_true_line(tmp_path: Path) -> None:
    make_choices(tmp_path)
    choices = " ".join(("-m", "--config-dir=conf", "init=telling", "seed=0,1", *TINY, "device.threads=1"))
    done = in_a_shell(f"$RUN {choices} > /dev/full", tmp_path)
    line = "error: the output is not complete (No space left on device); the results are complete\n"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", line)
    assert trials_below(tmp_path)["status"].tolist() == ["ok"] * 2


def test_what_an_encoding_lacks_is_written_as_an_escape() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    out = ForgivingStream(stream)
    print("a caf\u00e9 \udc80", "after", sep="\n", file=out, flush=True)
    assert stream.buffer.getvalue() == b"a caf\\xe9 \\udc80\nafter\n"  # type: ignore[attr-defined]
    assert out.failure is None


def test_forced_colour_is_colour_and_no_animation(tmp_path: Path) -> None:
    environment = {**os.environ, "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "harness.run", "-m", "init=he", "seed=0,1", *TINY, "device.threads=1"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=540, check=True
    )
    codes = set(re.findall(r"\x1b\[[0-9;?]*([A-Za-z])", done.stdout))
    assert codes == {"m"}, "colours, and no cursor that moves or hides"
    assert "\r" not in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_live_table_on_a_terminal(tmp_path: Path) -> None:
    import pty

    parent, child = pty.openpty()
    choices = ("init=he,glorot", "seed=0,1", "train.steps=1500", "train.window_steps=50", "train.eval_every=1500")
    command = [sys.executable, "-m", "harness.run", "-m", *TINY[:2], *choices, "device.threads=1"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        seen = b""
        while piece := read_from(parent):
            seen += piece
    os.close(parent)
    assert process.returncode == 0
    shown = seen.decode()
    assert re.search(r"4 planned, 1 done, 0 failed, about 0:00:\d\d left", shown)
    assert re.search(r"\[\d/4\] init=\w+ seed=\d: setting up", shown)
    assert re.search(r"\[\d/4\] init=\w+ seed=\d: step [\d,]+ of 1,500, [\d,]+ images/s", shown)
    assert re.search(r"\[4/4\] init=glorot seed=1: ok, loss ", shown), "each trial that ended is a line"


def read_from(terminal: int) -> bytes:
    """What comes next; nothing once the other side has ended."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


def test_rows_that_vanish_are_named_and_fail_the_command(tmp_path: Path) -> None:
    parts = tmp_path / RESULTS / "trials"
    choices = ("-m", "init=he", "seed=range(0,6)", *TINY[:2], "train.steps=600", "device.threads=1")
    with started(tmp_path, *choices) as process:
        wait_until(lambda: list(parts.glob("*.parquet")), "no first trial")
        for path in parts.glob("*.parquet"):
            path.unlink()
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert len(lines_of(stdout, "[1/6] seed=0: ok")) == 1, "it had ended"
    assert re.match(r"without a row: 1 trial: \[1/6\] seed=0\n  run them: python -m harness\.run -m ", stderr)
    assert sorted(trials_below(tmp_path)["seed"]) == [1, 2, 3, 4, 5]
