"""The training loop against a loop written out by hand; its windows, its clock, how it stops."""

import math
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from harness.config import OptimizerConfig, TrainConfig
from harness.engine import eager
from harness.engine.eager import Eager
from harness.errors import DivergedError, TimeBudgetError
from harness.optimizers import OPTIMIZERS, Optimizer
from harness.random_streams import generator
from harness.train import Batch, batch_source, optimizer_for, train, windows

IMAGES = torch.rand(20, 1, 28, 28, generator=generator(0, "images"))
LABELS = torch.randint(10, (20,), generator=generator(0, "labels"))
ORDER = torch.randint(20, (12, 5), generator=generator(0, "order"))


def network() -> torch.nn.Module:
    made = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 10))
    with torch.no_grad():
        made[1].weight.copy_(torch.rand(10, 784, generator=generator(0, "weights")) * 0.1)
        made[1].bias.zero_()
    return made


def config(**values: object) -> TrainConfig:
    return TrainConfig(**{"steps": 12, "batch_size": 5, "eval_every": 4, "window_steps": 3, **values})  # type: ignore[arg-type]


def run(settings: TrainConfig, optimizer: OptimizerConfig, order: torch.Tensor | None = ORDER) -> torch.Tensor:
    losses = torch.full((settings.steps,), torch.nan)
    model = network()
    batch = batch_source(IMAGES, LABELS, order, settings.batch_size)
    for _ in train(Eager(model, optimizer_for(model, optimizer), batch, losses), settings):
        pass
    return losses


def by_hand(optimizer: torch.optim.Optimizer, model: torch.nn.Module) -> list[float]:
    losses = []
    for chosen in ORDER:
        loss = F.cross_entropy(model(IMAGES[chosen]), LABELS[chosen])
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.parametrize(
    ("name", "make", "settings"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.1}),
        ("sgd", torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.5}),
        ("momentum", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        ("adam", torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.5}),
        ("adamw", torch.optim.AdamW, {"lr": 0.1, "weight_decay": 0.5}),
        ("rmsprop", torch.optim.RMSprop, {"lr": 0.1, "momentum": 0.9}),
        ("nadam", torch.optim.NAdam, {"lr": 0.1, "weight_decay": 0.5}),
    ],
    ids=["sgd", "sgd-decay", "momentum", "adam", "adamw", "rmsprop", "nadam"],
)
def test_losses_are_those_of_a_plain_loop(name: str, make: type, settings: dict[str, float]) -> None:
    """Bit for bit, step for step, each taken before its update."""
    model = network()
    expected = by_hand(make(model.parameters(), **settings), model)
    assert run(config(), OptimizerConfig(name=name, **settings)).tolist() == expected


def rate(schedule: str, step: int, steps: int) -> float:
    """The rate of a step by its formula, for the rate 0.1; the settings are those of the test below."""
    if schedule == "step":
        return 0.1 * 0.5 ** (step // 4)
    if schedule == "cosine":
        return 0.05 * (1 + math.cos(math.pi * step / steps))
    if schedule == "linear_warmup":
        return 0.1 * min(1, (1 + step * 2 / 3) / 3) if step < 3 else 0.1
    start, end, up = 0.1 / 25, 0.1 / 25e4, 3 - 1
    low, share = (start, step / up) if step <= up else (end, 1 - (step - up) / (steps - 1 - up))
    return low + (0.1 - low) * (1 - math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("schedule", "settings"),
    [
        ("step", {"schedule_step": 4, "schedule_factor": 0.5}),
        ("cosine", {}),
        ("one_cycle", {"warmup_steps": 3}),
        ("linear_warmup", {"warmup_steps": 3}),
    ],
)
def test_a_schedule_sets_the_rate_of_each_step(schedule: str, settings: dict[str, float]) -> None:
    model, losses = network(), torch.zeros(12)
    chosen = OptimizerConfig(lr=0.1, schedule=schedule, **settings)  # type: ignore[arg-type]
    optimizer, hand = optimizer_for(model, chosen, steps=12), network()
    ends = train(Eager(model, optimizer, batch_source(IMAGES, LABELS, ORDER, 5), losses), config(window_steps=1))
    rates = [end.lr for end in ends]
    assert rates[:-1] == pytest.approx([rate(schedule, step, 12) for step in range(12)])
    assert rates[-1] == rates[-2], "no rate of a step that is not taken"
    by_steps = torch.optim.SGD(hand.parameters(), lr=1.0)
    for step, chosen_images in enumerate(ORDER):
        by_steps.param_groups[0]["lr"] = rates[step]
        F.cross_entropy(hand(IMAGES[chosen_images]), LABELS[chosen_images]).backward()
        by_steps.step()
        by_steps.zero_grad()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), hand.parameters(), strict=True))


