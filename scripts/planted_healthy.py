"""Healthy networks, many of which look suspicious: none of them may raise an alarm."""

from collections.abc import Callable
from functools import partial

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

Row = tuple[str, Callable[[], nn.Module], str]
"""A network's name, what builds it, and why it is healthy."""
TINY = 1e-5


def ordinary() -> list[Row]:
    """Return networks as people draw them."""
    why = "an ordinary draw"
    activations = [name for name in made.ACTIVATIONS if name != "squared"]
    norms = [("batch", conv), ("group", conv), ("batch1d", dense), ("layer", dense)]
    return [
        *((f"ordinary: conv {name}", partial(conv, name), why) for name in activations),
        *((f"ordinary: two layers {name}", partial(dense, name, depth=2), why) for name in ("relu", "tanh", "gelu")),
        *((f"ordinary: relu {norm}", partial(make, "relu", norm=norm), why) for norm, make in norms),
        *((f"ordinary: residual {name}", partial(residual, name), why) for name in ("relu", "tanh", "silu")),
        *((f"ordinary: residual {norm}", partial(residual, "relu", norm=norm), why) for norm in ("batch", "group")),
        ("ordinary: functional relu", partial(functional, F.relu), why),
        ("ordinary: functional leaky_relu", partial(functional, F.leaky_relu), why),
        ("ordinary: attention", partial(drawn, made.Attention, gain=1), why),
        ("ordinary: LSTM", partial(drawn, partial(made.Recurrent, nn.LSTM), gain=1), why),
        ("ordinary: GRU", partial(drawn, partial(made.Recurrent, nn.GRU), gain=1), why),
        ("ordinary: tied layers", partial(drawn, made.Tied), why),
        ("ordinary: depthwise without biases", made.depthwise, why),
        ("ordinary: dropout", made.with_dropout, why),
        ("unused: a spare layer", partial(drawn, made.WithUnused), "a layer is never called"),
        ("frozen: first layer", lambda: made.frozen(conv("relu"), "conv1.*"), "a layer is not to be trained"),
    ]


def late() -> list[Row]:
    """Return networks with zeros that cost a few steps and nothing more."""
    conv1, conv2, scale = BRANCH
    why = "a zero tensor gets a gradient at once and wakes the others"
    wakes = ("tanh", "leaky_relu", "elu", "gelu", "silu", "identity", "softsign", "selu", "mish", "sigmoid", "softplus")
    rows = [
        *((f"zero conv2 {name}", partial(conv, name, fill(0, CONV2))) for name in wakes),
        *((f"zero last {name}", partial(conv, name, fill(0, LAST))) for name in ("relu", "tanh", "gelu", "sigmoid")),
        ("zero conv2 and last softplus", partial(conv, "softplus", fill(0, CONV2, LAST))),
        ("zero conv2 relu, positive bias", partial(conv, "relu", fill(0, CONV2), fill(0.1, "conv2.bias"))),
        ("zero conv2 tanh, negative bias", partial(conv, "tanh", fill(0, CONV2), fill(-0.1, "conv2.bias"))),
        ("zero first layer tanh", partial(dense, "tanh", fill(0, FC1))),
        ("zero scales (SkipInit)", partial(residual, "relu", fill(0, "*.scale"))),
        ("zero scales, 42 layers (ReZero)", partial(dense_residual, "relu", fill(0, "*.scale"))),
        ("zero last of branches", partial(residual, "relu", fill(0, "*.conv2.weight"))),
        ("zero last of branches and last (Fixup)", partial(residual, "relu", fill(0, "*.conv2.weight", LAST))),
        ("zero last norm of a branch", partial(residual, "relu", fill(0, "*.norm2.weight"), norm="batch")),
        ("zero first of a tanh branch", partial(residual, "tanh", fill(0, conv1))),
        ("zero stem before a skip path", partial(residual, "relu", fill(0, "stem.weight"))),
        ("zero scale and last", partial(residual, "tanh", fill(0, scale, LAST))),
        ("zero last of a gelu branch", partial(residual, "gelu", fill(0, conv2))),
        ("zero half of an adapter (LoRA)", partial(drawn, made.Adapter, fill(0, "up.weight"))),
        ("zero output of attention", partial(drawn, made.Attention, fill(0, "attention.out_proj.weight"), gain=1)),
        ("zero functional gelu", partial(functional, F.gelu, fill(0, CONV2))),
    ]
    return [(f"late: {name}", build, why) for name, build in rows]


