"""A healthy draw for any tensor of any module: what an intervention puts in the place of the tensor under suspicion."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from harness.diagnosis.batches import Batch, first_float, output_of
from harness.diagnosis.case import owners_of, trainable


@dataclass(frozen=True)
class Draw:
    """How weights are drawn healthily.

    Attributes:
        name: as the literature has it, and ``init.layers`` with ``_normal`` behind it.
        gain: the variance of a weight is gain^2 / fan_in.
        by_data: whether weights are then scaled, layer by layer, until each output varies with variance 1 from example
            to example.
    """

    name: str
    gain: float
    by_data: bool = False


DRAWS = (Draw("he", math.sqrt(2.0)), Draw("lecun", 1.0), Draw("lsuv", 1.0, by_data=True))
"""He et al. 2015, which keeps the size of signals through relu; LeCun et al. 1998, which does so where the function is
near the identity; and the scaling of Mishkin and Matas 2016, for all others. The first that makes the model healthy is
used."""

_USUAL_FACTOR = 1.5
"""A weight whose size is within this factor of a healthy one is not looked at first."""
_TABLES = (nn.Embedding, nn.EmbeddingBag)
_OWN_SCALE = (nn.RNNBase, nn.MultiheadAttention)
"""Modules whose weights are drawn with gain 1 in any case: no activation function halves what passes them."""


def healed(names: Iterable[str], draw: Draw) -> Callable[[nn.Module, Batch], None]:
    """Return what redraws the named tensors of a model in place; each gets the same values whatever else is healed."""
    chosen = frozenset(names)

    def fill(model: nn.Module, batch: Batch) -> None:
        owners, scaled = owners_of(model), list[nn.Module]()
        for index, (name, value) in enumerate(trainable(model).items()):
            if name in chosen:
                owner = owners[name]
                drawn = healthy(name, value, owner, draw, torch.Generator().manual_seed(index))
                with torch.no_grad():
                    value.copy_(drawn)
                if value.ndim > 1 and value is getattr(owner, "weight", None) and not isinstance(owner, _TABLES):
                    scaled.append(owner)
        if draw.by_data:
            _scale_by_data(model, scaled, batch)

    return fill


def _scale_by_data(model: nn.Module, layers: list[nn.Module], batch: Batch) -> None:
    """Scale the weights of some layers in one pass, so that the output of each varies with variance 1."""

    def scale(layer: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: object) -> object:
        made = first_float(output)
        # a layer that is called again has been scaled
        if layer not in done and made is not None and made.ndim and len(made) > 1:
            done.add(layer)
            size = float((made - made.mean(dim=0)).square().mean().sqrt())
            if math.isfinite(size) and size > 0:
                layer.get_parameter("weight").div_(size)
                return layer.forward(*inputs, **keywords)
        return output

    done: set[nn.Module] = set()
    hooks = [layer.register_forward_hook(scale, with_kwargs=True) for layer in layers]
    try:
        with torch.no_grad():
            output_of(model, batch[0])
    finally:
        for hook in hooks:
            hook.remove()


def healthy(name: str, value: torch.Tensor, owner: nn.Module, draw: Draw, generator: torch.Generator) -> torch.Tensor:
    """Draw a healthy value for a tensor.

    A bias is 0. Another vector or number, such as a normalisation's weight or a branch's scale, is 1. A matrix or
    kernel is normal with variance gain^2 / fan_in. The rows of an embedding are normal with variance 1.

    Args:
        name: of the tensor in the model; what has "bias" in its last part is a bias.
        value: of the right shape.
        owner: the module that holds it.
        draw: how weights are drawn.
        generator: a CPU generator.

    Returns:
        float32 on the CPU, of the shape of ``value``.
    """
    if _is_bias(name):
        return torch.zeros(value.shape)
    if _is_scale(value, owner):
        return torch.ones(value.shape)
    drawn = torch.randn(value.shape, generator=generator)
    if isinstance(owner, _TABLES):
        if owner.padding_idx is not None:
            drawn[owner.padding_idx] = 0
        return drawn
    gain = 1.0 if isinstance(owner, _OWN_SCALE) else draw.gain
    return drawn * (gain / math.sqrt(_fan_in(value, owner)))


def in_words(name: str, value: torch.Tensor, draw: Draw) -> str:
    """Say how :func:`healthy` fills a tensor."""
    if _is_bias(name):
        return "set to 0"
    return "set to 1" if value.ndim < 2 else f"drawn by {draw.name}"


def _fan_in(value: torch.Tensor, owner: nn.Module) -> float:
    """How many products each output sums up."""
    taps = math.prod(value.shape[2:])
    if isinstance(owner, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        # its weight is (C_in, C_out / groups, ...), and each output sees every stride-th tap
        return max(value.shape[0] // owner.groups * taps / math.prod(owner.stride), 1.0)
    return max(value.shape[1] * taps, 1)


def deviation(name: str, value: torch.Tensor, owner: nn.Module, draw: Draw) -> float:
    """How far a tensor is from a healthy draw: 0 not at all, infinitely where rows are the same or it is not finite.

    A matrix or kernel by the logarithm of its size over the healthy one, from a factor of 1.5 on; a bias by its largest
    number, a scale by its distance from 1.
    """
    numbers = value.detach().cpu().double()
    if not bool(numbers.isfinite().all()):
        return math.inf
    if _is_bias(name):
        return float(numbers.abs().max())
    if _is_scale(value, owner):
        return float((numbers - 1).abs().max())
    size = _relative_size(name, value, owner, draw)
    if size == 0 or (len(numbers) > 1 and bool((numbers == numbers[:1]).all())):
        return math.inf
    factor = abs(math.log(size))
    return factor if factor > math.log(_USUAL_FACTOR) else 0.0


def _relative_size(name: str, value: torch.Tensor, owner: nn.Module, draw: Draw) -> float:
    """The size of a tensor over that of a healthy one; 1 of an empty one."""
    usual = float(healthy(name, value, owner, draw, torch.Generator().manual_seed(0)).double().norm())
    return float(value.detach().cpu().double().norm()) / usual if usual else 1.0


def described(name: str, value: torch.Tensor, owner: nn.Module, draw: Draw) -> str:
    """Say in words what is unusual about a tensor; "" if nothing is."""
    numbers = value.detach().cpu().double()
    if not bool(numbers.isfinite().all()):
        return "not finite"
    if not numbers.numel():
        return "empty"
    first = float(numbers.flatten()[0])
    if bool((numbers == first).all()):
        return "zero" if first == 0 else f"{first:.3g}" if value.ndim == 0 else f"{first:.3g} everywhere"
    if value.ndim < 2:
        return f"{float(numbers.mean()):.3g} on average"
    if bool((numbers == numbers[:1]).all()) and len(numbers) > 1:
        return "equal rows"
    size = _relative_size(name, value, owner, draw)
    return "" if 1 / _USUAL_FACTOR < size < _USUAL_FACTOR else f"{size:.2g} times the size of {draw.name}"


def _is_scale(value: torch.Tensor, owner: nn.Module) -> bool:
    """A vector or number, or the weight of a layer norm over images, which has their shape."""
    return value.ndim < 2 or isinstance(owner, nn.LayerNorm)


def _is_bias(name: str) -> bool:
    return "bias" in name.rpartition(".")[2]
