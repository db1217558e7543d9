"""Networks with planted faults and healthy ones that look suspicious: the answer sheet for ``harness.diagnose``.

``PLANTED`` lists them. Each fault was put there on purpose, so it is known which tensors are to blame; the tests check
these labels by experiment before they hold a diagnosis to them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import planted_healthy
import planted_modules as made
import torch
import torch.nn.functional as F
from planted_modules import (
    BRANCH,
    CONV2,
    FC1,
    LAST,
    conv,
    dense,
    dense_residual,
    drawn,
    fill,
    functional,
    residual,
    times,
)
from torch import nn

HEALTHY = "fine"
"""The kind of every network without a fault; a diagnosis may also call it delayed, intermittent or unused."""
HUGE = 1e6


@dataclass(frozen=True)
class Planted:
    """A network, and what is wrong with it.

    Attributes:
        name: short and unique.
        build: makes the network, always the same one.
        kind: of the gravest fault; ``HEALTHY`` if there is none.
        causes: the network is cured when one tensor of every slot is redrawn healthily; empty for a healthy
            one, and where no redrawing helps.
        fault: what was planted, in a line of plain English.
        gradual: many layers are each a little too large or too small, so that no single one of them is decisive.
    """

    name: str
    build: Callable[[], nn.Module]
    kind: str
    causes: tuple[frozenset[str], ...]
    fault: str
    gradual: bool = False

    @property
    def to_blame(self) -> frozenset[str]:
        """The names of all tensors that were broken and matter."""
        return frozenset().union(*self.causes)


def faulty(
    name: str, kind: str, build: Callable[[], nn.Module], causes: str, fault: str, *, gradual: bool = False
) -> Planted:
    """Return a planted fault; ``causes`` separates slots by a blank and the tensors of a slot by ``|``."""
    slots = tuple(frozenset(slot.split("|")) for slot in causes.split())
    return Planted(name, build, kind, slots, fault, gradual)


def zero_kernels() -> list[Planted]:
    """Return networks in which one zero kernel stops everything."""
    why = "a layer outputs 0, where the activation has no slope"
    zero = fill(0, CONV2)
    of_conv = [
        *((f"conv {activation}", partial(conv, activation, zero)) for activation in ("relu", "relu6", "squared")),
        *((f"conv relu {norm} norm", partial(conv, "relu", zero, norm=norm)) for norm in ("batch", "group")),
        ("functional relu", partial(functional, F.relu, zero)),
        ("functional clamp", partial(functional, lambda x: F.hardtanh(x, 0, 3), zero)),
    ]
    of_dense = [
        ("relu dense first", "fc1", partial(dense, "relu", fill(0, FC1))),
        ("relu dense middle", "fc2", partial(dense, "relu", fill(0, "fc2.weight"), depth=4)),
        ("relu dense layer norm", "fc2", partial(dense, "relu", fill(0, "fc2.weight"), norm="layer", depth=4)),
        ("relu dense 40 layers", "fc20", partial(dense, "relu", fill(0, "fc20.weight"), depth=40, width=24)),
        ("relu conv before dense", "fc1", partial(conv, "relu", fill(0, FC1))),
        ("relu tied", "fc2", partial(drawn, made.Tied, fill(0, "fc2.weight"))),
    ]
    return [
        *(faulty(f"zero kernel: {name}", "dead", build, CONV2, why) for name, build in of_conv),
        *(faulty(f"zero weight: {name}", "dead", build, f"{layer}.weight", why) for name, layer, build in of_dense),
    ]


def several_zeros() -> list[Planted]:
    """Return relu networks with several zero tensors, not all of which matter."""
    six = [f"fc{layer}.weight" for layer in range(1, 6)]
    rows = [
        ("conv2 and last", partial(conv, "relu", fill(0, CONV2, LAST)), CONV2),
        ("conv1 and conv2", partial(conv, "relu", fill(0, "conv1.weight", CONV2)), f"conv1.weight {CONV2}"),
        ("conv1 and fc1", partial(conv, "relu", fill(0, "conv1.weight", FC1)), f"conv1.weight {FC1}"),
        ("fc1 and fc2", partial(dense, "relu", fill(0, FC1, "fc2.weight"), depth=4), f"{FC1} fc2.weight"),
        ("all weights of conv", partial(conv, "relu", fill(0, "*.weight")), f"conv1.weight {CONV2} {FC1}"),
        ("all weights of dense", partial(dense, "relu", fill(0, "*.weight"), depth=6), " ".join(six)),
        ("all weights of relu6", partial(conv, "relu6", fill(0, "*.weight")), f"conv1.weight {CONV2} {FC1}"),
        ("all weights of two layers", partial(dense, "relu", fill(0, "*.weight"), depth=2), FC1),
        ("conv2 and its bias -1", partial(conv, "relu", fill(0, CONV2), fill(-1, "conv2.bias")), CONV2),
    ]
    return [faulty(f"zeros: {name}", "dead", build, causes, "zero weights before relu") for name, build, causes in rows]


def closed_by_biases() -> list[Planted]:
    """Return networks in which a bias holds every unit where the activation is flat."""
    closed, first = fill(-100, "conv2.bias"), fill(-100, "conv1.bias")
    rows = [
        ("conv relu", partial(conv, "relu", closed), "conv2.bias"),
        ("first layer", partial(conv, "relu", first), "conv1.bias"),
        ("squared", partial(conv, "squared", closed), "conv2.bias"),
        ("dense relu", partial(dense, "relu", fill(-100, "fc2.bias"), depth=4), "fc2.bias"),
        ("two layers", partial(conv, "relu", first, closed), "conv1.bias conv2.bias"),
        ("and its zero kernel", partial(conv, "relu", closed, fill(0, CONV2)), f"conv2.bias {CONV2}"),
        ("and another zero layer", partial(conv, "relu", closed, fill(0, FC1)), f"conv2.bias {FC1}"),
        ("batch norm", partial(conv, "relu", fill(-100, "norm2.bias"), norm="batch"), "norm2.bias"),
        ("relu6 saturated", partial(conv, "relu6", fill(1000, "conv2.bias")), "conv2.bias"),
        ("hardtanh saturated", partial(dense, "hardtanh", fill(-1000, "fc2.bias"), depth=4), "fc2.bias"),
        ("functional relu", partial(functional, F.relu, closed), "conv2.bias"),
        ("residual branch", partial(residual, "relu", fill(-100, "block1.conv1.bias")), "block1.conv1.bias"),
    ]
    return [
        faulty(f"closed by a bias: {name}", "dead", build, causes, "a bias of -100") for name, build, causes in rows
    ]


def dead_norms_and_branches() -> list[Planted]:
    """Return networks with a zero norm weight, and residual networks with a zero layer in a relu branch."""
    conv1, conv2, scale = BRANCH
    deep = times(0.2, "*.scale"), fill(0, "block9.conv1.weight")
    rows = [
        ("norm weight, batch", partial(conv, "relu", fill(0, "norm2.weight"), norm="batch"), "norm2.weight"),
        ("norm weight, group", partial(conv, "relu", fill(0, "norm1.weight"), norm="group"), "norm1.weight"),
        ("norm weight, layer", partial(dense, "relu", fill(0, "norm1.weight"), norm="layer"), "norm1.weight"),
        ("first of a branch", partial(residual, "relu", fill(0, conv1)), conv1),
        ("first of every branch", partial(residual, "relu", fill(0, "*.conv1.weight")), f"{conv1} block2.conv1.weight"),
        ("first of a branch with batch norm", partial(residual, "relu", fill(0, conv1), norm="batch"), conv1),
        ("first of a branch, 42 layers", partial(dense_residual, "relu", *deep), "block9.conv1.weight"),
        ("first of a branch and scale", partial(residual, "relu", fill(0, conv1, scale)), conv1),
        ("both of a relu branch", partial(residual, "relu", fill(0, conv1, conv2)), conv1),
        ("stem before relu", partial(residual, "relu", fill(0, "stem.weight"), stem="relu"), "stem.weight"),
    ]
    return [faulty(f"zero: {name}", "dead", build, causes, "zeros that nothing wakes") for name, build, causes in rows]


def joint_branches() -> list[Planted]:
    """Return residual networks with two zero factors in a branch, of which redrawing either is enough."""
    conv1, conv2, scale = BRANCH
    norm, every = "block1.norm2.weight", fill(0, "*.conv2.weight", "*.scale")
    either = f"{conv2}|{scale}"
    rows = [
        ("last of a branch and scale", partial(residual, "relu", fill(0, conv2, scale)), either),
        ("last of a gelu branch and scale", partial(residual, "gelu", fill(0, conv2, scale)), either),
        ("first of a tanh branch and scale", partial(residual, "tanh", fill(0, conv1, scale)), f"{conv1}|{scale}"),
        ("both of a tanh branch", partial(residual, "tanh", fill(0, conv1, conv2)), f"{conv1}|{conv2}"),
        ("last of a branch and norm", partial(residual, "relu", fill(0, conv2, norm), norm="batch"), f"{conv2}|{norm}"),
        ("every branch", partial(residual, "tanh", every), f"{either} block2.conv2.weight|block2.scale"),
    ]
    return [faulty(f"joint: {name}", "dead", build, causes, "two zero factors") for name, build, causes in rows]


def joint_zeros() -> list[Planted]:
    """Return networks in which two zero layers block each other, so that redrawing either is enough."""
    both, of_both = fill(0, CONV2, LAST), f"{CONV2}|{LAST}"
    activations = ("tanh", "leaky_relu", "elu", "gelu", "silu", "softsign", "selu", "mish", "identity")
    conv1, fc2 = "conv1.weight", "fc2.weight"
    rows = [
        *((activation, partial(conv, activation, both), of_both) for activation in activations),
        ("tanh conv1 and conv2", partial(conv, "tanh", fill(0, conv1, CONV2)), f"{conv1}|{CONV2}"),
        ("celu dense", partial(dense, "celu", fill(0, FC1, fc2), depth=4), f"{FC1}|{fc2}"),
        ("tanh all of two layers", partial(dense, "tanh", fill(0, FC1, LAST), depth=2), f"{FC1}|{LAST}"),
        (
            "tanh all of three layers",
            partial(dense, "tanh", fill(0, "*.weight")),
            f"{FC1}|{fc2} {fc2}|{LAST} {FC1}|{LAST}",
        ),
        ("functional tanh", partial(functional, torch.tanh, both), of_both),
        ("tanh batch norm", partial(conv, "tanh", both, norm="batch"), of_both),
    ]
    why = "each of two zero layers keeps the gradient from the other"
    return [faulty(f"joint: {name}", "dead", build, causes, why) for name, build, causes in rows]


def symmetric() -> list[Planted]:
    """Return networks whose units are all alike: of two neighbouring layers one must tell them apart."""
    why = "all units of a layer are identical and stay so"
    constant, zero = fill(0.1, "*.weight"), fill(0, "*.weight")
    two, three = f"{FC1}|{LAST}", f"{FC1}|fc2.weight fc2.weight|{LAST}"
    of_conv = f"conv1.weight|{CONV2} {CONV2}|{FC1} {FC1}|{LAST}"
    alike = made.each(lambda weight: weight[:1].expand_as(weight), FC1)
    rows = [
        *((f"constant, two layers of {act}", partial(dense, act, constant, depth=2), two) for act in ("relu", "tanh")),
        *((f"constant, {act}", partial(dense, act, constant), three) for act in ("relu", "gelu", "sigmoid", "elu")),
        *((f"constant, conv {act}", partial(conv, act, constant), of_conv) for act in ("relu", "tanh", "leaky_relu")),
        ("constant, conv batch norm", partial(conv, "relu", constant, norm="batch"), of_conv),
        ("zero, softplus", partial(dense, "softplus", zero), three),
        ("zero, sigmoid", partial(dense, "sigmoid", zero), three),
        ("zero, conv softplus", partial(conv, "softplus", zero), of_conv),
        ("zero, relu with bias 0.1", partial(dense, "relu", zero, fill(0.1, "fc*.bias")), three),
        ("equal rows and constant last", partial(dense, "relu", alike, fill(0.1, LAST), depth=2), two),
        ("equal rows and zero last", partial(dense, "tanh", alike, fill(0, LAST), depth=2), two),
        ("constant middle pair", partial(dense, "relu", fill(0.1, "fc2.weight", LAST)), f"fc2.weight|{LAST}"),
    ]
    return [faulty(f"symmetric: {name}", "symmetric", build, causes, why) for name, build, causes in rows]


def too_large() -> list[Planted]:
    """Return networks whose signal or gradient is far too large, or no number at all."""
    rows = [
        ("conv relu", partial(conv, "relu", times(HUGE, CONV2)), CONV2),
        ("conv first", partial(conv, "relu", times(HUGE, "conv1.weight")), "conv1.weight"),
        ("conv elu", partial(conv, "elu", times(HUGE, CONV2)), CONV2),
        ("last", partial(dense, "relu", times(HUGE, LAST)), LAST),
        ("dense leaky_relu", partial(dense, "leaky_relu", times(HUGE, FC1)), FC1),
        ("dense softplus", partial(dense, "softplus", times(HUGE, FC1)), FC1),
        ("two layers", partial(conv, "relu", times(HUGE, CONV2, FC1)), f"{CONV2} {FC1}"),
        ("bias", partial(conv, "relu", fill(HUGE, "conv2.bias")), "conv2.bias"),
        ("norm weight", partial(conv, "relu", fill(HUGE, "norm2.weight"), norm="batch"), "norm2.weight"),
        ("branch scale", partial(residual, "relu", fill(HUGE, "block1.scale")), "block1.scale"),
        ("branch layer", partial(residual, "relu", times(HUGE, BRANCH[1])), BRANCH[1]),
        ("stem", partial(residual, "relu", times(HUGE, "stem.weight")), "stem.weight"),
        ("functional", partial(functional, F.relu, times(HUGE, CONV2)), CONV2),
    ]
    gains = [("relu", 5.0), ("leaky_relu", 5.0), ("elu", 5.0), ("identity", 3.0), ("tanh", 8.0)]
    return [
        *(
            faulty(f"huge: {name}", "exploding", build, causes, "a tensor is 1e6 times too large")
            for name, build, causes in rows
        ),
        *(deep_gain(f"large gain: {activation}", "exploding", activation, gain) for activation, gain in gains),
    ]


def deep_gain(name: str, kind: str, activation: str, gain: float, depth: int = 40) -> Planted:
    """Return a deep network whose layers were all drawn with a wrong gain."""
    build = partial(dense, activation, gain=gain, depth=depth, width=16)
    causes = " ".join([*(f"fc{layer}.weight" for layer in range(1, depth)), LAST])
    return faulty(name, kind, build, causes, f"{depth} layers were drawn with gain {gain:g}", gradual=True)


def too_small() -> list[Planted]:
    """Return networks whose signal or gradient vanishes."""
    activations = ("relu", "leaky_relu", "elu", "tanh", "identity")
    return [
        *(deep_gain(f"small gain: {activation}", "vanishing", activation, 0.1) for activation in activations),
        # a healthy draw itself loses half of a signal per layer here, so 40 layers would have no cure
        *(deep_gain(f"small gain: {activation}", "vanishing", activation, 0.02, 15) for activation in ("gelu", "silu")),
        deep_gain("small gain: underflow in relu", "vanishing", "relu", 0.01),
        deep_gain("small gain: underflow in tanh", "vanishing", "tanh", 0.01),
    ]


def one_nan(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy whose last number is NaN."""
    changed = tensor.clone().flatten()
    changed[-1] = torch.nan
    return changed.view_as(tensor)


