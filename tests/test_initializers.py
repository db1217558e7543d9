"""Every initializer: one contract for all, and how a spec is checked and applied. Each one's own law: the other file.

``test_initializer_laws.py`` has the formulas, the comparisons with torch and what adapts drawn weights.
"""

import dataclasses
import functools
import inspect
import math
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Configure
from hypothesis import given
from hypothesis import strategies as st

import harness
from harness import initializers, metrics, models
from harness.activations import ACTIVATIONS
from harness.compose import CONF_DIR
from harness.config import InitConfig, TrialConfig
from harness.errors import UsageError
from harness.initializers import ADAPTERS, REGISTRY, Site, registry
from harness.models import Network
from harness.random_streams import generator

SHAPES = {
    "conv 1-32": (32, 1, 3, 3),
    "conv 32-32": (32, 32, 3, 3),
    "conv 32-16 narrows": (16, 32, 3, 3),
    "conv 16-32 widens": (32, 16, 3, 3),
    "conv 1x1": (32, 16, 1, 1),
    "conv primes": (17, 13, 5, 5),
    "dense 6272-128": (128, 6272),
    "dense 128-10": (10, 128),
    "dense primes": (31, 23),
}
SMALL = [shape for shape in SHAPES if shape != "dense 6272-128"]
FANS = {"conv 1-32": (9, 288), "conv 32-32": (288, 288), "conv 32-16 narrows": (288, 144), "dense 128-10": (128, 10)}
NAMES = sorted(REGISTRY)
DETERMINISTIC = ("zeros", "ones", "constant", "dirac", "sinusoidal", "zero_hadamard")
STRUCTURED = ("orthogonal", "delta_orthogonal", "dirac", "sinusoidal", "zero_hadamard", "sparse")

NORMAL, CUT, UNIFORM, CONSTANT = 3.0, 2.36554, 1.8, 1.0
CORRECTION = 0.87962566103423978
# initializer of independent weights -> variance by (fan_in, fan_out), kurtosis; all but the constants have mean 0
MOMENTS: dict[str, tuple[Callable[[int, int], float], float]] = {
    "glorot_truncated": (lambda i, o: 2 / (i + o), CUT),
    "glorot_normal": (lambda i, o: 2 / (i + o), NORMAL),
    "glorot_uniform": (lambda i, o: 2 / (i + o), UNIFORM),
    "glorot_truncated_tf19": (lambda i, o: CORRECTION**2 * 2 / (i + o), CUT),
    "he_truncated": (lambda i, _: 2 / i, CUT),
    "he_normal": (lambda i, _: 2 / i, NORMAL),
    "he_uniform": (lambda i, _: 2 / i, UNIFORM),
    "lecun_truncated": (lambda i, _: 1 / i, CUT),
    "lecun_normal": (lambda i, _: 1 / i, NORMAL),
    "lecun_uniform": (lambda i, _: 1 / i, UNIFORM),
    "variance_scaling": (lambda i, _: 1 / i, CUT),
    "torch_default": (lambda i, _: 1 / (3 * i), UNIFORM),
    "random_walk": (lambda i, _: 2 * math.exp(2.4 / (max(i, 6) - 2.4)) / i, NORMAL),
    "fixup": (lambda i, _: 2 / i, NORMAL),
    "normal": (lambda *_: 0.05**2, NORMAL),
    "truncated_normal": (lambda *_: (CORRECTION * 0.05) ** 2, CUT),
    "truncated_normal_absolute": (lambda *_: 0.05**2, NORMAL),
    "uniform": (lambda *_: 0.05**2 / 3, UNIFORM),
    "zeros": (lambda *_: 0.0, CONSTANT),
    "ones": (lambda *_: 0.0, CONSTANT),
    "constant": (lambda *_: 0.0, CONSTANT),
}
# std of each layer of the article's network, to 6 digits, as published
PUBLISHED_STD = {
    "glorot_truncated": {"conv 1-32": 0.082061, "conv 32-32": 0.058926, "dense 6272-128": 0.017678},
    "glorot_truncated_tf19": {"conv 1-32": 0.072183, "conv 32-32": 0.051833, "dense 6272-128": 0.015550},
    "he_truncated": {"conv 1-32": 0.471405, "conv 32-32": 0.083333, "dense 6272-128": 0.017857},
    "lecun_truncated": {"conv 1-32": 0.333333, "conv 32-32": 0.058926, "dense 6272-128": 0.012627},
    "torch_default": {"conv 1-32": 0.192450, "conv 32-32": 0.034021, "dense 6272-128": 0.007290},
}
SAME_RANKS = [name for name in MOMENTS if name not in DETERMINISTIC]

