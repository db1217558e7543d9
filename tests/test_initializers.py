"""Every initializer: one contract for all, then each one's own law, against the numbers of the papers."""

import math

import pytest
import torch
from conftest import Configure
from scipy import stats

from harness import initializers, models
from harness.config import InitConfig
from harness.device import generator
from harness.errors import UsageError
from harness.initializers import REGISTRY

SHAPES = {
    "conv1": torch.Size((32, 1, 3, 3)),
    "conv2": torch.Size((32, 32, 3, 3)),
    "fc1": torch.Size((128, 6272)),
    "fc2": torch.Size((10, 128)),
}
FANS = {"conv1": (9, 288), "conv2": (288, 288), "fc1": (6272, 128), "fc2": (128, 10)}
NORMAL, CUT, UNIFORM = 3.0, 2.36554, 1.8
# initializer -> (kurtosis, std of each layer of the article's network)
STD = {
    "glorot_normal": (CUT, {"conv1": 0.082061, "conv2": 0.058926, "fc1": 0.017678, "fc2": 0.120386}),
    "glorot_normal_tf19": (CUT, {"conv1": 0.072183, "conv2": 0.051833, "fc1": 0.015550, "fc2": 0.105894}),
    "he_normal": (CUT, {"conv1": 0.471405, "conv2": 0.083333, "fc1": 0.017857, "fc2": 0.125000}),
    "lecun_normal": (CUT, {"conv1": 0.333333, "conv2": 0.058926, "fc1": 0.012627, "fc2": 0.088388}),
    "torch_default": (UNIFORM, {"conv1": 0.192450, "conv2": 0.034021, "fc1": 0.007290, "fc2": 0.051031}),
}


def draw(name: str, layer: str = "conv2", *, seed: int = 0, gain: float = 1.0) -> torch.Tensor:
    shape = SHAPES[layer]
    return REGISTRY[name](shape, gain=gain, generator=generator(seed, f"init/{layer}.weight"), fan_shape=shape)


def filled(spec: InitConfig, *, seed: int) -> dict[str, torch.Tensor]:
    """The parameters of two layers after a spec was applied to them."""
    layers = {
        name: (torch.nn.Parameter(torch.empty(SHAPES[name])), torch.nn.Parameter(torch.empty(SHAPES[name][0])))
        for name in ("conv1", "conv2")
    }
    initializers.apply(spec, layers, seed=seed)
    return {
        f"{name}.{kind}": pair[i].detach() for name, pair in layers.items() for i, kind in enumerate(("weight", "bias"))
    }


@pytest.mark.parametrize("name", sorted(REGISTRY))
@pytest.mark.parametrize("layer", SHAPES)
def test_contract_shape_type_and_finite(name: str, layer: str) -> None:
    values = draw(name, layer)
    assert values.shape == SHAPES[layer]
    assert values.dtype == torch.float32
    assert values.device.type == "cpu"
    assert bool(values.isfinite().all())


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_contract_the_generator_alone_decides(name: str) -> None:
    torch.manual_seed(1)
    first = draw(name)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, draw(name)), "the same generator must give the same weights"
    assert torch.equal(state, torch.get_rng_state()), "the global generator must stay untouched"
    assert name == "zeros" or not torch.equal(first, draw(name, seed=1)), "another seed must give other weights"


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_contract_gain_is_a_factor(name: str) -> None:
    torch.testing.assert_close(draw(name, gain=3.0), 3 * draw(name))


@pytest.mark.parametrize("layer", SHAPES)
@pytest.mark.parametrize("name", STD)
def test_std_and_mean_within_four_standard_errors(name: str, layer: str) -> None:
    kurtosis, expected = STD[name]
    values = draw(name, layer).double()
    count = values.numel()
    assert abs(float(values.std()) / expected[layer] - 1) < 4 * math.sqrt((kurtosis - 1) / (4 * count)) + 1e-5
    assert abs(float(values.mean())) < 4 * expected[layer] / math.sqrt(count)


@pytest.mark.parametrize("name", ["glorot_normal", "he_normal", "lecun_normal"])
def test_truncated_at_two_sigma_of_the_parent(name: str) -> None:
    """The largest weight is 2 sigma / .8796 = 2.2737 std, and nearly reached among 800,000 draws."""
    values, std = draw(name, "fc1"), STD[name][1]["fc1"]
    assert 2.27 * std < float(values.abs().max()) <= 2.27375 * std


def test_glorot_tf19_is_glorot_times_the_missing_correction() -> None:
    torch.testing.assert_close(draw("glorot_normal_tf19"), 0.87962566103423978 * draw("glorot_normal"))


