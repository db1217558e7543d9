"""What changes drawn weights by looking at data or at the network's own gradients: LSUV, Kraehenbuhl, learned scales.

Each takes the network, a batch (images x_NCHW, labels (N,)) on its device and a CPU generator, and changes the network
in place. The order of a float sum differs between devices, so adapted weights agree across devices to rounding only.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F

from harness.models import NORM_MODULES, Parametrised
from harness.own_layers import Weighted, trainable_parameter
from harness.own_models import AnyNetwork, OwnNetwork

Adapter = Callable[..., None]

ADAPTERS: dict[str, Adapter] = {}
"""Name of ``init.adapt`` -> function ``(network, images_NCHW, labels, *, generator, **options)``."""


def _register(name: str) -> Callable[[Adapter], Adapter]:
    def add(function: Adapter) -> Adapter:
        ADAPTERS[name] = function
        return function

    return add


def options_of(name: str) -> dict[str, Any]:
    """The options of an adapter with their defaults."""
    parameters = inspect.signature(ADAPTERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


@_register("none")
def none(
    _network: AnyNetwork, _images_NCHW: torch.Tensor, _labels: torch.Tensor, *, generator: torch.Generator
) -> None:
    """Leave the weights as drawn."""
    del generator


@torch.no_grad()
def _output(network: AnyNetwork, layer: Parametrised | Weighted, images_NCHW: torch.Tensor) -> torch.Tensor:
    """What the layer gives on the batch, before its activation, in float64: (N, K, ...)."""
    caught: list[torch.Tensor] = []
    # converted at once, because an activation function may write its values over these
    hook = layer.register_forward_hook(lambda _layer, _inputs, output: caught.append(output.double()))
    try:
        network(images_NCHW)
    finally:
        hook.remove()
    # a dense layer of a network of the user's own has its units in the last dimension
    return caught[0].movedim(-1, 1) if isinstance(layer, torch.nn.Linear) else caught[0]


def _spread(output: torch.Tensor, name: str, method: str, *, dim: tuple[int, ...] | None = None) -> torch.Tensor:
    """Standard deviation, which must be a positive number everywhere."""
    std = output.std(dim=dim, correction=0)
    if not bool((std > 0).all()) or not bool(std.isfinite().all()):
        raise ValueError(
            f"{method}: the output of layer '{name}' does not vary over the batch (std {float(std.min()):g}), so no "
            "scale makes it 1; its weights or its input are zero, or not finite: choose other weights to start from"
        )
    return std


@_register("lsuv")
@torch.no_grad()
def lsuv(
    network: AnyNetwork,
    images_NCHW: torch.Tensor,
    _labels: torch.Tensor,
    *,
    generator: torch.Generator,  # noqa: ARG001
) -> None:
    """Divide each weight by the std of its layer's output on the batch, from the first layer to the last.

    Mishkin & Matas 2016 (LSUV), after orthogonal weights. A bias is divided too (theirs are 0), so one pass makes
    each std 1 to rounding; a frozen bias stays, and the std is that of the output without it. Inputs should have a
    variance near 1: use data.scaling=standardised.

    Raises:
        ValueError: an output without variation, as of a zero kernel, whatever the bias.
    """
    for name, layer in network.parametrised().items():
        output = _output(network, layer, images_NCHW)
        bias = trainable_parameter(layer, "bias")
        if layer.bias is not None:
            # units that differ by their biases alone have a spread that no scale of the weight changes
            unshifted = output - layer.bias.double().view(-1, *(1,) * (output.ndim - 2))
            _spread(unshifted, name, "lsuv")
            output = unshifted if bias is None else output
        std = _spread(output, name, "lsuv")
        layer.weight.div_(std)
        if bias is not None:
            bias.div_(std)


@_register("kraehenbuhl")
@torch.no_grad()
def kraehenbuhl(
    network: AnyNetwork,
    images_NCHW: torch.Tensor,
    _labels: torch.Tensor,
    *,
    generator: torch.Generator,  # noqa: ARG001
) -> None:
    """Scale each output channel to std 1 and shift its bias to mean 0 on the batch, layer after layer.

    Kraehenbuhl et al. 2016, the within-layer step of their algorithm 1; the between-layer step, which equalises the
    learning rates of pretrained networks, is left out. Without biases only the std is set.

    Raises:
        ValueError: a channel without variation.
    """
    for name, layer in network.parametrised().items():
        output = _output(network, layer, images_NCHW)
        over = (0, *range(2, output.ndim))
        std, mean = _spread(output, name, "kraehenbuhl", dim=over), output.mean(dim=over)
        layer.weight.div_(std.view(-1, *(1,) * (layer.weight.ndim - 1)))
        bias = trainable_parameter(layer, "bias")
        if bias is not None:
            bias.sub_(mean).div_(std)


@contextmanager
def _deterministic_off() -> Iterator[None]:
    """Second derivatives of padding and pooling have no deterministic CUDA kernel."""
    before, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn)


def _gradient_quotient(loss: torch.Tensor, parameters: list[torch.Tensor]) -> torch.Tensor:
    """Mean over all entries of |(g - H g) / (g + eps sign g) - 1|; MetaInit's eq. 1 with a unit step."""
    epsilon = 1e-5
    gradients = torch.autograd.grad(loss, parameters, create_graph=True)
    half_square = sum((gradient.square().sum() / 2 for gradient in gradients), torch.zeros_like(loss))
    products = torch.autograd.grad(half_square, parameters, create_graph=True)
    total = torch.zeros_like(loss)
    for gradient, product in zip(gradients, products, strict=True):
        sign = torch.where(gradient.detach() >= 0, 1.0, -1.0)
        total = total + ((gradient - product) / (gradient + epsilon * sign) - 1).abs().sum()
    return total / sum(parameter.numel() for parameter in parameters)


