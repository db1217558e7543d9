"""Stacks: many trials of a sweep in one launch, each recorded as it is alone, whatever becomes of its neighbours."""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pandas as pd
import pytest
import torch
from command_processes import started, wait_until
from conftest import Configure, run_command

import harness
from harness import TrialConfig, engine_choice, results, stack_memory, stacked_trials
from harness.config import SweepPlace
from harness.engine import stacked_graph
from harness.engine.stacked import StackedTraining
from harness.engine.stacked_optimizer import StackedOptimizer
from harness.errors import UsageError
from harness.initializers import REGISTRY, register
from harness.resolution import resolved
from harness.results import SPEED, problems_in
from harness.stackable import MOST_BY_ITSELF, stack_key, unstackable
from harness.stacked_trials import Order, StackReport, run_stack
from harness.sweep import stacks
from harness.sweep.plan import plan_from
from harness.sweep.resume import columns_now, resumed
from harness.sweep.stacks import StackPlanner, refuse_useless
from harness.sweep.worker import StackTask, TrialTask

SMALL = ("model=mlp", "device=cpu", "device.threads=1", "train.steps=6", "train.eval_every=3", "train.warmup_steps=1",
         "train.window_steps=2", "data.batches=random", "optimizer.lr=0.001")  # fmt: skip
MINE = """
import os

import torch
from harness.initializers import register
from harness.random_streams import seed_of


@register("raising")
def raising(shape, *, gain, generator):
    raise RuntimeError(f"no weights of {shape} today")


@register("huge")
def huge(shape, *, gain, generator):
    return torch.full(shape, 1e30)


@register("exiting")
def exiting(shape, *, gain, generator):
    if generator.initial_seed() == seed_of(1, "init/fc1.weight"):
        os._exit(3)
    return torch.randn(shape, generator=generator) * 0.05
"""


