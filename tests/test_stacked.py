"""Models trained in a stack against each of them trained alone: the same trajectories, whoever shares the stack."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from conftest import Configure

from harness import data, fusion, initializers, models
from harness.backends import KERNELS
from harness.config import InitConfig, TrialConfig
from harness.engine.eager import Eager
from harness.engine.stacked import StackedTraining, stacked_batches, unstackable
from harness.engine.stacked_graph import Stack, StackedGraph
from harness.models import Network
from harness.optimizers import OPTIMIZERS
from harness.random_streams import generator
from harness.train import batch_source, optimizer_for

STEPS, IMAGES = 200, 8
RATES = {"sgd": 0.02, "momentum": 0.01, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-4, "nadam": 1e-3}
EXACT = {"rtol": 1e-10, "atol": 1e-10}
KERNEL = KERNELS["torch"].build("ieee")

CONV = "{type: conv, name: conv1, out: 4, kernel: 3, stride: 4}, {type: activation}"
DENSE = "{type: dense, name: fc, out: 10}]"
NETWORK = f"model.layers=[{CONV}, {{type: conv, name: conv2, out: 4, kernel: 3}}, {{type: activation}}, {DENSE}"

CONF = Path(__file__).parent.parent / "conf"
FILES = {path.stem for path in CONF.glob("init/*.yaml")}
# for residual networks
OF_BRANCHES = ("fixup", "rezero", "skipinit")
# many of their sums are exactly 0 but for rounding, which decides on which side of relu's kink they lie; so they train
# with tanh, and by sgd, which does not make much of the gradients that rounding leaves
SYMMETRIC = ("constant", "ones", "sinusoidal")
INITS = sorted(FILES - {*OF_BRANCHES, *SYMMETRIC})


class Fleet:
    """Models to be trained: their networks, settings and batches, each as its trial alone would have them."""

    def __init__(self, configs: Sequence[TrialConfig], dtype: torch.dtype = torch.float64) -> None:
        self.configs, self.steps = configs, configs[0].train.steps
        self.networks = [filled(config).to(dtype).to(memory_format=torch.channels_last) for config in configs]
        digits = data.to_device(data.load(configs[0].data), configs[0].data, torch.device("cpu"))
        self.images, self.labels = digits.train_images.to(dtype), digits.train_labels
        self.indices = [
            data.batch_indices(config.data, steps=self.steps, batch_size=IMAGES, seed=config.seed) for config in configs
        ]
        self.losses = torch.full((len(configs), self.steps), torch.nan, dtype=dtype)

    def stacked(self, *, together: bool | None = True) -> StackedTraining:
        batches = stacked_batches(self.images, self.labels, self.indices, IMAGES)
        settings = [config.optimizer for config in self.configs]
        return StackedTraining(self.networks, KERNEL, settings, batches, self.steps, self.losses, together=together)

    def captured(self) -> StackedGraph:
        """What trains them by the graph engine, with capturing replaced by running."""
        batches = stacked_batches(self.images, self.labels, self.indices, IMAGES)
        settings, train = [config.optimizer for config in self.configs], self.configs[0].train
        stack = Stack(self.networks, KERNEL, settings, batches, self.losses, train)
        made = StackedGraph(stack, capture=lambda function: function)
        made.prepare()
        return made

    def alone(self) -> list[Eager]:
        """What trains each model by itself."""
        engines = []
        for model, (config, network) in enumerate(zip(self.configs, self.networks, strict=True)):
            batches = batch_source(self.images, self.labels, self.indices[model], IMAGES)
            optimizer = optimizer_for(network, config.optimizer, steps=self.steps)
            engines.append(Eager(fusion.Trained(network, KERNEL), optimizer, batches, self.losses[model]))
        return engines

    def trained_alone(self, order: torch.Tensor | None = None) -> "Fleet":
        """Copies trained one by one; ``order`` is another one of the images of a fixed batch."""
        copies = copy.copy(self)
        copies.networks, copies.losses = copy.deepcopy(self.networks), self.losses.clone()
        if order is not None:
            copies.images, copies.labels = self.images[order], self.labels[order]
        for engine in copies.alone():
            engine.run(range(self.steps))
        return copies

    def state(self, model: int) -> dict[str, torch.Tensor]:
        """Parameters and buffers of a model, and its losses."""
        tensors = {name: value.detach().clone() for name, value in self.networks[model].state_dict().items()}
        return tensors | {"losses": self.losses[model].clone()}

    def distance(self, other: "Fleet") -> float:
        """Largest difference between any two numbers of the same model."""
        return max(
            float((value - other.state(model)[name]).abs().max())
            for model in range(len(self.networks))
            for name, value in self.state(model).items()
        )


def filled(config: TrialConfig) -> Network:
    network = models.build(config.model)
    initializers.apply(config.init, network, seed=config.seed, activation=config.model.activation)
    digits = data.to_device(data.load(config.data), config.data, torch.device("cpu"))
    batch = digits.train_images[:IMAGES], digits.train_labels[:IMAGES]
    initializers.adapt(config.init, network, *batch, seed=config.seed)
    return network


def assert_same(ours: Fleet, theirs: Fleet, **tolerance: float) -> None:
    for model in range(len(ours.networks)):
        torch.testing.assert_close(ours.state(model), theirs.state(model), **tolerance)
        assert bool(ours.losses[model].isfinite().all())


def small(configure: Configure, *choices: str, steps: int = STEPS) -> TrialConfig:
    sizes = (f"train.steps={steps}", f"train.batch_size={IMAGES}", "data.scaling=standardised")
    return configure(NETWORK, *sizes, *choices)


def of_seeds(config: TrialConfig, inits: Sequence[str], rates: Sequence[float]) -> list[TrialConfig]:
    """A config for each initializer, of one seed each; put together here, because composing one takes 0.2 s."""
    return [
        replace(
            config,
            seed=seed,
            init=InitConfig(**yaml.safe_load((CONF / f"init/{init}.yaml").read_text())),
            optimizer=replace(config.optimizer, lr=lr),
        )
        for seed, (init, lr) in enumerate(zip(inits, rates, strict=False))
    ]


def trained_both_ways(
    configure: Configure, optimizer: str, batches: str, inits: Sequence[str], activation: str = "relu"
) -> tuple[Fleet, Fleet]:
    """A stack of these models, and the same ones alone; two neighbours have one learning rate."""
    choices = (f"optimizer={optimizer}", f"data.batches={batches}", f"model.activation={activation}")
    rates = [RATES[optimizer] / (1 + index // 2) for index in range(len(inits))]
    fleet = Fleet(of_seeds(small(configure, *choices), inits, rates))
    alone = fleet.trained_alone()
    fleet.stacked().run(range(STEPS))
    return fleet, alone


@pytest.mark.parametrize("place", range(len(RATES)), ids=list(RATES))
def test_a_stack_is_the_models_trained_alone(configure: Configure, place: int) -> None:
    """Every optimizer, and between them every initializer, with one batch for all and with one for each."""
    optimizer, batches = list(RATES)[place], ["fixed", "random"][place % 2]
    assert_same(*trained_both_ways(configure, optimizer, batches, INITS[place :: len(RATES)]), **EXACT)


def test_units_that_are_alike_are_the_same_in_a_stack(configure: Configure) -> None:
    assert_same(*trained_both_ways(configure, "sgd", "random", SYMMETRIC, "tanh"), **EXACT)


@pytest.mark.slow
@pytest.mark.parametrize("batches", ["fixed", "random"])
@pytest.mark.parametrize("optimizer", RATES)
def test_every_initializer_is_the_same_under_every_optimizer(
    configure: Configure, optimizer: str, batches: str
) -> None:
    assert_same(*trained_both_ways(configure, optimizer, batches, INITS), **EXACT)


def test_every_optimizer_and_initializer_is_there() -> None:
    """Else a new one would be left out of the tests above."""
    assert list(RATES) == list(OPTIMIZERS)
    in_order = [init for place in range(len(RATES)) for init in INITS[place :: len(RATES)]]
    assert sorted([*in_order, *SYMMETRIC, *OF_BRANCHES]) == sorted(FILES)


BRANCHES = f"model.layers=[{CONV}, {{type: residual, name: block, kernel: 3}}, {DENSE}"
HIDDEN = f"{{type: dense, name: a, out: 8}}, {{type: activation}}, {DENSE}"
GROUPS_OF_IMAGES = "{type: norm, kind: group, name: images}, {type: pool, size: 4}"
OF_IMAGES = "{type: norm, kind: batch, name: images}, {type: pool, size: 4}"
NETWORKS = {
    "batch norm, pooling": (f"model.layers=[{CONV}, {{type: pool, size: 2}}, {HIDDEN}", "model.norm=batch"),
    "norm and pooling of images": (f"model.layers=[{OF_IMAGES}, {HIDDEN}", "model.activation=tanh"),
    "preactivation, group norm": (BRANCHES, "model.norm=group", "model.preactivation=true"),
    "group norm of images": (f"model.layers=[{GROUPS_OF_IMAGES}, {HIDDEN}",),
    "scaled branch, layer norm": (BRANCHES, "model.norm=layer"),
    "unscaled branch, no bias": (BRANCHES, "model.learned_scale=false", "model.bias=false"),
    "circular": (BRANCHES, "model.padding_mode=circular", "model.activation=gelu", "model.pooling=avg"),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_every_layer_is_that_of_the_models(configure: Configure, network: str) -> None:
    """Running statistics too; the models differ in their initializers and in all settings of the optimizer."""
    config = small(configure, *NETWORKS[network], "optimizer=momentum", steps=9)
    inits = ("torch_default", *OF_BRANCHES) if "residual" in NETWORKS[network][0] else ("he", "lecun", "glorot")
    configs = of_seeds(config, inits, [0.01, 0.02, 0.01, 0.01])
    settings = [{"momentum": 0.5, "weight_decay": 0.01}, {"momentum": 0.9}, {}, {}]
    fleet = Fleet(
        [
            replace(config, optimizer=replace(config.optimizer, **own))
            for config, own in zip(configs, settings, strict=False)
        ]
    )
    before, alone = fleet.state(0), fleet.trained_alone()
    fleet.stacked().run(range(9))
    assert_same(fleet, alone, **EXACT)
    assert not any(torch.equal(before[name], value) for name, value in fleet.state(0).items())


SCHEDULES = ["constant", "step", "cosine", "one_cycle", "linear_warmup"]


def test_each_model_has_its_own_schedule_and_its_own_count_of_right_answers(configure: Configure) -> None:
    configs = [small(configure, f"optimizer.schedule={name}", "optimizer.lr=0.1", steps=20) for name in SCHEDULES]
    fleet = Fleet(configs)
    alone, stacked = Fleet(configs).alone(), fleet.stacked()
    for window in (range(7), range(7, 20)):
        stacked.run(window)
        for engine in alone:
            engine.run(window)
        assert stacked.rates() == [engine.rate() for engine in alone]
        assert stacked.right() == [engine.right() for engine in alone]
    assert len(set(fleet.losses[:, -1].tolist())) == len(SCHEDULES)


@pytest.mark.parametrize(("batches", "schedule"), [("random", "constant"), ("fixed", "cosine")])
def test_static_steps_of_a_stack_are_those_that_it_takes_together(
    configure: Configure, batches: str, schedule: str
) -> None:
    """The same bits where the rate is constant; what ends keeps what it shows, and the others their addresses."""
    choices = (f"data.batches={batches}", f"optimizer.schedule={schedule}", "model.norm=batch", "optimizer=momentum")
    config = small(configure, *choices, "train.window_steps=4", "train.eval_every=9", steps=20)
    configs = of_seeds(config, ["he", "glorot", "lecun"], [0.01, 0.01, 0.02])
    plain, static = Fleet(configs, torch.float32), Fleet(configs, torch.float32)
    before, together, made = static.state(1), plain.stacked(), static.captured()
    torch.testing.assert_close(static.state(1), before, rtol=0, atol=0, equal_nan=True)
    addresses = [value.data_ptr() for value in static.networks[1].parameters()]
    for window in (range(9), range(9, 18), range(18, 20)):
        for training in (together, made):
            training.run(window)
        assert (made.rates(), made.right()) == (together.rates(), together.right())
        for training in (together, made):
            training.drop(0)
    assert addresses == [value.data_ptr() for value in static.networks[1].parameters()]
    tolerance = {"rtol": 0.0, "atol": 0.0} if schedule == "constant" else {"rtol": 1e-5, "atol": 1e-6}
    for model in range(3):
        torch.testing.assert_close(static.state(model), plain.state(model), **tolerance, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_behind_a_zero_kernel_no_bit_moves(configure: Configure, dtype: torch.dtype) -> None:
    """But for the last bias; the neighbours train."""
    fleet = Fleet(of_seeds(small(configure, steps=20), ["he", "zero", "glorot"], [0.1] * 3), dtype)
    before = [fleet.state(model) for model in range(3)]
    fleet.stacked().run(range(20))
    for model, unmoved in ((0, set()), (1, set(before[0]) - {"fc.bias", "losses"}), (2, set())):
        after = fleet.state(model)
        assert {name for name in after if torch.equal(after[name], before[model][name])} == unmoved


def test_float32_strays_no_further_than_another_order_of_summation(configure: Configure) -> None:
    """Measured on models trained alone whose batch holds the same images in another order."""
    inits = ("he", "glorot", "orthogonal")
    fleet = Fleet(of_seeds(small(configure, steps=50), inits, [0.02] * len(inits)), torch.float32)
    alone = fleet.trained_alone()
    orders = [torch.randperm(IMAGES, generator=generator(seed, "orders")) for seed in range(3)]
    growth = max(alone.distance(fleet.trained_alone(order)) for order in orders)
    fleet.stacked().run(range(50))
    assert 0 < growth < 1e-4
    assert 0 < alone.distance(fleet) < 4 * growth


@pytest.mark.parametrize("together", [True, False])
def test_a_model_that_diverges_ends_alone(configure: Configure, together: bool) -> None:  # noqa: FBT001
    """Its neighbours' bits are those beside a model that trains well, and it keeps what it showed when it ended."""
    ends, config = [], small(configure, steps=20)
    for rate in (0.02, 1e30):
        rates = (0.02, rate, 0.05)
        fleet = Fleet(of_seeds(config, ["glorot"] * 3, rates))
        stacked = fleet.stacked(together=together)
        stacked.run(range(10))
        if rate == 1e30:
            shown = fleet.state(1)
            stacked.drop(1)
            stacked.run(range(10, 20))
            torch.testing.assert_close(fleet.state(1), shown, rtol=0, atol=0, equal_nan=True)
            assert bool(fleet.losses[1, 5:].isnan().all())
        else:
            stacked.run(range(10, 20))
        ends.append([fleet.state(0), fleet.state(2)])
    torch.testing.assert_close(*ends, rtol=0, atol=0, equal_nan=True)
    assert bool(ends[0][0]["losses"][:20].isfinite().all())


def test_on_a_cpu_a_model_ends_with_the_bits_that_it_has_alone(configure: Configure) -> None:
    """In float32, whoever shares the stack and however many they are."""
    rates = [0.01, 0.02, 0.03, 0.04]
    configs = of_seeds(small(configure, "data.batches=random", steps=20), ["glorot"] * 4, rates)
    fleet = Fleet(configs, torch.float32)
    alone = fleet.trained_alone()
    smaller = Fleet(configs[2:], torch.float32)
    for each in (fleet, smaller):
        each.stacked(together=None).run(range(20))
    for model in range(4):
        torch.testing.assert_close(fleet.state(model), alone.state(model), rtol=0, atol=0)
    for model in range(2):
        torch.testing.assert_close(smaller.state(model), alone.state(2 + model), rtol=0, atol=0)


def test_what_cannot_be_stacked_is_said(configure: Configure) -> None:
    assert unstackable(configure()) is None
    assert "dropout" in str(unstackable(configure("model.layers=[{type: dropout, p: 0.5}, " + DENSE)))
