"""Initializers whose entries depend on each other: orthogonal, identity-like, sparse, Hadamard, sinusoidal, Fixup.

A convolution's weight (K, C, R, S) has its centre tap at (R // 2, S // 2).
"""

import math

import torch

from harness.initializers.random import variance_scaling
from harness.initializers.registry import Site, fans, register, standard_normal

_ROUNDING = 1e-9
"""Below this a root mean square of sines is rounding error."""


def _orthogonal_matrix(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    """Uniform (Haar) among the matrices with orthonormal rows, or columns where there are fewer: float64.

    QR of a normal matrix, its columns times the sign of R's diagonal; without the sign the result is not uniform
    (Mezzadri 2007).
    """
    normal = standard_normal(torch.Size((rows, columns)), generator).double()
    tall = normal if rows >= columns else normal.T
    q, r = torch.linalg.qr(tall)
    uniform: torch.Tensor = q * r.diagonal().sign()
    return uniform if rows >= columns else uniform.T


@register("orthogonal")
def orthogonal(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:
    """W W^T = gain^2 I of the flattened (K, C*R*S) weight (W^T W where K is larger). Saxe et al. 2014.

    As ``torch.nn.init.orthogonal_``. The trap: a convolution with such a kernel is no isometry (its singular values
    spread from near 0 to near 2 for 3x3 taps); :func:`delta_orthogonal` is one.

    Raises:
        ValueError: a tensor with fewer than two dimensions.
    """
    _require_matrix(shape, "orthogonal")
    matrix = _orthogonal_matrix(shape[0], math.prod(shape[1:]), generator) * gain
    return matrix.float().contiguous().reshape(shape)


@register("delta_orthogonal")
def delta_orthogonal(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:
    """The centre tap orthogonal, all others 0: every singular value of the convolution is gain. Xiao et al. 2018.

    With more input than output channels its rows are orthonormal: it is then no isometry, which the paper excludes,
    but still keeps the gradient's norm. A dense weight is simply orthogonal.

    Raises:
        ValueError: a tensor with fewer than two dimensions.
    """
    _require_matrix(shape, "delta_orthogonal")
    return _at_centre(_orthogonal_matrix(shape[0], shape[1], generator) * gain, shape)


def _require_matrix(shape: torch.Size, name: str) -> None:
    if len(shape) < 2:
        raise ValueError(f"{name}: a tensor of shape {tuple(shape)}; it fills weights, which have 2 or 4 dimensions")


def _at_centre(matrix: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    values = torch.zeros(shape)
    centre = values
    for size in shape[2:]:
        centre = centre.select(2, size // 2)
    centre.copy_(matrix)
    return values


@register("dirac")
def dirac(shape: torch.Size, *, gain: float) -> torch.Tensor:
    """Channel i passes to channel i; channels without a partner get 0. ``gain`` times ``torch.nn.init.dirac_``.

    A dense weight gets ones on its diagonal (``torch.nn.init.eye_``): Le, Jaitly & Hinton 2015.

    Raises:
        ValueError: a tensor with fewer than two dimensions.
    """
    _require_matrix(shape, "dirac")
    return _at_centre(torch.eye(shape[0], shape[1]) * gain, shape)


@register("sparse")
def sparse(
    shape: torch.Size, *, gain: float, generator: torch.Generator, sparsity: float = 0.9, std: float = 0.01
) -> torch.Tensor:
    """N(0, std^2) * gain, with ceil(sparsity * K) zeros in each column of the flattened weight. Martens 2010.

    As ``torch.nn.init.sparse_``, which takes dense weights only and, the trap, draws the places of the zeros from
    the global generator whatever generator it is given. With fewer than 10 outputs the default leaves only zeros.

    Raises:
        ValueError: a tensor with fewer than two dimensions, or a sparsity outside 0..1.
    """
    _require_matrix(shape, "sparse")
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparse: sparsity={sparsity}; give a share from 0 to 1")
    rows, columns = shape[0], math.prod(shape[1:])
    matrix = standard_normal(shape, generator).reshape(rows, columns) * (std * gain)
    order = torch.rand(rows, columns, generator=generator).argsort(dim=0)
    matrix.scatter_(0, order[: math.ceil(sparsity * rows)], 0.0)
    return matrix.reshape(shape)


def _hadamard(order: int) -> torch.Tensor:
    """Sylvester's matrix H of +-1 entries, 2^order square, H H^T = 2^order I: float64."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(order):
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix


@register("zero_hadamard")
def zero_hadamard(shape: torch.Size, *, gain: float, site: Site) -> torch.Tensor:
    """ZerO (Zhao et al. 2022, algorithm 1): no randomness at all.

    The last layer is 0; a layer that narrows or keeps its width gets ones on the diagonal; one that widens gets
    I H I / 2^(k/2), H the Hadamard matrix of size 2^k, k = ceil(log2(out)). In a convolution that matrix is the centre
    tap. (The paper writes a factor 2^(-(k-1)/2); the authors' code has 2^(-k/2), which makes the rows of H unit norm.)

    Raises:
        ValueError: a tensor with fewer than two dimensions.
    """
    _require_matrix(shape, "zero_hadamard")
    if site.is_last:
        return torch.zeros(shape)
    rows, columns = shape[0], shape[1]
    if rows <= columns:
        return dirac(shape, gain=gain)
    order = math.ceil(math.log2(rows))
    return _at_centre(_hadamard(order)[:rows, :columns] * (gain * 2 ** (-order / 2)), shape)


@register("sinusoidal")
def sinusoidal(shape: torch.Size, *, gain: float, fan_shape: torch.Size) -> torch.Tensor:
    """W_ij = a sin(2 pi i j / n + 2 pi i / m), i = 1..m units, j = 1..n flattened inputs; no randomness.

    The amplitude a gives the weights a mean square of exactly gain^2 * 2/(fan_in + fan_out), glorot's. Fernandez-
    Hernandez et al. 2025. Their code differs for convolutions, where it takes m for fan_out, counts j from 0 (the
    same columns, turned by one) and matches the unbiased variance.

    Raises:
        ValueError: a tensor with fewer than two dimensions, or one so small that every sine is 0.
    """
    _require_matrix(shape, "sinusoidal")
    units, inputs = shape[0], math.prod(shape[1:])
    i = torch.arange(1, units + 1, dtype=torch.float64).unsqueeze(1)
    j = torch.arange(1, inputs + 1, dtype=torch.float64)
    waves = torch.sin(2 * math.pi * i * j / inputs + 2 * math.pi * i / units)
    rms = float(waves.square().mean().sqrt())
    if rms < _ROUNDING:
        raise ValueError(f"sinusoidal: a tensor of shape {tuple(shape)}, where every sine is 0; needs more entries")
    return (waves * (gain * math.sqrt(2 / sum(fans(fan_shape))) / rms)).reshape(shape).float()


@register("fixup")
def fixup(
    shape: torch.Size, *, gain: float, generator: torch.Generator, fan_shape: torch.Size, site: Site
) -> torch.Tensor:
    """Fixup (Zhang, Dauphin & Ma 2019) for residual networks, its rules 1 and 2.

    The last layer and the last one of each branch are 0; the others of a branch are he_normal times
    L^(-1/(2m - 2)), L branches of m layers; layers outside branches are he_normal. Of rule 3 the multiplier is the
    branch's own scale, and the layers' biases stand for the scalar ones. Without branches it is he_normal with a last
    layer of 0.
    """
    branch = site.branch
    if site.is_last or (branch is not None and branch.position == branch.layers - 1):
        return torch.zeros(shape)
    factor = 1.0 if branch is None else branch.blocks ** (-1 / (2 * branch.layers - 2))
    return variance_scaling(
        shape, gain=gain * factor, generator=generator, fan_shape=fan_shape, scale=2, distribution="normal"
    )
