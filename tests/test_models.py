"""The network: against a float64 reference written out by hand, its sizes, its FLOPs, and what it refuses."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from conftest import Configure
from torch.utils.flop_counter import FlopCounterMode

from harness import initializers, models
from harness.config import LayerConfig, ModelConfig, TrialConfig
from harness.errors import UsageError
from harness.random_streams import generator


def network_of(config: TrialConfig) -> models.Network:
    network = models.build(config.model)
    bias = "torch_default" if config.model.bias else "zeros"
    initializers.apply(dataclasses.replace(config.init, bias=bias), network, seed=0, activation=config.model.activation)
    return network


def images(count: int = 3) -> torch.Tensor:
    return torch.rand(count, 1, 28, 28, generator=generator(0, "images"))


def reference(network: models.Network, x_NCHW: torch.Tensor) -> torch.Tensor:
    """The article's network, relu before pooling as in its listing, in float64 and by matrix products alone."""
    weights = {name: value.detach().double() for name, value in network.named_parameters()}

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        columns = F.unfold(x, kernel_size=3, padding=1)
        return (kernel.flatten(1) @ columns).unflatten(2, x.shape[2:]) + bias[:, None, None]

    x = conv(x_NCHW.double(), "conv1").clamp(min=0)
    x = x.unflatten(2, (14, 2)).unflatten(4, (14, 2)).amax(dim=(3, 5))
    for name in ("conv2", "conv3", "conv4"):
        x = conv(x, name).clamp(min=0)
    x = (x.flatten(1) @ weights["fc1.weight"].T + weights["fc1.bias"]).clamp(min=0)
    return x @ weights["fc2.weight"].T + weights["fc2.bias"]


def test_article_network_equals_its_definition(configure: Configure) -> None:
    network = network_of(configure("init=glorot"))
    torch.testing.assert_close(network(images()).double(), reference(network, images()), rtol=1e-4, atol=1e-5)


def test_article_network_has_the_articles_parameters(configure: Configure) -> None:
    shapes = {name: tuple(value.shape) for name, value in network_of(configure()).named_parameters()}
    assert shapes == {
        "conv1.weight": (32, 1, 3, 3),
        "conv1.bias": (32,),
        "conv2.weight": (32, 32, 3, 3),
        "conv2.bias": (32,),
        "conv3.weight": (32, 32, 3, 3),
        "conv3.bias": (32,),
        "conv4.weight": (32, 32, 3, 3),
        "conv4.bias": (32,),
        "fc1.weight": (128, 6272),
        "fc1.bias": (128,),
        "fc2.weight": (10, 128),
        "fc2.bias": (10,),
    }