def folder_with_initializers(folder: Path) -> Path:
    """A folder with initializers that raise, diverge, and kill the process for seed 1."""
    (folder / "mine.py").write_text(MINE)
    (folder / "conf/init").mkdir(parents=True)
    for name in ("raising", "huge", "exiting"):
        (folder / f"conf/init/{name}.yaml").write_text(f"weight: {name}\nmodules: [mine]\n")
    return folder


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A sweep in two stacks: one with trials that raise and diverge, one that kills its process."""
    folder = folder_with_initializers(tmp_path_factory.mktemp("stacked"))
    choices = ("-m", "--config-dir=conf", "init=he,raising,huge,exiting", "seed=0,1", "sweep.stack=6", *SMALL)
    done = run_command(*choices, "results.dir=results", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "")
    return folder, done.stdout


def test_each_trial_of_a_stack_ends_alone(swept: tuple[Path, str]) -> None:
    """What raises, diverges or kills the process costs its neighbours nothing, and no trial has two rows or none."""
    folder, stdout = swept
    trials = harness.load(folder / "results").trials
    assert problems_in(folder / "results") == []
    ends = trials.sort_values("sweep_index")[["init", "seed", "status", "stacked_trials"]].to_numpy().tolist()
    assert ends == [
        ["he", 0, "ok", 4], ["he", 1, "ok", 4], ["raising", 0, "error", 6], ["raising", 1, "error", 6],
        ["huge", 0, "diverged", 4], ["huge", 1, "diverged", 4],
        ["exiting", 0, "ok", 1], ["exiting", 1, "crashed", 1],
    ]  # fmt: skip
    assert set(trials["diverged_step"].dropna()) == {0}
    assert "planned: 8 trials, in stacks of up to 6, one at a time" in stdout
    died = "a launch of 2 trials failed (its process left with exit code 3); 2 trials of it run again alone"
    assert f"note: {died}" in stdout
    assert len(re.findall(r"init=he.*: ok, .* images/s \(its share of 4 trials\)$", stdout, flags=re.MULTILINE)) == 2
    assert len(re.findall(r"^\[\d/8\]", stdout, flags=re.MULTILINE)) == 8


TIMES = {"setup_time_s", "init_time_s", "warmup_time_s", "train_time_s", "eval_time_s", "seconds_to_target"}
OF_A_RUN = {"trial_id", "measured_at", "sweep_id", "sweep_size", "sweep_index", "stacked_trials", "config"}


def test_a_stacked_trial_is_the_trial_that_it_is_alone(swept: tuple[Path, str], configure: Configure) -> None:
    """Every column but those of time and memory has the same bits, in all three tables, and the keys are equal."""
    folder, _ = swept
    stacked = harness.load(folder / "results")
    measured = {name for name in stacked.trials if re.search("per_s|matmul|memory|step_ms|energy|git_", name)}
    for seed in (0, 1):
        alone = harness.run_trial(configure("init=he", f"seed={seed}", *SMALL))
        (own,) = stacked.trials[(stacked.trials["init"] == "he") & (stacked.trials["seed"] == seed)].to_dict("records")
        for name in sorted(set(own) - TIMES - OF_A_RUN - measured):
            assert repr(_plain(own[name])) == repr(_plain(alone.trial[name])), name
        for table, was in ((stacked.curves, alone.curves), (stacked.layers, alone.layers)):
            mine = table[table["trial_id"] == own["trial_id"]].reset_index(drop=True)
            columns = [name for name in was if name not in {"trial_id", "train_time_s"}]
            pd.testing.assert_frame_equal(mine[columns], was[columns], check_exact=True, check_dtype=False)


def _plain(value: object) -> object:
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if results.is_missing(value) else value


def test_a_stack_is_a_condition_of_speed_and_resumes(swept: tuple[Path, str]) -> None:
    """Speeds in other company are not pooled; the same sweep again runs what failed, however it is stacked."""
    assert "stacked_trials" in SPEED
    folder, _ = swept
    choices = ["init=he,glorot", "seed=0,1", *SMALL, f"results.dir={folder / 'results'}", "sweep.resume=true"]
    plan, composer = plan_from(choices)
    configs = [resolved(composer.config(trial.overrides)) for trial in plan.trials]
    now = columns_now(configs[0], simultaneous_trials=1)
    known = resumed(configs, results.place_of(str(folder / "results")), now)
    assert known.to_run == [3, 4]
    assert not any("stacked_trials" in line for line in known.lines)


def orders_of(configs: Sequence[TrialConfig]) -> list[Order]:
    results.prepare(configs[0].results.dir)
    places = [SweepPlace("s", len(configs), index) for index in range(1, len(configs) + 1)]
    return [Order(f"t{own.index}", config, own, "s") for own, config in zip(places, configs, strict=True)]


def test_a_launch_that_runs_out_of_memory_gives_its_trials_back(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of them is left in the folder, so that each can begin again in smaller company."""

    def too_large(*_: object, **__: object) -> NoReturn:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stacked_trials.StackedTraining, "run", too_large)
    orders = orders_of([configure("sweep.stack=4", f"seed={seed}", *SMALL) for seed in range(5)])
    folder = Path(orders[0].config.results.dir)
    report = run_stack(orders)
    # one was left out from the beginning
    assert report.again == ["t5", "t1", "t2", "t3", "t4"]
    assert (report.most, report.holds) == (2, 2)
    assert report.reason == "OutOfMemoryError: CUDA out of memory"
    assert not list((folder / ".running").iterdir())
    assert not list((folder / ".spool").iterdir())


