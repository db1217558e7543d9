"""Hand-made wrong versions of what matters, each with the test that has to notice it.

``test_mutants.py`` puts each in place of the real thing and runs its oracle, which must pass without and fail with it.
Those of the initializers are in ``initializer_mutants.py``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import test_article
import test_data
import test_diagnose
import test_diagnosis
import test_engines
import test_initializers
import test_metrics
import test_models
import test_own_models
import test_signals
import test_stack_sweep
import test_stacked
import test_timing
import test_train
import test_trial
import torch
import torch.nn.functional as F
from conftest import Configure
from torch import nn

from harness import (
    article,
    data,
    diagnosis,
    initializers,
    metrics,
    models,
    own_models,
    random_streams,
    results,
    rows,
    signals,
    timing,
    train,
    trial,
)
from harness.diagnosis import causes, judging
from harness.engine import eager, equality, graph, stacked, stacked_graph, stacked_optimizer
from harness.sweep import stacks
from harness.train import WindowEnd

Tools = dict[str, Any]
Oracle = Callable[[Tools], object]


@dataclass(frozen=True)
class Mutant:
    """One wrong version: what it replaces (owner and attribute, or key of a dictionary) and the test that must fail."""

    owner: Any
    name: str
    wrong: Any
    oracle: Oracle


def _shifted_forward(self: models.Conv, x_NCHW: torch.Tensor) -> torch.Tensor:
    edge = self.weight.shape[-1] // 2
    return F.conv2d(F.pad(x_NCHW, (edge + 1, edge - 1, edge, edge)), self.weight, self.bias)


def _dropped_tap_forward(self: models.Conv, x_NCHW: torch.Tensor) -> torch.Tensor:
    keep = torch.ones_like(self.weight)
    keep[..., -1, -1] = 0
    return F.conv2d(x_NCHW, self.weight * keep, self.bias, padding=self.weight.shape[-1] // 2)


def _no_bias_forward(self: models.Conv, x_NCHW: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x_NCHW, self.weight, padding=self.weight.shape[-1] // 2)


def _relu_with_slope_at_zero(slope: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """Relu's values, with the derivative ``slope`` at 0."""

    def relu(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x > 0, x, torch.where(x == 0, slope * x, 0.0))

    return relu


def _flops_of_multiply_adds(config: Any) -> tuple[int, int]:
    forward, training = FLOPS(config)
    return forward // 2, training // 2


FLOPS = models.flops_per_image


