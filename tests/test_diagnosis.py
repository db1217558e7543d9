"""Why layers learn or not: the whole truth table of the zero-kernel theorem, and findings on planted faults.

Everything runs in float64 on a narrow copy of the article's network, where "zero" and "not zero" are exact.
"""

import dataclasses
import functools
import re
from collections.abc import Callable

import pytest
import torch
from conftest import Configure

import harness
from harness import data, diagnosis, initializers, measuring, models, trial_setup
from harness.config import DataConfig, OptimizerConfig
from harness.diagnosis import Diagnosis
from harness.explain import explain
from harness.models import Network
from harness.train import optimizer_of

WEIGHTS = ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2")
NARROW = (
    "model.layers=[{type:conv,name:conv1,out:4,kernel:3},{type:activation},{type:pool,size:2},"
    "{type:conv,name:conv2,out:4,kernel:3},{type:activation},{type:conv,name:conv3,out:4,kernel:3},{type:activation},"
    "{type:conv,name:conv4,out:4,kernel:3},{type:activation},{type:dense,name:fc1,out:8},{type:activation},"
    "{type:dense,name:fc2,out:10}]"
)
SGD = OptimizerConfig(lr=0.01)

# by f(0) and f'(0)
STUCK = ("relu", "relu6", "relu_squared", "tanhshrink", "softshrink", "hardshrink")
LATE = ("relu_half", "relu_one", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "tanh", "softsign")
LATE += ("hardtanh", "hardswish", "identity")
OFFSET = ("sigmoid", "softplus", "logsigmoid", "hardsigmoid")
# a dead zone of +-0.5 silences healthy layers too, and tanhshrink's cube of a small number is soon none
DEAD_ZONE = ("softshrink", "hardshrink")
QUIET = (*DEAD_ZONE, "tanhshrink")

NEVER = ["00 00 00 00 00 01"] * 4
ALL = "11 11 11 11 11 11"


@functools.cache
def batch(scaling: str = "unit", count: int = 20) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    digits = data.to_device(data.load(DataConfig()), DataConfig(scaling=scaling), torch.device("cpu"))
    images, labels = digits.train_images[:count].double(), digits.train_labels[:count]
    return lambda _step: (images, labels)


def diagnose(
    network: Network,
    take: Callable[[int], tuple[torch.Tensor, torch.Tensor]],
    optimizer: OptimizerConfig,
    *,
    steps: int | None = None,
) -> Diagnosis:
    return diagnosis.diagnose(network, take, optimizer=functools.partial(optimizer_of, config=optimizer), steps=steps)


def network_of(*overrides: str, seed: int = 0) -> Network:
    config = harness.load_config(overrides)
    network = models.build(config.model)
    initializers.apply(config.init, network, seed=seed, activation=config.model.activation)
    return network.double()


def narrow(activation: str = "relu", *, zero: tuple[str, ...] = (), bias: float | None = 0.0) -> Network:
    """Glorot-filled but for the weights named; ``bias=None`` draws random ones."""
    network = network_of(NARROW, f"model.activation={activation}", "init.gain=1.4")
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, layer in network.parametrised().items():
            if name in zero:
                layer.weight.zero_()
            drawn = torch.randn(layer.bias.shape, generator=draws, dtype=torch.float64) * 0.5
            layer.bias.copy_(drawn if bias is None else torch.full_like(drawn, bias))
    return network


def pattern(diagnosed: Diagnosis, step: int) -> str:
    """Which tensors have a gradient at a step: "00 11 ...", weight and bias of each layer."""
    return " ".join(
        "".join(str(int(diagnosed.steps[step].has_gradient(f"{name}.{kind}"))) for kind in ("weight", "bias"))
        for name in WEIGHTS
    )


def patterns(network: Network, steps: int = 4) -> list[str]:
    diagnosed = diagnose(network, batch(), SGD, steps=steps)
    for step in diagnosed.steps:
        assert step.moved <= {name for name in step.tensors if step.has_gradient(name)}, "plain SGD moves nothing else"
        large = {name for name, tensor in step.tensors.items() if (tensor.gradient_norm or 0) > 1e-9}
        assert large <= step.moved, "what float64 does not round away"
    return [pattern(diagnosed, step) for step in range(steps)]