def not_finite() -> list[Planted]:
    """Return networks that compute NaN or infinity at once."""
    nan = torch.nan
    rows = [
        ("one NaN in a kernel", partial(conv, "relu", made.each(one_nan, CONV2)), CONV2),
        ("NaN kernel", partial(conv, "tanh", fill(nan, "conv1.weight")), "conv1.weight"),
        ("NaN in last", partial(dense, "relu", made.each(one_nan, LAST)), LAST),
        ("infinite bias", partial(dense, "relu", fill(torch.inf, "fc1.bias")), "fc1.bias"),
        ("NaN norm weight", partial(conv, "relu", fill(nan, "norm1.weight"), norm="batch"), "norm1.weight"),
        ("NaN branch scale", partial(residual, "relu", fill(nan, "block2.scale")), "block2.scale"),
        ("two NaNs", partial(conv, "relu", made.each(one_nan, CONV2, LAST)), f"{CONV2} {LAST}"),
        ("overflow in a layer", partial(dense, "relu", times(1e39, FC1)), FC1),
        ("overflow of two layers", partial(dense, "relu", times(1e30, FC1, "fc2.weight")), f"{FC1} fc2.weight"),
        (
            "NaN and a zero layer",
            partial(conv, "relu", made.each(one_nan, "conv1.weight"), fill(0, FC1)),
            f"conv1.weight {FC1}",
        ),
    ]
    return [
        faulty(f"not finite: {name}", "not finite", build, causes, "NaN or overflow") for name, build, causes in rows
    ]


