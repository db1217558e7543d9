"""Each initializer's own law: golden values of torch, formulas of the papers, and what adapting must achieve.

The contract that all share is in ``test_initializers.py``.
"""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate, special, stats
from test_initializers import MODELS, NARROW, SHAPES, applied, built, draw, loaded

import harness
from harness import initializers, metrics, models
from harness.activations import ACTIVATIONS
from harness.errors import UsageError
from harness.initializers import Branch, Site, adaptive, gains
from harness.models import Network, Residual
from harness.random_streams import generator

CORRECTION = 0.87962566103423978
NARROW_MLP = (
    "model.layers=[{type:dense,name:fc1,out:16},{type:activation},{type:dense,name:fc2,out:16},{type:activation},"
    "{type:dense,name:fc3,out:10}]"
)


def images(count: int = 16, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard normal images and labels of every class."""
    return torch.randn(count, 1, 28, 28, generator=generator(seed, "images")), torch.arange(count) % 10


def network_of(*overrides: str, seed: int = 0) -> Network:
    """Filled as drawn, not adapted."""
    spec, network, activation = built(*overrides)
    initializers.apply(spec, network, seed=seed, activation=activation)
    return network


def adapted(network: Network, *overrides: str, seed: int = 0) -> Network:
    initializers.adapt(loaded(*overrides).init, network, *images(), seed=seed)
    return network


def outputs(network: Network, x_NCHW: torch.Tensor) -> dict[str, torch.Tensor]:
    """What each layer with a weight gives, before its activation, in float64."""
    caught: dict[str, torch.Tensor] = {}
    hooks = [
        layer.register_forward_hook(lambda _l, _i, output, name=name: caught.update({name: output.detach().double()}))
        for name, layer in network.parametrised().items()
    ]
    network(x_NCHW)
    for hook in hooks:
        hook.remove()
    return caught


def at(*, last: bool = False, branch: Branch | None = None, shape: tuple[int, ...] = (32, 32, 3, 3)) -> Site:
    return Site("layer", "weight", 2 if last else 1, 3, torch.Size(shape), branch)


def same_distribution(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool(stats.ks_2samp(ours.flatten().numpy(), theirs.flatten().numpy()).pvalue > 1e-3)


# torch's own


NORMALS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "glorot_normal": lambda w, g: torch.nn.init.xavier_normal_(w, generator=g),
    "he_normal": lambda w, g: torch.nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g),
    "lecun_normal": lambda w, g: torch.nn.init.kaiming_normal_(w, nonlinearity="linear", generator=g),
    "normal": lambda w, g: torch.nn.init.normal_(w, std=0.05, generator=g),
}
UNIFORMS: dict[str, Callable[[torch.Tensor, torch.Generator], torch.Tensor]] = {
    "glorot_uniform": lambda w, g: torch.nn.init.xavier_uniform_(w, generator=g),
    "he_uniform": lambda w, g: torch.nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g),
    "lecun_uniform": lambda w, g: torch.nn.init.kaiming_uniform_(w, nonlinearity="linear", generator=g),
    "torch_default": lambda w, g: torch.nn.init.kaiming_uniform_(w, a=math.sqrt(5), generator=g),
    "uniform": lambda w, g: torch.nn.init.uniform_(w, -0.05, 0.05, generator=g),
}


@pytest.mark.parametrize("shape", ["conv 32-16 narrows", "dense primes"])
@pytest.mark.parametrize("name", NORMALS)
def test_normal_families_are_torchs_from_the_same_draw(name: str, shape: str) -> None:
    theirs = NORMALS[name](torch.empty(SHAPES[shape]), generator(0, "x"))
    torch.testing.assert_close(draw(name, shape), theirs)


@pytest.mark.parametrize("shape", ["conv 32-16 narrows", "dense primes"])
@pytest.mark.parametrize("name", UNIFORMS)
def test_uniform_families_have_torchs_distribution_and_bounds(name: str, shape: str) -> None:
    theirs = UNIFORMS[name](torch.empty(SHAPES[shape]), generator(1, "x"))
    ours = draw(name, shape)
    assert same_distribution(ours, theirs)
    assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.01)


@pytest.mark.parametrize("layer", [torch.nn.Linear(200, 300), torch.nn.Conv2d(13, 300, 3)], ids=["dense", "conv"])
def test_torch_default_fills_as_torchs_own_layers(layer: torch.nn.Linear | torch.nn.Conv2d) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer.reset_parameters()
    shape = tuple(layer.weight.shape)
    assert layer.bias is not None
    assert same_distribution(draw("torch_default", shape), layer.weight.detach())
    assert same_distribution(draw("torch_default", (300,), fan_shape=shape), layer.bias.detach())


@pytest.mark.parametrize("shape", [(7, 4, 3, 3), (4, 7, 3, 3), (5, 5, 1, 1), (6, 5, 5, 3)])
def test_dirac_is_torchs(shape: tuple[int, ...]) -> None:
    assert torch.equal(draw("dirac", shape), torch.nn.init.dirac_(torch.empty(shape)))


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5)])
def test_dirac_of_a_dense_weight_is_torchs_eye(shape: tuple[int, int]) -> None:
    assert torch.equal(draw("dirac", shape), torch.nn.init.eye_(torch.empty(shape)))


def test_dirac_passes_an_image_through() -> None:
    x_NCHW = images()[0][:2].expand(-1, 5, -1, -1)
    assert torch.equal(F.conv2d(x_NCHW, draw("dirac", (5, 5, 3, 3)), padding=1), x_NCHW)


@pytest.mark.parametrize("shape", [(8, 8), (5, 18), (18, 5), (4, 3, 3, 3), (30, 3, 3, 3)])
def test_orthogonal_is_torchs_from_the_same_draw(shape: tuple[int, ...]) -> None:
    theirs = torch.nn.init.orthogonal_(torch.empty(shape), gain=1.5, generator=generator(0, "x"))
    torch.testing.assert_close(draw("orthogonal", shape, gain=1.5), theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("std", [0.05, 1.0, 3.0])
def test_absolute_bounds_are_torchs(std: float) -> None:
    theirs = torch.nn.init.trunc_normal_(torch.empty(100, 100), std=std, a=-2.0, b=2.0, generator=generator(1, "x"))
    ours = draw("truncated_normal_absolute", (100, 100), std=std)
    assert same_distribution(ours, theirs)
    assert float(ours.abs().max()) == pytest.approx(float(theirs.abs().max()), rel=0.2)


def test_absolute_bounds_need_not_be_symmetric() -> None:
    theirs = torch.nn.init.trunc_normal_(torch.empty(100, 100), std=1.0, a=-0.5, b=2.0, generator=generator(1, "x"))
    ours = draw("truncated_normal_absolute", (100, 100), std=1.0, low=-0.5)
    assert same_distribution(ours, theirs)
    assert -0.5 <= float(ours.min()) < -0.49


def test_absolute_bounds_of_two_cut_nothing_off_a_small_std() -> None:
    """The trap: it is the plain normal distribution."""
    torch.testing.assert_close(draw("truncated_normal_absolute"), draw("normal"), rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(("std", "low", "high"), [(0, -2, 2), (-1, -2, 2), (1, 2, 2), (1, 2, -2), (0.05, 1, 2)])
def test_absolute_bounds_that_hold_nothing_are_refused(std: float, low: float, high: float) -> None:
    with pytest.raises(ValueError, match=rf"truncated_normal_absolute: std={std}, low={low}, high={high}"):
        draw("truncated_normal_absolute", std=std, low=low, high=high)


# cut distributions


@pytest.mark.parametrize("name", ["glorot_truncated", "he_truncated", "lecun_truncated", "variance_scaling"])
def test_truncated_families_end_at_two_sigma_of_the_parent(name: str) -> None:
    """2 / .87963 = 2.2737 std, and 800,000 draws come near."""
    values = draw(name, "dense 6272-128").double()
    std = math.sqrt({"glorot": 2 / 6400, "he": 2 / 6272}.get(name.split("_", maxsplit=1)[0], 1 / 6272))
    assert 2.2730 * std < float(values.abs().max()) <= 2.27371 * std
    assert stats.kstest((values / std * CORRECTION).flatten().numpy(), stats.truncnorm(-2, 2).cdf).pvalue > 1e-3


def test_relative_bounds_lie_at_two_std_and_nothing_is_corrected() -> None:
    values = draw("truncated_normal", "dense 6272-128", std=3.0).double()
    assert 5.99 < float(values.abs().max()) <= 6.0
    assert float(values.std()) == pytest.approx(3 * CORRECTION, rel=3e-3)


def test_the_correction_is_the_std_of_a_normal_cut_at_two() -> None:
    assert math.isclose(initializers.random.TRUNCATED_STD, float(stats.truncnorm(-2, 2).std()), rel_tol=1e-12)


def test_glorot_tf19_is_glorot_times_the_missing_correction() -> None:
    torch.testing.assert_close(draw("glorot_truncated_tf19"), CORRECTION * draw("glorot_truncated"))


@pytest.mark.parametrize("bias", ["true", "false"])
def test_logits_scale_with_the_sixth_power_of_the_missing_correction(bias: str) -> None:
    """On a relu net without biases (or with zero ones) six layers scaled by .8796 scale the logits by .46322."""
    x_NCHW = images(4)[0]
    ours, theirs = (
        network_of(f"model.bias={bias}", f"init.weight={name}")(x_NCHW)
        for name in ("glorot_truncated_tf19", "glorot_truncated")
    )
    assert pytest.approx(0.46322, abs=5e-6) == CORRECTION**6
    torch.testing.assert_close(ours, CORRECTION**6 * theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("mode", "fan"), [("fan_in", 288), ("fan_out", 144), ("fan_avg", 216)])
@pytest.mark.parametrize(("distribution", "kurtosis"), [("truncated", 2.36554), ("normal", 3.0), ("uniform", 1.8)])
def test_variance_scaling_by_every_fan_and_distribution(
    mode: str, fan: int, distribution: str, kurtosis: float
) -> None:
    values = draw("variance_scaling", "conv 32-16 narrows", scale=3.0, mode=mode, distribution=distribution).double()
    error = math.sqrt((kurtosis - 1) / (4 * values.numel()))
    assert float(values.std()) == pytest.approx(math.sqrt(3 / fan), rel=4 * error)
    assert float((values**4).mean() / (values**2).mean() ** 2) == pytest.approx(kurtosis, rel=0.12)


def test_variance_scaling_contains_the_families() -> None:
    assert torch.equal(draw("variance_scaling", scale=2.0, distribution="normal"), draw("he_normal"))
    assert torch.equal(draw("variance_scaling", mode="fan_avg"), draw("glorot_truncated"))


# orthogonal and isometric


@pytest.mark.parametrize("shape", SHAPES)
def test_orthogonal_has_the_gram_matrix_gain_squared(shape: str) -> None:
    matrix = draw("orthogonal", shape, gain=1.3).flatten(1).double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    torch.testing.assert_close(gram, 1.69 * torch.eye(len(gram), dtype=torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["orthogonal", "delta_orthogonal"])
def test_orthogonal_is_haar_distributed(name: str) -> None:
    """Both determinants and both signs of each diagonal entry are equally likely; without sign(diag R) they are not."""
    count = 400
    drawn = torch.stack([draw(name, (3, 3), seed=seed) for seed in range(count)]).double()
    four_errors = 4 * math.sqrt(count / 4)
    assert abs(int((torch.linalg.det(drawn) > 0).sum()) - count / 2) < four_errors
    for entry in range(3):
        assert abs(int((drawn[:, entry, entry] > 0).sum()) - count / 2) < four_errors
    # one entry of a Haar matrix in three dimensions is uniform on [-1, 1]
    assert stats.kstest(drawn[:, 0, 0].numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


def convolution_singular_values(weight_KCRS: torch.Tensor, size: int = 8) -> torch.Tensor:
    """Of the circular convolution: those of the transformed kernel at each frequency (Sedghi et al. 2019)."""
    at_frequency = torch.fft.fft2(weight_KCRS.double(), s=(size, size)).permute(2, 3, 0, 1)
    return torch.linalg.svdvals(at_frequency).flatten()


def norm_ratios(weight_KCRS: torch.Tensor) -> torch.Tensor:
    """|conv(x)| / |x| of ten random images, circular padding."""
    x_NCHW = torch.randn(10, weight_KCRS.shape[1], 9, 9, generator=generator(0, "images"), dtype=torch.float64)
    out = F.conv2d(F.pad(x_NCHW, (1, 1, 1, 1), mode="circular"), weight_KCRS.double())
    return out.flatten(1).norm(dim=1) / x_NCHW.flatten(1).norm(dim=1)


@pytest.mark.parametrize("shape", [(16, 16, 3, 3), (16, 5, 3, 3)], ids=["square", "widens"])
def test_delta_orthogonal_is_an_isometry_of_the_convolution(shape: tuple[int, ...]) -> None:
    weight = draw("delta_orthogonal", shape, gain=0.7)
    torch.testing.assert_close(norm_ratios(weight), torch.full((10,), 0.7, dtype=torch.float64), rtol=0, atol=1e-5)
    values = convolution_singular_values(weight)
    torch.testing.assert_close(values, torch.full_like(values, 0.7), rtol=0, atol=1e-5)


def test_delta_orthogonal_keeps_a_gradients_norm_where_it_narrows() -> None:
    weight = draw("delta_orthogonal", (5, 16, 3, 3))
    backwards = weight.transpose(0, 1).flip(2, 3)
    torch.testing.assert_close(norm_ratios(backwards), torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-5)


def test_delta_orthogonal_fills_the_centre_alone() -> None:
    """With zero padding too it is then an isometry: an off-centre tap would drop an edge."""
    weight = draw("delta_orthogonal", (6, 6, 5, 3))
    rest = weight.clone()
    rest[:, :, 2, 1] = 0
    assert not rest.any()
    torch.testing.assert_close(weight[:, :, 2, 1] @ weight[:, :, 2, 1].T, torch.eye(6), rtol=0, atol=1e-5)


def test_orthogonal_is_no_isometry_of_the_convolution() -> None:
    """The trap of the flattened kernel: at 16 channels singular values reach from about .01 to about 1.9."""
    weight = draw("orthogonal", (16, 16, 3, 3))
    values = convolution_singular_values(weight)
    assert float(values.min()) < 0.05
    assert float(values.max()) > 1.7
    assert float((norm_ratios(weight) - 1).abs().max()) > 0.01


# random walk


def expected_log_growth(width: int, gain: float) -> float:
    """E log(|h'|/|h|) of one relu layer of N(0, g^2/N) weights: chi^2 with a binomial number of degrees of freedom."""
    active = range(1, width + 1)
    share = stats.binom(width, 0.5).pmf(list(active)) / (1 - 0.5**width)
    mean_log = sum(p * (special.digamma(k / 2) + math.log(2)) for p, k in zip(share, active, strict=True))
    return (math.log(gain**2 / width) + mean_log) / 2


def growth_of(width: int, activation: str) -> float:
    """The factor g, by the ratio to the plain normal weights of the same draw."""
    shape = (width, width)
    ratio = draw("random_walk", shape, activation=activation) / draw("normal", shape, std=1.0)
    return float(ratio.double().median()) * math.sqrt(width)


@pytest.mark.parametrize(("width", "growth"), [(6, 1.973694), (10, 1.656105), (100, 1.431709), (288, 1.420169)])
def test_random_walk_growth_behind_relu(width: int, growth: float) -> None:
    """G = sqrt(2) exp(1.2 / (max(N, 6) - 2.4)), worked out by hand."""
    assert growth_of(width, "relu") == pytest.approx(growth, rel=1e-5)


@pytest.mark.parametrize(("width", "growth"), [(3, 1.181360), (10, 1.051271), (100, 1.005013)])
def test_random_walk_growth_of_a_linear_net(width: int, growth: float) -> None:
    assert growth_of(width, "linear") == pytest.approx(growth, rel=1e-5)


def test_random_walk_growth_behind_relu_stops_at_six_units() -> None:
    assert growth_of(3, "relu") == pytest.approx(growth_of(6, "relu"), rel=1e-5)


@pytest.mark.parametrize("width", [10, 30, 100, 300])
def test_random_walk_takes_the_drift_out_of_the_exact_expectation(width: int) -> None:
    """What he leaves of drift in each layer, 1.25/N, falls by nine tenths and more."""
    left = abs(expected_log_growth(width, growth_of(width, "relu")))
    assert left < 0.15 * abs(expected_log_growth(width, math.sqrt(2)))


def log_walk(name: str, seed: int, *, width: int = 100, depth: int = 50) -> float:
    """log(|h_depth| / |h_0|) in a relu chain."""
    x = torch.ones(width)
    for layer in range(depth):
        x = F.relu(draw(name, (width, width), seed=1000 * seed + layer) @ x)
    return math.log(float(x.norm())) - math.log(width) / 2


def test_random_walk_does_not_drift_over_fifty_layers() -> None:
    """Over 80 seeds the mean log norm is 0 within 3 standard errors (.08 each); he's, of the same draws, is not."""
    walks = torch.tensor([[log_walk(name, seed) for name in ("random_walk", "he_normal")] for seed in range(80)])
    mean, error = walks.mean(dim=0), walks.std(dim=0) / math.sqrt(80)
    assert 0.05 < float(error[0]) < 0.11
    assert abs(float(mean[0])) < 3 * float(error[0])
    assert float(mean[1]) < -3 * float(error[1])


def test_random_walk_knows_two_activations() -> None:
    with pytest.raises(ValueError, match="random_walk: activation=tanh; give one of: relu, linear"):
        draw("random_walk", activation="tanh")


# sparse, Hadamard, sinusoidal, constant


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.9, 1.0])
@pytest.mark.parametrize("shape", ["conv 16-32 widens", "dense primes"])
def test_sparse_zeros_in_each_column(shape: str, sparsity: float) -> None:
    matrix = draw("sparse", shape, sparsity=sparsity).flatten(1)
    assert (matrix == 0).sum(dim=0).unique().tolist() == [math.ceil(sparsity * len(matrix))]


