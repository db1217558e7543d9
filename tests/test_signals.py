"""Moments and gradient gains: measured ones against plain autograd, theory against averages over many draws."""

import pytest
import torch
import torch.nn.functional as F
from conftest import Configure

from harness import initializers, models, signals
from harness.config import TrialConfig
from harness.models import Conv, Network


def network_of(config: TrialConfig, seed: int = 0) -> Network:
    network = models.build(config.model)
    initializers.apply(config.init, network, seed=seed, activation=config.model.activation)
    return network.double()


def batch(count: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    return torch.randn(count, 1, 28, 28, generator=draws).double(), torch.arange(count) % 10


def test_stations_hold_what_autograd_gives(configure: Configure) -> None:
    network, (images, labels) = network_of(configure("init=he")), batch()
    recorded = signals.record(network, images, labels)
    pool = F.max_pool2d(network.get_submodule("conv1")(images), 2).relu()
    hidden = pool.detach().requires_grad_()
    rest = list(network.children())[3:]
    assert rest[0] is network.get_submodule("conv2")
    output = rest[0](hidden)
    output.retain_grad()
    logits = output
    for module in rest[1:]:
        logits = module(logits)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    module_signals = recorded.modules["conv2"]
    assert recorded.loss == pytest.approx(float(loss.detach()), rel=1e-12)
    assert module_signals.input_moment == pytest.approx(float(hidden.detach().square().mean()), rel=1e-10)
    assert module_signals.output_moment == pytest.approx(float(output.detach().square().mean()), rel=1e-10)
    assert module_signals.output_gradient == pytest.approx(float(output.grad.square().sum()), rel=1e-10)
    assert module_signals.input_gradient == pytest.approx(float(hidden.grad.square().sum()), rel=1e-10)


def test_residual_sums_stand_after_their_branch(configure: Configure) -> None:
    network = network_of(configure("model=residual", "model.depth=1", "init=he"))
    recorded = signals.record(network, *batch())
    assert list(recorded.modules)[2:7] == [
        "block1_conv1",
        "block1_activation1",
        "block1_conv2",
        "block1",
        "activation_3",
    ]
    assert recorded.modules["block1_conv1"].input_gradient < recorded.modules["block1"].input_gradient, "skip apart"


@pytest.mark.parametrize(("size", "share"), [(28, 0.953), (14, 0.907)])
def test_zero_padding_hides_the_share_of_taps_of_the_formula(configure: Configure, size: int, share: float) -> None:
    conv = network_of(configure("init=he")).get_submodule("conv2")
    assert isinstance(conv, Conv)
    torch.nn.init.ones_(conv.weight)
    visible_share = float(signals.through_squares(conv, torch.ones(1, 32, size, size).double()).mean()) / (32 * 9)
    assert visible_share == pytest.approx(((3 * size - 2) / (3 * size)) ** 2, rel=1e-6)
    assert visible_share == pytest.approx(share, abs=5e-4)


@pytest.mark.parametrize("init", ["he_normal", "delta_orthogonal"])
@pytest.mark.parametrize("shape", ["padding_mode=zeros", "padding_mode=circular"])
def test_theory_is_the_mean_over_draws(configure: Configure, shape: str, init: str) -> None:
    """40 draws of 3 layers: measured second moments and gradient gains over theory average to 1."""
    config = configure("model=deep", "model.depth=2", "model.width=16", f"model.{shape}", f"init={init}")
    forward, backward = [], []
    for seed in range(40):
        recorded = signals.record(network_of(config, seed), *batch(4))
        module_signals = recorded.modules["conv2"]
        forward.append(module_signals.output_moment / module_signals.output_moment_theory)
        backward.append(module_signals.input_gradient / module_signals.input_gradient_theory)
    for ratios in (torch.tensor(forward), torch.tensor(backward)):
        error = float(ratios.std() / 40**0.5)
        assert error < 0.05, "else the next line could not fail"
        assert abs(float(ratios.mean()) - 1) < 4 * error + 1e-9


def test_mean_field_is_exact_for_wide_networks_on_white_noise(configure: Configure) -> None:
    """Dense layers of width 128 on N(0, 1) images: within sampling error of the prediction, layer after layer."""
    config = configure("model=mlp", "init=he_normal")
    ratios = []
    for seed in range(30):
        network, (images, labels) = network_of(config, seed), batch()
        recorded = signals.record(network, images, labels)
        predicted = signals.mean_field(network, recorded)
        ratios.append([recorded.modules[name].output_moment / predicted[name] for name in ("fc1", "fc2", "fc3")])
    mean, error = torch.tensor(ratios).mean(dim=0), torch.tensor(ratios).std(dim=0) / 30**0.5
    assert bool((error < 0.15).all())
    assert bool(((mean - 1).abs() < 4 * error).all()), mean


def test_mean_field_takes_pooling_and_branches_in(configure: Configure) -> None:
    """The largest of four N(0, 1) numbers has E max(0, M)^2 = 1.551 instead of 1/2, by 10^6 draws to three digits."""
    drawn = torch.randn(10**6, 4, generator=torch.Generator().manual_seed(0)).amax(dim=1).relu().square().mean()
    network = network_of(configure("init=he_normal"))
    recorded = signals.record(network, *batch())
    predicted = signals.mean_field(network, recorded)
    conv2 = network.parametrised()["conv2"]
    gain = float(signals.through_squares(conv2, torch.ones(1, 32, 14, 14).double()).mean())
    assert predicted["conv2"] / predicted["conv1"] / gain == pytest.approx(float(drawn), rel=0.005)
    residual = network_of(configure("model=residual", "model.depth=1", "init=he_normal", "init.branch_scale=2.0"))
    recorded = signals.record(residual, *batch())
    predicted = signals.mean_field(residual, recorded)
    summed = predicted["stem"] / 2 + 4 * predicted["block1_conv2"]
    fc = residual.parametrised()["fc"]
    assert predicted["fc"] == pytest.approx(float(fc.weight.detach().square().sum()) / 10 * summed / 2, rel=1e-6)


def test_mean_field_of_average_pooling_keeps_the_mean(configure: Configure) -> None:
    """The mean of four max(0, N(0, 1)) has second moment (1/2 - 1/2pi)/4 + 1/2pi."""
    network = network_of(configure("init=he_normal", "model.pooling=avg"))
    recorded = signals.record(network, *batch())
    predicted = signals.mean_field(network, recorded)
    gain = float(signals.through_squares(network.parametrised()["conv2"], torch.ones(1, 32, 14, 14).double()).mean())
    mean_square = 1 / (2 * torch.pi)
    expected = (0.5 - mean_square) / 4 + mean_square
    assert predicted["conv2"] / predicted["conv1"] / gain == pytest.approx(expected, rel=1e-6)


def test_recording_leaves_no_trace(configure: Configure) -> None:
    network, (images, labels) = network_of(configure()), batch()
    signals.record(network, images, labels)
    assert images.grad is None
    assert all(value.grad is None for value in network.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in network.modules())