@pytest.mark.parametrize("activation", STUCK)
def test_zero_conv2_without_slope_at_zero_never_learns(activation: str) -> None:
    assert patterns(narrow(activation, zero=("conv2",))) == NEVER


@pytest.mark.parametrize("activation", LATE)
def test_zero_conv2_with_slope_at_zero_costs_one_step(activation: str) -> None:
    assert patterns(narrow(activation, zero=("conv2",))) == ["00 11 01 01 01 01", ALL, ALL, ALL]


@pytest.mark.parametrize("activation", OFFSET)
def test_zero_conv2_with_an_offset_at_zero_moves_what_follows_at_once(activation: str) -> None:
    assert patterns(narrow(activation, zero=("conv2",))) == ["00 11 11 11 11 11", ALL, ALL, ALL]


@pytest.mark.parametrize("activation", [name for name in (*STUCK, *LATE, *OFFSET) if name not in QUIET])
def test_zero_last_layer_is_harmless(activation: str) -> None:
    network = narrow(activation, zero=("fc2",))
    diagnosed = diagnose(network, batch(), SGD, steps=2)
    assert [pattern(diagnosed, step) for step in (0, 1)] == ["00 00 00 00 00 11", ALL]
    assert diagnosed.steps[0].loss == pytest.approx(2.302585092994046, abs=1e-12), "ln 10"


@pytest.mark.parametrize("activation", [*STUCK, *LATE])
def test_two_zero_layers_are_stuck_for_ever_where_f_of_zero_is_zero(activation: str) -> None:
    assert patterns(narrow(activation, zero=("conv2", "fc2"))) == NEVER


@pytest.mark.parametrize("activation", OFFSET)
def test_two_zero_layers_wake_from_the_end_where_it_is_not(activation: str) -> None:
    expected = ["00 00 00 00 00 11", "00 11 11 11 11 11", ALL, ALL]
    assert patterns(narrow(activation, zero=("conv2", "fc2"))) == expected


@pytest.mark.parametrize("activation", [*STUCK, *LATE])
def test_all_zero_moves_the_last_bias_alone(activation: str) -> None:
    assert patterns(narrow(activation, zero=WEIGHTS)) == NEVER


def one_layer_a_step() -> list[str]:
    """From the last layer to the first."""
    return [" ".join(["00"] * (5 - step) + ["11"] * (step + 1)) for step in range(6)]


@pytest.mark.parametrize("activation", [*OFFSET])
def test_all_zero_unlocks_one_layer_a_step_where_f_of_zero_is_not_zero(activation: str) -> None:
    assert patterns(narrow(activation, zero=WEIGHTS), steps=6) == one_layer_a_step()


@pytest.mark.parametrize(
    "activation",
    ["relu", "leaky_relu", "elu", "celu", "gelu", "silu", "mish", "tanh", "softsign", "sigmoid", "softplus"],
)
def test_all_zero_with_random_bias_unlocks_one_layer_a_step(activation: str) -> None:
    assert patterns(narrow(activation, zero=WEIGHTS, bias=None), steps=6) == one_layer_a_step()


@pytest.mark.parametrize("activation", ["relu", "relu6", "relu_squared", *LATE, *OFFSET])
def test_positive_bias_revives(activation: str) -> None:
    assert patterns(narrow(activation, zero=("conv2",), bias=0.1)) == ["00 11 11 11 11 11", ALL, ALL, ALL]


@pytest.mark.parametrize("activation", ["relu", "relu6", "relu_squared", "relu_half", "relu_one", *DEAD_ZONE])
def test_negative_bias_kills(activation: str) -> None:
    """Also where relu'(0) is not 0: the output is below 0."""
    assert patterns(narrow(activation, zero=("conv2",), bias=-0.1)) == NEVER


@pytest.mark.parametrize("activation", ["leaky_relu", "elu", "selu", "gelu", "tanh", "sigmoid", "softplus", "identity"])
def test_negative_bias_does_not_kill_what_has_slope_there(activation: str) -> None:
    assert patterns(narrow(activation, zero=("conv2",), bias=-0.1)) == ["00 11 11 11 11 11", ALL, ALL, ALL]