def test_sparse_has_as_many_zeros_and_the_values_of_torchs() -> None:
    with torch.random.fork_rng():
        theirs = torch.nn.init.sparse_(torch.empty(200, 300), 0.9, std=0.01)
    ours = draw("sparse", (200, 300))
    assert torch.equal((ours == 0).sum(dim=0), (theirs == 0).sum(dim=0))
    assert same_distribution(ours[ours != 0], theirs[theirs != 0])


def test_sparse_places_its_zeros_by_the_generator() -> None:
    """torch.nn.init.sparse_ takes them from the global one whatever it is given."""
    masks = []
    for seed, noise in ((0, 1), (0, 2), (1, 2)):
        with torch.random.fork_rng():
            torch.manual_seed(noise)
            masks.append(draw("sparse", (50, 60), seed=seed) == 0)
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[1], masks[2])


def test_sparse_places_its_zeros_evenly() -> None:
    """Each row has its share: 60 of 600 columns, std 7.3."""
    kept = (draw("sparse", (10, 600)) != 0).sum(dim=1)
    assert float((kept - 60).abs().max()) < 4 * math.sqrt(600 * 0.1 * 0.9)


@pytest.mark.parametrize("sparsity", [-0.1, 1.1])
def test_sparse_refuses_an_impossible_share(sparsity: float) -> None:
    with pytest.raises(ValueError, match=f"sparsity={sparsity}; give a share from 0 to 1"):
        draw("sparse", sparsity=sparsity)


