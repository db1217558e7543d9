"""How signals and gradients pass through the network on one batch, measured, beside what theory says of random weights.

Shapes: images x_NCHW (N, 1, 28, 28), labels (N,). "Second moment" is the mean square over a whole tensor.
"""

import dataclasses
import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.initializers.gains import gaussian_moments
from harness.looking import undisturbed
from harness.models import NORM_MODULES, Activation, Conv, Network, Parametrised, Pool, Residual


@dataclass
class ModuleSignals:
    """One module while a batch passes: a layer, pooling, activation function or residual sum.

    Attributes:
        module: the module.
        input_moment: second moment of its input.
        output_moment: second moment of its output.
        output_mean: mean of its output.
        input_gradient: sum of squares of the mean loss's gradient with respect to its input, through this module.
        output_gradient: the same with respect to its output.
        gate_moment: of an activation function f, the mean of f'(z)^2 over all inputs z.
        dead_share: of an activation function, the share of units (dimension 1) where f'(z) is 0 for every image and
            place.
        output_moment_theory: of a layer, the expected output_moment over random signs of its weights, given its input.
        coverage: of a layer, the sum of squared weights that see an input and not padding, for each output (1, K, ...).
        input_gradient_theory: expected input_gradient over random signs of the weights, given the output's gradient.
    """

    module: nn.Module
    input_moment: float
    output_moment: float
    output_mean: float
    gate_moment: float | None = None
    dead_share: float | None = None
    output_moment_theory: float = 0.0
    coverage: torch.Tensor | None = None
    input_gradient: float = 0.0
    output_gradient: float = 0.0
    input_gradient_theory: float = 0.0

    @property
    def closed(self) -> bool:
        """Whether it is an activation function through which no gradient passes at all."""
        return self.gate_moment == 0


@dataclass
class Signals:
    """The signals of every module by name, in the order the batch passes them, and the batch's mean loss and gradients.

    Attributes:
        modules: module name -> its signals; a residual sum stands after its branch.
        input_moment: second moment of the images.
        loss: mean cross entropy in nats.
        gradients: parameter name -> gradient of the mean loss.
    """

    modules: dict[str, ModuleSignals]
    input_moment: float
    loss: float
    gradients: dict[str, torch.Tensor]


_SEEN = (Parametrised, Pool, Activation, Residual, *NORM_MODULES)


def record(network: Network, images_NCHW: torch.Tensor, labels: torch.Tensor) -> Signals:
    """Pass one batch forward and backward in the mode that the network is in, which is training mode in a trial.

    So gradients are those of the batch's own statistics, and dropout draws the same masks at every look. The network,
    its buffers, its ``.grad`` fields and the shared random generators are left as they were.
    """
    modules: dict[str, ModuleSignals] = {}
    hooks = []
    for path, module in network.named_modules():
        if isinstance(module, _SEEN):
            name = path.rpartition(".")[2]
            hooks.append(module.register_forward_hook(functools.partial(_forward, modules, name)))
            hooks.append(module.register_full_backward_hook(functools.partial(_backward, modules, name)))
    tensors = network.tensors()
    try:
        # a leaf of its own, so that the first layer has an input gradient
        leaf = images_NCHW.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        with undisturbed(network):
            loss = F.cross_entropy(network(leaf), labels)
            leaf_gradients = torch.autograd.grad(loss, [leaf, *tensors.values()])
    finally:
        for hook in hooks:
            hook.remove()
    gradients = dict(zip(tensors, leaf_gradients[1:], strict=True))
    return Signals(modules, _moment(images_NCHW), float(loss.detach()), gradients)


def _moment(values: torch.Tensor) -> float:
    return _energy(values) / values.numel()


def _energy(values: torch.Tensor) -> float:
    """Sum of squares, in float64: tiny numbers must not become zeros here."""
    norm = float(torch.linalg.vector_norm(values.detach(), dtype=torch.float64))
    # not norm**2, which raises where the product is infinite
    return norm * norm


def _forward(
    modules: dict[str, ModuleSignals], name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
) -> None:
    modules.pop(name, None)
    moments = _moment(inputs[0]), _moment(output), float(output.detach().mean(dtype=torch.float64))
    module_signals = modules[name] = ModuleSignals(module, *moments)
    if isinstance(module, Activation):
        slope = _derivative(module, inputs[0].detach())
        module_signals.gate_moment = _moment(slope)
        module_signals.dead_share = _dead_share(slope)
    if isinstance(module, Parametrised):
        squares = inputs[0].detach().double().square().mean(dim=0, keepdim=True)
        bias = 0.0 if module.bias is None else _moment(module.bias)
        module_signals.output_moment_theory = float(through_squares(module, squares).mean()) + bias
        module_signals.coverage = through_squares(module, torch.ones_like(squares))


def _dead_share(slope: torch.Tensor) -> float:
    """Share of the units (dimension 1) whose derivative is 0 for every image and at every place."""
    alive = (slope != 0).transpose(0, 1).flatten(1).any(dim=1)
    return 1 - float(alive.double().mean())