@_register("metainit")
def metainit(
    network: AnyNetwork,
    images_NCHW: torch.Tensor,
    labels: torch.Tensor,
    *,
    generator: torch.Generator,
    steps: int = 30,
    lr: float = 0.1,
    momentum: float = 0.9,
) -> None:
    """Learn the norm of each weight so that the gradient changes little along itself. Dauphin & Schoenholz 2019.

    Signed gradient descent with momentum on the gradient quotient, over norms alone, with N(0, 1) images and random
    labels of the batch's shape, as the paper (which takes 500 steps).

    Raises:
        ValueError: a weight is zero, or the quotient is not finite.
    """
    weights = {name: layer.weight for name, layer in network.parametrised().items()}
    speed = dict.fromkeys(weights, 0.0)
    for name, weight in weights.items():
        if not bool(weight.detach().any()):
            raise ValueError(f"metainit: the weight of layer '{name}' is zero and has no norm to learn; choose another")
    for _ in range(steps):
        noise = torch.randn(images_NCHW.shape, generator=generator).to(images_NCHW)
        classes = torch.randint(10, labels.shape, generator=generator).to(labels)
        with _deterministic_off():
            quotient = _gradient_quotient(F.cross_entropy(network(noise), classes), list(network.parameters()))
            slopes = torch.autograd.grad(quotient, list(weights.values()))
        if not bool(quotient.isfinite()):
            raise ValueError("metainit: the gradient quotient is not finite; start from smaller weights")
        for (name, weight), slope in zip(weights.items(), slopes, strict=True):
            with torch.no_grad():
                norm = float(weight.norm())
                speed[name] = momentum * speed[name] - lr * float(torch.sign((weight * slope).sum()))
                # a norm that would cross zero is halved instead
                weight.mul_(max(norm + speed[name], norm / 2) / norm)


def _filled(network: AnyNetwork) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Name and tensor of what initializers fill: not the norms, nor what else a network of the user's own has."""
    if isinstance(network, OwnNetwork):
        left = {id(network.module.get_parameter(name)) for name in network.left_as_built()}
    else:
        norms = (module for module in network.modules() if isinstance(module, NORM_MODULES))
        left = {id(value) for norm in norms for value in norm.parameters()}
    yield from ((name, value) for name, value in network.named_parameters() if id(value) not in left)


@_register("gradinit")
def gradinit(
    network: AnyNetwork,
    images_NCHW: torch.Tensor,
    labels: torch.Tensor,
    *,
    generator: torch.Generator,  # noqa: ARG001
    steps: int = 50,
    lr: float = 0.01,
    step_size: float = 0.1,
    largest_gradient: float = 1.0,
) -> None:
    """Learn a scale of each tensor so that the loss after one step of SGD is least. Zhu et al. 2021, algorithm 1.

    Where the gradient's norm is above ``largest_gradient`` the norm is lowered first, else the loss after a step of
    ``step_size`` against the gradient. Scales are learned by Adam and kept at 0.01 or above. The paper's minibatches
    are this one batch. The scales and shifts of norms stay as they are.

    Raises:
        ValueError: the gradient is not finite.
    """
    fixed = {name: value.detach().clone() for name, value in _filled(network)}
    scales = {name: torch.ones((), device=images_NCHW.device, requires_grad=True) for name in fixed}
    optimizer = torch.optim.Adam(scales.values(), lr=lr)
    loss_of = functools.partial(_loss_with, network, images_NCHW, labels)
    for _ in range(steps):
        scaled = {name: fixed[name] * scale for name, scale in scales.items()}
        with _deterministic_off():
            goal = _gradinit_goal(loss_of, scaled, step_size=step_size, largest_gradient=largest_gradient)
            slopes = torch.autograd.grad(goal, list(scales.values()), allow_unused=True)
        for scale, slope in zip(scales.values(), slopes, strict=True):
            scale.grad = torch.zeros_like(scale) if slope is None else slope
        optimizer.step()
        with torch.no_grad():
            for scale in scales.values():
                scale.clamp_(min=0.01)
    with torch.no_grad():
        for name, scale in scales.items():
            network.get_parameter(name).copy_(fixed[name] * scale)


def _loss_with(
    network: AnyNetwork, images_NCHW: torch.Tensor, labels: torch.Tensor, parameters: dict[str, torch.Tensor]
) -> torch.Tensor:
    """The batch's loss with these values in place of the network's own parameters."""
    return F.cross_entropy(torch.func.functional_call(network, parameters, (images_NCHW,)), labels)


def _gradinit_goal(
    loss_of: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    parameters: dict[str, torch.Tensor],
    *,
    step_size: float,
    largest_gradient: float,
) -> torch.Tensor:
    """The gradient's norm while it is above ``largest_gradient``, else the loss after a step against the gradient."""
    gradients = torch.autograd.grad(loss_of(parameters), list(parameters.values()), create_graph=True)
    norm: torch.Tensor = torch.stack([gradient.norm() for gradient in gradients]).norm()
    if not bool(norm.isfinite()):
        raise ValueError("gradinit: the gradient is not finite; start from smaller weights")
    if float(norm.detach()) > largest_gradient:
        return norm
    moves = zip(parameters.items(), gradients, strict=True)
    return loss_of({name: value - step_size * gradient for (name, value), gradient in moves})
