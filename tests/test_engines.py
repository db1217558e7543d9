"""Engines train as eager does: the graph engine with capturing replaced by running, the compiled one, their checks."""

import copy
import gc
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import Configure

import harness
from harness import engine, fusion, trial_setup
from harness.config import TrialConfig
from harness.engine import equality
from harness.engine.eager import Eager
from harness.engine.graph import Graph, kept, rates
from harness.engine.stacked import StackedTraining, stacked_batches
from harness.errors import DivergedError, TimeBudgetError, UsageError
from harness.optimizers import OPTIMIZERS, SCHEDULES
from harness.resolution import resolved
from harness.train import Engine, optimizer_for, train
from harness.trial_setup import TrialSetup

CPU = torch.device("cpu")
SMALL = ("model=mlp", "data.scaling=unit", "data.train_images=200", "data.test_images=50", "data.batches=epochs")


def run_again(function: Callable[[], None]) -> Callable[[], None]:
    """What stands for capturing on a CPU."""
    return function


def filled(config: TrialConfig) -> TrialSetup:
    setup = trial_setup.assemble(config, CPU)
    trial_setup.initialise(config, setup)
    return setup


def graph_of(config: TrialConfig, setup: TrialSetup, network: fusion.Trained) -> Graph:
    losses = torch.full((config.train.steps,), torch.nan)
    made = Graph(network, config.optimizer, setup.batch, losses, config.train, capture=run_again)
    made.prepare()
    return made


def course(config: TrialConfig, made: Engine) -> list[tuple[float, int]]:
    return [(end.lr, end.right) for end in train(made, config.train)]


def agree(config: TrialConfig, *, exact: bool) -> None:
    """Losses, rates, right answers and final weights of the two engines."""
    setup = filled(config)
    twin = copy.deepcopy(setup.trained)
    eager = engine.build(config, twin, setup.batch, torch.full((config.train.steps,), torch.nan))
    made = graph_of(config, setup, setup.trained)
    assert course(config, made) == course(config, eager)
    pairs = [(made.losses, eager.losses), *zip(setup.trained.parameters(), twin.parameters(), strict=True)]
    for ours, theirs in pairs:
        if exact:
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_static_steps_are_eagers_bit_for_bit(configure: Configure, optimizer: str) -> None:
    """Windows of 2 and 1 steps; the state of the optimizer begins anew after warming up."""
    momentum = ["optimizer.momentum=0.9"] if optimizer in ("momentum", "rmsprop") else []
    agree(configure(*SMALL, f"optimizer={optimizer}", "optimizer.lr=0.01", "train.steps=7", *momentum), exact=True)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "constant"])
def test_static_steps_follow_a_schedule(configure: Configure, schedule: str) -> None:
    agree(
        resolved(configure(*SMALL, f"optimizer.schedule={schedule}", "optimizer.lr=0.1", "train.steps=15")), exact=False
    )


def test_running_statistics_and_fixed_batches_are_eagers(configure: Configure) -> None:
    agree(configure("model=mlp", "model.norm=batch", "data.scaling=unit", "data.batches=fixed"), exact=True)


def test_rates_are_those_that_eager_steps_have(configure: Configure) -> None:
    config = resolved(configure(*SMALL, "optimizer.schedule=cosine"))
    setup = filled(config)
    eager = engine.build(config, setup.trained, setup.batch, torch.zeros(6))
    taken = []
    for step in range(6):
        taken.append(eager.rate())
        eager.run(range(step, step + 1))
    assert rates(config.optimizer, 6) == taken


def test_a_loss_that_is_not_finite_and_the_end_of_the_time_stop_every_engine_alike(configure: Configure) -> None:
    config = configure(*SMALL, "optimizer.lr=1e30", "train.steps=6")
    steps = []
    for graph in (True, False):
        setup = filled(config)
        made = (
            graph_of(config, setup, setup.trained)
            if graph
            else engine.build(config, setup.trained, setup.batch, torch.zeros(6))
        )
        with pytest.raises(DivergedError) as caught:
            course(config, made)
        steps.append(caught.value.step)
    assert steps[0] == steps[1] > 0
    short = configure(*SMALL, "train.max_seconds=1e-9")
    setup = filled(short)
    with pytest.raises(TimeBudgetError, match="after 2 steps"):
        course(short, graph_of(short, setup, setup.trained))


