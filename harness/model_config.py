"""The sections ``model`` and ``model.layers`` of a trial's config; see ``harness.config``."""

from dataclasses import dataclass, field

from harness.bounds import later, one_of

NORMS = ("batch", "layer", "group")
"""Kinds of normalisation."""


@dataclass(frozen=True)
class LayerConfig:
    """One layer; ``type`` is conv, dense, pool, activation, norm, dropout or residual.

    The other fields belong to some of these types. A field that is null follows the field of :class:`ModelConfig` with
    the same name, where there is one. ``repeat: n`` stands for n copies named name1 ... name-n, each followed by an
    activation. A residual layer adds a branch of ``convs`` convolutions to its input.

    ``kind`` and ``groups`` belong to a norm, and ``p`` is the share of numbers that dropout sets to 0. ``padding`` of
    a convolution is same (default) or valid. ``activation`` names the function of an activation layer.
    """

    type: str = "activation"
    name: str | None = None
    out: int | None = None
    kernel: int | None = None
    size: int | None = None
    stride: int | None = None
    convs: int | None = None
    repeat: int | None = None
    kind: str | None = later(None)
    groups: int | None = later(None)
    p: float | None = later(None)
    activation: str | None = later(None)
    bias: bool | None = later(None)
    padding: str | None = later(None)
    padding_mode: str | None = later(None)
    norm: str | None = later(None)
    preactivation: bool | None = later(None)
    learned_scale: bool | None = later(None)


@dataclass(frozen=True)
class ModelConfig:
    """The network: its layers in order, and what they have in common.

    ``depth``, ``width`` and ``stride`` are there for the layers to refer to; a model whose layers do not has none.
    ``norm`` puts a normalisation behind each convolution and dense layer but the last, before the activation.
    ``preactivation`` and ``learned_scale`` belong to residual layers (He et al. 2016): a branch of norm, activation and
    convolution, with no activation after the sum; a learned factor on the branch.
    """

    activation: str = "relu"
    bias: bool = True
    padding_mode: str = one_of("zeros", "circular", default="zeros")
    pooling: str = one_of("max", "avg", default="max")
    norm: str = later(one_of("none", *NORMS, default="none"))
    preactivation: bool = later(default=False)
    learned_scale: bool = later(default=True)
    depth: int | None = None
    width: int | None = None
    stride: int | None = None
    layers: list[LayerConfig] = field(default_factory=list)
