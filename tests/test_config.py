"""Configs: what the command line and a notebook can say, and what is refused, by name."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness.compose import CONF_DIR
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.usage import GROUPS
from harness.validation import validate


def test_defaults_are_the_articles() -> None:
    config = harness.load_config()
    assert (config.train.steps, config.train.batch_size, config.train.eval_every) == (1000, 50, 100)
    assert (config.data.name, config.data.batches, config.data.scaling) == ("mnist5k", "fixed", "raw")
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.momentum) == ("sgd", 1e-4, 0)
    assert (config.init.weight, config.init.bias, config.device.name) == ("glorot_truncated", "zeros", "auto")
    validate(config)


def test_zero_is_the_articles_modification() -> None:
    zero, glorot = harness.load_config(["init=zero"]), harness.load_config(["init=glorot"])
    assert dataclasses.replace(zero.init, layers={}) == glorot.init
    assert zero.init.layers == {"conv2": "zeros"}


def choices() -> list[str]:
    return [f"{group}={path.stem}" for group in GROUPS for path in sorted((CONF_DIR / group).glob("*.yaml"))]


@pytest.mark.parametrize("choice", choices())
def test_every_choice_composes_and_is_recorded(choice: str) -> None:
    config = harness.load_config([choice])
    group, name = choice.split("=")
    recorded = {"init": config.labels.init, "model": config.labels.model, "experiment": config.labels.experiment}
    assert recorded.get(group, name) == name


@pytest.mark.parametrize("path", sorted((CONF_DIR / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_value_of_an_experiment_is_the_trials(path: Path) -> None:
    """Neither the top file nor another group undoes it."""
    config = harness.load_config([f"experiment={path.stem}"]).as_dict()
    for section, values in yaml.safe_load(path.read_text()).items():
        # YAML reads 1e-6 as text
        stated = {key: float(value) if key == "lr" else value for key, value in values.items()}
        assert {key: config[section][key] for key in stated} == stated


@pytest.mark.parametrize("path", sorted(CONF_DIR.rglob("*.yaml")), ids=lambda path: str(path.relative_to(CONF_DIR)))
def test_every_file_is_described_and_has_no_unknown_key(path: Path) -> None:
    text = path.read_text()
    if path.parent != CONF_DIR:
        assert any(line.startswith("# ") and "@package" not in line for line in text.splitlines()[:2])
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["init=gloort"], "Could not find 'init/gloort'"),
        (["init=gloort"], "torch_default"),
        (["train.stpes=3"], "train.stpes"),
        (["+train.stpes=3"], "stpes"),
        (["train.steps=many"], "train.steps"),
        (["train.steps=0"], "train.steps=0 is not allowed; give a number of at least 1"),
        (["train.steps=1.5"], "train.steps"),
        (["seed=-1"], "seed=-1 is not allowed"),
        (["seed=1.5"], "seed"),
        (["optimizer.lr=0"], "optimizer.lr=0.0 is not allowed; give a finite number above 0"),
        (["optimizer.lr=nan"], "optimizer.lr=nan"),
        (["device.name=tpu"], "device.name=tpu is not allowed; give one of: auto, cpu, cuda"),
        (["data.batches=shuffled"], "one of: fixed, random, epochs"),
        (["train.batch_size=5001"], "at most the 5,000 training images of data=mnist5k"),
        (["data.batches=random", "train.steps=100000001"], "at most 10,000,000 steps of 50 images"),
        (["train.targets=[1.5]"], "different accuracies above 0 and up to 1"),
        (["device.threads=0"], "null or at least 1"),
        (["train.max_seconds=-1"], "null or a number above 0"),
        (["init.gain=inf"], "init.gain=inf"),
        (["init=zero,glorot"], "init=zero,glorot"),
    ],
)
def test_what_is_wrong_is_named(overrides: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        harness.load_config(overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_changed_choice_does_not_go_under_its_old_name() -> None:
    config = harness.load_config(["init=glorot", "+init.layers.conv2=zeros", "init.gain=2"])
    assert config.labels.init == "glorot[gain=2,layers.conv2=zeros]"
    assert config.init.layers == {"conv2": "zeros"}


@given(
    seed=st.integers(0, 2**63 - 1),
    steps=st.integers(1, 10**6),
    lr=st.floats(1e-9, 1e3),
    init=st.sampled_from(["zero", "he", "torch_default"]),
)
def test_config_survives_its_own_json(seed: int, steps: int, lr: float, init: str) -> None:
    """The JSON in a trial's row holds all there is to know of its config."""
    config = harness.load_config([f"seed={seed}", f"train.steps={steps}", f"optimizer.lr={lr!r}", f"init={init}"])
    assert json.loads(json.dumps(config.as_dict())) == config.as_dict()
    assert (config.seed, config.train.steps, config.optimizer.lr) == (seed, steps, lr)


def test_a_config_cannot_be_changed_by_accident() -> None:
    config = harness.load_config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 3  # type: ignore[misc]
    assert isinstance(config, TrialConfig)


def test_two_learning_rates_of_the_article() -> None:
    assert harness.load_config(["experiment=article"]).optimizer.lr == 1e-4
    assert harness.load_config(["experiment=article_printed"]).optimizer.lr == 1e-6
    assert harness.load_config(["experiment=article_printed", "optimizer.lr=1e-5"]).optimizer.lr == 1e-5
