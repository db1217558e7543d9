"""Networks of the user's own: they run as a built-in model does, and what cannot run is refused in one line."""

import sys
import textwrap
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import QUICK, Command, Configure
from torch import nn

import harness
from harness import TrialConfig, initializers, own_models, signals, trial_setup
from harness.compose import CONF_DIR
from harness.errors import UsageError
from harness.explain import explain
from harness.model_registry import REGISTRY
from harness.models import register
from harness.own_models import OwnNetwork
from harness.resolution import resolved

NET = """
    from torch import nn
    from harness.models import register

    @register("mine")
    def mine(width=32):
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(width * 14 * 14, 10),
        )
"""


@pytest.fixture(autouse=True)
def _only_our_own() -> Iterator[None]:
    """Names that a test registers are gone after it."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


def _article() -> nn.Module:
    """Return the article's network of torch's own layers, whose names decide on the random streams."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv1=nn.Conv2d(1, 32, 3, padding=1), relu1=nn.ReLU())
    layers["pool"] = nn.MaxPool2d(2)
    for number in (2, 3, 4):
        layers[f"conv{number}"] = nn.Conv2d(32, 32, 3, padding=1)
        layers[f"relu{number}"] = nn.ReLU(inplace=True)
    layers |= {"flatten": nn.Flatten(), "fc1": nn.Linear(6272, 128), "relu5": nn.ReLU(), "fc2": nn.Linear(128, 10)}
    return nn.Sequential(layers)


