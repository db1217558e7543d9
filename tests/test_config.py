"""Configs: what the command line and a notebook can say, and what is refused, by name."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

import harness
from harness import bounds, data, models
from harness.backends import KERNELS
from harness.bounds import LARGEST_WHOLE, check
from harness.compose import CONF_DIR
from harness.config import DataConfig, ModelConfig, OptimizerConfig, TrialConfig
from harness.datasets import DATASETS
from harness.errors import UsageError
from harness.optimizers import OPTIMIZERS
from harness.train import SCHEDULERS
from harness.usage import GROUPS


def test_defaults_are_the_articles() -> None:
    config = harness.load_config()
    assert (config.train.steps, config.train.batch_size, config.train.eval_every) == (1000, 50, 100)
    assert (config.data.name, config.data.batches, config.data.scaling) == ("mnist5k", "fixed", "raw")
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.momentum) == ("sgd", 1e-4, 0)
    assert (config.init.weight, config.init.bias, config.device.name) == ("glorot_truncated", "zeros", "auto")
    check(config)


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
    stated = OmegaConf.to_container(OmegaConf.create(yaml.safe_load(path.read_text())), resolve=True)
    # these two are read by Hydra: other groups' choices, and the experiment's own sweep
    chosen, _ = stated.pop("defaults", []), stated.pop("hydra", None)
    for section, values in stated.items():
        # YAML reads 1e-6 as text
        expected = {key: float(value) if key == "lr" else value for key, value in values.items()}
        assert {key: config[section][key] for key in expected} == expected
    taken = config["labels"] | {group: config[group]["name"] for group in ("device", "optimizer", "data")}
    for choice in chosen:
        ((group, name),) = choice.items()
        assert taken[group.removeprefix("override /")] == name


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
        (["train.steps=0"], "train.steps=0: out of range; give a whole number of at least 1"),
        (["train.steps=1.5"], "train.steps"),
        (["seed=-1"], "seed=-1: out of range; give a whole number from 0 to 9,223,372,036,854,775,807"),
        (["seed=1.5"], "seed"),
        (["optimizer.lr=0"], "optimizer.lr=0.0: out of range; give a finite number above 0"),
        (["optimizer.lr=nan"], "optimizer.lr=nan"),
        (["device.name=tpu"], "device.name=tpu: no such choice; give one of: auto, cpu, cuda"),
        (["data.batches=shuffled"], "one of: fixed, random, epochs"),
        (["train.batch_size=5001"], "data=mnist5k has only 5,000 training images; give at most 5,000 or set"),
        (["data.batches=random", "train.steps=100000001"], "at most 10,000,000 steps of 50 images"),
        (["train.targets=[1.5]"], "different accuracies above 0 and up to 1"),
        (["device.threads=0"], "null or a whole number of at least 1"),
        (["train.max_seconds=-1"], "null or a finite number above 0"),
        (["init.gain=inf"], "init.gain=inf: neither a finite number nor a rule; give a finite number, auto or torch"),
        (["init.gain=true"], "init.gain=True: neither"),
        (["init.branch_scale=nan"], "init.branch_scale=nan: out of range; give a finite number"),
        (["train.steps=true"], "train.steps: Value 'True'"),
        (["train.steps=1" + 400 * "0"], "too large; give a number up to 2,147,483,647"),
        (["+init.options.size=3000000000"], "init.options.size=3000000000: too large"),
        (["seed=9223372036854775808"], "seed=9223372036854775808: out of range"),
        (["train.batch_size=60001", "data=kmnist"], "data=kmnist has only 60,000 training images"),
        (["results.dir=' '"], "results.dir= : empty; give a folder's name"),
        (
            ["optimizer.weight_decay=inf"],
            "optimizer.weight_decay=inf: out of range; give a finite number of at least 0",
        ),
        (
            ["optimizer.momentum=0.5"],
            "optimizer.momentum=0.5: optimizer=sgd takes no momentum; set optimizer.momentum=0.0 or use optimizer=mom",
        ),
        (["init=zero,glorot"], "init=zero,glorot"),
        (["optimizer.schedule=cosinus"], "optimizer.schedule=cosinus: no such choice; give one of: constant, step"),
        (
            ["optimizer.schedule=linear_warmup", "optimizer.warmup_steps=7", "train.steps=6"],
            "optimizer.warmup_steps=7: the warm-up is longer than the training of 6 steps; give at most 6",
        ),
        (
            ["optimizer.warmup_steps=7"],
            "optimizer.warmup_steps=7: optimizer.schedule=constant takes no warmup_steps; set optimizer.w",
        ),
        (["optimizer.schedule=step", "optimizer.schedule_step=1000"], "a training of 1,000 steps never gets there"),
        (["optimizer.schedule=step", "train.steps=1"], "optimizer.schedule=step: a training of 1 step has one"),
        (
            ["optimizer.schedule=cosine", "train.steps=1"],
            "optimizer.schedule=cosine: a training of 1 step has one rate",
        ),
        (
            ["optimizer.schedule=linear_warmup", "train.steps=10"],
            "optimizer.schedule=linear_warmup: a warm-up of 1 step begins at the full rate; give optimizer",
        ),
        (["data.train_images=5001"], "data.train_images=5001: data=mnist5k has only 5,000"),
        (["data.test_images=1001"], "data.test_images=1001: data=mnist5k has only 1,000"),
        (
            ["data.train_images=100", "data.validation_images=100"],
            "data.validation_images=100: leaves no image to train on; give at most 99",
        ),
        (["data.validation_images=4960"], "train.batch_size=50: data=mnist5k has only 40 training images"),
        (["train.epochs=2"], "train.epochs=2: data.batches=fixed has no epochs; set data.batches=epochs"),
        (["train.epochs=2", "data.batches=random"], "train.epochs=2: data.batches=random has no epochs"),
        (
            ["train.epochs=2", "data.batches=epochs", "train.steps=6"],
            "train.epochs=2: train.steps=6 is given too; give one of the two",
        ),
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


@dataclasses.dataclass(frozen=True)
class Inner:
    """A field of each kind."""

    word: str = bounds.one_of("a", "b", default="a")
    above: float = bounds.above(0, default=1.0)
    at_least: int = bounds.at_least(2, default=2)
    or_null: float | None = bounds.above(0, default=None)
    between: int = bounds.between(1, 2**40, default=1)
    plain: int = 0

    def conflicts(self) -> Iterator[bounds.Conflict]:
        """Yield one conflict if ``plain`` is 7."""
        if self.plain == 7:
            yield bounds.Conflict("plain", "unlucky", "give 8")


@dataclasses.dataclass(frozen=True)
class Outer:
    """Nests in every way."""

    one: Inner = dataclasses.field(default_factory=Inner)
    several: list[Inner] = dataclasses.field(default_factory=list)
    free: dict[str, Any] = dataclasses.field(default_factory=dict)


@pytest.mark.parametrize(
    "values",
    [{}, {"or_null": 0.1}, {"between": 2**40}, {"plain": -LARGEST_WHOLE}, {"word": "b", "above": 1e300}],
    ids=str,
)
def test_what_is_within_its_bounds_passes(values: dict[str, Any]) -> None:
    check(Outer(Inner(**values), [Inner(**values)], {"a": {"b": [1, "x", None, True]}}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"word": "c"}, "word=c: no such choice; give one of: a, b"),
        ({"above": 0.0}, "above=0.0: out of range; give a finite number above 0"),
        ({"above": float("nan")}, "above=nan: out of range"),
        ({"above": float("inf")}, "above=inf: out of range"),
        ({"above": True}, "above=True: out of range"),
        ({"above": None}, "above=None: out of range"),
        ({"at_least": 1}, "at_least=1: out of range; give a whole number of at least 2"),
        ({"or_null": 0.0}, "or_null=0.0: out of range; give null or a finite number above 0"),
        (
            {"between": 2**40 + 1},
            "between=1099511627777: out of range; give a whole number from 1 to 1,099,511,627,776",
        ),
        ({"at_least": LARGEST_WHOLE + 1}, "at_least=2147483648: too large; give a number up to 2,147,483,647"),
        ({"plain": -LARGEST_WHOLE - 1}, "plain=-2147483648: too large"),
        ({"plain": 7}, "plain=7: unlucky; give 8"),
    ],
    ids=str,
)
def test_what_is_out_of_its_bounds_is_named_wherever_it_stands(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(f'one.{words}')}"):
        check(Outer(one=Inner(**values)))


def test_bounds_hold_in_lists() -> None:
    with pytest.raises(UsageError, match=re.escape("several[1].word=c: no such choice")):
        check(Outer(several=[Inner(), Inner(word="c")]))


def test_numbers_in_free_dictionaries_have_a_size_too() -> None:
    with pytest.raises(UsageError, match=re.escape("free.a.b[1]=2147483648: too large")):
        check(Outer(free={"a": {"b": [1, LARGEST_WHOLE + 1]}}))


IMPLEMENTED = {
    "data.batches": (DataConfig, data.ORDERS),
    "data.scaling": (DataConfig, data.SCALINGS),
    "data.name": (DataConfig, DATASETS),
    "model.pooling": (ModelConfig, models.POOLINGS),
    "optimizer.name": (OptimizerConfig, OPTIMIZERS),
    "optimizer.schedule": (OptimizerConfig, {"constant": None, **SCHEDULERS}),
}


@pytest.mark.parametrize("path", IMPLEMENTED)
def test_every_choice_is_implemented_and_the_other_way_round(path: str) -> None:
    config, implemented = IMPLEMENTED[path]
    assert set(bounds.choices_of(config, path.partition(".")[2])) == set(implemented)


@pytest.mark.parametrize(("group", "names"), [("data", DATASETS), ("optimizer", OPTIMIZERS), ("kernel", KERNELS)])
def test_every_entry_of_a_registry_has_its_file(group: str, names: dict[str, object]) -> None:
    assert {path.stem for path in (CONF_DIR / group).glob("*.yaml")} == set(names)
    for name in names:
        assert getattr(harness.load_config([f"{group}={name}"]), group).name == name


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_setting_of_an_optimizer_is_a_field(name: str) -> None:
    fields = {field.name for field in dataclasses.fields(OptimizerConfig)}
    assert set(OPTIMIZERS[name].settings) <= fields - {"name"}
