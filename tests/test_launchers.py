"""Sweeps that joblib, submitit and Ray run, as a user types them: they look and end as a sweep on this machine does."""

import dataclasses
import math
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import QUICK, run_python
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.cores import usable_cores
from harness.errors import UsageError
from harness.sweep import engines, job
from harness.sweep import plan as planning
from harness.sweep.plan import PlannedTrial

SMALL = ("model=mlp", *QUICK, "train.steps=2", "train.warmup_steps=0", "init.modules=[crashing]")
CRASHING = """
import ctypes, time
from harness.initializers import register

@register("segfault")
def segfault(shape, *, gain, generator):
    ctypes.string_at(0)

@register("fails")
def fails(shape, *, gain, generator):
    raise RuntimeError("drew nothing")

@register("never_ends")
def never_ends(shape, *, gain, generator):
    time.sleep(600)
"""
LAUNCHERS = {
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=2"),
}
INITS = ("glorot_truncated", "segfault", "zeros", "fails")


@pytest.fixture
def typed_in(tmp_path: Path) -> Path:
    """The folder that the command is typed in, with a module of initializers beside it."""
    (tmp_path / "crashing.py").write_text(CRASHING)
    return tmp_path


def lines_of(output: str) -> dict[int, str]:
    """The line of each trial, by its number; each has one."""
    lines = re.findall(r"^\[(\d+)/\d+\] (.*)$", output, flags=re.MULTILINE)
    assert len({number for number, _ in lines}) == len(lines)
    return {int(number): line for number, line in lines}