def deep_reference(config: TrialConfig, weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The deep chain, padded by hand."""
    model = config.model
    assert model.depth is not None
    mode = "circular" if model.padding_mode == "circular" else "constant"
    for name in ("stem", *(f"conv{number}" for number in range(1, model.depth + 1))):
        bias = weights.get(f"{name}.bias")
        stride = model.stride if name == "stem" else 1
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), weights[f"{name}.weight"], bias, stride=stride).tanh()
    return F.linear(x.flatten(1), weights["fc.weight"], weights.get("fc.bias"))


@pytest.mark.parametrize("bias", ["true", "false"])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_deep_network_equals_its_definition(configure: Configure, padding: str, stride: int, bias: str) -> None:
    shape = ("model.depth=3", "model.width=5", f"model.stride={stride}", f"model.bias={bias}")
    config = configure("model=deep", "model.activation=tanh", f"model.padding_mode={padding}", *shape)
    network = network_of(config).double()
    weights = {name: value.detach() for name, value in network.tensors().items()}
    assert len(weights) == (10 if bias == "true" else 5)
    x = images().double()
    torch.testing.assert_close(network(x).detach(), deep_reference(config, weights, x))


def test_residual_network_equals_its_definition(configure: Configure) -> None:
    config = configure("model=residual", "model.depth=2", "model.width=5", "init.branch_scale=0.7")
    network = network_of(config).double()
    weights = {name: value.detach() for name, value in network.tensors().items()}

    def conv(x: torch.Tensor, name: str, stride: int = 1) -> torch.Tensor:
        return F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], stride=stride, padding=1)

    x = conv(images().double(), "stem", 2).relu()
    for block in ("block1", "block2"):
        assert weights[f"{block}.scale"] == torch.tensor(0.7).double()
        x = (x + 0.7 * conv(conv(x, f"{block}_conv1").relu(), f"{block}_conv2")).relu()
    expected = F.linear(x.flatten(1), weights["fc.weight"], weights["fc.bias"])
    torch.testing.assert_close(network(images().double()).detach(), expected, rtol=1e-6, atol=1e-6)


def test_average_pooling(configure: Configure) -> None:
    network = network_of(configure("model.pooling=avg")).double()
    weights = {name: value.detach() for name, value in network.tensors().items()}
    x = F.conv2d(images().double(), weights["conv1.weight"], weights["conv1.bias"], padding=1).relu()
    x = x.unflatten(2, (14, 2)).unflatten(4, (14, 2)).mean(dim=(3, 5))
    for name in ("conv2", "conv3", "conv4"):
        x = F.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1).relu()
    x = F.linear(x.flatten(1), weights["fc1.weight"], weights["fc1.bias"]).relu()
    x = F.linear(x, weights["fc2.weight"], weights["fc2.bias"])
    torch.testing.assert_close(network(images().double()).detach(), x)


@pytest.mark.parametrize("override", ["model.depth=3", "model.width=3", "model.stride=3"])
def test_size_that_no_layer_refers_to_is_refused(configure: Configure, override: str) -> None:
    with pytest.raises(UsageError, match="no layer of this model refers to it"):
        models.plan(configure(f"+{override}").model)


def test_tensors_are_all_parameters_by_their_layers_names(configure: Configure) -> None:
    network = network_of(configure("model=residual", "model.depth=1"))
    assert list(network.tensors()) == [
        "stem.weight",
        "stem.bias",
        "block1_conv1.weight",
        "block1_conv1.bias",
        "block1_conv2.weight",
        "block1_conv2.bias",
        "block1.scale",
        "fc.weight",
        "fc.bias",
    ]
    assert {id(value) for value in network.tensors().values()} == {id(value) for value in network.parameters()}


@pytest.mark.parametrize("seed", range(3))
def test_pooling_before_relu_changes_no_bit_of_values_or_gradients(seed: int) -> None:
    """Including windows that are all negative, all zero, and windows whose largest value occurs twice."""
    x = torch.randint(-3, 4, (5, 4, 8, 8), generator=generator(seed, "x")).float()
    arms = []
    for order in ((F.relu, lambda y: F.max_pool2d(y, 2)), (lambda y: F.max_pool2d(y, 2), F.relu)):
        leaf = x.clone().requires_grad_()
        out = order[1](order[0](leaf))
        (gradient,) = torch.autograd.grad((out * torch.arange(out.numel()).view_as(out)).sum(), leaf)
        # where relu's zero is the maximum, the listed order sends the gradient into relu's flat side: zero as well
        arms.append((out.detach(), gradient))
    assert torch.equal(arms[0][0], arms[1][0])
    assert torch.equal(arms[0][1], arms[1][1])


@pytest.mark.parametrize("activation", sorted(set(models.ACTIVATIONS) - {"relu"}))
def test_other_activations_stay_where_they_are(configure: Configure, activation: str) -> None:
    network = models.build(configure(f"model.activation={activation}").model)
    assert [type(layer).__name__ for layer in network][:3] == ["Conv", "Activation", "Pool"]


NORM_FIRST = "model.layers=[{type: norm, name: norm1, kind: batch}, {type: dense, name: fc1, out: 10}]"


@pytest.mark.parametrize("choice", ["model=article", "model=mlp", "model=deep", "model=residual", NORM_FIRST])
def test_flops_agree_with_torchs_own_counter(configure: Configure, choice: str) -> None:
    config, count = configure(choice), 4
    network = network_of(config)
    with FlopCounterMode(display=False) as forward:
        logits = network(images(count))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    training = forward.get_total_flops() + backward.get_total_flops()
    assert models.flops_per_image(config.model) == (forward.get_total_flops() / count, training / count)


def layer(kind: str, **fields: object) -> LayerConfig:
    return LayerConfig(type=kind, **fields)  # type: ignore[arg-type]


LAST = layer("dense", name="out", out=10)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([layer("cnov", name="a", out=1, kernel=3), LAST], "type 'cnov' is unknown; choose one of: conv, dense"),
        (
            [layer("conv", name="a", out=4), LAST],
            "may have bias, norm, padding, padding_mode, repeat, stride; given name, out",
        ),
        ([layer("conv", name="a", out=4, kernel=4), LAST], "SAME padding needs an odd kernel"),
        ([layer("conv", name="a", out=0, kernel=3), LAST], "sizes must be at least 1"),
        ([LAST, layer("conv", name="a", out=4, kernel=3)], "conv needs an image"),
        ([layer("pool", size=29), LAST], "pool needs an image that is large enough"),
        ([layer("dense", name="a", out=9)], "must be a dense layer with out=10"),
        ([LAST, LAST], "names must differ"),
        ([], "must be a dense layer with out=10"),
    ],
    ids=["type", "missing", "even", "zero", "no-image", "too-small", "classes", "names", "empty"],
)
def test_a_network_that_cannot_be_is_refused(layers: list[LayerConfig], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        models.plan(ModelConfig(activation="relu", layers=layers))
    assert words in str(caught.value)


def test_unknown_activation_is_refused_with_the_choices() -> None:
    with pytest.raises(UsageError) as caught:
        models.plan(ModelConfig(activation="rule", layers=[LAST]))
    assert "model.activation=rule; choose one of: relu, relu_half" in str(caught.value)
