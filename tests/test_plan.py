"""The plan of a sweep is what Hydra's own sweeper runs, and a planned trial's config is what Hydra composes."""

import re
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st

import harness
from harness import TrialConfig, results
from harness.compose import typed_overrides
from harness.errors import UsageError
from harness.sweep.composer import Composer
from harness.sweep.plan import composed, loader_of, plan_from, stored

FILES = {
    "experiment/grid.yaml": "hydra: {sweeper: {params: {init: 'zero,glorot', seed: 'range(0,3)'}}}\nseed: 9",
    "experiment/word.yaml": "hydra: {sweeper: {params: {+init.options.std: '0.1,0.2', optimizer.lr: 0.5}}}",
    "experiment/mode.yaml": "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '1,2'}}}",
    "experiment/batches.yaml": "hydra: {sweeper: {max_batch_size: 2}}",
}


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``--config-dir`` with sweeps in its experiments."""
    folder = tmp_path_factory.mktemp("choices")
    (folder / "experiment").mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(f"# @package _global_\n# a sweep\n{text}\n")
    return folder


def hydras_own(choices: Path, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each trial that Hydra's own sweeper hands to its launcher."""
    loader = loader_of(config_dir=str(choices))
    config = composed(loader, overrides)
    context = HydraContext(config_loader=loader, callbacks=None)  # type: ignore[arg-type]
    sweeper: Any = Plugins.instance().instantiate_sweeper(
        config=config, hydra_context=context, task_function=lambda _: None
    )
    launched: list[list[str]] = []
    sweeper.launcher.launch = lambda batch, initial_job_idx: (
        launched.extend(map(list, batch[initial_job_idx * 0 :])) or []
    )
    sweeper.sweep(typed_overrides(config.hydra))
    return launched


SWEEPS = {
    "nothing": [],
    "command line": ["init=zero,glorot", "seed=0,1", "model=mlp"],
    "typed twice": ["seed=0,1", "init=zero,he", "seed=range(3,5)"],
    "said twice": ["seed=4,4"],
    "glob and range": ["init=glob(he*)", "seed=range(0,6,3)"],
    "choice and sorted": ["init=choice(zero,he)", "seed=sort(3,1,2)", "optimizer.lr=range(0.1,0.3,0.1)"],
    "quoted": ["results.dir='a,b','c d'", 'init.weight="x\'y",z'],
    "lists": ["train.targets=[0.5],[0.5,0.9]", "model.activation=relu,tanh"],
    "added and deleted": ["+init.options.std=0.1,0.2", "~init.gain", "++train.steps=3"],
    "an experiment's": ["experiment=grid"],
    "an experiment's and typed": ["experiment=grid", "init=he,lecun", "train.steps=3,4"],
    "an experiment's keys of all kinds": ["experiment=word", "seed=0,1"],
    "an experiment's, swept itself": ["experiment=grid,article"],
    "in batches": ["experiment=batches", "seed=range(0,5)"],
    "interpolation": ["train.steps=5,6", "train.eval_every=${train.steps}"],
}


@pytest.mark.parametrize("overrides", SWEEPS.values(), ids=SWEEPS)
def test_the_plan_is_what_hydra_runs(choices: Path, overrides: list[str]) -> None:
    plan, _ = plan_from(overrides, config_dir=str(choices))
    expected = hydras_own(choices, overrides)
    assert [list(trial.overrides) for trial in plan.trials] == expected
    assert plan.size == len(expected) >= 1
    assert [trial.index for trial in plan.trials] == list(range(1, plan.size + 1))


@pytest.mark.parametrize(
    ("overrides", "titles"),
    [
        (["init=zero,he", "seed=0,1", "model=mlp"], ["init=zero seed=0", "init=zero seed=1", "init=he seed=0"]),
        (["+init.options.std=0.1,0.2"], ["init.options.std=0.1", "init.options.std=0.2"]),
        (["init=glob(zero)", "seed=3"], ["init=zero seed=3"]),
        (["experiment=grid"], ["init=zero seed=0", "init=zero seed=1", "init=zero seed=2"]),
    ],
    ids=str,
)
def test_a_title_names_only_what_varies(choices: Path, overrides: list[str], titles: list[str]) -> None:
    plan, _ = plan_from(overrides, config_dir=str(choices))
    assert [trial.title for trial in plan.trials[:3]] == titles


def test_a_config_can_make_it_a_sweep(choices: Path) -> None:
    plan, _ = plan_from(["experiment=mode"], multirun=False, config_dir=str(choices))
    assert (plan.is_multirun, plan.size) == (True, 2)
    plan, _ = plan_from(["experiment=grid"], multirun=False, config_dir=str(choices))
    assert (plan.is_multirun, plan.size) == (False, 1), "without -m hydra.sweeper.params are not looked at"
    assert plan.trials[0].overrides == ("experiment=grid",)
    plan, _ = plan_from(["hydra.mode=RUN", "seed=1,2"])
    assert (plan.is_multirun, plan.size) == (True, 2), "as Hydra does, -m wins"