@pytest.mark.parametrize(("rows", "columns"), [(32, 1), (32, 16), (31, 23), (33, 20), (2, 1), (128, 127)])
def test_zero_hadamard_is_scipys_hadamard_where_it_widens(rows: int, columns: int) -> None:
    from scipy.linalg import hadamard

    size = 2 ** math.ceil(math.log2(rows))
    theirs = torch.tensor(hadamard(size)[:rows, :columns] / math.sqrt(size), dtype=torch.float32)
    torch.testing.assert_close(draw("zero_hadamard", (rows, columns)), theirs)


def test_zero_hadamard_keeps_a_norm_where_it_widens_to_a_power_of_two() -> None:
    matrix = draw("zero_hadamard", (32, 20), gain=2.0).double()
    torch.testing.assert_close(matrix.T @ matrix, 4 * torch.eye(20, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(5, 9), (9, 9), (5, 9, 3, 3), (9, 9, 3, 3)])
def test_zero_hadamard_is_dirac_where_it_does_not_widen(shape: tuple[int, ...]) -> None:
    assert torch.equal(draw("zero_hadamard", shape), draw("dirac", shape))


def test_zero_hadamard_fills_the_centre_of_a_convolution() -> None:
    weight = draw("zero_hadamard", (32, 16, 3, 3))
    assert torch.equal(weight[:, :, 1, 1], draw("zero_hadamard", (32, 16)))
    assert int((weight != 0).sum()) == 32 * 16


