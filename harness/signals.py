"""How signals and gradients pass through the network on one batch, measured, beside what theory says of random weights.

Shapes: images x_NCHW (N, 1, 28, 28), labels (N,). "Second moment" is the mean square over a whole tensor.
"""

import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from harness.initializers.gains import gaussian_moments
from harness.looking import undisturbed
from harness.models import NORM_MODULES, Activation, Conv, Network, Parametrised, Pool, Residual
from harness.moments import energy, in_float64, mean, mean_square_of_examples, moment, sum_of_squares_of_examples
from harness.own_layers import Weighted, applied, is_plain
from harness.own_models import AnyNetwork, OwnNetwork


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
        is_understood: whether theory and the input's gradient are known; not of a layer of the user's own class.
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
    is_understood: bool = True

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


def record(network: AnyNetwork, images_NCHW: torch.Tensor, labels: torch.Tensor) -> Signals:
    """Pass one batch forward and backward in the mode that the network is in, which is training mode in a trial.

    So gradients are those of the batch's own statistics, and dropout draws the same masks at every look. The network,
    its buffers, its ``.grad`` fields and the shared random generators are left as they were.
    """
    modules: dict[str, ModuleSignals] = {}
    hooks = list(_own_hooks(modules, network) if isinstance(network, OwnNetwork) else _hooks(modules, network))
    tensors = network.tensors()
    try:
        # a leaf of its own, so that the first layer has an input gradient
        leaf = images_NCHW.detach().clone(memory_format=torch.preserve_format).requires_grad_()
        with undisturbed(network):
            loss = F.cross_entropy(network(leaf), labels)
            # a network of the user's own may have parameters that this batch does not use
            leaf_gradients = torch.autograd.grad(loss, [leaf, *tensors.values()], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    found = zip(tensors.items(), leaf_gradients[1:], strict=True)
    gradients = {name: torch.zeros_like(value) if own is None else own for (name, value), own in found}
    return Signals(modules, moment(images_NCHW), float(loss.detach()), gradients)


def _hooks(modules: dict[str, ModuleSignals], network: Network) -> Iterator[RemovableHandle]:
    for path, module in network.named_modules():
        if isinstance(module, _SEEN):
            name = path.rpartition(".")[2]
            yield module.register_forward_hook(functools.partial(_forward, modules, name))
            yield module.register_full_backward_hook(functools.partial(_backward, modules, name))


def _own_hooks(modules: dict[str, ModuleSignals], network: OwnNetwork) -> Iterator[RemovableHandle]:
    """Look at the layers with weights alone; of one that is called several times the last call counts."""
    for name, layer in network.parametrised().items():
        yield layer.register_forward_hook(functools.partial(_own_forward, modules, name))


def _own_forward(
    modules: dict[str, ModuleSignals],
    name: str,
    layer: Weighted,
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
) -> None:
    modules.pop(name, None)
    if not inputs:
        # called by keyword
        return
    x, made = inputs[0].detach(), in_float64(output)
    moments = moment(x), moment(made), mean(made)
    # a batch has one dimension more than a single image, of which torch's layers take either
    understood = is_plain(layer) and (isinstance(layer, nn.Linear) or x.ndim == layer.weight.ndim)
    module_signals = modules[name] = ModuleSignals(layer, *moments, is_understood=understood)
    if understood:
        squares, weight = mean_square_of_examples(x), layer.weight.detach().double().square()
        bias = 0.0 if layer.bias is None else moment(layer.bias)
        module_signals.output_moment_theory = float(applied(layer, squares, weight, None).mean()) + bias
        module_signals.coverage = applied(layer, torch.ones_like(squares), weight, None)
    if output.requires_grad:
        # of the tensor and not of the module: a backward hook of the module forbids activations that work in place
        output.register_hook(functools.partial(_own_backward, module_signals, layer, x))  # type: ignore[no-untyped-call]


def _own_backward(module_signals: ModuleSignals, layer: Weighted, x: torch.Tensor, gradient: torch.Tensor) -> None:
    module_signals.output_gradient = energy(gradient)
    if module_signals.coverage is None:
        return
    received = sum_of_squares_of_examples(gradient)
    module_signals.input_gradient_theory = float((received * module_signals.coverage).sum())
    with torch.enable_grad():
        # the layer is linear, so that its input does not matter
        leaf = torch.zeros_like(x).requires_grad_()
        output = applied(layer, leaf, layer.weight.detach(), None)
        module_signals.input_gradient = energy(torch.autograd.grad(output, leaf, gradient)[0])


def _forward(
    modules: dict[str, ModuleSignals], name: str, module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor
) -> None:
    modules.pop(name, None)
    x, made = in_float64(inputs[0]), in_float64(output)
    moments = moment(x), moment(made), mean(made)
    module_signals = modules[name] = ModuleSignals(module, *moments)
    if isinstance(module, Activation):
        slope = _derivative(module, inputs[0].detach())
        module_signals.gate_moment = moment(slope)
        module_signals.dead_share = _dead_share(slope)
    if isinstance(module, Parametrised):
        squares = mean_square_of_examples(x)
        bias = 0.0 if module.bias is None else moment(module.bias)
        module_signals.output_moment_theory = float(through_squares(module, squares).mean()) + bias
        module_signals.coverage = through_squares(module, torch.ones_like(squares))


def _dead_share(slope: torch.Tensor) -> float:
    """Share of the units (dimension 1) whose derivative is 0 for every image and at every place."""
    # the largest size, because torch takes ten times longer to ask whether any of them is not 0
    alive = slope.abs().amax(dim=[0, *range(2, slope.ndim)]) != 0
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
    energies = [0.0 if gradient is None else energy(gradient) for gradient in (*input_gradients, *output_gradients)]
    module_signals = modules[name]
    module_signals.input_gradient, module_signals.output_gradient = energies
    if module_signals.coverage is not None and output_gradients[0] is not None:
        received = sum_of_squares_of_examples(output_gradients[0])
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


def mean_field(network: AnyNetwork, signals: Signals) -> dict[str, float]:
    """Layer name -> second moment of its output that wide-network theory predicts from the images' alone.

    Poole et al. 2016, with the measured size of the weights: outputs are Gaussian with mean 0, max-pooling takes the
    largest of independent ones and average pooling their mean, the weights that see zero padding are left out, and a
    residual branch is independent of what it is added to. Real images are neither Gaussian nor independent from pixel
    to pixel; how far a network is from this is what the number is for. It is empty for a network of the
    user's own, because only its code knows how its layers follow each other.
    """
    if isinstance(network, OwnNetwork):
        return {}
    predicted: dict[str, float] = {}

    def through(module: nn.Module, name: str, signal: _Field) -> _Field:
        if isinstance(module, Parametrised):
            bias = 0.0 if module.bias is None else moment(module.bias)
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
        return _Field(sum(moment(value) for value in module.parameters()))
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