@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "softplus", "selu", "elu", "celu", "silu"]
)
def test_constant_weights_never_break_the_symmetry(activation: str) -> None:
    network = network_of(NARROW, f"model.activation={activation}", "init=constant", "+init.options.value=0.03")
    diagnosed = diagnose(network, batch(), SGD)
    # at step 0 equal rows of fc2 send back the sum of (softmax - label) over the classes, which is 0
    for step in diagnosed.steps[1:]:
        for name in WEIGHTS[:-1]:
            tensor = step.tensors[f"{name}.weight"]
            assert (tensor.same_rows, tensor.same_gradient_rows) == (True, True)
    assert {diagnosed.layers[name].kind for name in WEIGHTS[:-1]} == {"symmetric"}
    assert diagnosed.network.kind == "symmetric"


@pytest.mark.parametrize("activation", ["sigmoid", "softplus"])
def test_zero_weights_whose_gradients_underflow_are_symmetric_and_not_dead(activation: str) -> None:
    """At a small rate a gradient that comes one layer a step shrinks so fast that float32 cannot hold it."""
    network = narrow(activation, zero=WEIGHTS).float()
    diagnosed = diagnose(network, lambda _: tuple_of_float(batch("raw", 10)(0)), OptimizerConfig(lr=1e-4))
    assert not any(step.has_gradient("conv1.weight") for step in diagnosed.steps)
    assert diagnosed.layers["conv1"].kind == "symmetric"
    assert diagnosed.network.kind == "symmetric"
    assert "too small for the number format" in diagnosed.layers["conv1"].reason
    assert "fc2" not in diagnosed.network.reason.partition("because")[0]


@pytest.mark.parametrize(("activation", "slope"), [("relu", 0.0), ("relu_half", 0.5), ("relu_one", 1.0)])
def test_the_claim_hangs_on_the_slope_at_zero(activation: str, slope: float) -> None:
    z = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(models.ACTIVATIONS[activation](z).sum(), z)
    assert gradient.tolist() == [slope] * 3
    kind = diagnose(narrow(activation, zero=("conv2",)), batch(), SGD).network.kind
    assert kind == ("dead" if slope == 0 else "delayed")


# residual networks

RESIDUAL = ("model=residual", "model.depth=2", "model.width=4", "data.scaling=unit", "init=he_normal")


def residual(*overrides: str) -> Network:
    return network_of(*RESIDUAL, *overrides)


def zero(network: Network, *names: str) -> Network:
    """Set tensors to zero."""
    with torch.no_grad():
        for name in names:
            network.tensors()[name].zero_()
    return network


def kinds(network: Network) -> dict[str, str]:
    return {name: finding.kind for name, finding in diagnose(network, batch(), SGD).layers.items()}


def test_zero_last_layer_of_a_branch_trains() -> None:
    """One factor of the branch is zero and the skip carries the signal: only what lies before it is delayed."""
    kind_of_layer = kinds(zero(residual(), "block1_conv2.weight", "block2_conv2.weight"))
    assert kind_of_layer == {
        "stem": "fine",
        "block1_conv1": "delayed",
        "block1_conv2": "fine",
        "block2_conv1": "delayed",
        "block2_conv2": "fine",
        "fc": "fine",
    }


def test_zero_first_layer_of_a_relu_branch_kills_that_branch_alone() -> None:
    kind_of_layer = kinds(zero(residual(), "block1_conv1.weight"))
    assert [name for name, kind in kind_of_layer.items() if kind == "dead"] == ["block1_conv1", "block1_conv2"]


@pytest.mark.parametrize("init", ["skipinit", "rezero"])
def test_branch_scaled_by_zero_begins_one_step_late(init: str) -> None:
    network = residual(f"init={init}")
    diagnosed = diagnose(network, batch(), SGD)
    assert diagnosed.network.kind == "delayed"
    finding = diagnosed.layers["block1_conv1"]
    assert str(finding) == "delayed: by 1 step; at first no gradient reaches its output"
    assert diagnosed.layers["stem"].kind == diagnosed.layers["fc"].kind == "fine"


