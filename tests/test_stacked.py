"""Models trained in a stack against each of them trained alone: the same trajectories, whoever shares the stack."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Configure

from harness import data, fusion, initializers, models, optimizers
from harness.backends import KERNELS, Kernel
from harness.config import OptimizerConfig, TrialConfig
from harness.engine.stacked import StackedTraining, stacked_batches, unstackable
from harness.models import Network
from harness.train import Batch, batch_source, optimizer_for, take_steps

INITS = sorted(path.stem for path in (Path(__file__).parent.parent / "conf/init").glob("*.yaml"))
NETWORK = (
    "model.layers=[{type: conv, name: conv1, out: 4, kernel: 3, stride: 4}, {type: activation},"
    "{type: conv, name: conv2, out: 4, kernel: 3}, {type: activation},"
    "{type: dense, name: fc, out: 10}]"
)
STEPS, IMAGES = 200, 8
RATES = {"sgd": 0.02, "momentum": 0.01, "adam": 1e-3, "adamw": 1e-3, "rmsprop": 1e-4, "nadam": 1e-3}
EXACT = {"rtol": 1e-10, "atol": 1e-10}
OF_BRANCHES = ("fixup", "rezero", "skipinit")
# rounding breaks the symmetry of their units, and a large rate makes much of it, alone as in a stack
SYMMETRIC = ("constant", "ones", "sinusoidal")
KERNEL = KERNELS["torch"].build("ieee")


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

    def stacked(self, *, together: bool | None = True, kernel: Kernel = KERNEL) -> StackedTraining:
        batches = stacked_batches(self.images, self.labels, self.indices, IMAGES)
        settings = [config.optimizer for config in self.configs]
        return StackedTraining(
            self.networks, kernel, settings, batches, self.steps, self.losses, together=together
        )

    def train_alone(self, permuted: torch.Tensor | None = None) -> "Fleet":
        """Copies trained one by one; ``permuted`` is another order of the images of each batch."""
        alone = copy.copy(self)
        alone.networks, alone.losses = copy.deepcopy(self.networks), self.losses.clone()
        for index, (config, network) in enumerate(zip(self.configs, alone.networks, strict=True)):
            plain = batch_source(self.images, self.labels, self.indices[index], IMAGES)
            optimizer = optimizer_for(network, config.optimizer, steps=self.steps)

            def batch(step: int, plain=plain) -> Batch:  # noqa: ANN001 - batch_source's
                images, labels = plain(step)
                return (images, labels) if permuted is None else (images[permuted], labels[permuted])

            take_steps(fusion.Trained(network, KERNEL), optimizer, batch, range(self.steps), alone.losses[index])
        return alone

    def state(self, model: int) -> dict[str, torch.Tensor]:
        """Parameters and buffers of a model, and its losses."""
        tensors = {name: value.detach().clone() for name, value in self.networks[model].state_dict().items()}
        return tensors | {"losses": self.losses[model]}

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


def small(configure: Configure, *choices: str, steps: int = STEPS, network: str = NETWORK) -> TrialConfig:
    sizes = (f"train.steps={steps}", f"train.batch_size={IMAGES}", "data.scaling=standardised")
    return configure(network, *sizes, *choices)


def assigned(place: int) -> list[str]:
    """The initializers that this optimizer's models begin from."""
    return [init for init in INITS if init not in OF_BRANCHES][place :: len(RATES)]


def rate(optimizer: str, init: str, seed: int) -> float:
    return RATES[optimizer] / (1 + seed // 2) / (100 if init in SYMMETRIC else 1)


def trained_both_ways(configure: Configure, name: str, batches: str, inits: Sequence[str]) -> tuple[Fleet, Fleet]:
    fleet = Fleet(
        [
            small(
                configure,
                f"init={init}",
                f"seed={seed}",
                f"optimizer={name}",
                f"optimizer.lr={rate(name, init, seed)}",
                f"data.batches={batches}",
            )
            for seed, init in enumerate(inits)
        ]
    )
    alone = fleet.train_alone()
    fleet.stacked().run(range(STEPS))
    return fleet, alone


@pytest.mark.parametrize("place", range(len(RATES)), ids=list(RATES))
def test_a_stack_is_the_models_trained_alone(configure: Configure, place: int) -> None:
    """Every optimizer, and between them every initializer; each model has a learning rate and a seed of its own."""
    fleet, alone = trained_both_ways(
        configure, list(RATES)[place], ["fixed", "random"][place % 2], assigned(place)
    )
    print(fleet.distance(alone))
    assert_same(fleet, alone, **EXACT)