def test_the_check_finds_an_engine_that_trains_otherwise(configure: Configure) -> None:
    """One step too few is no rounding; eager itself is exact; the network stays as it was."""
    config = configure(*SMALL, "optimizer=adam", "optimizer.lr=0.01")
    setup = filled(config)
    before = [value.detach().clone() for value in setup.trained.parameters()]
    made = engine.build(config, setup.trained, setup.batch, torch.full((6,), torch.nan))
    assert equality.largest_difference(config, setup.trained, setup.batch, made, exact=True) == 0
    assert all(torch.equal(a, b) for a, b in zip(before, setup.trained.parameters(), strict=True))

    class Lazy(Eager):
        def run(self, window: range) -> None:
            super().run(window)
            super().run(window[:1])

    optimizer = optimizer_for(setup.trained, config.optimizer)
    wrong = Lazy(setup.trained, optimizer, setup.batch, torch.full((6,), torch.nan))
    refused = ""
    try:
        equality.largest_difference(config, setup.trained, setup.batch, wrong, exact=False)
    except equality.WrongEngineError as error:
        refused = str(error)
    assert "train with engine=eager" in refused
    assert all(torch.equal(a, b) for a, b in zip(before, setup.trained.parameters(), strict=True))


def half_broken(configure: Configure) -> tuple[TrialConfig, TrialSetup, Graph]:
    """A graph engine whose graph of four steps does nothing, though that of one step is right."""
    config = configure(*SMALL, "train.window_steps=4", "train.eval_every=6")
    setup = filled(config)

    def broken(function: Callable[[], None]) -> Callable[[], None]:
        assert isinstance(function, partial)
        return function if function.args[1] == 1 else lambda: None

    losses = torch.full((config.train.steps,), torch.nan)
    made = Graph(setup.trained, config.optimizer, setup.batch, losses, config.train, capture=broken)
    made.prepare()
    return config, setup, made


def test_the_check_replays_every_graph(configure: Configure) -> None:
    config, setup, made = half_broken(configure)
    with pytest.raises(equality.WrongEngineError, match="5 steps of engine"):
        equality.largest_difference(config, setup.trained, setup.batch, made, exact=True)


