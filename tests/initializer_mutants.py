"""Wrong versions of initializers, and of what applies and adapts them, each with the test that has to notice it.

Shaped as ``mutants.py``. Each replaces a function by its name in a registry or a module of ``harness.initializers``.
"""

import dataclasses
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import test_initializer_laws as laws
import test_initializers as contract
import torch
from mutants import Mutant, Tools
from torch import nn

from harness import initializers, random_streams
from harness.initializers import ADAPTERS, REGISTRY, Site, adaptive, gains, random, registry, structured
from harness.models import Network


def _scaled(*, factor: float = 1.0, **options: Any) -> Any:
    """Variance scaling by other rules."""

    def wrong(shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size) -> torch.Tensor:
        given = {"gain": factor * gain, "generator": generator, "fan_shape": fan_shape}
        return random.variance_scaling(shape, **given, **options)

    return wrong


def _fans_of_the_tensor_itself(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:
    two = shape if len(shape) > 1 else torch.Size((1, *shape))
    return random.variance_scaling(shape, gain=gain, generator=generator, fan_shape=two, distribution="normal")


def _ignored_generator(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:
    del generator
    return nn.init.xavier_normal_(torch.empty(shape), gain)


def _reseeded_generator(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:
    again = torch.Generator().manual_seed(generator.initial_seed())
    return torch.randn(shape, generator=again) * 0.05 * gain


def _global_noise(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    torch.rand(1)
    return registry.standard_normal(shape, generator)


def _limit_without_root_three(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    return UNIFORM(shape, generator) / math.sqrt(3)


UNIFORM = random._uniform


def _uniform_of_its_own_draw(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    return 2 * torch.rand(shape, generator=generator) - 1


def _clipped(shape: torch.Size, generator: torch.Generator, *, low: float = -2, high: float = 2) -> torch.Tensor:
    """Moves the tails to the bounds in place of redrawing them; then to the right std."""
    cut = registry.standard_normal(shape, generator).clamp(low, high)
    return cut * (random.TRUNCATED_STD / cut.std())


def _gain_squared(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:
    return structured.orthogonal(shape, gain=gain * gain, generator=generator)


def _not_contiguous(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:
    return structured.orthogonal(shape, gain=gain, generator=generator).transpose(0, 1).contiguous().transpose(0, 1)


def _without_the_sign(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    normal = registry.standard_normal(torch.Size((rows, columns)), generator).double()
    q = torch.linalg.qr(normal if rows >= columns else normal.T)[0]
    return q if rows >= columns else q.T


def _of_a_uniform_draw(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Orthogonal, and not Haar distributed although each sign is even: rotated by a uniform angle about one axis."""
    del rows, columns
    angle = float(torch.rand((), generator=generator)) * 2 * math.pi
    signs = torch.randint(2, (3,), generator=generator) * 2.0 - 1
    turn = [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    return torch.tensor(turn, dtype=torch.float64) * signs


def _off_centre(matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    values = torch.zeros(shape)
    values[(..., *(0 for _ in shape[2:]))] = matrix.float()
    return values


def _mask_from_the_global_generator(
    shape: torch.Size, *, gain: float, generator: torch.Generator, sparsity: float = 0.9, std: float = 0.01
) -> torch.Tensor:
    matrix = (registry.standard_normal(shape, generator) * (std * gain)).flatten(1)
    order = torch.rand(matrix.shape).argsort(dim=0)
    return matrix.scatter_(0, order[: math.ceil(sparsity * len(matrix))], 0.0).reshape(shape)


def _zeros_by_chance(
    shape: torch.Size, *, gain: float, generator: torch.Generator, sparsity: float = 0.9, std: float = 0.01
) -> torch.Tensor:
    values = registry.standard_normal(shape, generator) * (std * gain)
    return values * (torch.rand(shape, generator=generator) >= sparsity)


def _hadamard_of_the_papers_factor(order: int) -> torch.Tensor:
    return HADAMARD(order) * math.sqrt(2)


HADAMARD = structured._hadamard


def _hadamard_in_the_last_layer_too(shape: torch.Size, *, gain: float, site: Site) -> torch.Tensor:
    return structured.zero_hadamard(shape, gain=gain, site=dataclasses.replace(site, layers=site.layers + 1))


def _sines_from_unit_zero(shape: torch.Size, *, gain: float, fan_shape: torch.Size) -> torch.Tensor:
    return structured.sinusoidal(shape, gain=gain, fan_shape=fan_shape).roll(1, 0)


def _growth_of_he(
    shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size, activation: str = "relu"
) -> torch.Tensor:
    del activation
    return REGISTRY["he_normal"](shape, gain=gain, generator=generator, fan_shape=fan_shape)


def _fixup_for_two_layers(
    shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size, site: Site
) -> torch.Tensor:
    """L^(-1/2) in the branches, however many layers they have."""
    values = structured.fixup(shape, gain=gain, generator=generator, fan_shape=fan_shape, site=site)
    if site.branch is None or site.branch.layers < 2:
        return values
    return values * site.branch.blocks ** (1 / (2 * site.branch.layers - 2) - 1 / 2)


def _first_layer_behind_another(network: Network) -> Iterator[Site]:
    for site in SITES(network):
        yield dataclasses.replace(site, position=site.position + 1, layers=site.layers + 1)


SITES = initializers._sites


def _fill_the_storage(tensor: torch.Tensor, name: str, site: Site, **given: Any) -> None:
    """Writes the values in the order of the memory, whatever the strides."""
    fresh = torch.empty(tensor.shape)
    FILL(fresh, name, site, **given)
    with torch.no_grad():
        torch.as_strided(tensor, (tensor.numel(),), (1,)).copy_(fresh.flatten())


FILL = initializers._fill


def _one_stream_for_all(seed: int, stream: str) -> torch.Generator:
    return random_streams.generator(seed, stream.split("/", maxsplit=1)[0])


def _lsuv(power: int, *, biases: bool) -> Any:
    def lsuv(network: Network, images: torch.Tensor, _labels: torch.Tensor, *, generator: torch.Generator) -> None:
        del generator
        for name, layer in network.parametrised().items():
            spread = adaptive._spread(adaptive._output(network, layer, images), name, "lsuv").float()
            layer.weight.data.div_(spread**power)
            if biases and layer.bias is not None:
                layer.bias.data.div_(spread**power)

    return lsuv


def _lsuv_all_at_once(
    network: Network, images: torch.Tensor, _labels: torch.Tensor, *, generator: torch.Generator
) -> None:
    """Measures every layer before it changes any."""
    del generator
    spreads = {name: adaptive._output(network, layer, images).std() for name, layer in network.parametrised().items()}
    for name, layer in network.parametrised().items():
        layer.weight.data.div_(spreads[name])


def _kraehenbuhl_shift_unscaled(
    network: Network, images: torch.Tensor, _labels: torch.Tensor, *, generator: torch.Generator
) -> None:
    """The bias loses the mean of the output before it was scaled."""
    del generator
    for layer in network.parametrised().values():
        output = adaptive._output(network, layer, images)
        over = (0, *range(2, output.ndim))
        std = output.std(dim=over, correction=0)
        layer.weight.data.div_(std.view(-1, *(1,) * (layer.weight.ndim - 1)))
        layer.bias.data.div_(std).sub_(output.mean(dim=over))


def _quotient_without_the_curvature(loss: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    return sum(((g / (g + 1e-5 * g.sign())) - 1).abs().sum() for g in gradients) / sum(p.numel() for p in parameters)


def _gradinit_upwards(network: Network, images: torch.Tensor, labels: torch.Tensor, **given: Any) -> None:
    GRADINIT(network, images, labels, **(given | {"step_size": -0.1}))


GRADINIT = adaptive.gradinit


def _half_the_line(function: Any, *, std: float = 1.0, largest_of: int = 1) -> tuple[float, float]:
    return MOMENT(lambda z: function(z) * (z > 0), std=std, largest_of=largest_of)


MOMENT = gains.gaussian_moments


def _std(name: str, shape: str = "dense 6272-128") -> Any:
    return lambda _: contract.test_contract_mean_and_std_within_four_standard_errors(name, shape)


@cache
def _call(test: Any, *arguments: Any) -> Any:
    def oracle(_: Tools) -> None:
        test(*arguments)

    return oracle


_ALONE = contract.test_contract_the_generator_alone_decides
_HAAR = laws.test_orthogonal_is_haar_distributed

INITIALIZER_MUTANTS: dict[str, Mutant] = {
    "biased std": Mutant(
        REGISTRY, "he_normal", _scaled(factor=1.02, scale=2, distribution="normal"), _std("he_normal")
    ),
    "uncorrected truncation": Mutant(
        REGISTRY, "glorot_truncated", REGISTRY["glorot_truncated_tf19"], _std("glorot_truncated", "conv 32-32")
    ),
    "fan_out for fan_in": Mutant(REGISTRY, "he_truncated", _scaled(scale=2, mode="fan_out"), _std("he_truncated")),
    "sum of fans for their mean": Mutant(
        REGISTRY,
        "glorot_normal",
        _scaled(scale=0.5, mode="fan_avg", distribution="normal"),
        _std("glorot_normal", "dense 128-10"),
    ),
    "a bias by its own fans": Mutant(
        REGISTRY,
        "lecun_normal",
        _fans_of_the_tensor_itself,
        _call(contract.test_contract_a_bias_takes_its_fans_from_the_weight, "lecun_normal"),
    ),
    "uniform limit without sqrt 3": Mutant(random, "_uniform", _limit_without_root_three, _std("he_uniform")),
    "ignored generator": Mutant(
        REGISTRY, "glorot_normal", _ignored_generator, _call(_ALONE, "glorot_normal", "dense primes")
    ),
    "global generator touched": Mutant(
        random, "standard_normal", _global_noise, _call(_ALONE, "he_uniform", "dense primes")
    ),
    "reseeded generator": Mutant(
        REGISTRY,
        "normal",
        _reseeded_generator,
        _call(contract.test_contract_a_generator_that_has_moved_on_gives_other_weights, "normal"),
    ),
    "a family of its own draw": Mutant(
        random,
        "_uniform",
        _uniform_of_its_own_draw,
        _call(contract.test_contract_families_map_one_draw, "glorot_uniform"),
    ),
    "clipped for truncated": Mutant(
        random,
        "_truncated",
        _clipped,
        _call(laws.test_truncated_families_end_at_two_sigma_of_the_parent, "he_truncated"),
    ),
    "relative bounds for absolute": Mutant(
        REGISTRY,
        "truncated_normal_absolute",
        REGISTRY["truncated_normal"],
        _call(laws.test_absolute_bounds_of_two_cut_nothing_off_a_small_std),
    ),
    "absolute bounds for relative": Mutant(
        REGISTRY,
        "truncated_normal",
        REGISTRY["truncated_normal_absolute"],
        _call(laws.test_relative_bounds_lie_at_two_std_and_nothing_is_corrected),
    ),
    "gain squared": Mutant(
        REGISTRY,
        "orthogonal",
        _gain_squared,
        _call(contract.test_contract_gain_is_a_factor, "orthogonal", "dense 128-10", 3.0),
    ),
    "transposed strides": Mutant(
        REGISTRY,
        "orthogonal",
        _not_contiguous,
        _call(contract.test_contract_a_new_finite_contiguous_float32_tensor_on_the_cpu, "orthogonal", "dense primes"),
    ),
    "orthogonal without sign(diag R)": Mutant(
        structured, "_orthogonal_matrix", _without_the_sign, _call(_HAAR, "orthogonal")
    ),
    "orthogonal about one axis": Mutant(
        structured, "_orthogonal_matrix", _of_a_uniform_draw, _call(_HAAR, "delta_orthogonal")
    ),
    "delta_orthogonal off centre": Mutant(
        structured, "_at_centre", _off_centre, _call(laws.test_delta_orthogonal_fills_the_centre_alone)
    ),
    "delta_orthogonal over all taps": Mutant(
        REGISTRY,
        "delta_orthogonal",
        REGISTRY["orthogonal"],
        _call(laws.test_delta_orthogonal_is_an_isometry_of_the_convolution, (16, 16, 3, 3)),
    ),
    "dirac off centre": Mutant(structured, "_at_centre", _off_centre, _call(laws.test_dirac_is_torchs, (7, 4, 3, 3))),
    "sparse mask from the global generator": Mutant(
        REGISTRY,
        "sparse",
        _mask_from_the_global_generator,
        _call(laws.test_sparse_places_its_zeros_by_the_generator),
    ),
    "sparse by chance": Mutant(
        REGISTRY, "sparse", _zeros_by_chance, _call(laws.test_sparse_zeros_in_each_column, "dense primes", 0.25)
    ),
    "Hadamard by the paper's factor": Mutant(
        structured,
        "_hadamard",
        _hadamard_of_the_papers_factor,
        _call(laws.test_zero_hadamard_keeps_a_norm_where_it_widens_to_a_power_of_two),
    ),
    "ZerO with a last layer": Mutant(
        REGISTRY,
        "zero_hadamard",
        _hadamard_in_the_last_layer_too,
        _call(laws.test_zero_hadamard_leaves_a_gradient_to_the_last_layer_alone),
    ),
    "sines from unit zero": Mutant(
        REGISTRY, "sinusoidal", _sines_from_unit_zero, _call(laws.test_sinusoidal_entries_by_hand)
    ),
    "random walk without its growth": Mutant(
        REGISTRY,
        "random_walk",
        _growth_of_he,
        _call(laws.test_random_walk_takes_the_drift_out_of_the_exact_expectation, 30),
    ),
    "fixup for branches of two": Mutant(
        REGISTRY,
        "fixup",
        _fixup_for_two_layers,
        _call(laws.test_fixup_shrinks_a_branch_with_depth_and_ends_it_with_zeros, 3, -1 / 4),
    ),
    "gain on the first layer": Mutant(
        initializers,
        "_sites",
        _first_layer_behind_another,
        _call(contract.test_a_named_gain_spares_the_first_layer, "torch", 5 / 3),
    ),
    "filled in the order of the memory": Mutant(
        initializers,
        "_fill",
        _fill_the_storage,
        _call(contract.test_weights_do_not_depend_on_the_memory_layout, "residual", "he_normal"),
    ),
    "one stream for all tensors": Mutant(
        initializers,
        "random_stream",
        _one_stream_for_all,
        _call(contract.test_layers_of_one_shape_get_different_weights),
    ),
    "lsuv divides by the variance": Mutant(
        ADAPTERS,
        "lsuv",
        _lsuv(2, biases=True),
        _call(laws.test_lsuv_makes_every_std_one_in_one_pass, "mlp", "zeros"),
    ),
    "lsuv forgets the biases": Mutant(
        ADAPTERS,
        "lsuv",
        _lsuv(1, biases=False),
        _call(laws.test_lsuv_makes_every_std_one_in_one_pass, "mlp", "torch_default"),
    ),
    "lsuv of all layers at once": Mutant(
        ADAPTERS,
        "lsuv",
        _lsuv_all_at_once,
        _call(laws.test_lsuv_makes_every_std_one_in_one_pass, "deep", "zeros"),
    ),
    "kraehenbuhl shifts by the unscaled mean": Mutant(
        ADAPTERS,
        "kraehenbuhl",
        _kraehenbuhl_shift_unscaled,
        _call(laws.test_kraehenbuhl_makes_every_channel_standard, "mlp", "zeros"),
    ),
    "gradient quotient without curvature": Mutant(
        adaptive,
        "_gradient_quotient",
        _quotient_without_the_curvature,
        _call(laws.test_gradient_quotient_of_a_quadratic_by_hand),
    ),
    "gradinit steps upwards": Mutant(
        ADAPTERS, "gradinit", _gradinit_upwards, _call(laws.test_gradinit_lowers_the_loss_after_one_step)
    ),
    "second moment of half the line": Mutant(
        gains,
        "gaussian_moments",
        _half_the_line,
        _call(laws.test_second_moment_is_that_of_an_adaptive_quadrature, "elu"),
    ),
}