def test_zero_hadamard_starts_with_identical_channels_and_a_zero_last_layer() -> None:
    filled = applied("init=zero_hadamard")
    assert filled["conv1.weight"].unique(dim=0).shape[0] == 1
    assert float(filled["conv1.weight"][0, 0, 1, 1]) == pytest.approx(2**-2.5)
    assert not filled["fc2.weight"].any()
    assert metrics.weights_sha256(filled) == metrics.weights_sha256(applied("init=zero_hadamard", seed=1))


def test_zero_hadamard_leaves_a_gradient_to_the_last_layer_alone() -> None:
    network = network_of("init=zero_hadamard")
    x_NCHW, labels = images(8)
    F.cross_entropy(network(x_NCHW), labels).backward()
    moving = [name for name, value in network.tensors().items() if value.grad is not None and bool(value.grad.any())]
    assert moving == ["fc2.weight", "fc2.bias"]


def test_sinusoidal_entries_by_hand() -> None:
    """Three units of four inputs; a^2 = 2/7 by the mean square of the sines."""
    sines = [[math.sin(2 * math.pi * (i * j / 4 + i / 3)) for j in range(1, 5)] for i in range(1, 4)]
    expected = torch.tensor(sines) * math.sqrt(2 / 7 * 12 / sum(s * s for row in sines for s in row))
    torch.testing.assert_close(draw("sinusoidal", (3, 4)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape != "dense 6272-128"])