def test_scale_and_last_layer_both_zero_are_stuck() -> None:
    """Two zero factors on one path, biases zero too, are to blame together; the zero scale of block2 is not."""
    network = zero(residual("init=skipinit"), "block1_conv2.weight")
    diagnosed = diagnose(network, batch(), SGD)
    assert {name for name, finding in diagnosed.layers.items() if finding.kind == "dead"} == {
        "block1_conv1",
        "block1_conv2",
    }
    assert not any(step.has_gradient("block1.scale") for step in diagnosed.steps)
    assert [set(slot) for slot in diagnosed.causes.slots] == [{"block1.scale", "block1_conv2.weight"}]


def test_fixup_trains_every_layer_within_three_steps() -> None:
    diagnosed = diagnose(residual("init=fixup"), batch(), SGD)
    assert all(diagnosed.steps[3].has_gradient(name) for name in diagnosed.steps[3].tensors)
    assert diagnosed.network.kind == "delayed"


# findings on faults planted by hand


def finding_of(network: Network, layer: str) -> str:
    return str(diagnose(network, batch(), SGD).layers[layer])


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("conv1", "dead: no gradient reaches its output, because of conv2.weight"),
        ("conv2", "dead: it outputs only zeros, and no gradient comes back, because of conv2.weight"),
        ("conv3", "dead: its input is zero, because of conv2.weight"),
        ("fc2", "dead: its input is zero, because of conv2.weight"),
    ],
)
def test_zero_kernel_is_named_in_every_layers_reason(layer: str, words: str) -> None:
    assert finding_of(narrow(zero=("conv2",)), layer) == words


def test_network_finding_names_the_layer_to_blame() -> None:
    finding = diagnose(narrow(zero=("conv3",)), batch(), SGD).network
    assert finding.kind == "dead"
    assert finding.reason.startswith("the weights of 6 of 6 layers")
    assert finding.reason.endswith("because of conv3.weight (zero)")


def test_dead_units_by_a_negative_bias_are_named() -> None:
    network = narrow()
    with torch.no_grad():
        network.parametrised()["conv3"].bias.fill_(-100)
    diagnosed = diagnose(network, batch(), SGD)
    assert diagnosed.causes.slots == (("conv3.bias",),)
    assert diagnosed.network.reason.endswith("because of conv3.bias (-100 everywhere)")
    assert str(diagnosed.layers["conv4"]) == "dead: its input is zero, because of conv3.bias"


def test_two_zero_weights_that_block_each_other_are_named_together() -> None:
    """Tanh lets the gradient through at 0, so making either of them healthy is enough."""
    diagnosed = diagnose(narrow("tanh", zero=("conv2", "fc2")), batch(), SGD)
    assert diagnosed.causes.slots == (("conv2.weight", "fc2.weight"),)
    assert diagnosed.network.reason.endswith(
        "because of conv2.weight (zero) together with fc2.weight (zero) (either healthy is enough)"
    )


def test_a_zero_last_layer_is_not_to_blame_for_a_zero_kernel() -> None:
    """Relu lets no gradient through at 0: redrawing fc2 alone leaves eleven of twelve tensors without one."""
    diagnosed = diagnose(narrow(zero=("conv2", "fc2")), batch(), SGD)
    assert diagnosed.causes.slots == (("conv2.weight",),)
    outcomes = {tuple(each.healed): each.with_gradient for each in diagnosed.causes.experiments}
    assert (outcomes["conv2.weight",], outcomes["fc2.weight",]) == (12, 1)


def test_delay_is_counted() -> None:
    diagnosed = diagnose(narrow("tanh", zero=("conv2",)), batch(), SGD)
    assert diagnosed.layers["conv2"].kind == "fine"
    assert str(diagnosed.layers["conv1"]).startswith("delayed: by 1 step; at first no gradient reaches its")
    assert str(diagnosed.layers["fc1"]).startswith("delayed: by 1 step; at first its input is zero")
    unlocked = diagnose(narrow("sigmoid", zero=WEIGHTS, bias=None), batch(), SGD)
    assert str(unlocked.layers["conv1"]).startswith("delayed: by 5 steps; at first no gradient reaches its")


