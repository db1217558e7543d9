"""Small networks of plain torch, in which :mod:`planted_networks` plants its faults.

Shapes: inputs x_NCHW (N, 1, SIDE, SIDE), outputs (N, CLASSES). Every network is filled from a fixed seed: weights are
normal with variance gain^2 / fan_in, biases are 0, scales and norm weights are 1.
"""

import functools
import math
from collections import OrderedDict
from collections.abc import Callable
from fnmatch import fnmatch

import torch
import torch.nn.functional as F
from torch import nn

from harness import data
from harness.config import DataConfig

SIDE, CLASSES = 7, 10
"""Images are averaged down to SIDE x SIDE pixels, so that hundreds of networks train in a minute."""
HIDDEN, CHANNELS = 12, 4

CONV2, FC1, LAST = "conv2.weight", "fc1.weight", "last.weight"
BRANCH = "block1.conv1.weight", "block1.conv2.weight", "block1.scale"
"""Names of parameters that are often broken."""


class Squared(nn.Module):
    """The activation relu(x) ** 2, whose value and slope at 0 are both 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return relu(x) ** 2, elementwise."""
        return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "squared": Squared,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "tanh": nn.Tanh,
    "softsign": nn.Softsign,
    "hardtanh": nn.Hardtanh,
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus,
}
GAINS = {
    "tanh": 1.0,
    "softsign": 1.4,
    "hardtanh": 1.0,
    "identity": 1.0,
    "selu": 1.0,
    "sigmoid": 3.0,
    "softplus": 1.0,
    "squared": 0.7,
}
"""Activation -> gain of its healthy draw; that of the others is sqrt(2)."""
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "": lambda _channels: nn.Identity(),
    "batch1d": nn.BatchNorm1d,
    "batch": nn.BatchNorm2d,
    "layer": nn.LayerNorm,
    "group": functools.partial(nn.GroupNorm, 2),
}

Edit = Callable[[dict[str, nn.Parameter]], None]
"""A change of named parameters in place, without a gradient being recorded."""


@functools.cache
def batch(count: int = 20) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first embedded digits as float32 x_NCHW of SIDE x SIDE pixels, and their labels."""
    config = DataConfig(scaling="standardised")
    digits = data.to_device(data.load(config), config, torch.device("cpu"))
    return F.avg_pool2d(digits.train_images[:count], 28 // SIDE), digits.train_labels[:count]


def gain_of(activation: str) -> float:
    """Return the gain of an activation's healthy draw."""
    return GAINS.get(activation, math.sqrt(2))


def filled(network: nn.Module, gain: float, seed: int) -> nn.Module:
    """Draw every weight matrix and kernel anew with variance gain^2 / fan_in, and set the biases to 0."""
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.dim() >= 2:
                value.copy_(torch.randn(value.shape, generator=draws) * gain / math.sqrt(value[0].numel()))
            elif "bias" in name:
                value.zero_()
    return network


def edited(network: nn.Module, *edits: Edit) -> nn.Module:
    """Apply the edits to a network's parameters, in order."""
    with torch.no_grad():
        for edit in edits:
            edit(dict(network.named_parameters()))
    return network


def fill(value: float, *patterns: str) -> Edit:
    """Return an edit that sets every parameter whose name matches a pattern to one value."""
    return each(lambda tensor: torch.full_like(tensor, value), *patterns)


def times(factor: float, *patterns: str) -> Edit:
    """Return an edit that multiplies every parameter whose name matches a pattern."""
    return each(lambda tensor: tensor * factor, *patterns)


def each(change: Callable[[torch.Tensor], torch.Tensor], *patterns: str) -> Edit:
    """Return an edit that replaces every parameter whose name matches a pattern by what ``change`` makes of it."""

    def edit(parameters: dict[str, nn.Parameter]) -> None:
        for pattern in patterns:
            names = [name for name in parameters if fnmatch(name, pattern)]
            assert names, f"no parameter matches {pattern}; there are {', '.join(parameters)}"
            for name in names:
                parameters[name].copy_(change(parameters[name]))

    return edit


