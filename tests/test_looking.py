"""Looking at a network changes neither the network nor what it draws while it trains."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from harness import kernel_check, looking, metrics, timing
from harness.backends import Kernel
from harness.config import OptimizerConfig, TrainConfig
from harness.engine.eager import Eager
from harness.models import Network
from harness.random_streams import generator
from harness.train import Batch, optimizer_for, train

IMAGES = torch.rand(8, 1, 28, 28, generator=generator(0, "images"))
LABELS = torch.arange(8) % 10


class Averaging(nn.Module):
    """Subtracts a running mean; at each pass it assigns a new tensor to its buffer, and it caches a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))
        self.ones: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.ones = torch.ones(10) if self.ones is None else self.ones
        return (x - self.mean) * self.ones


def network() -> nn.Sequential:
    """A network with running statistics and dropout."""
    made = nn.Sequential(
        nn.Flatten(), nn.Linear(784, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 10)
    )
    with torch.no_grad():
        for index, value in enumerate(made.parameters()):
            value.copy_(torch.randn(value.shape, generator=generator(index, "weights")) * 0.1)
    return made


def final(*, eval_every: int, look: Callable[[nn.Module], object]) -> dict[str, torch.Tensor]:
    """Train for six steps, looking at the network each ``eval_every``; the end state, buffers included."""
    model, losses = network(), torch.zeros(6)
    config = TrainConfig(steps=6, batch_size=8, eval_every=eval_every, window_steps=2)

    def batch(_: int) -> Batch:
        return IMAGES, LABELS

    looking.seed(5)
    for _ in train(Eager(model, optimizer_for(model, OptimizerConfig(lr=0.1)), batch, losses), config):
        look(model)
    return model.state_dict()


def draws_and_evaluates(model: nn.Module) -> None:
    torch.rand(3)
    metrics.logits_of(model, IMAGES)


def test_equal_seeds_train_to_equal_bits_however_often_one_looks() -> None:
    ends = [
        final(eval_every=eval_every, look=look)
        for eval_every, look in ((1, draws_and_evaluates), (6, draws_and_evaluates), (6, lambda _: None))
    ]
    assert all(torch.equal(ends[0][name], end[name]) for end in ends for name in ends[0])
    assert int(ends[0]["2.num_batches_tracked"]) == 6


def test_buffers_that_a_module_assigns_anew_are_put_back() -> None:
    model = nn.Sequential(network(), Averaging())
    model(IMAGES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with looking.undisturbed(model):
        model(IMAGES)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_what_a_module_caches_while_it_is_looked_at_can_be_trained_with() -> None:
    model = nn.Sequential(network(), Averaging())
    metrics.logits_of(model, IMAGES)
    model(IMAGES).sum().backward()


def test_evaluation_drops_nothing_and_gives_every_module_its_mode_back() -> None:
    model = network()
    model[2].eval()
    first, second = metrics.logits_of(model, IMAGES), metrics.logits_of(model, IMAGES[:1])
    # of one image alone the batch's own statistics would be others
    torch.testing.assert_close(first[:1], second)
    assert [module.training for module in model] == [True, True, False, True, True, True]


def test_warming_up_moves_no_shared_generator() -> None:
    model = network()
    before = torch.get_rng_state()
    timing.warm_up(model, lambda copy: copy(IMAGES))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_look_draws_the_same_masks_each_time_and_leaves_buffers_as_they_were() -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen = []
    for _ in range(2):
        with looking.undisturbed(model):
            seen.append(model(IMAGES))
        torch.rand(1)
    assert torch.equal(seen[0], seen[1])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_shapes_for_the_kernels_check_are_taken_from_one_image() -> None:
    model = Network(*network())
    assert kernel_check.largest_error(model, Kernel(conv2d=pytest.fail), IMAGES, precision="ieee", seed=0) == 0
    assert int(model.state_dict()["2.num_batches_tracked"]) == 0