@pytest.mark.parametrize(
    ("overrides", "multirun", "words"),
    [
        (["seed=range(0,0)"], True, "the sweep is empty: no choice matches, or a range has no number in it"),
        (["init=glob(x*)", "seed=1,2"], True, "the sweep is empty"),
        (["seed=1,2"], False, "Ambiguous value for argument 'seed=1,2'"),
        (["seed=interval(0,1)"], True, "BasicSweeper does not support sweep type : INTERVAL_SWEEP"),
        (["hydra.verbose=true,false"], True, "Sweeping over Hydra's configuration is not supported"),
        (["seed=range(0,3,0)"], True, "range() arg 3 must not be zero"),
        (["hydra.sweeper.max_batch_size=0"], True, "hydra.sweeper.max_batch_size=0: out of range; give null or"),
        (["hydra/sweeper=optuna"], True, "Could not find 'hydra/sweeper/optuna'"),
        (["hydra.sweeper._target_=mine.Sweeper"], True, "hydra/sweeper=basic: its trials are not known beforehand"),
        (["seed=1,"], True, "seed=1,"),
        (["init=gloort"], True, "Could not find 'init/gloort'"),
        (["init=3"], True, "must be a string or a list"),
        (["+hydra.sweeper.params.seed='1,2'"], True, "AssertionError: Unexpected type for root: NoneType"),
    ],
    ids=str,
)
def test_what_cannot_be_planned_is_refused_in_one_line(overrides: list[str], multirun: bool, words: str) -> None:  # noqa: FBT001
    with pytest.raises(UsageError) as caught:
        plan_from(overrides, multirun=multirun)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_plan_is_stored_and_its_missing_trials_are_named(tmp_path: Path) -> None:
    plan, _ = plan_from(
        ["init=zero,he", "seed=0,1", "model=mlp"], command="python -m harness.run -m init=zero,he seed=0,1 model=mlp"
    )
    results.prepare(tmp_path)
    results.write_plan(tmp_path, stored(plan, results_dir=str(tmp_path), environment={"git_commit": None}))
    (own,) = results.progress(tmp_path).plans
    assert own.missing == ["init=zero seed=0", "init=zero seed=1", "init=he seed=0", "init=he seed=1"]
    assert own.command == f"{plan.command} sweep.resume=true"
    assert (own.plan.sweep_id, own.plan.typed_in) == (plan.sweep_id, str(Path.cwd()))


def test_ten_thousand_trials_are_planned_and_checked_at_once() -> None:
    sweep = ["init=zero,he", "seed=range(0,5000)", "train.steps=5"]
    plan_from(["seed=1,2"])
    began = time.process_time()
    plan, composer = plan_from(sweep)
    composer.refuse_unknown(trial.overrides for trial in plan.trials)
    assert time.process_time() - began < 2
    assert plan.size == 10_000
    tracemalloc.start()
    try:
        plan, _ = plan_from(sweep)
        assert plan.trials[-1].title == "init=he seed=4999"
        assert tracemalloc.get_traced_memory()[0] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["init=zero,glrot", "seed=range(0,50)"], "Could not find 'init/glrot' Available options in 'init': all_zero"),
        (["seed=0,1", "train.stpes=1,2"], "Could not override 'train.stpes'"),
        (["seed=0,1", "+experiment@other=nope,article"], "Could not find 'experiment/nope'"),
    ],
    ids=str,
)
def test_a_misspelt_choice_is_refused_before_anything_runs(overrides: list[str], words: str) -> None:
    plan, composer = plan_from(overrides)
    with pytest.raises(UsageError) as caught:
        composer.refuse_unknown(trial.overrides for trial in plan.trials)
    assert words in str(caught.value)


def said_by(compose: Callable[[Sequence[str]], TrialConfig], overrides: Sequence[str]) -> TrialConfig | str:
    """The config, or the text of the refusal."""
    try:
        return compose(overrides)
    except UsageError as error:
        return str(error)