@pytest.mark.parametrize("wrong", [False, True])
def test_steps_of_a_stack_are_set_against_those_of_a_trial_alone(
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    wrong: bool,  # noqa: FBT001
) -> None:
    """The graph engine with capturing replaced by running; one whose updates are wrong fails, before it trains."""
    monkeypatch.setattr(engine_choice, "check", lambda _config, _target: None)
    monkeypatch.setattr(stacked_graph, "captured", lambda function: function)
    right = StackedOptimizer.step

    def step(self: StackedOptimizer, gradients: Sequence[torch.Tensor]) -> None:
        for gradient in gradients:
            gradient[1].mul_(1.001 if wrong else 1)
        right(self, gradients)

    monkeypatch.setattr(StackedOptimizer, "step", step)
    choices = ("engine=graph", "sweep.stack=3", "model.norm=batch", *SMALL)
    orders = orders_of([configure(*choices, f"seed={seed}") for seed in range(3)])
    assert run_stack(orders) == StackReport(most=3)
    trials = harness.load(orders[0].config.results.dir).trials.set_index("trial_id")
    assert trials["status"].tolist() == ["ok", "error" if wrong else "ok", "ok"]
    assert trials["engine"].tolist() == ["graph"] * 3
    assert (trials["compile_time_s"] > 0).all()
    assert (trials["engine_error"].drop("t2") < 1e-4).all()
    if wrong:
        message = (
            r"engine check: 3 steps in a stack differ .* by 0\.001\d*, .*; train with sweep\.stack=off and report this"
        )
        assert re.fullmatch(message, trials.loc["t2", "error_message"])
        assert trials.loc["t2", "moved"].tolist() == []
    else:
        alone = harness.run_trial(configure("seed=1", "model.norm=batch", *SMALL)).trial
        assert trials.loc["t2", "test_accuracy_after"] == pytest.approx(alone["test_accuracy_after"], abs=0.01)


def test_a_trial_that_hangs_uses_up_its_own_time_alone(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REGISTRY, "endless", REGISTRY["zeros"])
    del REGISTRY["endless"]

    @register("endless")
    def endless(shape: tuple[int, ...], *, gain: float, generator: torch.Generator) -> torch.Tensor:
        del shape, gain, generator
        while True:
            time.sleep(0.01)

    limits = ("sweep.stack=3", "sweep.trial_timeout_s=4", *SMALL)
    orders = orders_of(
        [configure(*limits, f"init.weight={name}") for name in ("he_normal", "endless", "glorot_normal")]
    )
    assert run_stack(orders) == StackReport(most=3)
    trials = harness.load(orders[0].config.results.dir).trials.set_index("trial_id")
    assert trials["status"].to_dict() == {"t1": "ok", "t2": "timeout", "t3": "ok"}
    assert trials.loc["t2", "error_message"] == "sweep.trial_timeout_s=4 reached"


