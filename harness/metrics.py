"""What is measured of a network off the training clock: loss, accuracy, ties, and what each tensor and layer did.

Shapes: images x_NCHW (N, 1, 28, 28), labels (N,), logits (N, classes).
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.looking import evaluating
from harness.models import NORM_MODULES, Activation, Parametrised, Residual
from harness.moments import norm
from harness.own_layers import WEIGHTED
from harness.own_models import AnyNetwork
from harness.signals import ModuleSignals, Signals

_PIECE = {"cpu": 100, "cuda": 1000}
"""Images that are computed at once: on a CPU as many as its caches like, on a GPU so many that launching is not all."""
_TIE = 1e-3
_RANK_TOLERANCE = 1e-5
_SAME_GRADIENT, _SAME_WEIGHT = 1e-4, 1e-6


@dataclass(frozen=True)
class Score:
    """Mean cross entropy in nats, and the share of images whose largest logit is the label's."""

    loss: float
    accuracy: float


# not inference mode: a tensor that a module caches in it could not be used in training
@torch.no_grad()
def logits_of(network: nn.Module, images_NCHW: torch.Tensor) -> torch.Tensor:
    """Logits (N, classes) of all images in evaluation mode, computed in pieces that bound the memory needed."""
    with evaluating(network):
        pieces = torch.split(images_NCHW, _PIECE.get(images_NCHW.device.type, _PIECE["cuda"]))
        return torch.cat([network(piece) for piece in pieces])


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
    """One parameter at one step. Norms are Euclidean; the update is current minus initial value.

    What describes a layer (from ``output_mean`` on) stands with each of its tensors, and is None for a branch's scale.
    """

    parameter: str
    weight_norm: float
    gradient_norm: float
    update_norm: float
    update_max_abs: float
    bit_equal: bool
    gradient_rank: int | None
    update_rank: int | None
    distinct_rows: int | None
    distinct_gradient_rows: int | None
    preactivation_mean: float | None
    preactivation_std: float | None
    output_moment: float | None
    output_moment_theory: float | None
    gradient_gain: float | None
    gradient_gain_theory: float | None
    dead_share: float | None
    movement: str


def probe(network: AnyNetwork, initial: Mapping[str, torch.Tensor], batch_signals: Signals) -> list[TensorProbe]:
    """Describe every parameter.

    Args:
        network: the network as it is now.
        initial: parameter name -> its initial value, on the same device.
        batch_signals: what :func:`harness.signals.record` saw of it.

    Returns:
        one entry per parameter, in the network's order.
    """
    modules, dead = batch_signals.modules, _dead_shares(batch_signals)
    probes = []
    for name, parameter in network.tensors().items():
        layer = name.rpartition(".")[0]
        # of a network of the user's own only the layers that initializers fill are looked at
        described = _describe_layer(modules[layer], dead.get(layer)) if layer in modules else _NO_LAYER
        gradient = batch_signals.gradients[name]
        weighs = layer not in modules or isinstance(modules[layer].module, (Parametrised, *WEIGHTED))
        probes.append(_probe_tensor(name, parameter.detach(), initial[name], gradient, described, has_units=weighs))
    return probes


_NO_LAYER: dict[str, Any] = dict.fromkeys(
    (
        "preactivation_mean",
        "preactivation_std",
        "output_moment",
        "output_moment_theory",
        "gradient_gain",
        "gradient_gain_theory",
        "dead_share",
    )
)


_NO_WEIGHT: dict[str, Any] = dict.fromkeys(("gradient_rank", "update_rank", "distinct_rows", "distinct_gradient_rows"))


def _describe_weight(value: torch.Tensor, update: torch.Tensor, gradient: torch.Tensor) -> dict[str, Any]:
    gradient_rank, gradient_rows = rank_and_distinct_rows(gradient, _SAME_GRADIENT)
    return {
        "gradient_rank": gradient_rank,
        "update_rank": rank_and_distinct_rows(update, _SAME_GRADIENT)[0] if bool(update.any()) else 0,
        "distinct_rows": rank_and_distinct_rows(value, _SAME_WEIGHT)[1],
        "distinct_gradient_rows": gradient_rows,
    }