def _loss_over_all_models(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return MEAN_LOSSES(logits, labels) / len(logits)


def _settings_of_the_first_model(configs: Any) -> Iterator[slice]:
    yield slice(0, len(configs))


def _gradients_of_the_neighbour(self: stacked_optimizer.StackedOptimizer, gradients: Any) -> None:
    STACKED_STEP(self, [gradient.roll(1, dims=0) for gradient in gradients])


MEAN_LOSSES = stacked.mean_losses
STACKED_STEP = stacked_optimizer.StackedOptimizer.step


def _deaf_to_the_seed(seed: int, stream: str) -> torch.Generator:
    del seed
    return random_streams.generator(0, stream)


def _unsynchronised_exit(self: timing.Stopwatch, *_: object) -> None:
    self.laps_s.append(timing.time.perf_counter() - self._started_s)


def _unsynchronised_enter(self: timing.Stopwatch) -> timing.Stopwatch:
    self._started_s = timing.time.perf_counter()
    return self


def _warm_up_in_place(network: nn.Module, run: Callable[[nn.Module], None]) -> None:
    run(network)


def _clock_over_the_yield(engine: train.Engine, config: Any) -> Iterator[WindowEnd]:
    started = timing.time.perf_counter()
    yield WindowEnd(0, 0, 0.0, evaluate=True)
    for window in train.windows(config):
        engine.run(window)
        now = timing.time.perf_counter()
        yield WindowEnd(window.stop, len(window), now - started, evaluate=True)
        started = now


def _loss_after_the_update(
    network: nn.Module, optimizer: Any, batch: Any, steps: range, losses: torch.Tensor, **_: object
) -> None:
    for step in steps:
        images, labels = batch(step)
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()
        losses[step] = F.cross_entropy(network(images), labels).detach()


def _gradients_pile_up(
    network: nn.Module, optimizer: Any, batch: Any, steps: range, losses: torch.Tensor, **_: object
) -> None:
    for step in steps:
        images, labels = batch(step)
        loss = F.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()


def _windows_without_the_last(config: Any) -> Iterator[range]:
    yield from list(WINDOWS(config))[:-1]


WINDOWS = train.windows


def _divergence_at_the_window(losses: torch.Tensor, window: range) -> None:
    if not bool(losses[window.start : window.stop].isfinite().all()):
        raise train.DivergedError(window.stop)


def _dead_by_fraction(slope: torch.Tensor) -> float:
    return float((slope == 0).double().mean())


def _symmetric_by_weights_alone(self: judging._Judge, tensor: str) -> bool:
    return self._steps[0].tensors[tensor].same_rows


def _redraws_nothing(*_: object) -> Callable[..., None]:
    return lambda _model, _batch: None


def _blames_the_last(_self: causes._Search, _healthy: list[str], names: list[str], **_: object) -> list[str]:
    return names[-1:]


def _order_with_repeats(*_: object, **sizes: int) -> torch.Tensor:
    return torch.randint(5000, (sizes["steps"], sizes["batch_size"]))


def _exact_without_softmax(b: list[float], share: list[float]) -> float:
    return -sum(x * q for x, q in zip(b, share, strict=True))


def _moved_by_norm(*, gradient_norm: float, bit_equal: bool) -> str:
    del bit_equal
    return "moved" if gradient_norm > 0 else "no gradient"


def _best_is_last(curves: Any, targets: Any) -> dict[str, Any]:
    columns = CONVERGENCE(curves, targets)
    return columns | {"steps_to_target": [curves[-1]["step"] for _ in targets]}


CONVERGENCE = rows.convergence


def _article_definition(tools: Tools) -> None:
    test_models.test_article_network_equals_its_definition(tools["configure"])


def _zero_kernel_stays(tools: Tools) -> None:
    """The theorem in two steps, in a network of eight tensors: nothing but the last bias moves."""
    configure: Configure = tools["configure"]
    result = trial.run_trial(configure(test_initializers.NARROW, "init=zero", "train.steps=2"))
    assert len(result.trial["unmoved"]) == 7


def _plain_loop(_: Tools) -> None:
    test_train.test_losses_are_those_of_a_plain_loop("sgd", torch.optim.SGD, {"lr": 0.1})


def _closed_form(_: Tools) -> None:
    test_article.test_closed_form_has_the_published_values()


@cache
def _with_config(test: Callable[[Configure], None]) -> Oracle:
    return lambda tools: test(tools["configure"])


def _stacked(tools: Tools) -> None:
    test_stacked.test_every_layer_is_that_of_the_models(tools["configure"], "norm and pooling of images")


@cache
def _alone(test: Callable[[], None]) -> Oracle:
    return lambda _: test()


@cache
def _with_patch(test: Callable[[pytest.MonkeyPatch], None]) -> Oracle:
    return lambda tools: test(tools["monkeypatch"])


MUTANTS: dict[str, Mutant] = {
    "padding off by one": Mutant(models.Conv, "forward", _shifted_forward, _article_definition),
    "dropped tap": Mutant(models.Conv, "forward", _dropped_tap_forward, _article_definition),
    "no bias": Mutant(models.Conv, "forward", _no_bias_forward, _article_definition),
    "relu'(0) = 1": Mutant(models.ACTIVATIONS, "relu", _relu_with_slope_at_zero(1.0), _zero_kernel_stays),
    "relu'(0) = 1/2": Mutant(models.ACTIVATIONS, "relu", _relu_with_slope_at_zero(0.5), _zero_kernel_stays),
    "flops of multiply-adds": Mutant(
        models,
        "flops_per_image",
        _flops_of_multiply_adds,
        lambda tools: test_models.test_flops_agree_with_torchs_own_counter(tools["configure"], "model=article"),
    ),
    "swapped seed: weights": Mutant(
        initializers,
        "random_stream",
        _deaf_to_the_seed,
        _with_config(test_trial.test_another_seed_gives_other_weights_and_batches),
    ),
    "swapped seed: batches": Mutant(
        data,
        "random_stream",
        _deaf_to_the_seed,
        _with_config(test_trial.test_another_seed_gives_other_weights_and_batches),
    ),
    "unsynchronised clock: end": Mutant(
        timing.Stopwatch,
        "__exit__",
        _unsynchronised_exit,
        _with_patch(test_timing.test_stopwatch_counts_the_work_a_block_left_outstanding),
    ),
    "unsynchronised clock: start": Mutant(
        timing.Stopwatch,
        "__enter__",
        _unsynchronised_enter,
        _with_patch(test_timing.test_stopwatch_does_not_count_work_from_before_the_block),
    ),
    "warm-up trains the network itself": Mutant(
        test_timing, "warm_up", _warm_up_in_place, _alone(test_timing.test_warm_up_trains_a_copy)
    ),
    "evaluation on the training clock": Mutant(
        test_train,
        "train",
        _clock_over_the_yield,
        _alone(test_train.test_what_is_done_between_windows_is_not_on_the_clock),
    ),
    "loss taken after the update": Mutant(eager, "take_steps", _loss_after_the_update, _plain_loop),
    "gradients never zeroed": Mutant(eager, "take_steps", _gradients_pile_up, _plain_loop),
    "NAdam's product of momenta begins at 0": Mutant(
        graph,
        "_FIRST_STATES",
        {},
        lambda tools: test_engines.test_static_steps_are_eagers_bit_for_bit(tools["configure"], "nadam"),
    ),
    "every engine is eager's equal": Mutant(
        equality.Course,
        "differences",
        lambda self, _other: (torch.zeros(len(self.losses)), torch.zeros(())),
        _with_config(test_engines.test_the_check_finds_an_engine_that_trains_otherwise),
    ),
    "last window dropped": Mutant(train, "windows", _windows_without_the_last, _plain_loop),
    "divergence at the window's end": Mutant(
        train,
        "check_finite",
        _divergence_at_the_window,
        lambda _: test_train.test_divergence_names_the_exact_step(1, torch.nan),
    ),
    "unlike trials in one launch": Mutant(
        stacks, "stack_key", lambda _: "", _with_patch(test_stack_sweep.test_like_trials_share_a_launch)
    ),
    "a failed launch leaves its notes": Mutant(
        results.Running,
        "withdraw",
        lambda _: None,
        lambda tools: test_stack_sweep.test_a_launch_that_runs_out_of_memory_gives_its_trials_back(**tools),
    ),
    "fraction <= 0 for dead": Mutant(
        signals, "_dead_share", _dead_by_fraction, _with_config(test_metrics.test_blank_background_is_not_dead)
    ),
    "padding forgotten in theory": Mutant(
        signals,
        "through_squares",
        lambda layer, squares: squares.new_full((1, 1), float(layer.weight.detach().square().sum()) / 32),
        lambda tools: test_signals.test_zero_padding_hides_the_share_of_taps_of_the_formula(
            tools["configure"], 14, 0.907
        ),
    ),
    "symmetric by its weights alone": Mutant(
        judging._Judge,
        "_is_symmetric",
        _symmetric_by_weights_alone,
        lambda _: test_diagnosis.test_symmetry_of_one_layer_alone_is_no_symmetry(),
    ),
    "one probe step": Mutant(diagnosis, "settled", lambda *_: True, lambda _: test_diagnosis.test_delay_is_counted()),
    "an experiment that changes nothing": Mutant(
        causes,
        "healed",
        _redraws_nothing,
        lambda _: test_diagnosis.test_a_zero_last_layer_is_not_to_blame_for_a_zero_kernel(),
    ),
    "the last suspect is blamed": Mutant(
        causes._Search,
        "_quick_explanation",
        _blames_the_last,
        lambda _: test_diagnosis.test_a_zero_last_layer_is_not_to_blame_for_a_zero_kernel(),
    ),
    "underflow is zero": Mutant(
        judging._Judge,
        "_exact_steps",
        lambda _self, _tensor: [],
        lambda _: test_diagnose.test_zero_and_underflow_are_told_apart(),
    ),
    "the loss sees every size": Mutant(
        judging._Judge,
        "_loss_sees",
        lambda _self, _step: True,
        lambda _: test_diagnosis.test_a_shift_of_all_logits_is_not_exploding(),
    ),
    "a falling loss is learning": Mutant(
        diagnosis,
        "_tells_apart",
        lambda _case, _course: True,
        lambda _: test_diagnose.test_a_loss_that_falls_by_its_bias_alone_is_no_learning(),
    ),
    "movement from the gradient alone": Mutant(
        metrics,
        "movement",
        _moved_by_norm,
        lambda _: test_metrics.test_movement(gradient_norm=1.0, bit_equal=True, expected="has gradient, not moved"),
    ),
    "shared weights filled twice": Mutant(
        own_models,
        "_filled",
        lambda _module, called: iter(called),
        _with_config(test_own_models.test_what_no_initializer_fills_is_said_and_follows_from_the_seed),
    ),
    "own network built from the program's random numbers": Mutant(
        own_models.looking,
        "seed",
        lambda _value: None,
        _with_config(test_own_models.test_what_no_initializer_fills_is_said_and_follows_from_the_seed),
    ),
    "a stack's loss is the mean over its models": Mutant(stacked, "mean_losses", _loss_over_all_models, _stacked),
    "a stack updates by the first model's settings": Mutant(
        stacked_optimizer, "_runs", _settings_of_the_first_model, _stacked
    ),
    "a stack updates by the neighbour's gradients": Mutant(
        stacked_optimizer.StackedOptimizer, "step", _gradients_of_the_neighbour, _stacked
    ),
    "a stack trains on with the momentum of warming up": Mutant(
        stacked_graph,
        "forget",
        lambda _optimizer: None,
        lambda tools: test_stacked.test_static_steps_of_a_stack_are_those_that_it_takes_together(
            tools["configure"], "random", "constant"
        ),
    ),
    "a stack is never set against training alone": Mutant(
        equality,
        "difference_of_model",
        lambda *_: 0.0,
        lambda tools: test_stack_sweep.test_steps_of_a_stack_are_set_against_those_of_a_trial_alone(
            **tools, wrong=True
        ),
    ),
    "epochs with repeats": Mutant(
        data, "batch_indices", _order_with_repeats, lambda _: test_data.test_epochs_are_permutations_end_to_end(50)
    ),
    "closed form without its normaliser": Mutant(article, "_loss", _exact_without_softmax, _closed_form),
    "target reached at the end": Mutant(
        rows, "convergence", _best_is_last, _with_config(test_trial.test_columns_are_consistent_with_each_other)
    ),
}