NARROW = (
    "model.layers=[{type:conv,name:conv1,out:4,kernel:3},{type:activation},{type:pool,size:4},"
    "{type:conv,name:conv2,out:4,kernel:3},{type:activation},{type:dense,name:fc1,out:8},{type:activation},"
    "{type:dense,name:fc2,out:10}]"
)
MODELS = {
    "article": ("model=article",),
    "mlp": ("model=mlp",),
    "deep": ("model=deep", "model.depth=5", "model.width=8"),
    "residual": ("model=residual", "model.depth=2", "model.width=8"),
}
# a layout is a matter of kernels: the article's layer of 6272 x 128 would take nine tenths of the time
LAID_OUT = {"article": (NARROW,), "deep": MODELS["deep"], "residual": MODELS["residual"]}


def draw(
    name: str,
    shape: str | tuple[int, ...] = "conv 32-32",
    *,
    seed: int = 0,
    gain: float = 1.0,
    fan_shape: tuple[int, ...] | None = None,
    site: Site | None = None,
    **options: object,
) -> torch.Tensor:
    """One tensor of the first of three layers, as the harness draws it."""
    size = torch.Size(SHAPES[shape] if isinstance(shape, str) else shape)
    place = site or Site("conv1", "weight", 0, 3, torch.Size(fan_shape or size))
    return registry.values(name, size, gain=gain, generator=generator(seed, "x"), site=place, options=options)


@functools.cache
def loaded(*overrides: str) -> TrialConfig:
    """The config of some choices, composed once: a fifth of a second."""
    return harness.load_config(overrides)


def built(*overrides: str) -> tuple[InitConfig, Network, str]:
    """(spec, network not yet filled, activation) of a config."""
    config = loaded(*overrides)
    return config.init, models.build(config.model), config.model.activation


def test_fixup_starts_with_branches_that_add_nothing_whatever_their_norms() -> None:
    filled = applied("model=residual", "init=fixup", "model.norm=batch")
    last = [name for name in filled if "_conv2.weight" in name]
    assert last
    assert all(
        bool(filled[name].any()) == (name not in last) for name in filled if "_conv" in name and ".weight" in name
    )