def test_sinusoidal_has_glorots_mean_square_exactly(shape: str) -> None:
    mean_square = float(draw("sinusoidal", shape, gain=1.5).double().square().mean())
    assert mean_square == pytest.approx(2.25 * 2 / sum(initializers.fans(torch.Size(SHAPES[shape]))), rel=1e-6)


def test_sinusoidal_gives_every_unit_its_own_weights() -> None:
    assert draw("sinusoidal").flatten(1).unique(dim=0).shape[0] == 32


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 2), (2, 1)])
def test_sinusoidal_refuses_to_blow_up_rounding_errors(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"sinusoidal: .* every sine is 0"):
        draw("sinusoidal", shape)


@pytest.mark.parametrize(("name", "value"), [("zeros", 0.0), ("ones", 1.5), ("constant", 0.15)])
def test_constants_are_their_number(name: str, value: float) -> None:
    assert draw(name, gain=1.5).unique().tolist() == pytest.approx([value])


# gains


# 1 / sqrt(E f(z)^2), z ~ N(0, 1)
EXACT_GAINS = {"relu": 1.41421, "leaky_relu": 1.41414, "tanh": 1.59254, "sigmoid": 1.84623, "softsign": 2.33753}
EXACT_GAINS |= {"elu": 1.24520, "selu": 1.0, "gelu": 1.53353, "silu": 1.67653, "softplus": 1.04187, "identity": 1.0}
TORCH_GAINS = {"relu": math.sqrt(2), "tanh": 5 / 3, "selu": 3 / 4, "sigmoid": 1.0, "identity": 1.0}
TORCH_GAINS |= {"leaky_relu": math.sqrt(2 / 1.0001)}