def test_no_noise_hides_a_graph_that_does_nothing(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """However noisy, the losses of the first steps are compared in the longer run too."""
    config, setup, made = half_broken(configure)
    noise = [torch.full((length + 1,), torch.inf) for length in (equality.STEPS, 5)]
    monkeypatch.setattr(equality, "_noise", lambda *_: iter([noise]))
    with pytest.raises(equality.WrongEngineError, match=r"5 steps of engine.* by inf, relatively, 0\.5 is allowed"):
        equality.largest_difference(config, setup.trained, setup.batch, made, exact=False)


def test_an_engine_is_let_go_when_its_trial_is(configure: Configure) -> None:
    """Not only when the garbage collector runs: until then the graphs would hold the device's memory."""
    config = configure(*SMALL)
    setup = filled(config)
    losses = torch.full((config.train.steps,), torch.nan)
    made = Graph(setup.trained, config.optimizer, setup.batch, losses, config.train, capture=lambda _: lambda: None)
    made.prepare()
    alive = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_rounding_that_grows_is_told_from_a_wrong_rate(configure: Configure, factor: float) -> None:
    """By raw pixels two roundings of a training come apart by a thousand of them in 26 steps; 1 % of the rate shows."""

    class Longer(StackedTraining):
        steps_to_try = 26

    config = configure("train.steps=30", "train.window_steps=25", "train.eval_every=30", "train.batch_size=10")
    configs = [replace(config, seed=seed) for seed in range(3)]
    setups = [filled(each) for each in configs]
    digits, losses = setups[0].digits, torch.full((3, config.train.steps), torch.nan)
    batches = stacked_batches(digits.train_images, digits.train_labels, [None] * 3, config.train.batch_size)
    optimizers = [replace(config.optimizer, lr=factor * config.optimizer.lr)] * 3
    networks, kernel = [setup.network for setup in setups], setups[0].trained.kernel
    training = Longer(networks, kernel, optimizers, batches, config.train.steps, losses, together=True)
    refused = []
    for each, setup, own in zip(configs, setups, equality.stacked_courses(config, networks, training), strict=True):
        try:
            found = equality.difference_of_model(each, setup.trained, setup.batch, own)
        except equality.WrongEngineError:
            refused.append(each.seed)
        else:
            assert 0 < found < 0.5
        assert [len(course.losses) for course in own] == [3, 26]
    assert refused == ([] if factor == 1 else [0, 1, 2])


def test_no_noise_hides_an_engine_that_updates_nothing(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configure(*SMALL, "optimizer.lr=1e-6")
    setup = filled(config)
    monkeypatch.setattr(equality, "_noise", lambda *_: iter([[torch.full((equality.STEPS + 1,), torch.inf)]]))

    class Idle(Eager):
        def run(self, window: range) -> None:
            with kept(setup.trained):
                super().run(window)

    optimizer = optimizer_for(setup.trained, config.optimizer)
    wrong = Idle(setup.trained, optimizer, setup.batch, torch.full((6,), torch.nan))
    with pytest.raises(equality.WrongEngineError, match=r"0\.5 is allowed"):
        equality.largest_difference(config, setup.trained, setup.batch, wrong, exact=False)


def test_steps_that_cannot_be_captured_fall_back_where_that_is_asked_for(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configure(*SMALL, "engine=graph", "engine.fallback=true")
    setup = filled(config)

    def fail(_self: Graph) -> None:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Graph, "prepare", fail)
    made = engine.prepare(config, setup.trained, setup.batch, torch.empty(6))
    assert (made.name, made.reason) == ("eager", "operation not permitted when stream is capturing")
    setup.trained.add_module("dropout", torch.nn.Dropout())
    assert str(engine.prepare(config, setup.trained, setup.batch, torch.empty(6)).reason).startswith("dropout: ")
    strict = configure(*SMALL, "engine=graph")
    with pytest.raises(RuntimeError, match="not permitted"):
        engine.prepare(strict, setup.trained, setup.batch, torch.empty(6))


def test_what_cannot_run_is_refused_in_one_line(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"engine=graph: it captures CUDA graphs, and this is device=cpu; use"):
        resolved(configure("engine=graph"))
    assert resolved(configure("engine=graph", "engine.fallback=true")).engine == resolved(configure()).engine
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setenv("CXX", "nonesuch")
    with pytest.raises(UsageError, match=r"engine=compiled: .* C\+\+ compiler, and nonesuch is not there; install one"):
        resolved(configure("engine=compiled"))
    with pytest.raises(UsageError, match=r"engine.fallback=True: has no effect .*; set engine.fallback=false"):
        configure("engine=eager", "engine.fallback=true")
    assert resolved(configure("engine=auto")).engine.name == "eager"


@pytest.mark.slow
def test_a_compiled_trial_is_eagers_but_for_rounding(configure: Configure) -> None:
    """Slow, because a compiler takes ten seconds or more."""
    eager, compiled = (harness.run_trial(configure(*SMALL, f"engine={name}")) for name in ("eager", "compiled"))
    assert compiled.ok, compiled.trial["error_message"]
    torch.testing.assert_close(compiled.train_losses, eager.train_losses, rtol=1e-4, atol=1e-6)
    row = compiled.trial
    assert (row["engine"], eager.trial["engine"]) == ("compiled", "eager")
    assert 0 <= row["engine_error"] < 1e-4
    assert row["compile_time_s"] > 0
    assert [eager.trial[name] for name in ("engine_error", "compile_time_s", "engine_reason")] == [None] * 3
    assert row["arm_key"] != eager.trial["arm_key"]


def test_autocast_computes_in_bfloat16_and_keeps_everything_else(configure: Configure) -> None:
    """The loss is that of bfloat16 arithmetic; weights, gradients and scores are float32."""
    plain, cast = (harness.run_trial(configure(*SMALL, f"train.autocast={name}")) for name in ("none", "bfloat16"))
    assert cast.ok
    assert cast.trial["autocast"] == "bfloat16"
    assert cast.trial["initial_weights_sha256"] == plain.trial["initial_weights_sha256"]
    assert cast.curves["test_loss"][0] == plain.curves["test_loss"][0]
    assert not torch.equal(cast.train_losses, plain.train_losses)
    torch.testing.assert_close(cast.train_losses, plain.train_losses, rtol=2e-2, atol=0)
    assert cast.train_losses.dtype == torch.float32
