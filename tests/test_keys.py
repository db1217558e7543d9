"""Which settings make another trial and another arm: by the keys, in the ranking and in a comparison alike."""

import dataclasses
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import made_results
import pandas as pd
import pytest
import torch
from conftest import QUICK, Configure

import harness
from harness import TrialConfig, analysis, initializers, models, rows
from harness.compare.pairs import seed_results
from harness.compare.preparation import named_arms
from harness.compose import CONF_DIR
from harness.config import INCIDENTAL, LayerConfig, leaves
from harness.errors import UsageError
from harness.metrics import weights_sha256
from harness.resolution import resolved
from harness.results import COLUMNS, SPEED, arm_columns, arm_names

OTHER: dict[str, Any] = {
    "seed": 1,
    "init.weight": "he_normal",
    "init.bias": "normal",
    "init.gain": 2.0,
    "init.conv": "he_normal",
    "init.layers": {"conv2": "zeros"},
    "init.bias_layers": {"fc2": "normal"},
    "init.options": {"std": 0.5},
    "init.bias_options": {"std": 0.5},
    "init.branch_scale": 0.5,
    "init.adapt": "lsuv",
    "init.adapt_options": {"steps": 3},
    "init.modules": ["mine"],
    "device.name": "cuda",
    "device.index": 1,
    "device.threads": 7,
    "device.tf32": True,
    "device.deterministic": False,
    "device.memory_format": "contiguous",
    "device.keep_memory": False,
    "kernel.name": "triton",
    "kernel.precision": "tf32",
    "engine.name": "compiled",
    "engine.fallback": True,
    "model.activation": "tanh",
    "model.bias": False,
    "model.padding_mode": "circular",
    "model.pooling": "avg",
    "model.norm": "batch",
    "model.preactivation": True,
    "model.learned_scale": False,
    "model.depth": 3,
    "model.width": 3,
    "model.stride": 2,
    "model.layers": [LayerConfig(type="dense", name="fc", out=10)],
    "model.function": "mine",
    "model.options": {"width": 3},
    "model.modules": ["mine"],
    "data.name": "mnist",
    "data.root": "elsewhere",
    "data.mirrors": ["http://127.0.0.1/"],
    "data.batches": "random",
    "data.scaling": "unit",
    "data.train_images": 4000,
    "data.test_images": 500,
    "data.validation_images": 500,
    "optimizer.name": "adam",
    "optimizer.lr": 0.5,
    "optimizer.momentum": 0.5,
    "optimizer.weight_decay": 0.5,
    "optimizer.schedule": "cosine",
    "optimizer.schedule_step": 2,
    "optimizer.schedule_factor": 0.5,
    "optimizer.warmup_steps": 2,
    "train.steps": 7,
    "train.epochs": 7,
    "train.batch_size": 7,
    "train.eval_every": 7,
    "train.warmup_steps": 7,
    "train.window_steps": 7,
    "train.targets": [0.7],
    "train.max_seconds": 7.0,
    "train.autocast": "bfloat16",
    "results.dir": "elsewhere",
    "sweep.workers": 2,
    "sweep.stack": 2,
    "sweep.trial_timeout_s": 7.0,
    "sweep.resume": True,
    "sweep.trials_per_job": 2,
    "labels.init": "other",
    "labels.model": "other",
    "labels.experiment": "other",
    "sources": {"mine": "0123"},
}
"""Every setting of a trial -> a value that is not the default."""


RECORDED = {
    "": ("f546603ec4e922da", "da67c15084c6ee37"),
    "model=deep": ("25afdcb746a178f0", "a27af16d3ad757f2"),
    "model=residual init=skipinit": ("3420ac5fb7018372", "5cea8cdcc9c5610a"),
    "model=mlp optimizer=momentum data.batches=epochs": ("f18ca6f604841f34", "96dcb5c6eba9bc4b"),
    "init=he seed=3 optimizer=adamw data.scaling=standardised model.bias=false": (
        "6edf5e8dfb06199e",
        "7449ca9f2552b037",
    ),
}
"""Choices -> trial key and arm key that the program of schema version 4 gave them."""


