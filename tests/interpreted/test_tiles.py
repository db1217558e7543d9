"""Every tile of the table computes a convolution of odd channels exactly, whichever shape it is meant for.

The shape is that whose weight gradient was wrong on an H200, in one tile alone: 5 channels and 6 filters, images and
weight channels last, the incoming gradient contiguous. LLVM had put index arithmetic on small numbers into pairs of
16-bit additions, and ptxas 12.8 lost the constant of one (``scripts/compile_kernels.py`` looks for such pairs).
"""

import pytest
import torch
import torch.nn.functional as F
from oracle import DEVICE, assert_equal, gradients, torchs, whole, whole_inputs

from kernels import geometry, launch, tiles

IMAGE, WEIGHT = (3, 5, 7, 9), (6, 5, 3, 3)
WINDOW = geometry.window(WEIGHT[2:], 1, 1, 1, 1)
PRECISION = {tiles.TF32: "tf32", tiles.TF32X3: "tf32x3"}
CHOICES = list(tiles.choices())


def relu(*inputs: torch.Tensor) -> torch.Tensor:
    return F.relu(torchs(*inputs, padding=1))


def pool_relu(*inputs: torch.Tensor) -> torch.Tensor:
    return F.relu(F.max_pool2d(torchs(*inputs, padding=1), 2))


def computed(operation: str, tensors: list[torch.Tensor], y: torch.Tensor, dy: torch.Tensor, **settings) -> list:
    """What the operation gives, of one model, from tensors on the CPU."""
    x, weight, bias, gate, gradient = (t.to(DEVICE).unsqueeze(0) for t in (*tensors, y, dy))
    if operation == tiles.FORWARD:
        return [launch.forward(x, weight, bias, WINDOW, **settings)[0][0]]
    if operation == tiles.INPUT_GRADIENT:
        out = {"image": IMAGE[2:], "shared": False, "channels_last": True}
        return [launch.input_gradient(gradient, gate, weight, window=WINDOW, **out, **settings)[0]]
    out = {"channels_last": True, "needs": (True, True)}
    return [t[0] for t in launch.weight_gradient(x, gradient, gate, WEIGHT, WINDOW, **out, **settings)]


@pytest.mark.parametrize(
    ("operation", "kind", "pools", "choice"),
    CHOICES,
    ids=[f"{o}-{k}-{'x'.join(map(str, c.tile))}{'-pool' * p}" for o, k, p, c in CHOICES],
)
def test_every_tile_is_exact_on_odd_channels(operation: str, kind: str, pools: bool, choice, monkeypatch) -> None:
    dtype = torch.float16 if kind == tiles.HALF else torch.float32
    inputs = [tensor.to(dtype) for tensor in whole_inputs(IMAGE, WEIGHT)]
    inputs = [t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in inputs]
    function, epilogue = (pool_relu, "pool_relu") if pools and operation == tiles.FORWARD else (relu, "relu")
    plain = [tensor.cpu().double() for tensor in inputs]
    dy = whole(function(*plain).shape)
    y, *wanted = gradients(function, plain, dy.cpu().double())
    monkeypatch.setattr(launch, "_choose", lambda *_, **__: choice)
    ours = computed(
        operation,
        [tensor.cpu() for tensor in inputs],
        y.to(dtype).contiguous(memory_format=torch.channels_last),
        dy.to(dtype),
        precision=PRECISION.get(kind, "ieee"),
        epilogue=launch.EPILOGUES[epilogue],
    )
    names = {tiles.FORWARD: [y], tiles.INPUT_GRADIENT: wanted[:1], tiles.WEIGHT_GRADIENT: wanted[1:]}
    assert_equal(ours, names[operation])