def mixed() -> list[Planted]:
    """Return networks with two independent faults of different kinds."""
    conv1 = BRANCH[0]
    return [
        faulty(
            "mixed: zero conv2 and huge fc1",
            "dead",
            partial(conv, "relu", fill(0, CONV2), times(HUGE, FC1)),
            f"{CONV2} {FC1}",
            "one layer is zero, a later one huge",
        ),
        faulty(
            "mixed: zero branch and joint branch",
            "dead",
            partial(residual, "relu", fill(0, conv1, "block2.conv2.weight", "block2.scale")),
            f"{conv1} block2.conv2.weight|block2.scale",
            "one branch is closed, the other has two zero factors",
        ),
    ]


def no_cure() -> list[Planted]:
    """Return networks whose depth is the fault: redrawing every tensor changes nothing, so none is to blame."""
    sigmoid, why = partial(dense, "sigmoid", width=16, gain=1), "slopes of at most 1/4 multiply from layer to layer"
    return [
        faulty("no cure: 40 layers of sigmoid", "vanishing", partial(sigmoid, depth=40), "", why),
        faulty("no cure: 40 layers of sigmoid, larger", "vanishing", partial(sigmoid, depth=40, gain=1.4), "", why),
        faulty("no cure: 30 layers of sigmoid", "vanishing", partial(sigmoid, depth=30), "", why),
    ]


def alike_in_gates() -> list[Planted]:
    """Return recurrent networks whose units are all alike, although their gates differ from each other."""
    slot = "recurrent.weight_ih_l0|recurrent.weight_hh_l0|last.weight"
    layers: list[tuple[str, Callable[..., nn.RNNBase]]] = [("RNN", nn.RNN), ("LSTM", nn.LSTM), ("GRU", nn.GRU)]
    return [
        faulty(
            f"symmetric: constant {name}",
            "symmetric",
            partial(drawn, partial(made.Recurrent, layer), fill(0.1, "*weight*"), gain=1),
            slot,
            "the units of a recurrent layer are identical and stay so",
        )
        for name, layer in layers
    ]


FAULTS = (
    *(zero_kernels, several_zeros, closed_by_biases, dead_norms_and_branches, joint_branches, joint_zeros),
    *(symmetric, alike_in_gates, too_large, too_small, no_cure, not_finite, mixed),
)
PLANTED: tuple[Planted, ...] = (
    *(network for family in FAULTS for network in family()),
    *(Planted(name, build, HEALTHY, (), why) for name, build, why in planted_healthy.rows()),
)
"""Every network, faulty ones first; names are unique."""