def dense(
    activation: str, *edits: Edit, depth: int = 3, width: int = HIDDEN, norm: str = "", gain: float = 0, seed: int = 0
) -> nn.Module:
    """Return fully connected layers fc1, fc2, ... and last; ``depth`` counts all of them."""
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for layer in range(1, depth):
        modules[f"fc{layer}"] = nn.Linear(SIDE * SIDE if layer == 1 else width, width)
        modules[f"norm{layer}"] = NORMS[norm](width)
        modules[f"act{layer}"] = ACTIVATIONS[activation]()
    modules["last"] = nn.Linear(width, CLASSES)
    return edited(filled(nn.Sequential(modules), gain or gain_of(activation), seed), *edits)


def conv(activation: str, *edits: Edit, norm: str = "", gain: float = 0, seed: int = 0) -> nn.Module:
    """Return the layers conv1, conv2, fc1 and last, with a norm behind each convolution if one is named."""
    act, normalised = ACTIVATIONS[activation], NORMS[norm]
    modules = OrderedDict(
        conv1=nn.Conv2d(1, CHANNELS, 3, padding=1),
        norm1=normalised(CHANNELS),
        act1=act(),
        conv2=nn.Conv2d(CHANNELS, CHANNELS, 3, stride=2, padding=1),
        norm2=normalised(CHANNELS),
        act2=act(),
        flatten=nn.Flatten(),
        fc1=nn.Linear(CHANNELS * 16, HIDDEN),
        act3=act(),
        last=nn.Linear(HIDDEN, CLASSES),
    )
    return edited(filled(nn.Sequential(modules), gain or gain_of(activation), seed), *edits)


class Functional(nn.Module):
    """A network whose pooling and activation are calls of functions, which no hook on a module sees."""

    def __init__(self, activation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.activation = activation
        self.conv1 = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.conv2 = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.fc1 = nn.Linear(CHANNELS * 9, HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, CLASSES)."""
        x_NCHW = self.activation(self.conv1(x_NCHW))
        x_NCHW = F.max_pool2d(self.activation(self.conv2(x_NCHW)), 2)
        logits: torch.Tensor = self.last(self.activation(self.fc1(x_NCHW.flatten(1))))
        return logits


def functional(
    activation: Callable[[torch.Tensor], torch.Tensor], *edits: Edit, gain: float = math.sqrt(2), seed: int = 0
) -> nn.Module:
    """Return a filled :class:`Functional`."""
    return edited(filled(Functional(activation), gain, seed), *edits)


class Block(nn.Module):
    """A residual block: x + scale * branch(x), with a branch of two layers."""

    def __init__(self, activation: str, layer: Callable[[], nn.Module], norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.norm1 = layer(), norm()
        self.activation = ACTIVATIONS[activation]()
        self.conv2, self.norm2 = layer(), norm()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the skip path and the scaled branch, of the shape of x."""
        branch: torch.Tensor = self.norm2(self.conv2(self.activation(self.norm1(self.conv1(x)))))
        return x + self.scale * branch


def residual(
    activation: str, *edits: Edit, blocks: int = 2, norm: str = "", stem: str = "identity", seed: int = 0
) -> nn.Module:
    """Return a stem, the blocks block1, block2, ... of convolutions, and last; ``stem`` names its activation."""
    modules: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Conv2d(1, CHANNELS, 3, stride=2, padding=1))
    modules["act"] = ACTIVATIONS[stem]()
    for number in range(1, blocks + 1):
        layer = functools.partial(nn.Conv2d, CHANNELS, CHANNELS, 3, padding=1)
        modules[f"block{number}"] = Block(activation, layer, functools.partial(NORMS[norm], CHANNELS))
    modules |= OrderedDict(flatten=nn.Flatten(), last=nn.Linear(CHANNELS * 16, CLASSES))
    return edited(filled(nn.Sequential(modules), 1.0, seed), *edits)


def dense_residual(activation: str, *edits: Edit, blocks: int = 20, norm: str = "", seed: int = 0) -> nn.Module:
    """Return a stem, dense residual blocks and last: 2 * blocks + 2 layers."""
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten(), stem=nn.Linear(SIDE * SIDE, HIDDEN))
    for number in range(1, blocks + 1):
        layer = functools.partial(nn.Linear, HIDDEN, HIDDEN)
        modules[f"block{number}"] = Block(activation, layer, functools.partial(NORMS[norm], HIDDEN))
    modules["last"] = nn.Linear(HIDDEN, CLASSES)
    return edited(filled(nn.Sequential(modules), 1.0, seed), *edits)


