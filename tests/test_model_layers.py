"""Norms, dropout, single layers with settings of their own, residual blocks: against networks written out by hand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from conftest import Configure

import harness
from harness import fusion, initializers, layouts, metrics, models, signals
from harness.backends import Kernel
from harness.config import LayerConfig, ModelConfig
from harness.errors import UsageError
from harness.models import Network
from harness.random_streams import generator

IMAGES = torch.rand(6, 1, 28, 28, generator=generator(0, "images"))
LABELS = torch.arange(6) % 10
DROPS = (
    "model.layers=[{type: dense, name: a, out: 16, norm: batch}, {type: activation}, {type: dropout, p: 0.5}, "
    "{type: dense, name: b, out: 10}]"
)


def network_of(configure: Configure, *choices: str) -> Network:
    config = configure("init=he", "init.bias=normal", *choices)
    network = models.build(config.model)
    initializers.apply(config.init, network, seed=0, activation=config.model.activation)
    return network


def normalised(x: torch.Tensor, kind: str, groups: int = 8) -> torch.Tensor:
    """By means and variances alone; scale and shift are 1 and 0 at first."""
    over = {"batch": (0, *range(2, x.ndim)), "layer": tuple(range(1, x.ndim))}
    shape = x.shape
    if kind == "group":
        x = x.unflatten(1, (groups, -1))
    axes = over.get(kind, tuple(range(2, x.ndim)))
    variance, mean = torch.var_mean(x, dim=axes, correction=0, keepdim=True)
    return ((x - mean) / (variance + 1e-5).sqrt()).view(shape)


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_a_norm_stands_between_layer_and_activation_of_all_but_the_last(configure: Configure, kind: str) -> None:
    network = network_of(configure, "model=deep", "model.depth=1", "model.width=16", f"model.norm={kind}")
    values = {name: value.detach() for name, value in network.tensors().items()}
    x = IMAGES
    for name, stride in (("stem", 2), ("conv1", 1)):
        assert bool((values[f"{name}_norm.weight"] == 1).all())
        assert bool((values[f"{name}_norm.bias"] == 0).all())
        x = F.conv2d(x, values[f"{name}.weight"], values[f"{name}.bias"], stride=stride, padding=1)
        x = normalised(x, kind).relu()
    expected = F.linear(x.flatten(1), values["fc.weight"], values["fc.bias"])
    assert "fc_norm.weight" not in values
    torch.testing.assert_close(network(IMAGES).detach(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", ["true", "false"])
def test_preactivation_normalises_before_each_convolution_and_leaves_the_sum_alone(
    configure: Configure, scale: str
) -> None:
    block = ("model=residual", "model.depth=1", "model.width=16", "model.norm=batch", "model.preactivation=true")
    network = network_of(configure, *block, f"model.learned_scale={scale}")
    values = {name: value.detach() for name, value in network.tensors().items()}
    assert ("block1.scale" in values) == (scale == "true")

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        return F.conv2d(x, values[f"{name}.weight"], values[f"{name}.bias"], stride=stride, padding=1)

    x = normalised(conv(IMAGES, "stem", 2), "batch").relu()
    inner = conv(normalised(x, "batch").relu(), "block1_conv1")
    x = x + conv(normalised(inner, "batch").relu(), "block1_conv2")
    expected = F.linear(x.flatten(1), values["fc.weight"], values["fc.bias"])
    torch.testing.assert_close(network(IMAGES).detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_layer_may_have_activation_bias_and_padding_of_its_own(configure: Configure) -> None:
    layers = (
        "model.layers=[{type: conv, name: a, out: 4, kernel: 4, padding: valid, bias: false},"
        "{type: activation, activation: tanh}, {type: pool, size: 2},"
        "{type: conv, name: b, out: 4, kernel: 3, padding_mode: circular}, {type: activation}, {type: pool, size: 2},"
        "{type: dense, name: fc, out: 10}]"
    )
    network = network_of(configure, layers)
    values = {name: value.detach() for name, value in network.tensors().items()}
    x = F.max_pool2d(F.conv2d(IMAGES, values["a.weight"]).tanh(), 2)
    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="circular"), values["b.weight"], values["b.bias"]).relu()
    expected = F.linear(F.max_pool2d(x, 2).flatten(1), values["fc.weight"], values["fc.bias"])
    assert "a.bias" not in values
    torch.testing.assert_close(network(IMAGES).detach(), expected, rtol=1e-4, atol=1e-4)
    # tanh stays where it is, and relu goes behind the pooling
    assert [type(layer).__name__ for layer in network][1:6] == ["Activation", "Pool", "Conv", "Pool", "Activation"]


@pytest.mark.parametrize(
    "choices", [("model.norm=batch",), ("model=residual", "model.learned_scale=false"), ()], ids=str
)
def test_a_fused_kernel_computes_the_same_network(configure: Configure, choices: tuple[str, ...]) -> None:
    """A norm between convolution and relu leaves nothing to fuse."""

    def fused(*arguments: torch.Tensor, **settings: int) -> torch.Tensor:
        return F.relu(F.conv2d(*arguments, **settings))

    def pooled(*arguments: torch.Tensor, **settings: int) -> torch.Tensor:
        return F.relu(F.max_pool2d(F.conv2d(*arguments, **settings), 2))

    network = network_of(configure, *choices)
    trained = fusion.Trained(network, Kernel(F.conv2d, conv2d_relu=fused, conv2d_pool_relu=pooled))
    assert torch.equal(trained(IMAGES), network(IMAGES))


def test_signals_of_a_layer_are_its_own_with_a_norm_behind_it(configure: Configure) -> None:
    network = network_of(configure, "model=deep", "model.depth=1", "model.norm=batch")
    before = copy.deepcopy(network.state_dict())
    seen = signals.record(network, IMAGES, LABELS)
    stem = network.get_submodule("stem")(IMAGES).detach().double()
    assert seen.modules["stem"].output_moment == pytest.approx(float(stem.square().mean()), rel=1e-6)
    assert seen.modules["stem_norm"].output_moment == pytest.approx(1, abs=1e-3)
    assert signals.mean_field(network, seen)["conv1"] == pytest.approx(
        float(seen.modules["conv1"].coverage.mean()) / 2
        + float(network.get_parameter("conv1.bias").detach().square().mean()),
        rel=1e-6,
    )
    probes = {probe.parameter: probe for probe in metrics.probe(network, dict(network.tensors()), seen)}
    assert probes["stem_norm.weight"].preactivation_std == pytest.approx(1, abs=1e-3)
    assert probes["stem_norm.weight"].output_moment_theory is None
    assert probes["stem_norm.weight"].dead_share == probes["stem.weight"].dead_share is not None
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_dropout_and_running_statistics_make_equal_trials_of_equal_seeds(configure: Configure) -> None:
    """However often is looked, however long the warm-up, and whatever the program around draws."""
    rows = []
    for choices in (("train.eval_every=1", "train.warmup_steps=0"), ("train.eval_every=6", "train.warmup_steps=3")):
        before = torch.rand(1), torch.get_rng_state()
        rows.append(harness.run_trial(configure(DROPS, "optimizer.lr=0.01", "init=lsuv", *choices)).trial)
        assert torch.equal(before[1], torch.get_rng_state())
    assert [row["status"] for row in rows] == ["ok", "ok"]
    assert rows[0]["initial_weights_sha256"] == rows[1]["initial_weights_sha256"]
    assert rows[0]["final_weights_sha256"] == rows[1]["final_weights_sha256"]
    assert rows[0]["test_loss_last"] == rows[1]["test_loss_last"]


def test_data_dependent_initializers_leave_running_statistics_alone(configure: Configure) -> None:
    for name in ("lsuv", "kraehenbuhl", "gradinit"):
        config = configure(DROPS, f"init.adapt={name}")
        network = models.build(config.model)
        initializers.apply(config.init, network, seed=0, activation="relu")
        initializers.adapt(config.init, network, IMAGES, LABELS, seed=0)
        state = network.state_dict()
        assert int(state["a_norm.num_batches_tracked"]) == 0
        assert torch.equal(state["a_norm.weight"], torch.ones(16)), name


def layer(type_: str, **fields: object) -> LayerConfig:
    return LayerConfig(type=type_, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("middle", "words"),
    [
        (layer("dropout", p=1.0), "model.layers[1].p=1.0: out of range; give a share of at least 0 and below 1"),
        (layer("norm", kind="group", groups=3), "model.layers[1].groups=3: does not divide the 4 channels"),
        (layer("norm", kind="bath"), "model.layers[1].kind=bath: no such choice; give one of: batch, layer, group"),
        (layer("norm", kind="batch", groups=2), "model.layers[1].groups=2: kind=batch has no groups"),
        (layer("norm", kind="layer", groups=2), "model.layers[1].groups=2: kind=layer has no groups"),
        (layer("conv", name="b", out=1, kernel=29, padding="valid"), "conv needs an image that is large enough"),
        (layer("activation", activation="rule"), "model.layers[1].activation=rule: no such choice"),
        (
            layer("conv", name="b", out=1, kernel=2, padding="valid", padding_mode="circular"),
            "model.layers[1].padding_mode=circular: padding=valid pads nothing; leave it out",
        ),
    ],
    ids=lambda value: value.type if isinstance(value, LayerConfig) else "",
)
def test_a_layer_that_cannot_be_is_refused(middle: LayerConfig, words: str) -> None:
    layers = [layer("conv", name="a", out=4, kernel=3), middle, layer("dense", name="fc", out=10)]
    with pytest.raises(UsageError) as caught:
        layouts.plan(ModelConfig(layers=layers))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (("model.norm=batch", "+init.layers.conv1_norm=zeros"), "init.layers.conv1_norm=zeros: a normalisation"),
        (("model=mlp", "model.norm=batch", "train.batch_size=1"), "train.batch_size=1: batch normalisation (fc1_norm)"),
        (
            ("model=residual", "model.learned_scale=false", "init=rezero"),
            "init.branch_scale=0.0: this model's branches have no learned scale; set model.learned_scale=true",
        ),
        (("model.norm=batch", "init.adapt=metainit"), "init.adapt=metainit: torch has no third derivatives of batch"),
        (("model.preactivation=true",), "model.preactivation=True: this model has no residual layer"),
    ],
    ids=["norm-init", "one-image", "no-scale", "third", "no-branch"],
)
def test_what_does_not_fit_the_network_is_refused_before_training(
    configure: Configure, choices: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        harness.run_trial(configure(*choices))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_groups_have_more_than_one_number() -> None:
    chosen = [layouts.groups_of(LayerConfig("norm", kind="group"), shape) for shape in ((32, 7, 7), (12, 1, 1), (8,))]
    assert chosen == [8, 4, 4]