@pytest.mark.parametrize(("activation", "gain"), EXACT_GAINS.items())
def test_auto_gain_to_five_digits(activation: str, gain: float) -> None:
    assert gains.resolve("auto", activation, ACTIVATIONS[activation]) == pytest.approx(gain, abs=6e-6)


@pytest.mark.parametrize(("activation", "gain"), TORCH_GAINS.items())
def test_torch_gain_is_its_table(activation: str, gain: float) -> None:
    assert gains.resolve("torch", activation, ACTIVATIONS[activation]) == pytest.approx(gain, rel=1e-9)


def test_torchs_table_has_no_more_than_we_offer() -> None:
    """A new entry of the table would show here."""
    for activation in set(ACTIVATIONS) - set(TORCH_GAINS):
        with pytest.raises(UsageError, match=f"no gain for {activation}"):
            gains.resolve("torch", activation, ACTIVATIONS[activation])
        with pytest.raises(ValueError, match="Unsupported nonlinearity"):
            torch.nn.init.calculate_gain(activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_second_moment_is_that_of_an_adaptive_quadrature(activation: str) -> None:
    """To 1e-8, but for hardshrink, whose jumps lie between the nodes: 1e-6."""

    def weighted(z: float) -> float:
        value = float(ACTIVATIONS[activation](torch.tensor(z, dtype=torch.float64)))
        return value**2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi)

    kinks = [-3, -1, -0.5, 0, 0.5, 1, 3, 6]
    exact = integrate.quad(weighted, -12, 12, points=kinks, epsabs=1e-11, epsrel=1e-10, limit=200)[0]
    tolerance = 1e-6 if activation == "hardshrink" else 1e-8
    assert gains.gaussian_moments(ACTIVATIONS[activation])[1] == pytest.approx(exact, rel=tolerance)


def test_second_moment_of_the_largest_of_four() -> None:
    """By simulation: 10^6 quadruples, 4 standard errors."""
    largest = torch.randn(1_000_000, 4, generator=generator(0, "z"), dtype=torch.float64).amax(1).mul(1.5).relu()
    error = float(largest.square().std()) / 1000
    moment = gains.gaussian_moments(F.relu, std=1.5, largest_of=4)[1]
    assert moment == pytest.approx(float(largest.square().mean()), abs=4 * error)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus", "selu"])
def test_auto_gain_keeps_the_second_moment_of_a_wide_layer(activation: str) -> None:
    """One layer of 500 inputs f(z), z ~ N(0, 1): the output has mean square 1 within 5 %."""
    z = torch.randn(500, 400, generator=generator(0, "z"))
    gain = gains.resolve("auto", activation, ACTIVATIONS[activation])
    out = draw("lecun_normal", (500, 500), gain=gain) @ ACTIVATIONS[activation](z)
    assert float(out.square().mean()) == pytest.approx(1, abs=0.05)


# residual networks


@pytest.mark.parametrize(("convs", "power"), [(2, -1 / 2), (3, -1 / 4), (4, -1 / 6)])
def test_fixup_shrinks_a_branch_with_depth_and_ends_it_with_zeros(convs: int, power: float) -> None:
    """L^(-1/(2m - 2)) for L branches of m layers, against he_normal of the same draws."""
    shape = (
        "model=residual",
        "model.depth=5",
        "model.width=4",
        f"+model.layers.2.convs={convs}",
    )
    plain, filled = applied(*shape, "init=he_normal"), applied(*shape, "init=fixup")
    for name in [name for name in filled if name.startswith("block") and name.endswith("weight")]:
        factor = 0.0 if name.endswith(f"conv{convs}.weight") else 5**power
        torch.testing.assert_close(filled[name], factor * plain[name])
    assert torch.equal(filled["stem.weight"], plain["stem.weight"])
    assert not filled["fc.weight"].any()


def test_fixup_of_a_branch_with_one_layer_is_zero() -> None:
    assert not draw("fixup", site=at(branch=Branch(0, 1, 4))).any()


@pytest.mark.parametrize("choice", ["skipinit", "rezero", "fixup"])
def test_blocks_are_the_identity_at_first_and_can_leave_it(choice: str) -> None:
    network = network_of(*MODELS["residual"], f"init={choice}")
    blocks = list(network.branches().values())
    assert len(blocks) == 2
    x_NCHW = torch.randn(3, 8, 6, 6, generator=generator(0, "images"))
    for block in blocks:
        assert isinstance(block, Residual)
        torch.testing.assert_close(block(x_NCHW), x_NCHW, rtol=0, atol=0)
        (block(x_NCHW) * torch.linspace(-1, 1, 6)).sum().backward()
        zero = block.scale if choice != "fixup" else list(block.branch.children())[-1].weight
        assert zero.grad is not None
        assert bool(zero.grad.any()), "exactly one factor is zero, so it moves"


