"""Steps of training through the kernels: what must not move does not, and every run ends at the same bits."""

import copy

import pytest
import torch
from oracle import DEVICE, random_inputs, whole_inputs

from harness import fusion, kernel_check, models, own_models
from harness.backends import KERNELS, Kernel
from harness.config import LayerConfig, ModelConfig, OptimizerConfig
from harness.engine.eager import Eager
from harness.engine.stacked import StackedTraining, stacked_batches
from harness.models import Network, register
from harness.train import batch_source, optimizer_for
from kernels import conv2d, conv2d_pool_relu, conv2d_relu

STEPS, RATE = 3, 0.5


def train(inputs: list[torch.Tensor], *, precision: str = "ieee", layout=torch.contiguous_format) -> list[torch.Tensor]:
    """The parameters after a few steps of three convolutions, the first pooled, and a sum with a bias of its own."""
    images, *parameters = (t.contiguous(memory_format=layout) if t.dim() == 4 else t for t in inputs)
    leaves = [t.clone(memory_format=torch.preserve_format).requires_grad_() for t in parameters]
    settings = {"padding": 1, "precision": precision}
    for _ in range(STEPS):
        first, second, third, last = leaves[:2], leaves[2:4], leaves[4:6], leaves[6]
        y = conv2d_relu(conv2d_pool_relu(images, *first, **settings), *second, **settings)
        loss = (conv2d(y, *third, **settings).mean((1, 2, 3)) + last - 3).square().mean()
        gradients = torch.autograd.grad(loss, leaves)
        leaves = [(leaf - RATE * step).detach().requires_grad_() for leaf, step in zip(leaves, gradients, strict=True)]
    return [leaf.detach() for leaf in leaves]


def network(*, zeroed: bool) -> list[torch.Tensor]:
    """Images, weight and bias of each convolution, the last bias; the second convolution is zero if asked."""
    images, first, _ = random_inputs((3, 1, 8, 6), (4, 1, 3, 3))
    (_, second, _), (_, third, bias) = (random_inputs((1, 1, 1, 1), (4, 4, 3, 3), seed=seed) for seed in (1, 2))
    zeros = torch.zeros_like(bias)
    return [images, first, zeros, second * (not zeroed), zeros, third, zeros, bias[:1]]


LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


