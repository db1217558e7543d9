"""The sections ``model`` and ``model.layers`` of a trial's config; see ``harness.config``."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.bounds import LATER, Conflict, later, one_of

UNKNOWN = "unknown"
"""``model.activation`` of a network of the user's own that does not say which activation function it has."""
_OF_LAYERS = frozenset(
    {"bias", "padding_mode", "pooling", "norm", "preactivation", "learned_scale", "depth", "width", "stride"}
)
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

    A network of the user's own has no layers here: ``function`` is the name under which its function was registered
    (see ``harness.model_registry``), ``modules`` are imported first so that they register it, and ``options`` are its
    keyword arguments. Its ``activation`` is :data:`UNKNOWN` unless it is given, because nothing tells it.
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
    function: str | None = later(None)
    options: dict[str, Any] = field(default_factory=dict, metadata=LATER)
    modules: list[str] = field(default_factory=list, metadata=LATER)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield each setting that would have no effect on a declared network, or on one of the user's own."""
        if self.function is None:
            if self.options:
                yield Conflict("options", "this model is declared as layers and has no options", "leave them out")
            return
        if self.layers:
            yield Conflict("function", "this model is declared as layers already", f"use model={self.function}")
        for setting in dataclasses.fields(self):
            given = getattr(self, setting.name)
            if setting.name in _OF_LAYERS and given != setting.default:
                problem = f"has no effect on model={self.function}, a network of your own"
                yield Conflict(setting.name, problem, "leave it out, or make it an option of its function")