class Attention(nn.Module):
    """Attention over the rows of an image, behind a layer norm and beside a skip path."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(SIDE, HIDDEN)
        self.norm = nn.LayerNorm(HIDDEN)
        self.attention = nn.MultiheadAttention(HIDDEN, 2, batch_first=True)
        self.last = nn.Linear(HIDDEN * SIDE, CLASSES)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, CLASSES)."""
        rows = self.stem(x_NCHW.flatten(1, 2))
        normalised = self.norm(rows)
        mixed, _ = self.attention(normalised, normalised, normalised, need_weights=False)
        logits: torch.Tensor = self.last((rows + mixed).flatten(1))
        return logits


class Recurrent(nn.Module):
    """A recurrent layer that reads an image row by row."""

    def __init__(self, layer: Callable[..., nn.RNNBase]) -> None:
        super().__init__()
        self.recurrent = layer(SIDE, HIDDEN, batch_first=True)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, CLASSES)."""
        outputs, _ = self.recurrent(x_NCHW.flatten(1, 2))
        logits: torch.Tensor = self.last(outputs[:, -1])
        return logits


class Adapter(nn.Module):
    """A dense layer beside a product of two thin matrices, the second of which begins at zero (LoRA)."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(SIDE * SIDE, HIDDEN)
        self.down = nn.Linear(SIDE * SIDE, 2, bias=False)
        self.up = nn.Linear(2, HIDDEN, bias=False)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, CLASSES)."""
        x = x_NCHW.flatten(1)
        logits: torch.Tensor = self.last(F.relu(self.fc1(x) + self.up(self.down(x))))
        return logits


class Tied(nn.Module):
    """A network that applies one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(SIDE * SIDE, HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, CLASSES)."""
        x = F.relu(self.fc1(x_NCHW.flatten(1)))
        logits: torch.Tensor = self.last(F.relu(self.fc2(F.relu(self.fc2(x)))))
        return logits


class WithUnused(nn.Module):
    """A network that owns a layer which its forward pass never calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(SIDE * SIDE, HIDDEN)
        self.spare = nn.Linear(HIDDEN, HIDDEN)
        self.last = nn.Linear(HIDDEN, CLASSES)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Return the logits (N, CLASSES)."""
        logits: torch.Tensor = self.last(F.relu(self.fc1(x_NCHW.flatten(1))))
        return logits


def drawn(network: Callable[[], nn.Module], *edits: Edit, gain: float = math.sqrt(2), seed: int = 0) -> nn.Module:
    """Return a network of a class of one's own, filled."""
    return edited(filled(network(), gain, seed), *edits)


def frozen(network: nn.Module, *patterns: str) -> nn.Module:
    """Take parameters out of training."""
    for name, value in network.named_parameters():
        value.requires_grad_(not any(fnmatch(name, pattern) for pattern in patterns))
    return network


def with_dropout() -> nn.Module:
    """Return a dense network that drops a fifth of its units in training."""
    modules = OrderedDict(
        flatten=nn.Flatten(),
        fc1=nn.Linear(SIDE * SIDE, HIDDEN),
        act=nn.ReLU(),
        dropout=nn.Dropout(0.2),
        last=nn.Linear(HIDDEN, CLASSES),
    )
    return filled(nn.Sequential(modules), math.sqrt(2), 0)


def depthwise() -> nn.Module:
    """Return a convolution of one kernel per channel between two ordinary layers, none of which has a bias."""
    modules = OrderedDict(
        conv1=nn.Conv2d(1, CHANNELS, 3, padding=1, bias=False),
        conv2=nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS, bias=False),
        act=nn.ReLU(),
        flatten=nn.Flatten(),
        last=nn.Linear(CHANNELS * SIDE * SIDE, CLASSES, bias=False),
    )
    return filled(nn.Sequential(modules), math.sqrt(2), 0)