class _Mixed(nn.Module):
    """Dotted names, shared weights, groups, and much that no initializer fills; its layers run in another order."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, 10, bias=False)
        self.twin = nn.Linear(width, width)
        self.features = nn.Sequential(nn.Conv2d(1, width, 3, stride=4), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.grouped = nn.Conv2d(width, width, 3, groups=2, padding=1, padding_mode="reflect")
        self.mix = nn.Linear(width, width)
        self.twin.weight = self.mix.weight
        self.drop = nn.Dropout(0.2)
        self.unused = nn.Linear(3, 3)
        self.frozen = nn.Linear(width, width)
        self.frozen.requires_grad_(requires_grad=False)
        self.scale = nn.Parameter(torch.randn(1))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        pooled = self.grouped(self.features(x_NCHW)).mean((2, 3))
        mixed = self.frozen(self.twin(torch.relu(self.mix(self.drop(pooled)))))
        logits: torch.Tensor = self.head(mixed) * self.scale
        return logits


LEFT = ["scale", "twin.bias", "features.1.weight", "features.1.bias", "unused.weight", "unused.bias"]
LEFT += ["frozen.weight", "frozen.bias"]


def _built(config: TrialConfig) -> OwnNetwork:
    """Return the filled network of a config."""
    setup = trial_setup.assemble(resolved(config), torch.device("cpu"))
    trial_setup.initialise(config, setup)
    assert isinstance(setup.network, OwnNetwork)
    return setup.network


def _agree(configure: Configure, init: str) -> None:
    register("twin")(_article)
    common = [f"init={init}", "device.memory_format=contiguous", "train.steps=3"]
    declared, own = (harness.run_trial(configure(*common, f"model={model}")) for model in ("article", "twin"))
    assert own.ok
    assert torch.equal(own.train_losses, declared.train_losses)
    same = ["initial_weights_sha256", "final_weights_sha256", "diagnosis", "diagnosis_reason", "layer_diagnoses"]
    same += ["forward_flops_per_image", "train_flops_per_image", "moved", "unmoved", "last_bias_difference"]
    assert {name: own.trial[name] for name in same} == {name: declared.trial[name] for name in same}
    columns = [name for name in declared.layers if name not in ("trial_id", "dead_share")]
    assert own.layers[columns].equals(declared.layers[columns])
    assert (own.trial["model"], own.trial["left_as_built"], declared.trial["left_as_built"]) == ("twin", [], None)
    assert own.trial["memory_format"] == "contiguous"


@pytest.mark.parametrize("init", ["he", pytest.param("zero", marks=pytest.mark.slow)])
def test_the_articles_network_of_torchs_layers_gives_the_same_bits(configure: Configure, init: str) -> None:
    """Losses, weights, diagnosis, probes and FLOPs are those of ``model=article``."""
    _agree(configure, init)


def test_a_file_in_the_current_folder_is_swept_and_resumed(command: Command, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(textwrap.dedent(NET))
    choices = ["-m", "model=mine", "init=he", "model.modules=[net]", "model.options.width=2,4", *QUICK]
    done = command(*choices, "results.dir=results")
    assert done.returncode == 0, done.stderr
    again = command(*choices, "results.dir=results", "sweep.resume=true")
    assert "2 planned: 2 done" in again.stdout
    (tmp_path / "net.py").write_text(textwrap.dedent(NET) + "\n# another source\n")
    changed = command(*choices, "results.dir=results", "sweep.resume=true")
    assert "2 planned: 0 done" in changed.stdout
    trials = harness.load(tmp_path / "results").trials
    assert sorted(set(trials["model"])) == ["mine[options.width=2]", "mine[options.width=4]"]
    assert trials["trial_key"].nunique() == 4
    assert list(trials["left_as_built"].map(list)) == [[]] * 4


def test_what_no_initializer_fills_is_said_and_follows_from_the_seed(configure: Configure) -> None:
    register("mixed")(lambda width=4: _Mixed(width))
    config = configure("model=mixed", "init=he", "+init.layers={features.0: zeros}", "+init.options={}")
    state = torch.get_rng_state()
    first, second = _built(config), _built(config)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(first.parametrised()) == ["features.0", "grouped", "mix", "head"]
    assert first.left_as_built() == LEFT
    sites = {site.layer: (site.position, site.layers, initializers.fans(site.fan_shape)[0]) for site in sites_of(first)}
    assert sites == {"features.0": (0, 4, 9), "grouped": (1, 4, 2 * 9), "mix": (2, 4, 4), "head": (3, 4, 4)}
    assert not first.module.get_parameter("features.0.weight").any()
    left = [torch.equal(first.module.get_parameter(name), second.module.get_parameter(name)) for name in LEFT]
    assert all(left)
    other = _built(configure("model=mixed", "init=he", "seed=1"))
    assert not torch.equal(other.module.get_parameter("scale"), first.module.get_parameter("scale"))
    explanation = explain(configure("model=mixed", "init=all_zero"))
    assert list(explanation.left_as_built) == LEFT
    assert explanation.diagnosis.layers["features.0"].kind == "dead"


def sites_of(network: OwnNetwork) -> Iterator[initializers.Site]:
    """Return what each initializer is told."""
    yield from initializers._sites(network)


def test_looking_changes_neither_statistics_nor_what_is_trained(configure: Configure) -> None:
    """A network with batch norm and dropout ends with the same bits however often it is looked at."""
    register("mixed")(lambda width=4: _Mixed(width))
    often, seldom = (
        harness.run_trial(configure("model=mixed", "init=he", "data.scaling=unit", *more))
        for more in (["train.eval_every=1", "train.warmup_steps=0"], ["train.eval_every=6", "train.warmup_steps=3"])
    )
    assert often.ok
    assert often.trial["final_weights_sha256"] == seldom.trial["final_weights_sha256"]
    assert torch.equal(often.train_losses, seldom.train_losses)
    assert set(often.layers["parameter"]) == {
        name for name, value in _Mixed(4).named_parameters() if value.requires_grad
    }
    assert often.layers.set_index("parameter").loc["unused.weight", "movement"].eq("no gradient").all()


def test_every_initializer_fills_it_or_says_which_layer_it_cannot(configure: Configure) -> None:
    register("small")(
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=4), nn.Tanh(), nn.Flatten(2), nn.Conv1d(4, 4, 3), nn.Tanh(), nn.Flatten(),
            nn.Linear(188, 20), nn.Tanh(), nn.Linear(20, 10),
        )
    )  # fmt: skip
    refused = {}
    for path in sorted((CONF_DIR / "init").glob("*.yaml")):
        try:
            network = _built(configure("model=small", f"init={path.stem}", "data.scaling=standardised"))
            assert all(value.isfinite().all() for value in network.tensors().values()), path.stem
        except (UsageError, ValueError) as error:
            refused[path.stem] = str(error)
    assert refused == {"zero": "init names the layer 'conv2'; this model's layers are: 0, 3, 6, 8"}


def test_lsuv_makes_units_in_the_last_dimension_vary_as_much(configure: Configure) -> None:
    class Rows(nn.Sequential):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = super().forward(x_NCHW.flatten(1, 2)).mean(1)
            return logits

    register("rows")(lambda: Rows(nn.Linear(28, 16), nn.ReLU(inplace=True), nn.Linear(16, 10)))
    config = configure("model=rows", "init=lsuv", "data.scaling=standardised")
    setup = trial_setup.assemble(resolved(config), torch.device("cpu"))
    trial_setup.initialise(config, setup)
    seen = signals.record(setup.network, *setup.batch(0)).modules
    spread = [(own.output_moment - own.output_mean**2) ** 0.5 for own in seen.values()]
    assert spread == pytest.approx([1, 1], rel=1e-4)


class _Scaled(nn.Linear):
    """A dense layer with a parameter more and a bias that is frozen."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(torch.full((), 3.0))
        nn.init.constant_(self.bias.requires_grad_(requires_grad=False), 0.25)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * self.scale