@pytest.mark.parametrize("limit", [1, 2**20])
def test_right_answers_are_those_of_the_steps_themselves(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where so many logits pile up that they are compared within a window."""
    monkeypatch.setattr(eager, "_MOST_NUMBERS", limit)
    model, hand = network(), network()
    optimizer, by_steps = (optimizer_for(each, OptimizerConfig(lr=0.1)) for each in (model, hand))
    ends = train(Eager(model, optimizer, batch_source(IMAGES, LABELS, ORDER, 5), torch.zeros(12)), config())
    counted = [end.right for end in ends]
    expected = []
    for chosen in ORDER:
        logits = hand(IMAGES[chosen])
        expected.append(int((logits.argmax(dim=1) == LABELS[chosen]).sum()))
        by_steps.zero_grad()
        F.cross_entropy(logits, LABELS[chosen]).backward()
        by_steps.step()
    assert sum(expected) > 0
    assert counted == [
        0,
        sum(expected[:3]),
        expected[3],
        sum(expected[4:7]),
        expected[7],
        sum(expected[8:11]),
        expected[11],
    ]


def test_an_optimizer_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    expected = by_hand(torch.optim.Adagrad(model.parameters(), lr=0.01, weight_decay=0.5), model)
    monkeypatch.setitem(OPTIMIZERS, "adagrad", Optimizer("Adagrad"))
    assert run(config(), OptimizerConfig(name="adagrad", lr=0.01, weight_decay=0.5)).tolist() == expected


def test_fixed_batches_are_the_first_images_at_every_step() -> None:
    """At learning rate 0+ the loss stays that of the first five images."""
    losses = run(config(), OptimizerConfig(lr=1e-30), order=None)
    expected = F.cross_entropy(network()(IMAGES[:5]), LABELS[:5])
    assert losses.tolist() == [float(expected.detach())] * 12


@given(steps=st.integers(1, 60), eval_every=st.integers(1, 70), window_steps=st.integers(1, 70))
def test_windows_cover_every_step_once_and_stop_at_the_grid(steps: int, eval_every: int, window_steps: int) -> None:
    stretches = list(windows(TrainConfig(steps=steps, eval_every=eval_every, window_steps=window_steps)))
    assert [step for window in stretches for step in window] == list(range(steps))
    assert all(0 < len(window) <= window_steps for window in stretches)
    stops = {window.stop for window in stretches}
    assert stops >= set(range(eval_every, steps, eval_every)) | {steps}


def window_ends(settings: TrainConfig) -> list[tuple[int, bool]]:
    model, losses = network(), torch.zeros(settings.steps)
    batch = batch_source(IMAGES, LABELS, None, 5)
    ends = train(Eager(model, optimizer_for(model, OptimizerConfig()), batch, losses), settings)
    return [(end.step, end.evaluate) for end in ends]


def test_evaluates_at_step_zero_on_the_grid_and_at_the_last_step() -> None:
    assert window_ends(config(steps=10)) == [
        (0, True),
        (3, False),
        (4, True),
        (7, False),
        (8, True),
        (10, True),
    ]


def test_what_is_done_between_windows_is_not_on_the_clock() -> None:
    model, losses = network(), torch.zeros(4)
    batch = batch_source(IMAGES, LABELS, None, 5)
    settings = config(steps=4, eval_every=2, window_steps=1)
    seconds = []
    for window_end in train(Eager(model, optimizer_for(model, OptimizerConfig()), batch, losses), settings):
        seconds.append(window_end.seconds)
        time.sleep(0.2)
    assert sum(seconds) < 0.2


@pytest.mark.parametrize("bad", [0, 1, 5, 11])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_divergence_names_the_exact_step(bad: int, value: float) -> None:
    model, losses = network(), torch.zeros(12)
    poisoned = IMAGES.clone()
    poisoned[19] = value

    def batch(step: int) -> Batch:
        return (poisoned[-5:] if step == bad else IMAGES[:5]), LABELS[:5]

    with pytest.raises(DivergedError) as caught:
        list(train(Eager(model, optimizer_for(model, OptimizerConfig()), batch, losses), config()))
    assert caught.value.step == bad


def test_stops_when_its_time_is_over_and_says_where() -> None:
    with pytest.raises(TimeBudgetError, match="after 3 steps"):
        run(config(max_seconds=1e-9), OptimizerConfig())