@pytest.fixture(scope="module")
def config() -> TrialConfig:
    return resolved(harness.load_config([*QUICK, "device.threads=1"]))


def changed(config: TrialConfig, setting: str) -> TrialConfig:
    """The config with another value of one setting."""
    section, _, name = setting.rpartition(".")
    if not section:
        return dataclasses.replace(config, **{name: OTHER[setting]})
    return dataclasses.replace(
        config, **{section: dataclasses.replace(getattr(config, section), **{name: OTHER[setting]})}
    )


def ended(config: TrialConfig, number: int) -> dict[str, Any]:
    """The row of a trial of this config that ended well."""
    planned = rows.planned(config, f"trial{number}")
    return planned | {"status": "ok", "final_weights_sha256": str(number), "initial_weights_sha256": str(number)}


def test_every_setting_is_decided_on(config: TrialConfig) -> None:
    """A new setting needs a line in OTHER; unless it is INCIDENTAL too, it makes another trial and another arm."""
    settings = {name for name, _ in leaves(config.as_dict())}
    assert set(OTHER) == settings
    assert settings >= INCIDENTAL
    defaults = dict(leaves(config.as_dict()))
    assert not [name for name, value in OTHER.items() if value == defaults[name]]


@pytest.mark.parametrize("setting", OTHER)
def test_a_setting_makes_another_arm_exactly_if_it_makes_another_key(config: TrialConfig, setting: str) -> None:
    other = changed(config, setting)
    arms = 1 if setting in INCIDENTAL or setting == "seed" else 2
    assert (other.trial_key != config.trial_key) == (setting not in INCIDENTAL)
    assert (other.arm_key != config.arm_key) == (arms == 2)
    pair = [ended(config, 0), ended(other, 1)]
    curves = [row for trial in pair for row in made_results.curve(trial["trial_id"], [0.1, 0.95])]
    table = analysis.ranking(made_results.frames(pair, curves), target=0.5).table
    assert (len(table), table["arm"].nunique()) == (arms, arms)
    compared = seed_results(pd.DataFrame(pair))
    assert len({result.arm for result in compared}) == arms
    assert len(set(named_arms(compared).values())) == arms
    assert setting == "labels.init" or set(named_arms(compared).values()) == set(table["arm"])
    assert len(compared) == (1 if setting in INCIDENTAL else 2)


@pytest.mark.parametrize("choices", RECORDED, ids=lambda choices: choices or "defaults")
def test_a_config_that_uses_nothing_new_has_the_key_that_it_had(choices: str) -> None:
    known = resolved(harness.load_config([*QUICK, "device.threads=1", *choices.split()]))
    assert (known.trial_key, known.arm_key) == RECORDED[choices]


def test_epochs_and_the_steps_that_they_are_make_one_trial() -> None:
    """And a schedule has one key, whether its settings are given or left to their defaults."""
    pairs = [
        (["train.epochs=2"], ["train.steps=200"]),
        (["optimizer.schedule=step", "train.steps=9"], ["optimizer.schedule=step", "train.steps=9", *STEP_DEFAULTS]),
    ]
    for pair in pairs:
        keys = {resolved(harness.load_config(["data.batches=epochs", *choices])).trial_key for choices in pair}
        assert len(keys) == 1


STEP_DEFAULTS = ("optimizer.schedule_step=3", "optimizer.schedule_factor=0.1")


def test_six_seeds_of_two_precisions_are_two_arms(config: TrialConfig) -> None:
    """As a report on kernel.precision=ieee,tf32 has to show them."""
    kernels = [dataclasses.replace(config.kernel, name="triton", precision=name) for name in ("ieee", "tf32")]
    trials = [
        ended(dataclasses.replace(config, kernel=kernel, seed=seed), 10 * place + seed)
        for place, kernel in enumerate(kernels)
        for seed in range(6)
    ]
    curves = [row for trial in trials for row in made_results.curve(trial["trial_id"], [0.1, 0.95])]
    table = analysis.ranking(made_results.frames(trials, curves), target=0.5).table
    assert dict(zip(table["arm"], table["n"], strict=True)) == {"kernel_precision=ieee": 6, "kernel_precision=tf32": 6}