@pytest.mark.parametrize(("choice", "base"), [("skipinit", "he_normal"), ("rezero", "torch_default")])
def test_a_zero_branch_scale_leaves_the_weights_as_they_are(choice: str, base: str) -> None:
    plain = applied(*MODELS["residual"], f"init={base}")
    filled = applied(*MODELS["residual"], f"init={choice}")
    for name, value in filled.items():
        expected = torch.tensor(0.0) if name.endswith("scale") else plain[name]
        assert torch.equal(value, expected), name
    assert float(plain["block1.scale"]) == 1


# adapted to the first batch


@pytest.mark.parametrize("bias", ["zeros", "torch_default"])
@pytest.mark.parametrize("model", MODELS)
def test_lsuv_makes_every_std_one_in_one_pass(model: str, bias: str) -> None:
    overrides = (*MODELS[model], "init=lsuv", f"init.bias={bias}")
    network = adapted(network_of(*overrides), *overrides)
    for name, output in outputs(network, images()[0]).items():
        assert float(output.std()) == pytest.approx(1, abs=1e-5 + 1 / output.numel()), name


def test_lsuv_does_not_see_the_scale_it_starts_from() -> None:
    small, large = (adapted(network_of(NARROW, "init=lsuv", f"init.gain={gain}"), "init=lsuv") for gain in (0.01, 100))
    for one, other in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_lsuv_keeps_the_direction_of_every_weight() -> None:
    before = applied(NARROW, "init=lsuv")
    after = adapted(network_of(NARROW, "init=lsuv"), "init=lsuv").tensors()
    for name in ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight"):
        weight = after[name].detach()
        torch.testing.assert_close(weight, before[name] * (weight.norm() / before[name].norm()))


@pytest.mark.parametrize("bias", ["zeros", "torch_default"])
@pytest.mark.parametrize(("method", "layer"), [("lsuv", "conv2"), ("kraehenbuhl", "conv2")])
def test_a_zero_kernel_is_refused_by_its_layers_name(method: str, layer: str, bias: str) -> None:
    overrides = (NARROW, "init=lecun", f"+init.layers.{layer}=zeros", f"init.adapt={method}", f"init.bias={bias}")
    with pytest.raises(ValueError, match=rf"^{method}: the output of layer '{layer}' does not vary .* choose other"):
        adapted(network_of(*overrides), *overrides)


def test_data_that_is_not_finite_is_refused() -> None:
    network, (x_NCHW, labels) = network_of(NARROW, "init=lsuv"), images()
    x_NCHW[0, 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"lsuv: the output of layer 'conv1'.* not finite"):
        initializers.adapt(harness.load_config(["init=lsuv"]).init, network, x_NCHW, labels, seed=0)


@pytest.mark.parametrize("bias", ["zeros", "torch_default"])
@pytest.mark.parametrize("model", MODELS)
def test_kraehenbuhl_makes_every_channel_standard(model: str, bias: str) -> None:
    overrides = (*MODELS[model], "init.weight=lecun_normal", f"init.bias={bias}", "init.adapt=kraehenbuhl")
    network = adapted(network_of(*overrides), *overrides)
    for name, output in outputs(network, images()[0]).items():
        over = (0, *range(2, output.ndim))
        assert float(output.mean(dim=over).abs().max()) < 1e-5, name
        assert float((output.std(dim=over, correction=0) - 1).abs().max()) < 1e-5, name


def test_kraehenbuhl_without_biases_sets_the_std_alone() -> None:
    overrides = (NARROW, "model.bias=false", "init.weight=lecun_normal", "init.adapt=kraehenbuhl")
    network = adapted(network_of(*overrides), *overrides)
    for output in outputs(network, images()[0]).values():
        over = (0, *range(2, output.ndim))
        torch.testing.assert_close(output.std(dim=over, correction=0), torch.ones(output.shape[1]).double())


def test_none_adapts_nothing() -> None:
    before = metrics.weights_sha256(applied(NARROW))
    assert metrics.weights_sha256(adapted(network_of(NARROW), "init=glorot").tensors()) == before


def test_gradient_quotient_of_a_quadratic_by_hand() -> None:
    """For loss theta A theta / 2 the gradient is g = A theta and H g = A g: the mean of |A g / g|, nearly."""
    matrix = torch.tensor([[2.0, 0.5], [0.5, 1.0]], dtype=torch.float64)
    theta = torch.tensor([1.0, -3.0], dtype=torch.float64, requires_grad=True)
    gradient_quotient = adaptive._gradient_quotient(theta @ matrix @ theta / 2, [theta])
    g = matrix @ theta.detach()
    near = g + 1e-5 * g.sign()
    assert float(gradient_quotient.detach()) == pytest.approx(
        float(((g - matrix @ g) / near - 1).abs().mean()), rel=1e-12
    )