def odd() -> list[Row]:
    """Return networks with sizes that look wrong and do no harm."""
    alike = made.each(lambda weight: weight[:1].expand_as(weight), "fc2.weight")
    rows = [
        ("tiny last layer", partial(conv, "relu", times(TINY, LAST)), "the last layer grows in its first steps"),
        ("tiny last layer tanh", partial(dense, "tanh", times(TINY, LAST)), "the last layer grows in its first steps"),
        ("last bias 2000", partial(conv, "relu", fill(2000, "last.bias")), "softmax cannot see what all classes share"),
        ("kernel * 1000, batch norm", partial(conv, "relu", times(1e3, CONV2), norm="batch"), "the norm undoes it"),
        ("kernel / 1000, batch norm", partial(conv, "relu", times(1e-3, CONV2), norm="batch"), "the norm undoes it"),
        ("kernel * 1000, group norm", partial(conv, "relu", times(1e3, CONV2), norm="group"), "the norm undoes it"),
        ("weight * 100, layer norm", partial(dense, "tanh", times(100, FC1), norm="layer"), "the norm undoes it"),
        ("small gain", partial(dense, "relu", gain=0.5), "three layers lose little"),
        ("large gain", partial(dense, "relu", gain=3), "three layers gain little"),
        ("equal rows", partial(dense, "relu", alike), "the next layer tells the units apart"),
        ("constant last layer", partial(dense, "relu", fill(0.1, LAST)), "the layer before tells its units apart"),
        ("constant first layer", partial(dense, "relu", fill(0.1, FC1)), "the next layer tells the units apart"),
        ("bias 1", partial(conv, "relu", fill(1, "*.bias")), "shifts are learned away"),
    ]
    return [(f"odd: {name}", build, why) for name, build, why in rows]


def sparse(weight: torch.Tensor) -> torch.Tensor:
    """Return the weight with three of four entries at zero and the others doubled."""
    kept = torch.rand(weight.shape, generator=torch.Generator().manual_seed(1)) < 0.25
    return 2 * weight * kept


def orthogonal(weight: torch.Tensor) -> torch.Tensor:
    """Return an orthogonal matrix of the weight's shape."""
    return torch.nn.init.orthogonal_(torch.empty_like(weight), generator=torch.Generator().manual_seed(1))


def structured() -> list[Row]:
    """Return networks with sparse, identity and orthogonal weights, and deep ones that train."""
    eye = made.each(lambda weight: torch.eye(*weight.shape), "fc2.weight", "fc3.weight")
    rows = [
        ("sparse dense", partial(dense, "relu", made.each(sparse, "fc*.weight"), width=16)),
        ("sparse conv", partial(conv, "tanh", made.each(sparse, "*.weight"))),
        ("identity dense", partial(dense, "relu", eye, depth=4)),
        ("orthogonal dense", partial(dense, "relu", made.each(orthogonal, "*.weight"), depth=4)),
        (
            "orthogonal, 40 layers of tanh",
            partial(dense, "tanh", made.each(orthogonal, "*.weight"), depth=40, width=16),
        ),
        ("orthogonal, 40 layers of identity", partial(dense, "identity", made.each(orthogonal, "*.weight"), depth=40)),
        ("40 layers of elu", partial(dense, "elu", gain=1.2, depth=40, width=16)),
        ("42 layers, small scales", partial(dense_residual, "relu", fill(0.2, "*.scale"))),
    ]
    return [(f"structured: {name}", build, "drawn on purpose, and it trains") for name, build in rows]


def rows() -> list[Row]:
    """Return all healthy networks."""
    return [*ordinary(), *late(), *odd(), *structured()]