def test_distributions_have_their_shape() -> None:
    """Kolmogorov-Smirnov against SciPy's truncated normal and uniform distributions, on 800,000 weights."""
    parent = STD["glorot_normal"][1]["fc1"] / 0.87962566103423978
    cut = stats.kstest(draw("glorot_normal", "fc1").flatten().numpy() / parent, stats.truncnorm(-2, 2).cdf)
    flat = stats.kstest(draw("torch_default", "fc1").flatten().numpy() * math.sqrt(6272), stats.uniform(-1, 2).cdf)
    assert cut.pvalue > 1e-3
    assert flat.pvalue > 1e-3


def test_torch_default_has_the_bounds_of_torchs_own_layers() -> None:
    torch.manual_seed(0)
    own = torch.nn.Linear(6272, 128)
    ours = REGISTRY["torch_default"](torch.Size((128,)), gain=1.0, generator=generator(0, "b"), fan_shape=SHAPES["fc1"])
    assert float(own.bias.detach().abs().max()) <= 1 / math.sqrt(6272)
    assert 0.9 / math.sqrt(6272) < float(ours.abs().max()) <= 1 / math.sqrt(6272)
    ratio = float(own.weight.detach().std() / draw("torch_default", "fc1").std())
    assert abs(ratio - 1) < 4 * math.sqrt(2 * 0.8 / (4 * own.weight.numel()))


@pytest.mark.parametrize("layer", FANS)
def test_fans(layer: str) -> None:
    assert initializers.fans(SHAPES[layer]) == FANS[layer]


def test_logits_scale_with_the_sixth_power_of_the_missing_correction(configure: Configure) -> None:
    """On a bias-free relu net, scaling all six layers by .8796 scales the logits by .8796^6 = .46322."""
    config = configure("init=glorot")
    images = torch.rand(4, 1, 28, 28, generator=generator(0, "images"))
    logits = {}
    for name in ("glorot_normal", "glorot_normal_tf19"):
        network = models.build(config.model, conv2d=torch.nn.functional.conv2d)
        layers = {key: (layer.weight, layer.bias) for key, layer in network.parametrised().items()}
        initializers.apply(InitConfig(weight=name), layers, seed=0)
        logits[name] = network(images).detach()
    torch.testing.assert_close(logits["glorot_normal_tf19"], 0.46322 * logits["glorot_normal"], rtol=1e-4, atol=1e-6)


def test_a_tensor_does_not_depend_on_how_the_others_are_filled() -> None:
    plain = filled(InitConfig(weight="he_normal"), seed=3)
    changed = filled(InitConfig(weight="he_normal", layers={"conv1": "zeros"}, bias="torch_default"), seed=3)
    assert torch.equal(plain["conv2.weight"], changed["conv2.weight"])
    assert not changed["conv1.weight"].any()
    assert bool(changed["conv1.bias"].any())


def test_layers_of_one_shape_get_different_weights() -> None:
    layers = {name: (torch.nn.Parameter(torch.empty(4, 4)), torch.nn.Parameter(torch.empty(4))) for name in "ab"}
    initializers.apply(InitConfig(bias="torch_default"), layers, seed=0)
    assert not torch.equal(layers["a"][0], layers["b"][0])
    assert not torch.equal(layers["a"][1], layers["b"][1])


def test_overrides_and_gain_reach_the_named_tensors_only() -> None:
    spec = InitConfig(weight="he_normal", gain=2.0, bias_layers={"conv2": "torch_default"})
    values, plain = filled(spec, seed=0), filled(InitConfig(weight="he_normal"), seed=0)
    torch.testing.assert_close(values["conv1.weight"], 2 * plain["conv1.weight"])
    assert not values["conv1.bias"].any()
    assert bool(values["conv2.bias"].any())


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (InitConfig(weight="gloort"), "unknown initializer 'gloort'; registered are: glorot_normal"),
        (InitConfig(layers={"conv9": "zeros"}), "layer 'conv9'; this model's layers are: conv1, conv2"),
        (InitConfig(modules=["no_such_module_of_mine"]), "cannot import 'no_such_module_of_mine'"),
    ],
    ids=["initializer", "layer", "module"],
)
def test_a_wrong_name_is_refused_with_the_choices(spec: InitConfig, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        initializers.check(spec, ["conv1", "conv2"])
    assert words in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(STD) - {"glorot_normal"}))
def test_every_family_maps_the_same_draw(name: str) -> None:
    """Common random numbers: the weights of one seed and layer have the same ranks in every family."""
    order = draw("glorot_normal").flatten().argsort()
    assert bool((draw(name).flatten()[order].diff() >= 0).all())