def test_one_key_under_two_names_is_one_arm(config: TrialConfig) -> None:
    trials = [ended(config, 0), ended(dataclasses.replace(changed(config, "labels.init"), seed=1), 1)]
    curves = [row for trial in trials for row in made_results.curve(trial["trial_id"], [0.1, 0.95])]
    table = analysis.ranking(made_results.frames(trials, curves), target=0.5).table
    assert (table["arm"].tolist(), table["n"].tolist()) == (["init=glorot"], [2])


def test_whole_numbers_may_be_given_for_real_ones(config: TrialConfig) -> None:
    keys = {
        dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, lr=lr)).trial_key for lr in (1, 1.0)
    }
    assert len(keys) == 1


def test_a_config_that_leaves_its_device_open_has_no_key() -> None:
    with pytest.raises(ValueError, match="resolve it first"):
        _ = harness.load_config(["device=auto"]).trial_key


def test_resolving_says_what_is_left_to_the_machine_and_changes_nothing_twice() -> None:
    auto, named = (resolved(harness.load_config([f"device={name}", "device.threads=1"])) for name in ("auto", "cpu"))
    if torch.cuda.is_available():
        assert auto.device.name == "cuda"
    else:
        assert auto == named
        assert auto.trial_key == named.trial_key
    assert (named.device.name, named.device.memory_format) == ("cpu", "channels_last")
    assert resolved(named) == named


def test_threads_make_another_key_on_a_cpu_alone(config: TrialConfig) -> None:
    """On a GPU the processor's threads compute nothing that the result depends on."""
    on_cpu = {changed(config, "device.threads").trial_key, config.trial_key}
    cuda = changed(config, "device.name")
    on_gpu = {changed(cuda, "device.threads").trial_key, cuda.trial_key}
    assert (len(on_cpu), len(on_gpu)) == (2, 1)


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF_DIR / "init").glob("*.yaml")))
def test_initial_weights_are_drawn_alike_whatever_the_number_of_threads(choice: str) -> None:
    """Some rest on decompositions and sums that libraries split among threads."""
    chosen = harness.load_config([f"init={choice}", "device=cpu"])
    before, drawn = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            network = models.build(chosen.model)
            initializers.apply(chosen.init, network, seed=0, activation=chosen.model.activation)
            assert torch.get_num_threads() == threads, "it is given back"
            drawn.append(weights_sha256({name: value.detach() for name, value in network.tensors().items()}))
    finally:
        torch.set_num_threads(before)
    assert len(set(drawn)) == 1


def test_weights_are_drawn_by_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libraries split a decomposition among threads, its rounding would depend on their number."""
    threads: list[int] = []

    def look(shape: torch.Size, *, gain: float) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return torch.full(shape, gain)

    monkeypatch.setitem(initializers.REGISTRY, "look", look)
    chosen = harness.load_config(["init.weight=look", "init.bias=look", "device=cpu"])
    initializers.apply(chosen.init, models.build(chosen.model), seed=0, activation="relu")
    assert threads == [1] * 12


MINE = """
import torch
from harness.initializers import register

@register("mine")
def mine(shape, *, gain, generator):
    return torch.full(shape, {value})
"""


def test_the_source_of_a_users_module_is_part_of_the_key(tmp_path: Path) -> None:
    """A command each, as a user edits the file between two of them."""
    rows_of = []
    for value in ("0.1", "0.2", "0.1"):
        (tmp_path / "mine.py").write_text(MINE.format(value=value))
        choices = ["init.modules=[mine]", "init.weight=mine", "model=mlp", *QUICK, f"results.dir={len(rows_of)}"]
        command = [sys.executable, "-m", "harness.run", *choices]
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
        rows_of.append(harness.load(tmp_path / str(len(rows_of))).trials.iloc[0])
    first, edited, again = (row["trial_key"] for row in rows_of)
    assert first == again != edited
    recorded = json.loads(rows_of[0]["config"])["sources"]
    assert list(recorded) == ["mine"]
    assert len(recorded["mine"]) == 64


def registered(value: float) -> None:
    """Register an initializer as a notebook does, without ``init.modules``; its source is this function's."""
    body = f"lambda shape, *, generator: torch.full(shape, {value})"
    function = eval(body, {"torch": torch, "__name__": "__main__"})  # noqa: S307 - the line above
    initializers.REGISTRY["typed"] = function