ONE = [
    *("init=zero", "init=he", "init=variance_scaling", "init=gloort", "init=[zero,he]", "~init", "init=3", "init@a=he"),
    *(
        "model=mlp",
        "model=deep",
        "optimizer=adam",
        "optimizer=momentum",
        "experiment=learn",
        "~optimizer",
        "data=kmnist",
    ),
    *("seed=0", "seed=7", "seed=007", "seed=-1", "seed=1.5", "seed=null", "seed='5'", "seed=9223372036854775808"),
    *(
        "seed=${train.steps}",
        "seed=???",
        "seed=true",
        "seed=1e2",
        "seed=5_0",
        "seed.a=1",
        "++seed=4",
        "~seed",
        "+seed=1",
    ),
    *("optimizer.lr=0.1", "optimizer.lr=1", "optimizer.lr=1e-3", "optimizer.lr=nan", "optimizer.lr='0.2'"),
    *("optimizer.lr=${optimizer.momentum}", "optimizer.momentum=0.5", "optimizer.momentum=0", "optimizer={lr: 0.5}"),
    *("train.steps=5", "train.steps=5.0", "train.steps=many", "train.steps=0", "train.steps=${train.batch_size}"),
    *("train.batch_size=20", "train.batch_size=5001", "train.targets=[0.5]", "train.targets=[2]", "train.targets=[]"),
    *("train.max_seconds=null", "train.max_seconds=3", "train.max_seconds=x", "train={steps: 3}", "train.stpes=3"),
    *("+train.stpes=3", "++train.steps=4", "~train.steps", "~train.steps=1000", "+train.steps=3", "train=null"),
    *("init.gain=2", "init.gain=auto", "init.gain=inf", "init.gain=true", "init.gain=null", "init.weight=x y"),
    *("init.weight='a,b'", "init.weight=${init.bias}", "init.weight=1", "init.bias=${.weight}", "init.conv=null"),
    *("init.layers={conv2: zeros}", "+init.layers.conv2=ones", "init.layers.conv2=ones", "init.layers=null"),
    *(
        "+init.options.std=0.1",
        "init.options.scale=2.0",
        "init.options={scale: 2}",
        "~init.options",
        "init.modules=[a]",
    ),
    *("model.depth=3", "model.depth=null", "model.depth=${train.steps}", "model.width=x", "model.layers=[]"),
    *("model.layers=[{type: dense, out: 10}]", "model.layers.0.out=3", "model.layers[0].out=3", "model.bias=no"),
    *("device.tf32=1", "device.tf32=maybe", "device.threads=2", "device=cpu", "data.batches=epochs", "data.root=a$b"),
    *("data.root='${oc.env:HOME}'", "data.root=${oc.select:train.steps}", "data.root=${hydra:job.name}", "data.root="),
    *("labels.init=x", "+labels.init=x", "+sources.a=b", "sweep.workers=auto", "sweep.workers=2", "sweep.workers=1.5"),
    *(
        "results.dir=' '",
        "results.dir=a\\,b",
        "kernel.name=triton",
        "hydra.verbose=true",
        "+a=1",
        "=3",
        "seed",
        "seed=[1",
    ),
]


@pytest.fixture(scope="module")
def composer() -> Composer:
    """One for all examples, because what it remembers of one trial must not spoil the next."""
    return Composer(loader_of())


PLAIN = [each for each in ONE if re.match(r"\w+\.\w+=[^$[{]", each) or each.startswith("seed=")]


@examples(max_examples=25)
@given(st.lists(st.sampled_from(ONE), max_size=3) | st.lists(st.sampled_from(PLAIN), min_size=2, max_size=4))
@example(["init.gain=3", "init.gain=${optimizer.lr}", "optimizer.lr=2"])
@example(["model=deep", "model.width=5", "model.depth=2"])
@example(["data.batches=epochs", "train.epochs=2", "train.batch_size=500"])
@example(["experiment=zero_mnist", "train.steps=5"])
@example(["experiment=zero_mnist", "train.epochs=null"])
@example(["experiment=zero_mnist", "train.epochs=2", "train.steps=5"])
@example(["+init.layers.conv2=ones", "init.layers.conv2=zeros", "seed=4"])
def test_the_composer_gives_what_hydra_gives(composer: Composer, overrides: list[str]) -> None:
    assert said_by(composer.config, overrides) == said_by(harness.load_config, overrides)


@pytest.mark.slow
@examples(max_examples=600)
@given(st.lists(st.sampled_from(ONE), max_size=5) | st.lists(st.sampled_from(PLAIN), min_size=2, max_size=6))
def test_the_composer_gives_what_hydra_gives_in_many_cases(composer: Composer, overrides: list[str]) -> None:
    assert said_by(composer.config, overrides) == said_by(harness.load_config, overrides)


@pytest.mark.parametrize(
    ("name", "wrong", "overrides"),
    [
        ("_mentioned", lambda _: (), ["model=deep", "model.width=5"]),
        ("_meet", lambda _key, _others: False, ["init.gain=2", "++init.gain=3"]),
        ("labels_of", lambda choices, _: harness.compose.labels_of(choices, ()), ["init.gain=2"]),
        ("check", lambda _: None, ["seed=-1"]),
    ],
)
def test_a_wrong_composer_is_noticed(
    name: str, wrong: Callable[..., Any], overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"harness.sweep.composer.{name}", wrong)
    assert said_by(Composer(loader_of()).config, overrides) != said_by(harness.load_config, overrides)


def test_plain_values_are_composed_without_hydra(monkeypatch: pytest.MonkeyPatch) -> None:
    composer = Composer(loader_of())
    composer.config(["init=zero", "seed=0", "optimizer.lr=0.1"])
    monkeypatch.setattr(Composer, "_load", None)
    config = composer.config(["init=zero", "seed=41", "optimizer.lr=1", "init.gain=2"])
    assert (config.seed, config.optimizer.lr, config.labels.init) == (41, 1.0, "zero[gain=2]")


def test_a_trial_can_ask_for_its_number() -> None:
    """``${hydra:job.num}`` worked in Hydra's own multirun."""
    plan, composer = plan_from(["seed=${hydra:job.num}", "init=zero,he"])
    assert [composer.config(trial.overrides, number=trial.index - 1).seed for trial in plan.trials] == [0, 1]