def test_a_limit_of_training_time_counts_a_share(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two trials gets its own ``train.max_seconds``; the launch goes on for the other one."""
    quick = StackedTraining.run

    def run(self: StackedTraining, window: range) -> None:
        time.sleep(0.4)
        quick(self, window)

    monkeypatch.setattr(StackedTraining, "run", run)
    configs = [configure("sweep.stack=2", *SMALL, f"train.max_seconds={limit}") for limit in (0.35, 100)]
    run_stack(orders_of([replace(config, seed=seed) for seed, config in enumerate(configs)]))
    trials = harness.load(configs[0].results.dir).trials.set_index("trial_id")
    # windows end at steps 2 and 3, when its share of the time is 0.2 s and 0.4 s
    assert trials[["status", "steps_done"]].to_numpy().tolist() == [["timeout", 3], ["ok", 6]]


def test_an_interrupted_stack_records_every_trial(tmp_path: Path) -> None:
    endless = ("train.steps=1000000", "train.eval_every=1000000", "train.window_steps=20", "sweep.stack=3")
    with started(tmp_path, "-m", "seed=0,1,2,3", *SMALL, *endless) as process:
        notes = tmp_path / "outputs/results/.running"
        wait_until(lambda: len(list(notes.glob("*.json"))) == 3, "no stack")
        process.terminate()
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "without a row: 1 trial: [4/4] seed=3" in stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert trials["status"].tolist() == ["killed"] * 3
    assert not list(notes.glob("*.json"))


def tasks_of(*choices: str) -> list[TrialTask]:
    plan, composer = plan_from(["device=cpu", *choices])
    configs = [composer.config(trial.overrides) for trial in plan.trials]
    return [
        TrialTask(str(number), config, SweepPlace("s", len(configs), number), "", "s")
        for number, config in enumerate(configs, 1)
    ]


def planned(tasks: Sequence[TrialTask], planner: StackPlanner) -> list[str]:
    """The stacks in their order, each as the places of its trials."""
    launches = planner.plan(iter(tasks))
    return [
        ",".join(own.trial_id for own in (task.trials if isinstance(task, StackTask) else [task])) for task in launches
    ]


def test_like_trials_share_a_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full stacks go first, then the largest; no more trials than a window are composed ahead."""
    tasks = tasks_of("sweep.stack=3", "init=he,zero", "train.batch_size=10,20", "optimizer.lr=0.1,0.2")
    # places 1, 2, 5, 6 have batches of 10, the others of 20
    assert planned(tasks, StackPlanner(tasks[0].config)) == ["1,2,5", "3,4,7", "6", "8"]
    monkeypatch.setattr(stacks, "WINDOW", 3)
    assert planned(tasks, StackPlanner(tasks[0].config)) == ["1,2", "3,4", "5,6", "7,8"]
    planner = StackPlanner(tasks[0].config)
    planner.limit(tasks[0].config, 1)
    assert planned(tasks, planner) == ["1", "2", "5", "6", "3,4,7", "8"]


def test_by_itself_a_sweep_on_a_cpu_stacks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a GPU it does, up to what the memory holds; the worker knows that."""
    tasks = tasks_of("seed=0,1")
    assert planned(tasks, StackPlanner(tasks[0].config)) == ["1", "2"]
    monkeypatch.setattr(stacks, "may_have_gpu", lambda _: True)
    assert StackPlanner(tasks[0].config).most == MOST_BY_ITSELF
    assert planned(
        tasks, StackPlanner(replace(tasks[0].config, sweep=replace(tasks[0].config.sweep, stack="off")))
    ) == [
        "1",
        "2",
    ]


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (
            ["train.batch_size=10,20"],
            "no two trials differ in init, seed or the optimizer's numbers alone; leave it out",
        ),
        (
            ["seed=0,1", "model.layers=[{type:dropout,name:d,p:0.1},{type:dense,name:fc,out:10}]"],
            "the masks of a dropout",
        ),
        (["seed=0"], "no two trials"),
    ],
    ids=["nothing alike", "dropout", "one trial"],
)
def test_a_stack_that_cannot_be_is_refused_in_one_line(choices: list[str], problem: str) -> None:
    plan, composer = plan_from([*choices, "sweep.stack=4", "device=cpu"])
    first = composer.config(plan.trials[0].overrides)
    with pytest.raises(UsageError, match=rf"^sweep\.stack=4: {problem}"):
        refuse_useless(first, plan.trials, composer)
    with pytest.raises(UsageError, match=r"^sweep\.stack=4: a job of one trial has nothing to stack; give"):
        refuse_useless(first, plan.trials, composer, per_job=1)


def test_what_a_stack_has_in_common(configure: Configure) -> None:
    own = configure()
    like = ("init=zero", "seed=3", "optimizer.lr=0.5")
    assert stack_key(configure(*like)) == stack_key(own)
    for other in (
        "train.batch_size=7",
        "train.steps=7",
        "model=mlp",
        "optimizer=adam",
        "data.scaling=unit",
        "device.tf32=true",
    ):
        assert stack_key(configure(other)) != stack_key(own)
    assert unstackable(own) is None


def test_a_stack_fits_into_the_memory_of_a_gpu(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate grows with parameters and activations, and never says more than a launch may have."""
    own, large = configure(), configure("train.batch_size=1000")
    each = stack_memory.bytes_per_model(own)
    parameters = sum(value.numel() for value in harness.models.build(own.model).parameters())
    assert 4 * parameters * 5 < each < stack_memory.bytes_per_model(large)
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 0)
    for free, most in ((0, 1), (20 * each, 12), (1 << 50, MOST_BY_ITSELF)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, free))
        assert stack_memory.largest_stack(own, gpu) == most
    assert stack_memory.largest_stack(own, torch.device("cpu")) == 1