def _derivative(module: Activation, z: torch.Tensor) -> torch.Tensor:
    with torch.enable_grad():
        leaf = z.clone().requires_grad_()
        (slope,) = torch.autograd.grad(module.function(leaf).sum(), leaf)
    return slope


def _backward(
    modules: dict[str, ModuleSignals],
    name: str,
    _module: nn.Module,
    input_gradients: tuple[torch.Tensor | None, ...],
    output_gradients: tuple[torch.Tensor | None, ...],
) -> None:
    energies = [0.0 if gradient is None else _energy(gradient) for gradient in (*input_gradients, *output_gradients)]
    module_signals = modules[name]
    module_signals.input_gradient, module_signals.output_gradient = energies
    if module_signals.coverage is not None and output_gradients[0] is not None:
        received = output_gradients[0].double().square().sum(dim=0, keepdim=True)
        module_signals.input_gradient_theory = float((received * module_signals.coverage).sum())


@torch.no_grad()
def through_squares(layer: Parametrised, squares: torch.Tensor) -> torch.Tensor:
    """Sum over the inputs that each output sees of input times squared weight: (1, C, ...) -> (1, K, ...), float64.

    Of squared inputs it is the expected squared output over random signs of the weights; of ones it is the energy of
    the weights that see an image and not zero padding, ((3n - 2)/(3n))^2 of all of it for equal 3x3 taps on n x n.
    """
    weight = layer.weight.double().square()
    if not isinstance(layer, Conv):
        return F.linear(squares.flatten(1), weight)
    if layer.circular:
        return F.conv2d(F.pad(squares, (layer.padding,) * 4, mode="circular"), weight, stride=layer.stride)
    return F.conv2d(squares, weight, stride=layer.stride, padding=layer.padding)


@dataclass(frozen=True)
class _Field:
    """A signal as mean-field theory has it: function(largest of ``largest_of`` independent N(0, variance)).

    Dropout keeps the share ``kept`` of its numbers, each divided by that share.
    """

    variance: float
    largest_of: int = 1
    activation: Activation | None = None
    averaged: int = 1
    kept: float = 1.0

    @property
    def moment(self) -> float:
        """Second moment; that of the mean of n independent numbers is (q - m^2)/n + m^2."""
        if self.activation is None and self.largest_of == self.averaged == 1:
            return self.variance / self.kept
        function = self.activation.function if self.activation else (lambda z: z)
        mean, moment = gaussian_moments(function, std=self.variance**0.5, largest_of=self.largest_of)
        return ((moment - mean**2) / self.averaged + mean**2) / self.kept


def mean_field(network: Network, signals: Signals) -> dict[str, float]:
    """Layer name -> second moment of its output that wide-network theory predicts from the images' alone.

    Poole et al. 2016, with the measured size of the weights: outputs are Gaussian with mean 0, max-pooling takes the
    largest of independent ones and average pooling their mean, the weights that see zero padding are left out, and a
    residual branch is independent of what it is added to. Real images are neither Gaussian nor independent from pixel
    to pixel; how far a network is from this is what the number is for.
    """
    predicted: dict[str, float] = {}

    def through(module: nn.Module, name: str, signal: _Field) -> _Field:
        if isinstance(module, Parametrised):
            bias = 0.0 if module.bias is None else _moment(module.bias)
            coverage = signals.modules[name].coverage
            assert coverage is not None
            predicted[name] = float(coverage.mean()) * signal.moment + bias
            return _Field(predicted[name])
        if isinstance(module, Residual):
            inner = signal
            for inner_name, child in module.branch.named_children():
                inner = through(child, inner_name, inner)
            scale = 1.0 if module.scale is None else float(module.scale.detach())
            return _Field(signal.moment + scale**2 * inner.moment)
        return _passed(module, signal)

    signal = _Field(signals.input_moment)
    for name, child in network.named_children():
        signal = through(child, name, signal)
    return predicted


def _passed(module: nn.Module, signal: _Field) -> _Field:
    """The signal behind a module without a weight matrix."""
    if isinstance(module, Pool):
        return _pooled(module, signal)
    if isinstance(module, NORM_MODULES):
        # what was normalised has mean 0 and variance 1, which the layer then scales and shifts
        return _Field(sum(_moment(value) for value in module.parameters()))
    if isinstance(module, nn.Dropout):
        # what is kept is divided by 1 - p
        return dataclasses.replace(signal, kept=signal.kept * (1 - module.p)) if module.training else signal
    assert isinstance(module, Activation)
    return dataclasses.replace(signal, activation=module)


def _pooled(pool: Pool, signal: _Field) -> _Field:
    count = pool.size**2
    if pool.kind == "max":
        # the largest of f(z) is f of the largest z for the rising functions; others are taken as if they rose
        return dataclasses.replace(signal, largest_of=signal.largest_of * count)
    if signal.activation is None:
        # the mean of Gaussian numbers is Gaussian, and goes into the activation function behind it as such
        return _Field(signal.moment / count)
    return dataclasses.replace(signal, averaged=signal.averaged * count)