@pytest.mark.parametrize("adapt", ["none", "lsuv", "kraehenbuhl"])
def test_frozen_biases_and_a_subclasss_own_parameters_stay_as_built(configure: Configure, adapt: str) -> None:
    register("net")(lambda: nn.Sequential(nn.Flatten(), _Scaled(784, 8), nn.ReLU(), _Scaled(8, 10)).eval())
    config = configure("model=net", "init=he", f"init.adapt={adapt}", "data.scaling=standardised")
    network = _built(config)
    assert own_models.biased_layers(config.model) == []
    assert network.left_as_built() == ["1.bias", "1.scale", "3.bias", "3.scale"]
    for layer in network.parametrised().values():
        assert bool(layer.scale == 3)
        assert bool((layer.bias == 0.25).all())
    assert all(module.training for module in network.modules()), "networks begin in training mode"


class _Attending(nn.Module):
    """Attention over the rows of an image, by torch's function or by products of matrices."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.fused, self.rows, self.head = fused, nn.Linear(28, 24), nn.Linear(8, 10)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        query, key, value = self.rows(x_NCHW).chunk(3, -1)
        if self.fused:
            attended = nn.functional.scaled_dot_product_attention(query, key, value)
        else:
            attended = (query @ key.mT / 8**0.5).softmax(-1) @ value
        logits: torch.Tensor = self.head(attended.mean((1, 2)))
        return logits


def test_attention_counts_as_the_products_that_it_is(configure: Configure) -> None:
    register("attending")(lambda fused=True: _Attending(fused=fused))
    counts = []
    for fused in (True, False):
        config = configure("model=attending", "init=he", f"model.options.fused={fused}").model
        counts.append(own_models.flops_per_image(config, own_models.network_of(config, seed=0)))
    assert counts[0] == counts[1]


def test_a_convolution_with_a_forward_of_its_own_stays_with_torch(configure: Configure) -> None:
    def doubling() -> nn.Module:
        layer = nn.Conv2d(1, 2, 28)
        layer.forward = lambda x_NCHW: 2 * nn.Conv2d.forward(layer, x_NCHW)  # type: ignore[method-assign]
        return nn.Sequential(layer, nn.Flatten(), nn.Linear(2, 10))

    register("doubling")(doubling)
    network = own_models.network_of(configure("model=doubling", "init=he").model, seed=0)
    assert isinstance(network, OwnNetwork)
    assert network.by_torch() == ["0"]


def test_a_recurrent_network_trains_without_a_count_of_flops(configure: Configure) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(28, 8, batch_first=True), nn.LazyLinear(10)

        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.rnn(x_NCHW.squeeze(1))[0][:, -1])
            return logits

    register("recurrent")(Recurrent)
    row = harness.run_trial(configure("model=recurrent", "init=glorot", "train.steps=2")).trial
    assert (row["status"], row["forward_flops_per_image"], row["matmul_share"]) == ("ok", None, None)
    assert row["left_as_built"] == [f"rnn.{kind}_{place}_l0" for kind in ("weight", "bias") for place in ("ih", "hh")]


def _raising() -> nn.Module:
    raise RuntimeError("no\nluck")


def _on_meta() -> nn.Module:
    return nn.Linear(784, 10, device="meta")


class _Then(nn.Module):
    """A function as the last layer."""

    def __init__(self, function: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.forward = function


def _flat(*layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(nn.Flatten(), *layers)


REFUSED: dict[str, tuple[Callable[[], Any] | None, list[str], str]] = {
    "raises": (_raising, [], "model=net: its function raised RuntimeError: no luck; mend it"),
    "no module": (lambda: 3, [], "model=net: its function returned int; return a torch.nn.Module"),
    "shape": (_flat(nn.Linear(784, 9)), [], "its output has shape (3, 9) where N is 3; return logits of shape (N, 10)"),
    "device": (_on_meta, [], "model=net: its parameter weight is on meta; build the network on the CPU"),
    "dtype": (_flat(nn.Linear(784, 10).double()), [], "model=net: its parameter 1.weight is of torch.float64"),
    "no weight": (_flat(nn.Bilinear(1, 1, 10)), [], "model=net: cannot run a batch of shape (3, 1, 28, 28)"),
    "nothing to fill": (
        lambda: nn.Sequential(nn.ConvTranspose2d(1, 10, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        [],
        "model=net: no layer with a weight that an initializer could fill is called; call one of: nn.Linear, nn.Conv1d",
    ),
    "no gradient": (
        _flat(nn.Linear(784, 10), _Then(torch.Tensor.detach)), [], "model=net: its output has no gradient",
    ),
    "frozen": (
        _flat(nn.Linear(784, 10).requires_grad_(requires_grad=False)),
        [],
        "model=net: all its parameters are frozen; set requires_grad",
    ),
    "one size": (
        _flat(nn.Linear(784, 10), _Then(lambda x: x.view(3, 10))),
        [],
        "model=net: cannot run a batch of shape (2, 1, 28, 28) in evaluation mode",
    ),
    "tuple": (_flat(nn.Linear(784, 10), _Then(lambda x: (x,))), [], "its output in evaluation mode is tuple; return"),
    "float64": (_flat(nn.Linear(784, 10), _Then(torch.Tensor.double)), [], "its output is of torch.float64; return"),
    "no default": (lambda width: nn.Linear(width, 10), [], "parameter 'width' of its function has no default; give"),
    "which option": (
        lambda width=1: nn.Linear(width, 10),
        ["model.options.width=2"],
        "model=net with model.options.width=2: cannot run a batch",
    ),
    "one module": (None, ["model.modules=net"], "model.modules=net: is one name; give a list: 'model.modules=[net]'"),
    "one of init": (None, ["init.modules=net"], "init.modules=net: is one name; give a list: 'init.modules=[net]'"),
    "a file": (None, ["model.modules=[no_such.py]"], "; leave out .py: 'model.modules=[no_such]'"),
    "option": (_flat(nn.Linear(784, 10)), ["model.options.depth=2"], "model=net has no such option; it has: none"),
    "gain": (
        _flat(nn.Linear(784, 10)),
        ["init.gain=auto"],
        "init.gain=auto: nothing tells the activation function of model=net; add model.activation=NAME",
    ),
    "activation": (_flat(nn.Linear(784, 10)), ["model.activation=tanh"], "has no effect with init.gain=1.0"),
    "norm": (_flat(nn.Linear(784, 10)), ["model.norm=batch"], "model.norm=batch: has no effect on model=net"),
    "kernel": (_flat(nn.Linear(784, 10)), ["kernel=triton"], "kernel=triton: model=net calls no nn.Conv2d"),
    "no module named": (None, ["model.modules=[no_such_module]"], "model.modules: cannot import 'no_such_module'"),
    "not registered": (None, ["model.modules=[json]"], "model.modules=[json]: json registers no network; decorate"),
    "model.modules missing": (None, [], "; for a network of your own add model.modules=[MODULE]"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_one_line_before_training(configure: Configure, name: str) -> None:
    function, overrides, words = REFUSED[name]
    # what tests of this process registered before is none of this one's
    REGISTRY.clear()
    if function is not None:
        register("net")(function)
    with pytest.raises(UsageError) as refused:
        resolved(configure("model=net", *overrides))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_module_that_is_found_must_be_mended(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {"net_wants": "import no_such_module", "net_spells": "def"}.items():
        (tmp_path / f"{name}.py").write_text(text)
        with pytest.raises(UsageError, match=rf"cannot import '{name}' \(.*\); mend it$"):
            resolved(configure("model=net", f"model.modules=[{name}]"))


def test_warnings_of_the_trial_run_stay_out_of_the_way(configure: Configure, recwarn: pytest.WarningsRecorder) -> None:
    def warn(_: torch.Tensor) -> None:
        warnings.warn("look here", stacklevel=1)

    register("net")(_flat(nn.Linear(784, 10), _Then(warn)))
    with pytest.raises(UsageError, match="its output in evaluation mode is NoneType"):
        resolved(configure("model=net"))
    assert not recwarn.list


def test_a_name_that_is_built_in_is_refused_as_a_command(command: Command, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(textwrap.dedent(NET).replace('"mine"', '"article"'))
    done = command("model.modules=[net]", *QUICK)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "model=article: built in, and net registers it; choose another name" in done.stderr


def test_an_option_must_be_like_its_default(configure: Configure) -> None:
    register("net")(lambda width=4: nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10)))
    with pytest.raises(
        UsageError, match=r"model\.options\.width=wide is not allowed; give a value like the default, 4"
    ):
        resolved(configure("model=net", "model.options.width=wide"))
    keys = {resolved(configure("model=net", f"model.options.width={width}")).arm_key for width in (3, 4)}
    assert len(keys) == 2
    register("needy")(lambda width: nn.Linear(width, 10))
    assert own_models.weight_layers(resolved(configure("model=net", "init.gain=auto", "model.activation=relu")).model)
    assert "net" not in sys.modules
