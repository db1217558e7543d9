"""What is measured of a network off the training clock: loss, accuracy, ties, and what each tensor and layer did.

Shapes: images x_NCHW (N, 1, 28, 28), labels (N,), logits (N, classes).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.models import Activation, Network

_CHUNK = 100
_TIE = 1e-3


@dataclass(frozen=True)
class Score:
    """Mean cross entropy in nats, and the share of images whose largest logit is the label's."""

    loss: float
    accuracy: float


@torch.inference_mode()
def logits_of(network: nn.Module, images_NCHW: torch.Tensor) -> torch.Tensor:
    """Logits (N, classes) of all images, computed in pieces that bound the memory needed."""
    return torch.cat([network(piece) for piece in torch.split(images_NCHW, _CHUNK)])


def score(logits: torch.Tensor, labels: torch.Tensor) -> Score:
    """Loss (summed up in float64) and accuracy; of equal logits the first class counts, as argmax has it."""
    loss = F.cross_entropy(logits.double(), labels)
    right = (logits.argmax(dim=1) == labels).double().mean()
    loss_value, accuracy = torch.stack([loss, right]).tolist()
    return Score(loss_value, accuracy)


@dataclass(frozen=True)
class Tie:
    """The classes a network that answers every image alike cannot tell apart.

    Attributes:
        classes: those whose logit is within 1e-3 of the spread of the logits from the largest.
        accuracies: the accuracy that each of them would have if rounding let it win.
    """

    classes: list[int]
    accuracies: list[float]


def tie(logits: torch.Tensor, labels: torch.Tensor) -> Tie | None:
    """The tie of a network whose logits are the same, bit for bit, for every image; None if they are not."""
    first = logits[0]
    if not bool((logits == first).all()):
        return None
    spread = float(first.max() - first.min())
    classes = torch.nonzero(first >= first.max() - _TIE * spread).flatten().tolist()
    return Tie(classes, [float((labels == index).double().mean()) for index in classes])


@dataclass(frozen=True)
class TensorProbe:
    """One parameter at one step. Norms are Euclidean; the update is current minus initial value."""

    parameter: str
    weight_norm: float
    gradient_norm: float
    update_norm: float
    update_max_abs: float
    bit_equal: bool
    preactivation_mean: float
    preactivation_std: float
    dead_share: float | None
    verdict: str


def probe(
    network: Network, initial: Mapping[str, torch.Tensor], images_NCHW: torch.Tensor, labels: torch.Tensor
) -> list[TensorProbe]:
    """Look at every parameter, with the gradient of the mean loss on the given images; the network is left as it was.

    Args:
        network: the network as it is now.
        initial: parameter name -> its initial value, on the same device.
        images_NCHW: the probe images.
        labels: their labels.

    Returns:
        one entry per parameter, in the network's order. ``dead_share`` is the share of units (channels of a
        convolution) before a relu that are positive for no probe image; None where no relu follows.
    """
    with _recorded(network) as outputs:
        loss = F.cross_entropy(network(images_NCHW), labels)
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    relu_follows = _relu_follows(network)
    return [
        _probe_tensor(
            name, (parameter.detach(), initial[name]), gradient, outputs[layer], relu_follows=relu_follows[layer]
        )
        for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True)
        for layer in [name.rpartition(".")[0]]
    ]


class _recorded:  # noqa: N801 - reads as the context manager it is
    """Record the output of each layer that has parameters while the block runs."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._outputs: dict[str, torch.Tensor] = {}

    def __enter__(self) -> dict[str, torch.Tensor]:
        self._hooks = [
            layer.register_forward_hook(lambda _module, _args, output, name=name: self._keep(name, output))
            for name, layer in self._network.parametrised().items()
        ]
        return self._outputs

    def _keep(self, name: str, output: torch.Tensor) -> None:
        self._outputs[name] = output.detach()

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def _relu_follows(network: Network) -> dict[str, bool]:
    """Layer name -> whether a relu comes before the next layer with parameters."""
    found: dict[str, bool] = {}
    last = ""
    for name, module in network.named_children():
        if name in network.parametrised():
            last = name
            found[last] = False
        elif isinstance(module, Activation) and module.function is F.relu and last:
            found[last] = True
    return found


def _probe_tensor(
    name: str,
    values: tuple[torch.Tensor, torch.Tensor],
    gradient: torch.Tensor,
    output: torch.Tensor,
    *,
    relu_follows: bool,
) -> TensorProbe:
    value, initial = values
    update = value - initial
    std, mean = torch.std_mean(output, correction=0)
    tensors = [value.norm(), gradient.norm(), update.norm(), update.abs().max(), mean, std]
    weight_norm, gradient_norm, update_norm, update_max_abs, mean_value, std_value = torch.stack(tensors).tolist()
    bit_equal = torch.equal(value, initial)
    return TensorProbe(
        parameter=name,
        weight_norm=weight_norm,
        gradient_norm=gradient_norm,
        update_norm=update_norm,
        update_max_abs=update_max_abs,
        bit_equal=bit_equal,
        preactivation_mean=mean_value,
        preactivation_std=std_value,
        dead_share=_dead_share(output) if relu_follows else None,
        verdict=verdict(gradient_norm=gradient_norm, bit_equal=bit_equal),
    )


def _dead_share(output: torch.Tensor) -> float:
    """Share of the units (dimension 1) that are positive for no image and at no place."""
    alive = (output > 0).transpose(0, 1).flatten(1).any(dim=1)
    return 1 - float(alive.double().mean())


def verdict(*, gradient_norm: float, bit_equal: bool) -> str:
    """What a tensor did, from measured numbers alone.

    Returns:
        ``moved``; or, of a tensor that is bit-equal to its initial value, ``no gradient`` or ``has gradient, not
        moved`` (before the first step, or an update that rounding swallows); ``not finite`` for a gradient that is not
        a number.
    """
    if not math.isfinite(gradient_norm):
        return "not finite"
    if not bit_equal:
        return "moved"
    return "has gradient, not moved" if gradient_norm > 0 else "no gradient"


def weights_sha256(parameters: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over the names and float32 bytes of all parameters, in order: equal hashes mean equal weights."""
    digest = hashlib.sha256()
    for piece in _bytes_of(parameters):
        digest.update(piece)
    return digest.hexdigest()


def _bytes_of(parameters: Mapping[str, torch.Tensor]) -> Iterator[bytes]:
    for name, value in parameters.items():
        yield name.encode()
        yield value.detach().cpu().contiguous().numpy().tobytes()