def quotient(network: Network, seed: int) -> float:
    """On noise and labels that metainit did not see."""
    noise, labels = images(16, seed)
    return float(
        adaptive._gradient_quotient(F.cross_entropy(network(noise), labels), list(network.parameters())).detach()
    )


METAINIT = (NARROW_MLP, "init=metainit", "+init.adapt_options.steps=30")
GRADINIT = (NARROW_MLP, "init=gradinit", "init.gain=2", "+init.adapt_options.steps=60")


def test_metainit_lowers_the_gradient_quotient() -> None:
    before, after = network_of(*METAINIT), adapted(network_of(*METAINIT), *METAINIT)
    fresh = range(100, 110)
    assert sum(quotient(after, seed) for seed in fresh) < 0.2 * sum(quotient(before, seed) for seed in fresh)


def loss_after_a_step(network: Network, step_size: float = 0.1) -> float:
    x_NCHW, labels = images()
    gradients = torch.autograd.grad(F.cross_entropy(network(x_NCHW), labels), list(network.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.sub_(step_size * gradient)
        return float(F.cross_entropy(network(x_NCHW), labels))


def test_gradinit_lowers_the_loss_after_one_step() -> None:
    """With the gradient's limit out of the way; a step the other way, or of no length, would raise it."""
    free = (NARROW_MLP, "init=gradinit", "+init.adapt_options.steps=60", "+init.adapt_options.largest_gradient=100")
    before, after = network_of(*free), adapted(network_of(*free), *free)
    assert loss_after_a_step(after) < 0.9 * loss_after_a_step(before)


def test_gradinit_lowers_the_gradient_first_where_it_is_large() -> None:
    def norm(network: Network) -> float:
        x_NCHW, labels = images()
        gradients = torch.autograd.grad(F.cross_entropy(network(x_NCHW), labels), list(network.parameters()))
        return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())

    limited = (*GRADINIT, "+init.adapt_options.largest_gradient=0.001")
    assert norm(adapted(network_of(*limited), *limited)) < 0.5 * norm(network_of(*limited))


@pytest.mark.parametrize("overrides", [METAINIT, GRADINIT], ids=["metainit", "gradinit"])
def test_learned_scales_change_norms_and_no_directions(overrides: tuple[str, ...]) -> None:
    before, after = applied(*overrides), adapted(network_of(*overrides), *overrides).tensors()
    for name in ("fc1.weight", "fc2.weight", "fc3.weight"):
        scale = float(after[name].detach().norm() / before[name].norm())
        assert scale > 0
        assert abs(scale - 1) > 0.01, name
        torch.testing.assert_close(after[name].detach(), scale * before[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("overrides", [METAINIT, GRADINIT], ids=["metainit", "gradinit"])
def test_learned_scales_are_the_same_twice_and_leave_no_trace(overrides: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    state, deterministic = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    first = adapted(network_of(*overrides), *overrides)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert all(parameter.grad is None and parameter.requires_grad for parameter in first.parameters())
    torch.manual_seed(2)
    again = adapted(network_of(*overrides), *overrides)
    assert metrics.weights_sha256(first.tensors()) == metrics.weights_sha256(again.tensors())


def test_metainit_draws_its_noise_by_the_seed() -> None:
    hashes = {metrics.weights_sha256(adapted(network_of(*METAINIT), *METAINIT, seed=s).tensors()) for s in range(3)}
    assert len(hashes) > 1


def test_metainit_refuses_a_zero_weight_by_its_layers_name() -> None:
    overrides = (*METAINIT, "+init.layers.fc2=zeros")
    with pytest.raises(ValueError, match="metainit: the weight of layer 'fc2' is zero"):
        adapted(network_of(*overrides), *overrides)


@pytest.mark.parametrize("method", ["metainit", "gradinit"])
def test_learned_scales_refuse_an_overflow(method: str) -> None:
    overrides = (NARROW_MLP, f"init={method}", "init.gain=1e30")
    with pytest.raises(ValueError, match=rf"^{method}: the gradient( quotient)? is not finite; start from smaller"):
        adapted(network_of(*overrides), *overrides)


@pytest.mark.parametrize("method", ["lsuv", "kraehenbuhl", "metainit", "gradinit"])
def test_every_adapter_works_on_a_residual_network(method: str) -> None:
    steps = ["+init.adapt_options.steps=2"] if method in ("metainit", "gradinit") else []
    overrides = (*MODELS["residual"], "init.weight=lecun_normal", f"init.adapt={method}", *steps)
    before = metrics.weights_sha256(applied(*overrides))
    network = adapted(network_of(*overrides), *overrides)
    assert metrics.weights_sha256(network.tensors()) != before
    assert bool(models.Network.forward(network, images()[0]).isfinite().all())