def test_an_initializer_without_a_module_of_its_own_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(initializers.REGISTRY, "typed", None)
    chosen = harness.load_config([*QUICK, "init.weight=typed", "device.threads=1"])
    keys = []
    for value in (0.1, 0.2, 0.1):
        registered(value)
        keys.append(resolved(chosen).trial_key)
    assert keys[0] == keys[2] != keys[1]


def test_a_module_that_is_loaded_again_is_hashed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(initializers.REGISTRY, "mine", None)
    monkeypatch.delitem(initializers.REGISTRY, "mine")
    (tmp_path / "reloaded.py").write_text(MINE.format(value="0.1"))
    chosen = harness.load_config([*QUICK, "init.modules=[reloaded]", "init.weight=mine", "device.threads=1"])
    first = resolved(chosen).trial_key
    (tmp_path / "reloaded.py").write_text(MINE.format(value="0.25"))
    assert resolved(chosen).trial_key == first, "what was imported still runs"
    importlib.reload(sys.modules["reloaded"])
    assert resolved(chosen).trial_key != first


def test_minus_zero_is_another_number(config: TrialConfig) -> None:
    keys = {
        dataclasses.replace(config, init=dataclasses.replace(config.init, options={"value": value})).trial_key
        for value in (0.0, -0.0, 0)
    }
    assert len(keys) == 2


def test_how_a_diverging_trial_is_timed_changes_no_recorded_hash(configure: Configure) -> None:
    """It trains on to the end of its window, so the weights that it ends with depend on the window."""
    bad = ("optimizer=momentum", "optimizer.lr=0.1", "train.steps=12")
    trials = [harness.run_trial(configure(*bad, f"train.window_steps={steps}")).trial for steps in (2, 12)]
    assert [row["status"] for row in trials] == ["diverged"] * 2
    assert len({row["trial_key"] for row in trials}) == 1
    assert {(row["diverged_step"], row["final_weights_sha256"]) for row in trials} == {
        (trials[0]["diverged_step"], None)
    }


def test_sources_cannot_be_given(configure: Configure) -> None:
    with pytest.raises(UsageError, match="sources: is read from the modules"):
        configure("+sources.mine=0")


def test_every_column_has_a_role_and_every_choice_a_setting(config: TrialConfig) -> None:
    settings = {name for name, _ in leaves(config.as_dict())}
    for column in COLUMNS["trials"]:
        assert bool(column.source) == (column.role == "choice" or column.name == "seed"), column.name
        assert not column.source or column.source in settings, column.name
        assert column.speed == "none" or column.role == "choice", column.name
    assert {"device_model", "cpu_model", "threads", "kernel"} <= set(SPEED)


def test_arms_that_no_choice_tells_apart_have_their_key_in_the_name() -> None:
    """One definition for the report, the comparison and the table on the terminal."""
    columns = {"init": ["a", "a", "b", "b"], "lr": [0.1, 0.1, 0.1, 0.1]}
    assert arm_columns(columns, ["1", "1", "2", "2"]) == ["init"]
    assert arm_names(columns, ["1", "1", "2", "2"]) == {"1": "init=a", "2": "init=b"}
    assert arm_columns(columns, ["1", "3", "2", "2"]) == ["init", "arm_key"]
    assert arm_names(columns, ["1", "3", "2", "2"]) == {
        "1": "init=a arm_key=1",
        "3": "init=a arm_key=3",
        "2": "init=b arm_key=2",
    }