@pytest.mark.parametrize("precision", ["ieee", "tf32", "tf32x3"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_behind_a_fused_zero_kernel_nothing_moves_a_bit(layout: str, precision: str) -> None:
    """But for the third convolution's bias and the last one, which see no zero in front of them."""
    before = network(zeroed=True)
    after = train(before, precision=precision, layout=LAYOUTS[layout])
    same = [torch.equal(one, other) for one, other in zip(before[1:], after, strict=True)]
    assert same == [True, True, True, True, True, False, False]


def test_without_the_zero_kernel_everything_moves() -> None:
    """Else the test above could not fail."""
    before = network(zeroed=False)
    assert not any(torch.equal(one, other) for one, other in zip(before[1:], train(before), strict=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_ends_at_the_same_bits(layout: str) -> None:
    first, *others = (train(network(zeroed=False), layout=LAYOUTS[layout]) for _ in range(3))
    for again in others:
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize("function", [conv2d, conv2d_relu, conv2d_pool_relu], ids=lambda function: function.__name__)
def test_every_layout_gives_the_same_whole_numbers(function) -> None:
    x, weight, bias = whole_inputs((2, 5, 7, 6), (6, 5, 3, 3))
    outputs = [function(x.contiguous(memory_format=one), weight, bias) for one in LAYOUTS.values()]
    assert torch.equal(*outputs)


class Std(torch.nn.Conv2d):
    """A convolution of the user's own class, which the kernel must leave alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


@register("kernel_test")
def own() -> torch.nn.Module:
    """Convolutions of many kinds, in a network of the user's own."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, stride=(4, 5), padding=(1, 0)),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(4, 4, 3, padding=1, groups=2, padding_mode="circular"),
        Std(4, 4, 3),
        torch.nn.Conv2d(4, 2, 3, dilation=2, padding="same", bias=False),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(10),
    )


def test_the_plain_convolutions_of_a_network_of_ones_own_are_computed_by_the_kernel() -> None:
    network = own_models.build(ModelConfig(function="kernel_test"), seed=0).to(DEVICE)
    images = torch.rand(2, 1, 28, 28, device=DEVICE)
    shapes: list[torch.Size] = []

    def counted(*inputs: torch.Tensor, **settings: object) -> torch.Tensor:
        shapes.append(inputs[0].shape)
        return conv2d(*inputs, **settings)

    kernel = Kernel(counted)
    assert 0 < kernel_check.largest_error(network, kernel, images, precision="ieee", seed=0) < 1e-5
    shapes.clear()
    gradients = [
        torch.autograd.grad(each(images).square().sum(), list(network.parameters()))
        for each in (fusion.Trained(network, kernel), network)
    ]
    assert [shape[1] for shape in shapes] == [1, 4, 4]
    assert network.by_torch() == ["3"]
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-4, atol=1e-5)


CONV = {"type": "conv", "out": 4, "kernel": 3}
LAYERS = [
    LayerConfig(**CONV, name="conv1", stride=7),
    LayerConfig(),
    LayerConfig(type="pool", size=2),
    LayerConfig(**CONV, name="conv2"),
    LayerConfig(type="dense", name="fc", out=10),
]
OPTIMIZERS = [OptimizerConfig("momentum", lr=0.1, momentum=momentum) for momentum in (0.5, 0.9)]


def filled_networks() -> list[Network]:
    networks = []
    for seed in range(len(OPTIMIZERS)):
        torch.manual_seed(seed)
        networks.append(models.build(ModelConfig(layers=LAYERS)))
        for parameter in networks[-1].parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        networks[-1].to(DEVICE).to(memory_format=torch.channels_last)
    return networks


def parameters_of(networks: list[Network]) -> torch.Tensor:
    return torch.cat([value.detach().flatten() for network in networks for value in network.parameters()])


def test_a_stack_strays_from_its_models_no_further_than_another_order_of_summation() -> None:
    """Measured on models trained alone whose batches hold the same images in another order.

    One convolution is fused with pooling and relu, the other with nothing.
    """
    torch.manual_seed(0)
    images, labels, steps = torch.rand(4, 1, 28, 28).to(DEVICE), torch.arange(4, device=DEVICE), 2
    indices = [torch.tensor([batch] * steps, device=DEVICE) for batch in ([0, 1, 2], [1, 2, 3])]
    kernel, networks = KERNELS["triton_fused"].build("ieee"), filled_networks()

    def trained_alone(order: list[int]) -> torch.Tensor:
        copies = copy.deepcopy(networks)
        for network, config, chosen in zip(copies, OPTIMIZERS, indices, strict=True):
            source = batch_source(images, labels, chosen[:, order], 3)
            optimizer = optimizer_for(network, config)
            engine = Eager(fusion.Trained(network, kernel), optimizer, source, torch.empty(steps, device=DEVICE))
            engine.run(range(steps))
        return parameters_of(copies)

    alone, reordered = trained_alone([0, 1, 2]), trained_alone([2, 0, 1])
    losses, start = torch.empty(2, steps, device=DEVICE), parameters_of(networks)
    source = stacked_batches(images, labels, indices, 3)
    StackedTraining(networks, kernel, OPTIMIZERS, source, steps, losses, together=True).run(range(steps))
    growth = (reordered - alone).abs().max()
    assert (alone - start).abs().max() > 100 * growth > 0
    assert (parameters_of(networks) - alone).abs().max() < 4 * growth
    assert bool(losses.isfinite().all())