DEEP = ("model=deep", "model.depth=20", "model.width=8", "model.activation=tanh", "data.scaling=unit")


@pytest.mark.parametrize(("gain", "kind"), [(0.3, "vanishing"), (1.0, "fine"), (6.0, "exploding")])
def test_depth_with_a_wrong_gain_vanishes_or_explodes(gain: float, kind: str) -> None:
    diagnosed = diagnose(network_of(*DEEP, "init=delta_orthogonal", f"init.gain={gain}"), batch(), SGD, steps=2)
    assert diagnosed.network.kind == kind, diagnosed.network


def test_gradient_that_underflows_is_vanishing_and_not_dead() -> None:
    network = network_of(*DEEP, "model.depth=60", "init=delta_orthogonal", "init.gain=0.1").float()
    diagnosed = diagnose(network, lambda _: tuple_of_float(batch()(0)), SGD, steps=2)
    assert diagnosed.layers["conv1"].kind == "vanishing"
    assert diagnosed.network.kind == "vanishing"


def tuple_of_float(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return pair[0].float(), pair[1]


def test_a_shift_of_all_logits_is_not_exploding() -> None:
    """Softmax cannot see it; the same shift of one class is seen."""
    for classes, kind in ((10, "fine"), (1, "exploding")):
        network = narrow()
        with torch.no_grad():
            network.parametrised()["fc2"].bias[:classes].fill_(1e5)
        assert diagnose(network, batch(), SGD).network.kind == kind


def test_numbers_that_overflow_are_not_finite() -> None:
    network = narrow()
    with torch.no_grad():
        network.parametrised()["conv3"].weight.fill_(1e308)
        network.parametrised()["conv4"].weight.fill_(1e308)
    assert diagnose(network, batch(), SGD).network.kind == "not finite"


def test_symmetry_of_one_layer_alone_is_no_symmetry() -> None:
    """Its units have identical weights, but the layer behind tells them apart."""
    network = narrow()
    with torch.no_grad():
        weight = network.parametrised()["conv2"].weight
        weight.copy_(weight[:1].expand_as(weight).clone())
    diagnosed = diagnose(network, batch(), SGD)
    assert diagnosed.steps[0].tensors["conv2.weight"].same_rows
    assert diagnosed.layers["conv2"].kind == "fine"


def test_finding_does_not_ask_for_the_initializers_name() -> None:
    """A user's own initializer gets the finding of what it drew."""

    def half_zero(shape: torch.Size, *, generator: torch.Generator, site: initializers.Site) -> torch.Tensor:
        drawn = torch.randn(shape, generator=generator) * 0.1
        return drawn * (site.layer != "fc1")

    initializers.register("half_zero")(half_zero)
    try:
        network = network_of(NARROW, "init.weight=half_zero")
    finally:
        del initializers.REGISTRY["half_zero"]
    diagnosed = diagnose(network, batch(), SGD)
    assert diagnosed.network.reason.endswith("because of fc1.weight (zero)")


HEALTHY = [
    *((init, "article", "relu") for init in ("he", "he_uniform", "glorot", "glorot_tf19", "orthogonal", "lsuv")),
    *((init, "article", "relu") for init in ("torch_default", "random_walk", "data_dependent")),
    *((init, "article", "tanh") for init in ("glorot", "lecun", "orthogonal", "lsuv")),
    *((init, "mlp", "relu") for init in ("he", "glorot", "orthogonal", "lsuv")),
    *((init, "residual", "relu") for init in ("he", "glorot", "orthogonal")),
    *((init, "deep", "tanh") for init in ("delta_orthogonal", "orthogonal", "glorot")),
    ("he", "deep", "relu"),
]


@pytest.mark.parametrize(("init", "model", "activation"), HEALTHY, ids=["-".join(each) for each in HEALTHY])
def test_no_false_alarm_on_healthy_networks(init: str, model: str, activation: str) -> None:
    """Float32 and full width, as a trial has them, over two steps."""
    config = harness.load_config([f"init={init}", f"model={model}", f"model.activation={activation}"])
    network = models.build(config.model)
    initializers.apply(config.init, network, seed=1, activation=activation)
    take = lambda _step: tuple_of_float(batch("unit", 10)(0))  # noqa: E731
    initializers.adapt(config.init, network, *take(0), seed=1)
    diagnosed = diagnose(network, take, OptimizerConfig(lr=1e-3), steps=2)
    assert diagnosed.network.kind == "fine", diagnosed.network


def test_network_that_was_diagnosed_is_as_before() -> None:
    network = narrow()
    before = {name: value.detach().clone() for name, value in network.tensors().items()}
    diagnose(network, batch(), dataclasses.replace(SGD, name="adam"))
    assert all(torch.equal(value, before[name]) for name, value in network.tensors().items())
    assert all(value.grad is None for value in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())


def trained_by(*overrides: str) -> Diagnosis:
    """``harness.explain`` of a dense network on unit-scaled pixels, but for the overrides."""
    return explain(harness.load_config(["model=mlp", "data.scaling=unit", "device=cpu", *overrides])).diagnosis


def test_network_that_blows_up_and_dies_after_its_first_steps_is_not_fine() -> None:
    """One huge update, and relu never wakes again."""
    diagnosed = trained_by("data.scaling=raw", "optimizer.lr=1")
    assert diagnosed.network.kind == "exploding"
    assert diagnosed.network.reason.startswith("the loss goes from")
    assert re.match(r"dead: from step \d on its input is zero", str(diagnosed.layers["fc3"]))
    assert diagnosed.causes.rate == 1e-3
    assert diagnosed.to_blame == frozenset()


def test_network_that_has_learned_its_batch_is_not_dead() -> None:
    assert trained_by("init=he", "train.batch_size=1", "data.scaling=raw", "optimizer.lr=0.001").network.kind == "fine"


def test_weights_and_inputs_that_never_meet_block_and_do_not_underflow() -> None:
    """The identity: its last layer reads the first ten pixels, which are blank."""
    diagnosed = trained_by("init=identity", "model=article")
    assert not any("number format" in str(finding) for finding in diagnosed.layers.values())


def test_raw_pixels_are_no_reason_to_call_a_bounded_network_vanishing() -> None:
    overrides = ("model=deep", "model.depth=20", "model.width=8", "model.activation=tanh", "data.scaling=raw")
    assert trained_by(*overrides, "init=delta_orthogonal", "train.batch_size=20").network.kind == "fine"


def test_nan_weights_are_not_dead() -> None:
    network = narrow("relu_one")
    with torch.no_grad():
        network.parametrised()["conv1"].weight.fill_(torch.nan)
    assert diagnose(network, batch(), SGD).network.kind == "not finite"


@pytest.mark.parametrize(
    "choices", [("init=zero", "data.batches=epochs"), ("model=mlp", "init=normal", "+init.options.std=1e-9")]
)
def test_a_diagnosis_changes_no_bit_of_a_trial(
    choices: tuple[str, ...], configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of networks that are ill, for which it does the most."""
    small = ("train.batch_size=10", "device.threads=1")
    with_it = harness.run_trial(configure(*choices, *small)).trial
    monkeypatch.setattr(measuring, "diagnose", lambda _record, _setup: None)
    without = harness.run_trial(configure(*choices, *small)).trial
    assert with_it["diagnosis"] in diagnosis.HARMFUL
    assert without["diagnosis"] is None
    same = ("initial_weights_sha256", "final_weights_sha256", "train_loss_last", "test_accuracy_last")
    assert [with_it[name] for name in same] == [without[name] for name in same]


def test_a_diagnosis_that_fails_costs_no_trial(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Diagnosis:
        raise KeyError("diagnosis")

    monkeypatch.setattr(trial_setup, "diagnose", fail)
    row = harness.run_trial(configure("model=mlp", "device.threads=1")).trial
    assert (row["status"], row["diagnosis"]) == ("ok", None)
    assert row["diagnosis_reason"] == "not diagnosed: 'diagnosis'"