def _describe_layer(module_signals: ModuleSignals, dead_share: float | None) -> dict[str, Any]:
    """Describe a layer with weights or a norm, of which there is no theory of random weights."""
    if isinstance(module_signals.module, Residual):
        return _NO_LAYER
    has_theory = module_signals.is_understood and isinstance(module_signals.module, (Parametrised, *WEIGHTED))
    mean, moment = module_signals.output_mean, module_signals.output_moment
    sent = module_signals.output_gradient
    return {
        "preactivation_mean": mean,
        "preactivation_std": math.sqrt(max(moment - mean * mean, 0.0)),
        "output_moment": moment,
        "output_moment_theory": module_signals.output_moment_theory if has_theory else None,
        "gradient_gain": module_signals.input_gradient / sent if sent and module_signals.is_understood else None,
        "gradient_gain_theory": module_signals.input_gradient_theory / sent if sent and has_theory else None,
        "dead_share": dead_share,
    }


def _dead_shares(batch_signals: Signals) -> dict[str, float | None]:
    """Layer name -> share of its units that are dead in the activation function behind it; pooling and norms aside."""
    shares: dict[str, float | None] = {}
    last: list[str] = []
    for name, module_signals in batch_signals.modules.items():
        module = module_signals.module
        if isinstance(module, Parametrised):
            last = [name]
        elif isinstance(module, NORM_MODULES):
            last.append(name)
        elif isinstance(module, Activation):
            shares |= dict.fromkeys(last, module_signals.dead_share)
        if isinstance(module, Activation | Residual):
            last = []
    return shares


def _probe_tensor(
    name: str,
    value: torch.Tensor,
    initial: torch.Tensor,
    gradient: torch.Tensor,
    layer: dict[str, Any],
    *,
    has_units: bool,
) -> TensorProbe:
    update = value - initial
    # in float64, for squares of small and large float32 numbers are none
    norms = [norm(tensor) for tensor in (value, gradient, update)]
    sizes = [*norms, update.abs().max().double()]
    weight_norm, gradient_norm, update_norm, update_max_abs = torch.stack(sizes).tolist()
    bit_equal = torch.equal(value, initial)
    return TensorProbe(
        parameter=name,
        weight_norm=weight_norm,
        gradient_norm=gradient_norm,
        update_norm=update_norm,
        update_max_abs=update_max_abs,
        bit_equal=bit_equal,
        **(_describe_weight(value, update, gradient) if has_units and value.ndim > 1 else _NO_WEIGHT),
        movement=movement(gradient_norm=gradient_norm, bit_equal=bit_equal),
        **layer,
    )


def rank_and_distinct_rows(matrix: torch.Tensor, tolerance: float) -> tuple[int | None, int | None]:
    """Numerical rank of a weight flattened to (K, inputs), and how many of its rows (units) differ.

    Singular values count above 1e-5 of the longest row's length; a row differs from those before it by more than
    ``tolerance`` of that length.

    Returns:
        (rank, distinct rows); (None, None) if an entry is not finite.
    """
    if not bool(matrix.isfinite().all()):
        return None, None
    rows = matrix.detach().flatten(1).double()
    longest = rows.norm(dim=1).max()
    if longest == 0:
        return 0, 1
    rows = rows / longest
    gram = rows @ rows.T
    squares = gram.diagonal()
    distance = squares.unsqueeze(0) + squares.unsqueeze(1) - 2 * gram
    repeats = (distance <= tolerance**2).tril(-1).any(dim=1)
    return int((torch.linalg.eigvalsh(gram) > _RANK_TOLERANCE**2).sum()), int((~repeats).sum())


def movement(*, gradient_norm: float, bit_equal: bool) -> str:
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
