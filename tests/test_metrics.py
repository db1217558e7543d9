"""Loss, accuracy, ties and probes against values worked out by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import Configure

from harness import data, initializers, metrics, models, signals
from harness.config import DataConfig, TrialConfig


def test_score_is_cross_entropy_and_accuracy() -> None:
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)], [math.log(4), 0.0]])
    score = metrics.score(logits, torch.tensor([1, 0, 0]))
    assert score.loss == pytest.approx((math.log(4 / 3) + math.log(4) + math.log(5 / 4)) / 3, rel=1e-6)
    assert score.accuracy == pytest.approx(2 / 3)


def test_equal_logits_count_for_the_first_class() -> None:
    assert metrics.score(torch.zeros(4, 10), torch.tensor([0, 0, 1, 2])).accuracy == 0.5


def test_tie_lists_the_classes_at_the_top_with_the_accuracy_of_each() -> None:
    row = torch.tensor([0.0, 1.0, 1.0 - 1e-7, 0.5])
    tie = metrics.tie(row.repeat(4, 1), torch.tensor([1, 1, 2, 3]))
    assert tie == metrics.Tie(classes=[1, 2], accuracies=[0.5, 0.25])


def test_one_logit_that_differs_by_a_bit_is_no_tie() -> None:
    logits = torch.ones(4, 3)
    logits[2, 1] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    assert metrics.tie(logits, torch.tensor([0, 1, 2, 0])) is None


def probed(config: TrialConfig) -> tuple[models.Network, dict[str, metrics.TensorProbe], torch.Tensor, torch.Tensor]:
    network = models.build(config.model)
    initializers.apply(config.init, network, seed=0, activation=config.model.activation)
    digits = data.to_device(data.load(DataConfig()), config.data, torch.device("cpu"))
    images, labels = digits.train_images[:20], digits.train_labels[:20]
    initial = {name: value.detach().clone() for name, value in network.named_parameters()}
    probes = metrics.probe(network, initial, signals.record(network, images, labels))
    return network, {entry.parameter: entry for entry in probes}, images, labels


def test_probe_has_the_gradient_of_the_mean_loss_and_leaves_none_behind(configure: Configure) -> None:
    network, probes, images, labels = probed(configure("init=glorot"))
    assert all(parameter.grad is None for parameter in network.parameters())
    F.cross_entropy(network(images), labels).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        assert probes[name].gradient_norm == pytest.approx(float(parameter.grad.double().norm()), rel=1e-5)
        assert probes[name].weight_norm == pytest.approx(float(parameter.detach().double().norm()), rel=1e-5)


def test_probe_of_the_zero_kernel_finds_a_gradient_in_the_last_bias_alone(configure: Configure) -> None:
    _, probes, _, _ = probed(configure("init=zero"))
    assert {name for name, entry in probes.items() if entry.gradient_norm > 0} == {"fc2.bias"}
    assert probes["conv2.weight"].movement == "no gradient"
    assert probes["fc2.bias"].movement == "has gradient, not moved"
    assert (probes["conv2.weight"].preactivation_mean, probes["conv2.weight"].preactivation_std) == (0, 0)
    assert probes["conv2.weight"].dead_share == 1, "every unit behind the zero kernel is dead"
    assert probes["fc2.bias"].dead_share is None, "no activation function follows the last layer"


def test_blank_background_is_not_dead(configure: Configure) -> None:
    """Most outputs of conv1 are not positive, for the background is blank, yet no channel is dead."""
    network, probes, images, _ = probed(configure("init=glorot"))
    outputs = network.get_submodule("conv1")(images)
    assert float((outputs <= 0).double().mean()) > 0.8
    assert probes["conv1.weight"].dead_share == 0


@pytest.mark.parametrize("rank", [0, 1, 3, 8])
def test_rank_and_distinct_rows(rank: int) -> None:
    draws = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, rank, generator=draws) @ torch.randn(rank, 50, generator=draws)
    assert metrics.rank_and_distinct_rows(matrix, 1e-6) == (rank, 8 if rank else 1)
    doubled = torch.cat([matrix, matrix])
    assert metrics.rank_and_distinct_rows(doubled, 1e-6) == (rank, 8 if rank else 1)


def test_rank_does_not_hang_on_the_size_of_the_numbers() -> None:
    matrix = torch.eye(5).double()
    kept = matrix.clone()
    assert metrics.rank_and_distinct_rows(matrix * 1e-30, 1e-6) == (5, 5)
    assert metrics.rank_and_distinct_rows(matrix, 1e-6) == (5, 5)
    assert torch.equal(matrix, kept), "it looks, and changes nothing"
    assert metrics.rank_and_distinct_rows(matrix * torch.nan, 1e-6) == (None, None)


def test_preactivations_are_those_before_the_activation(configure: Configure) -> None:
    network, probes, images, _ = probed(configure("init=glorot", "data.scaling=unit"))
    outputs = network.get_submodule("conv1")(images).detach()
    assert probes["conv1.weight"].preactivation_mean == pytest.approx(float(outputs.mean()), rel=1e-4)
    assert probes["conv1.bias"].preactivation_std == pytest.approx(float(outputs.std(correction=0)), rel=1e-4)


def test_updates_are_measured_from_the_initial_value(configure: Configure) -> None:
    network, _, images, labels = probed(configure("init=glorot"))
    initial = {name: value.detach().clone() for name, value in network.named_parameters()}
    with torch.no_grad():
        network.get_parameter("fc2.bias")[3] += 0.5
    probes = {
        entry.parameter: entry for entry in metrics.probe(network, initial, signals.record(network, images, labels))
    }
    assert (probes["fc2.bias"].update_norm, probes["fc2.bias"].update_max_abs) == (0.5, 0.5)
    assert (probes["fc2.bias"].bit_equal, probes["fc2.weight"].bit_equal) == (False, True)


@pytest.mark.parametrize(
    ("gradient_norm", "bit_equal", "expected"),
    [
        (0.0, True, "no gradient"),
        (1.0, True, "has gradient, not moved"),
        (0.0, False, "moved"),
        (1.0, False, "moved"),
        (math.nan, False, "not finite"),
        (math.inf, True, "not finite"),
    ],
)
def test_movement(*, gradient_norm: float, bit_equal: bool, expected: str) -> None:
    assert metrics.movement(gradient_norm=gradient_norm, bit_equal=bit_equal) == expected


def test_weights_hash_sees_one_bit_and_one_name() -> None:
    weights = {"a": torch.tensor([1.0, 2.0])}
    plain = metrics.weights_sha256(weights)
    assert plain == metrics.weights_sha256({"a": torch.tensor([1.0, 2.0])})
    assert plain != metrics.weights_sha256({"b": weights["a"]})
    assert plain != metrics.weights_sha256({"a": torch.nextafter(weights["a"], torch.tensor(9.0))})
    assert metrics.weights_sha256({"a": torch.tensor([-0.0])}) != metrics.weights_sha256({"a": torch.tensor([0.0])})