def applied(*overrides: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Every parameter after the config's spec filled the network."""
    spec, network, activation = built(*overrides)
    initializers.apply(spec, network, seed=seed, activation=activation)
    return {name: value.detach() for name, value in network.tensors().items()}


@pytest.fixture
def scratch() -> Iterator[None]:
    """Forget afterwards what a test registered."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


# the contract


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", NAMES)
def test_contract_a_new_finite_contiguous_float32_tensor_on_the_cpu(name: str, shape: str) -> None:
    values = draw(name, shape)
    assert values.shape == SHAPES[shape]
    assert values.dtype == torch.float32
    assert values.device.type == "cpu"
    assert values.is_contiguous()
    assert bool(values.isfinite().all())


@pytest.mark.parametrize("name", NAMES)
def test_contract_two_draws_share_no_memory(name: str) -> None:
    first, second = draw(name), draw(name)
    first.fill_(7)
    assert not bool((second == 7).any())


@pytest.mark.parametrize("shape", ["conv 16-32 widens", "dense primes"])
@pytest.mark.parametrize("name", NAMES)
def test_contract_the_generator_alone_decides(name: str, shape: str) -> None:
    torch.manual_seed(1)
    first = draw(name, shape)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, draw(name, shape)), "the same generator must give the same weights"
    assert torch.equal(state, torch.get_rng_state()), "the global generator must stay untouched"
    assert torch.equal(first, draw(name, shape, seed=1)) == (name in DETERMINISTIC), "a seed matters or never does"


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(DETERMINISTIC)))
def test_contract_a_generator_that_has_moved_on_gives_other_weights(name: str) -> None:
    """It is advanced and never reseeded, or two tensors filled from one generator would be equal."""
    one, size = generator(0, "x"), torch.Size((32, 16, 3, 3))
    site = Site("conv1", "weight", 0, 3, size)
    first, second = (registry.values(name, size, gain=1.0, generator=one, site=site, options={}) for _ in range(2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("gain", [3.0, -0.5, 0.0])
@pytest.mark.parametrize("shape", ["conv 16-32 widens", "dense 128-10"])
@pytest.mark.parametrize("name", NAMES)
def test_contract_gain_is_a_factor(name: str, shape: str, gain: float) -> None:
    torch.testing.assert_close(draw(name, shape, gain=gain), gain * draw(name, shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", MOMENTS)
def test_contract_mean_and_std_within_four_standard_errors(name: str, shape: str) -> None:
    variance, kurtosis = MOMENTS[name]
    std = math.sqrt(variance(*initializers.fans(torch.Size(SHAPES[shape]))))
    values = draw(name, shape).double()
    mean = {"ones": 1.0, "constant": 0.1}.get(name, 0.0)
    assert abs(float(values.mean()) - mean) <= 4 * std / math.sqrt(values.numel()) + 1e-8
    allowed = 4 * math.sqrt((kurtosis - 1) / (4 * values.numel())) * std
    assert abs(float(values.std()) - std) <= allowed + 1e-8


@pytest.mark.parametrize("name", MOMENTS)
def test_contract_a_bias_takes_its_fans_from_the_weight(name: str) -> None:
    variance, kurtosis = MOMENTS[name]
    values, std = draw(name, (8000,), fan_shape=(8000, 7)), math.sqrt(variance(7, 8000))
    assert abs(float(values.double().std()) - std) <= 4 * math.sqrt((kurtosis - 1) / 32000) * std + 1e-8


@pytest.mark.parametrize("name", STRUCTURED)
def test_contract_a_bias_is_refused_where_only_a_matrix_makes_sense(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: a tensor of shape \(8,\); it fills weights"):
        draw(name, (8,), fan_shape=(8, 7))


def test_contract_every_initializer_has_its_law() -> None:
    """A new one must be listed by its moments, or as structured and have its law in the other file."""
    assert set(NAMES) == set(MOMENTS) | set(STRUCTURED)
    assert not set(MOMENTS) & set(STRUCTURED)


@pytest.mark.parametrize("name", NAMES)
def test_contract_documented_with_its_formula(name: str) -> None:
    words = inspect.getdoc(REGISTRY[name]) or ""
    assert len(words.splitlines()[0]) > 5
    assert words.splitlines()[0].endswith(".")


@pytest.mark.parametrize("name", SAME_RANKS)
def test_contract_families_map_one_draw(name: str) -> None:
    """Common random numbers: the weights of one seed and layer have the same ranks in every family."""
    for shape in ("conv 1-32", "dense primes"):
        order = draw("normal", shape).flatten().argsort()
        steps = draw(name, shape).flatten()[order].diff()
        assert bool((steps >= 0).all())
        assert float((steps > 0).float().mean()) > 0.9, "ties would hide another order"


@pytest.mark.parametrize(
    ("name", "shape", "std"), [(name, shape, std) for name, of in PUBLISHED_STD.items() for shape, std in of.items()]
)
def test_std_of_the_articles_layers_as_published(name: str, shape: str, std: float) -> None:
    assert math.sqrt(MOMENTS[name][0](*initializers.fans(torch.Size(SHAPES[shape])))) == pytest.approx(std, abs=1e-6)


@pytest.mark.parametrize("shape", FANS)
def test_fans_of_the_articles_layers(shape: str) -> None:
    assert initializers.fans(torch.Size(SHAPES[shape])) == FANS[shape]


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4).filter(lambda sizes: len(sizes) != 3))
def test_fans_are_torchs(sizes: list[int]) -> None:
    assert initializers.fans(torch.Size(sizes)) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(sizes))


# applying a spec


def hashes(model: str, name: str, layout: torch.memory_format) -> str:
    config = loaded(*LAID_OUT[model], "model.activation=tanh")
    network = models.build(config.model).to(memory_format=layout)
    initializers.apply(dataclasses.replace(config.init, weight=name), network, seed=3, activation="tanh")
    return metrics.weights_sha256(network.tensors())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model", LAID_OUT)
def test_weights_do_not_depend_on_the_memory_layout(model: str, name: str) -> None:
    assert hashes(model, name, torch.contiguous_format) == hashes(model, name, torch.channels_last)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_weights_do_not_depend_on_the_device(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    spec, network, activation = built(*MODELS["residual"], f"init.weight={name}")
    initializers.apply(spec, network.cuda(), seed=3, activation=activation)
    on_gpu = metrics.weights_sha256(network.tensors())
    initializers.apply(spec, network.cpu(), seed=3, activation=activation)
    assert on_gpu == metrics.weights_sha256(network.tensors())


@pytest.mark.parametrize("model", MODELS)
def test_apply_fills_every_parameter_and_draws_nothing_else(model: str) -> None:
    spec, network, activation = built(*MODELS[model], "init=torch_default")
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    state = torch.get_rng_state()
    initializers.apply(spec, network, seed=0, activation=activation)
    assert all(bool(value.isfinite().all()) for value in network.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("choice", sorted(path.stem for path in (CONF_DIR / "init").glob("*.yaml")))
def test_every_choice_of_the_config_fills_and_adapts_a_network(choice: str) -> None:
    quick = ["+init.adapt_options.steps=2"] if choice in ("metainit", "gradinit") else []
    config = harness.load_config([NARROW, f"init={choice}", *quick])
    spec = dataclasses.replace(config.init, branch_scale=1.0)
    initializers.check(spec, config.model)
    network = models.build(config.model)
    initializers.apply(spec, network, seed=0, activation="relu")
    images = torch.randn(8, 1, 28, 28, generator=generator(0, "images"))
    initializers.adapt(spec, network, images, torch.arange(8), seed=0)
    assert bool(network(images).isfinite().all())


def test_one_tensor_does_not_depend_on_how_the_others_are_filled() -> None:
    plain = applied(NARROW, "init.weight=he_normal")
    changed = applied(NARROW, "init.weight=he_normal", "+init.layers.conv1=zeros", "init.bias=torch_default")
    assert torch.equal(plain["conv2.weight"], changed["conv2.weight"])
    assert not changed["conv1.weight"].any()
    assert bool(changed["conv1.bias"].any())


def test_layers_of_one_shape_get_different_weights() -> None:
    filled = applied(*MODELS["deep"], "init=torch_default")
    assert not torch.equal(filled["conv1.weight"], filled["conv2.weight"])
    assert not torch.equal(filled["conv1.bias"], filled["conv2.bias"])


def test_another_seed_gives_other_weights() -> None:
    assert not torch.equal(applied(NARROW)["fc1.weight"], applied(NARROW, seed=1)["fc1.weight"])


def test_a_layer_overrides_conv_and_conv_overrides_weight() -> None:
    filled = applied(
        NARROW, "init.weight=ones", "init.conv=zeros", "+init.layers.conv2=constant", "+init.layers.fc2=zeros"
    )
    weights = {name: value.unique().tolist() for name, value in filled.items() if name.endswith("weight")}
    tenth = torch.tensor(0.1).item()
    assert weights == {"conv1.weight": [0.0], "conv2.weight": [tenth], "fc1.weight": [1.0], "fc2.weight": [0.0]}


def test_a_numeric_gain_reaches_every_weight_and_no_bias() -> None:
    plain = applied(NARROW, "init=torch_default")
    scaled = applied(NARROW, "init=torch_default", "init.gain=2")
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value * (2 if name.endswith("weight") else 1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("gain", "factor"), [("auto", 1.5925374), ("torch", 5 / 3)])
def test_a_named_gain_spares_the_first_layer(gain: str, factor: float) -> None:
    """No activation function feeds it: its input is the image."""
    plain = applied(NARROW, "init=lecun", "model.activation=tanh")
    scaled = applied(NARROW, "init=lecun", "model.activation=tanh", f"init.gain={gain}")
    assert torch.equal(scaled["conv1.weight"], plain["conv1.weight"])
    for name in ("conv2.weight", "fc1.weight", "fc2.weight"):
        torch.testing.assert_close(scaled[name], factor * plain[name])


def test_options_reach_the_weights_and_bias_options_the_biases() -> None:
    spec = ("init.weight=constant", "+init.options.value=2", "init.bias=constant", "+init.bias_options.value=-3.5")
    filled = applied(NARROW, *spec)
    assert {tuple(filled[f"{layer}.weight"].unique().tolist()) for layer in ("conv1", "fc2")} == {(2.0,)}
    assert {tuple(filled[f"{layer}.bias"].unique().tolist()) for layer in ("conv1", "fc2")} == {(-3.5,)}


def test_an_option_reaches_those_initializers_that_have_it() -> None:
    filled = applied(NARROW, "init.weight=ones", "+init.layers.fc1=normal", "+init.options.std=3.0")
    assert float(filled["fc1.weight"].std()) == pytest.approx(3, rel=0.2)
    assert filled["conv1.weight"].unique().tolist() == [1.0]


def test_a_bias_of_one_layer_can_be_chosen_alone() -> None:
    filled = applied(NARROW, "+init.bias_layers.conv2=ones")
    assert filled["conv2.bias"].unique().tolist() == [1.0]
    assert not filled["conv1.bias"].any()


# checking a spec


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["init.weight=gloort"], "unknown initializer 'gloort'; registered are: constant, delta_orthogonal, dirac"),
        (["init.bias=gloort"], "unknown initializer 'gloort'"),
        (["init.conv=gloort"], "unknown initializer 'gloort'"),
        (["+init.layers.conv9=zeros"], "layer 'conv9'; this model's layers are: conv1, conv2, fc1, fc2"),
        (["+init.bias_layers.conv9=zeros"], "layer 'conv9'"),
        (["init.adapt=lsvu"], "init.adapt=lsvu; choose one of: none, lsuv, kraehenbuhl, metainit, gradinit"),
        (["init.modules=[no_such_module_of_mine]"], "cannot import 'no_such_module_of_mine'"),
        (["+init.options.stdd=1"], "init.options.stdd: the chosen initializers have no such option; they have: none"),
        (["init=normal", "+init.options.stdd=1"], "no such option; they have: std"),
        (["init=variance_scaling", "+init.options.n=1"], "they have: distribution, mode, scale"),
        (["+init.bias_options.value=1"], "init.bias_options.value: the chosen initializers have no such option"),
        (["init=lsuv", "+init.adapt_options.steps=1"], "init.adapt_options.steps: the chosen initializers have no"),
        (["init=normal", "+init.options.std=big"], "init.options.std=big is not allowed; give a value like"),
        (["init=normal", "+init.options.std=true"], "init.options.std=True is not allowed"),
        (["init=variance_scaling", "init.options.mode=1"], "mode=1 is not allowed; give a value like the default"),
        (["init=metainit", "+init.adapt_options.steps=2.5"], "steps=2.5 is not allowed; give a value like the"),
        (["init=he", "init.gain=auto"], "init.gain=auto: 'he_truncated' has relu's gain built in; use lecun_*"),
        (["+init.layers.fc2=he_uniform", "init.gain=torch"], "init.gain=torch: 'he_uniform' has relu's gain"),
        (["init.conv=random_walk", "init.gain=auto"], "'random_walk' has relu's gain built in"),
        (["init=lecun", "init.gain=torch", "model.activation=mish"], "init.gain=torch has no gain for mish, only for"),
        (["model.bias=false", "init.bias=ones"], "model.bias=false leaves nothing to fill"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_with_what_can(overrides: list[str], words: str) -> None:
    config = harness.load_config([NARROW, *overrides])
    with pytest.raises(UsageError) as caught:
        initializers.check(config.init, config.model)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["he_truncated", "he_normal", "he_uniform", "random_walk", "fixup"])
def test_a_named_gain_is_refused_by_those_that_have_relus(name: str) -> None:
    config = harness.load_config([NARROW, f"init.weight={name}", "init.gain=auto"])
    with pytest.raises(UsageError, match="built in"):
        initializers.check(config.init, config.model)


@pytest.mark.parametrize("option", [{"mode": "fan"}, {"distribution": "cauchy"}])
def test_variance_scaling_refuses_an_unknown_choice(option: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"variance_scaling: (mode|distribution)=\w+; give one of: "):
        draw("variance_scaling", **option)


# an initializer of the user's own


def _mine(shape: torch.Size, *, gain: float, generator: torch.Generator, spread: float = 0.01) -> torch.Tensor:
    return torch.randn(shape, generator=generator) * spread * gain


@pytest.mark.usefixtures("scratch")
def test_an_initializer_from_a_notebook_runs_with_its_own_option(configure: Configure) -> None:
    initializers.register("mine")(_mine)
    spec = ("model=mlp", "init.weight=mine", "+init.options.spread=0.5")
    filled = applied(*spec)["fc2.weight"]
    assert float(filled.std()) == pytest.approx(0.5, rel=0.02)
    torch.testing.assert_close(filled, 50 * applied("model=mlp", "init.weight=mine")["fc2.weight"])
    result = harness.run_trial(configure(*spec))
    assert result.trial["status"] == "ok"
    assert result.trial["init_weight"] == "mine"
    assert result.trial["initial_weights_sha256"] == harness.run_trial(configure(*spec)).trial["initial_weights_sha256"]


@pytest.mark.usefixtures("scratch")
def test_an_initializer_from_a_module_beside_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_initializers_7.py").write_text(
        "import torch\nfrom harness.initializers import register\n\n"
        "@register('sevens')\ndef sevens(shape, *, gain):\n    return torch.full(shape, 7.0 * gain)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    config = harness.load_config([NARROW, "init.modules=[my_initializers_7]", "init.weight=sevens"])
    initializers.check(config.init, config.model)
    assert applied(NARROW, "init.weight=sevens")["fc1.weight"].unique().tolist() == [7.0]


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    ("default", "given"), [(True, "false"), ("sum", "mean"), (3, "4"), (0.5, "2"), (None, "anything")]
)
def test_a_users_option_takes_values_of_its_defaults_type(default: object, given: str) -> None:
    seen = []

    def mine(shape: torch.Size, *, option: object = default) -> torch.Tensor:
        seen.append(option)
        return torch.zeros(shape)

    initializers.register("mine")(mine)
    config = harness.load_config([NARROW, "init.weight=mine", f"+init.options.option={given}"])
    initializers.check(config.init, config.model)
    initializers.apply(config.init, models.build(config.model), seed=0, activation="relu")
    assert seen == [config.init.options["option"]] * 4
    assert seen[0] != default


@pytest.mark.usefixtures("scratch")
def test_running_a_notebook_cell_again_replaces_the_users_initializer() -> None:
    for value in (0.0, 1.0):
        initializers.register("mine")(lambda shape, value=value: torch.full(shape, value))
    assert bool(draw("mine").all())


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("name", ["zeros", "he_normal", "orthogonal"])
def test_the_name_of_a_built_in_is_refused(name: str) -> None:
    built_in = REGISTRY[name]
    with pytest.raises(ValueError, match=f"'{name}' exists already, in harness.initializers"):
        initializers.register(name)(_mine)
    assert REGISTRY[name] is built_in


@pytest.mark.usefixtures("scratch")
def test_a_parameter_that_nobody_supplies_is_refused() -> None:
    def mine(shape: torch.Size, *, spread: float) -> torch.Tensor:
        return torch.full(shape, spread)

    with pytest.raises(ValueError, match="'mine': parameter 'spread' needs a default; the harness supplies gain, gen"):
        initializers.register("mine")(mine)
    assert "mine" not in REGISTRY


@pytest.mark.usefixtures("scratch")
def test_a_wrong_shape_is_refused_with_both() -> None:
    initializers.register("mine")(lambda _shape: torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"'mine' returned shape \(2, 3\) for conv1.weight, which has \(4, 1, 3, 3\)"):
        applied(NARROW, "init.weight=mine")


@pytest.mark.usefixtures("scratch")
def test_an_initializer_is_told_its_place() -> None:
    seen: dict[str, Site] = {}

    def mine(shape: torch.Size, *, site: Site) -> torch.Tensor:
        seen[f"{site.layer}.{site.tensor}"] = site
        return torch.zeros(shape)

    initializers.register("mine")(mine)
    applied("model=residual", "model.depth=3", "init.weight=mine", "init.bias=mine")
    places = {
        name: (site.position, site.layers, site.is_last, site.branch and dataclasses.astuple(site.branch))
        for name, site in seen.items()
    }
    assert places["stem.weight"] == places["stem.bias"] == (0, 8, False, None)
    assert places["block1_conv1.weight"] == (1, 8, False, (0, 2, 3))
    assert places["block3_conv2.bias"] == (6, 8, False, (1, 2, 3))
    assert places["fc.weight"] == (7, 8, True, None)
    assert seen["fc.bias"].fan_shape == seen["fc.weight"].fan_shape == (10, 32 * 14 * 14)


def test_every_activation_has_an_exact_gain() -> None:
    config = harness.load_config([NARROW, "init=lecun", "init.gain=auto"])
    for name in ACTIVATIONS:
        assert 0.5 < initializers.gain_of(config.init, name) < 3


def test_the_registries_hold_functions_only() -> None:
    assert all(isinstance(function, types.FunctionType) for function in [*REGISTRY.values(), *ADAPTERS.values()])