def living_in(group: int) -> list[str]:
    """The processes of a group that have not ended; ended ones may wait to be collected by whom they were left to."""
    command = ["ps", "-eo", "pgid=,stat=,args="]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in listed if int(line.split()[0]) == group and not line.split()[1].startswith("Z")]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_in_jobs_is_a_sweep_like_any_other(launcher: str, typed_in: Path) -> None:
    """A segfault and a failure cost one trial each, in jobs of two trials that Hydra would let run elsewhere."""
    elsewhere = ("hydra.job.chdir=true", "hydra.run.dir=elsewhere", "results.dir=here")
    arguments = (f"init.weight={','.join(INITS)}", "sweep.trials_per_job=2", *elsewhere)
    done = run_python("-m", *LAUNCHERS[launcher], *SMALL, *arguments, cwd=typed_in)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "error:" not in done.stderr
    assert f"planned: 4 trials in 2 jobs of hydra/launcher={launcher}, into here" in done.stdout
    trials = harness.load(typed_in / "here").trials.sort_values("sweep_index")
    assert trials["init_weight"].tolist() == list(INITS)
    assert trials["status"].tolist() == ["ok", "crashed", "ok", "error"]
    assert trials["sweep_index"].tolist() == [1, 2, 3, 4]
    assert trials["sweep_id"].nunique() == 1
    # both jobs ran on this machine, each one trial at a time
    assert set(trials["simultaneous_trials"]) == {2}
    assert set(trials["threads"]) == {max(1, len(usable_cores()) // 2)}
    assert {number: line.split()[0] for number, line in lines_of(done.stdout).items()} == {
        number: f"init.weight={init}:" for number, init in enumerate(INITS, 1)
    }
    assert "failed: [2/4] init.weight=segfault: crashed after 0 steps: its process crashed: Segmentation" in done.stdout
    assert "failed: [4/4] init.weight=fails: error after 0 steps: " in done.stdout
    assert "diagnosis" in done.stdout, "the table"
    assert {path.name for path in typed_in.iterdir()} <= {"here", "crashing.py", "__pycache__"}
    assert (typed_in / "here/.jobs").exists() == (launcher == "submitit_local")


@pytest.mark.slow
def test_a_job_that_dies_is_one_line_and_its_trials_are_named(typed_in: Path) -> None:
    """The other job goes on to its end, and what the dead one was at is recorded as killed."""
    (typed_in / "crashing.py").write_text(
        CRASHING + "\n@register('kills_its_job')\ndef kills_its_job(shape, *, gain, generator):\n"
        "    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n    time.sleep(600)\n"
    )
    inits = "init.weight=kills_its_job,zeros,glorot_truncated,zeros"
    launcher = (*LAUNCHERS["submitit_local"], "sweep.trials_per_job=2", "hydra.sweep.dir=logs")
    done = run_python("-m", *launcher, *SMALL, inits, "seed=0", cwd=typed_in)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = re.findall(r"^error: (.*)$", done.stderr, flags=re.MULTILINE)
    died = re.fullmatch(r"job 1 of 2 died: it left no answer \(submitit's job \d+, state \w+\); its log: (.*)", line)
    assert died, line
    assert Path(died[1]).is_relative_to(typed_in / "logs")
    assert Path(died[1]).is_file()
    assert re.search(r"^without a row: 1 trial: \[2/4\] init\.weight=zeros$", done.stderr, flags=re.MULTILINE)
    trials = harness.load(typed_in / "outputs/results").trials.set_index("sweep_index")
    assert trials["status"].to_dict() == {1: "killed", 3: "ok", 4: "ok"}


@pytest.mark.slow
def test_ctrl_c_ends_the_jobs_of_joblib_and_says_what_is_recorded(typed_in: Path) -> None:
    launcher = (*LAUNCHERS["joblib"], "init.weight=zeros,never_ends,zeros", "results.dir=here")
    command = [sys.executable, "-m", "harness.run", "-m", *launcher, *SMALL]
    with subprocess.Popen(
        command, cwd=typed_in, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        seen = ""
        while "[3/3]" not in seen:
            seen += process.stdout.readline()
            assert process.poll() is None
        # as a terminal does: to the command and to all that it has started
        os.killpg(process.pid, signal.SIGINT)
        begun_s = time.monotonic()
        output, errors = process.communicate(timeout=60)
    assert time.monotonic() - begun_s < 30
    assert process.returncode == 1
    assert "Traceback" not in seen + output + errors
    assert "interrupted: finished trials are safe, those in hand are recorded as killed" in errors
    trials = harness.load(typed_in / "here").trials.set_index("sweep_index")
    assert trials["status"].to_dict() == {1: "ok", 2: "killed", 3: "ok"}
    assert not any((typed_in / "here/.running").iterdir())
    until_s = time.monotonic() + 15
    while (living := living_in(process.pid)) and time.monotonic() < until_s:
        time.sleep(0.5)
    assert not living


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("hydra/launcher=ray_aws",), "hydra/launcher=ray_aws: not supported; give basic, joblib, "),
        (("hydra/launcher=nothing",), "hydra/launcher=nothing: no such launcher; give basic, joblib, "),
        (("hydra/launcher=joblib", "hydra.launcher.n_jobs=0"), "hydra.launcher.n_jobs=0: runs nothing; give "),
        (("hydra/launcher=submitit_slurm", "hydra.launcher.nodes=2"), "hydra.launcher.nodes=2: each task would run "),
    ],
    ids=lambda value: value[0].partition("=")[2] if isinstance(value, tuple) else "",
)
def test_what_a_launcher_cannot_do_is_refused(typed: tuple[str, ...], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        engines.engine_of(planning.composed(planning.loader_of(), typed))


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_that_is_not_installed_is_one_line(launcher: str, tmp_path: Path) -> None:
    arguments = ["initbench", "-m", f"hydra/launcher={launcher}", "seed=0,1"]
    without = f"import sys; sys.modules['hydra_plugins'] = None; sys.argv = {arguments}"
    command = [sys.executable, "-c", f"{without}; from harness.run import main; main()"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    extra = engines.ENGINES[launcher].extra
    assert done.stderr == f"error: hydra/launcher={launcher}: not installed; pip install 'initbench[{extra}]'\n"
    assert not list(tmp_path.iterdir())


def test_logs_of_jobs_need_a_folder(tmp_path: Path) -> None:
    done = run_python("-m", "hydra/launcher=submitit_local", "hydra.sweep.dir=s3://b/x", "seed=0,1", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: hydra.sweep.dir=s3://b/x: is no folder, and the jobs keep their logs there; ")
    assert not list(tmp_path.iterdir())


def test_jobs_at_a_time_follow_the_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_a_time(*typed: str, jobs: int = 5) -> int | None:
        composed = planning.composed(planning.loader_of(), typed)
        engine = engines.engine_of(composed)
        assert engine is not None
        return engines.at_a_time(engine, composed, jobs)

    assert at_a_time("hydra/launcher=joblib", "hydra.launcher.n_jobs=3") == 3
    assert at_a_time("hydra/launcher=joblib", "hydra.launcher.n_jobs=3", jobs=2) == 2
    assert at_a_time("hydra/launcher=joblib", jobs=10_000) == len(usable_cores())
    assert at_a_time("hydra/launcher=submitit_local") == 5, "it starts all at once"
    assert at_a_time("hydra/launcher=submitit_slurm") == 1, "each has cores of its own"
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    local = ("hydra/launcher=ray", "+hydra.launcher.ray.init.num_cpus=8")
    assert at_a_time(*local, jobs=100) == 8
    assert at_a_time(*local, "+hydra.launcher.ray.remote.num_cpus=3", jobs=100) == 2
    assert at_a_time(*local, "+hydra.launcher.ray.remote.num_gpus=1") is None, "the job's machine can tell"
    assert at_a_time("hydra/launcher=ray", "hydra.launcher.ray.init.address=auto") is None


def test_jobs_that_share_a_machine_divide_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("harness.cores.cpu_quota", lambda: math.inf)

    def company(*overrides: str, jobs: int) -> tuple[int, int | None, int, set[tuple[int, ...]]]:
        config = harness.load_config(["device=cpu", *overrides])
        own = job.company_in_job(config, most=100, jobs=jobs)
        return own.workers, own.threads, own.simultaneous_trials, {slot.cores for slot in own.slots()}

    assert company(jobs=1) == (1, None, 1, {()})
    assert company(jobs=4) == (1, 4, 4, {()})
    assert company("sweep.workers=2", jobs=4) == (2, 2, 8, {()}), "two jobs must not be pinned to the same cores"
    assert company("sweep.workers=auto", jobs=4) == (4, 1, 16, {()})
    assert company("sweep.workers=2", jobs=1)[3] == {tuple(range(8)), tuple(range(8, 16))}


def test_what_travels_to_a_job_is_small() -> None:
    trials = [PlannedTrial(index, (f"seed={index}", "init=zero"), f"seed={index}") for index in range(1, 10_001)]
    assert len(job.packed(trials[:100])) < 2_000
    own = {"sweep_id": "a" * 16, "size": len(trials), "overrides": trials[0].overrides}
    rest = {each.name: None for each in dataclasses.fields(job.Job) if each.name not in own}
    assert len(pickle.dumps(job.Job(**own, **rest))) < 2_000


@given(
    st.lists(
        st.builds(PlannedTrial, st.integers(1), st.lists(st.text()).map(tuple), st.text()), min_size=1, max_size=20
    )
)
def test_trials_travel_as_an_override_of_hydra(trials: list[PlannedTrial]) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(job.packed(trials))
    assert override.key_or_group == job.TRIALS
    assert job.unpacked(override.value()) == trials
