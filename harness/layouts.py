"""The plan of a network: every layer's name and sizes from a declarative list of layers, checked.

Shapes are those of one image: (C channels, H height, W width), or (features,) behind a dense layer.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from harness.activations import ACTIVATIONS
from harness.bounds import refusal
from harness.config import LayerConfig, ModelConfig
from harness.errors import UsageError
from harness.model_config import NORMS

CLASSES = 10
IMAGE_SHAPE = (1, 28, 28)
BRANCH_CONVS = 2
"""Convolutions in a residual branch that does not say."""
GROUPS = (8, 4, 2)
"""Groups of a group norm that does not say: the first that divides the channels into groups of several numbers."""


@dataclass(frozen=True)
class Layout:
    """One layer with its sizes: what :func:`build` makes and :func:`flops_per_image` counts.

    Attributes:
        name: unique in the network.
        config: what it was made from, with what it leaves to the model filled in.
        out_shape: of one image's output.
        weight_shape: empty for a layer without a weight.
        branch: of a residual layer, the layers it adds to its input.
    """

    name: str
    config: LayerConfig
    out_shape: tuple[int, ...]
    weight_shape: tuple[int, ...] = ()
    branch: list["Layout"] = field(default_factory=list)


def plan(config: ModelConfig) -> list[Layout]:
    """Every layer's name and sizes.

    Raises:
        UsageError: a layer that cannot be: unknown type, missing or superfluous size, image used up, wrong outputs.
    """
    if config.activation not in ACTIVATIONS:
        raise UsageError(f"model.activation={config.activation}; choose one of: {', '.join(ACTIVATIONS)}")
    _check_shared(config)
    layers = list(_layouts(config))
    names = [layer.name for layer in _flat(layers)]
    if len(set(names)) != len(names):
        raise UsageError(f"model.layers: names must differ, given: {', '.join(names)}")
    last = layers[-1] if layers else None
    if last is None or last.out_shape != (CLASSES,) or not last.weight_shape:
        shape = last.out_shape if last else ()
        raise UsageError(f"model.layers: the last layer gives {shape}, it must be a dense layer with out={CLASSES}")
    return layers


def weight_layers(config: ModelConfig) -> list[str]:
    """Names of the layers that have a weight, in order, those inside branches too."""
    return [layer.name for layer in _flat(plan(config)) if layer.weight_shape]


def biased_layers(config: ModelConfig) -> list[str]:
    """Names of the layers that have a bias, in order."""
    return [layer.name for layer in _flat(plan(config)) if layer.weight_shape and layer.config.bias]


def norm_layers(config: ModelConfig) -> list[str]:
    """Names of the normalisations, in order."""
    return [layer.name for layer in _flat(plan(config)) if layer.config.type == "norm"]


def norm_kinds(config: ModelConfig) -> set[str]:
    """Kinds of all normalisations of the network."""
    return {str(layer.config.kind) for layer in _flat(plan(config)) if layer.config.type == "norm"}


def activations(config: ModelConfig) -> set[str]:
    """Names of all activation functions of the network."""
    return {str(layer.config.activation) for layer in _flat(plan(config)) if layer.config.type == "activation"}


def has_unscaled_branches(config: ModelConfig) -> bool:
    """Whether there are residual layers and none has a learned scale."""
    scaled = [layer.config.learned_scale for layer in plan(config) if layer.config.type == "residual"]
    return bool(scaled) and not any(scaled)


def check_batch(config: ModelConfig, batch_size: int) -> None:
    """Refuse batch normalisation over a single number.

    Raises:
        UsageError: a batch of one image has no statistics behind a dense layer.
    """
    for layer in _flat(plan(config)):
        if layer.config.kind == "batch" and math.prod(layer.out_shape[1:]) * batch_size == 1:
            problem = f"batch normalisation ({layer.name}) needs the statistics of more than one number"
            raise refusal("train.batch_size", batch_size, problem, "give at least 2 or another kind of norm")


def flops_per_image(config: ModelConfig) -> tuple[int, int]:
    """(forward, training step) floating-point operations per image in convolutions and dense layers.

    A multiplication and an addition count 2. A training step is the forward pass, the weight gradient and, but for a
    first layer that no norm precedes, the input gradient: each the same count. Activations, pooling, biases
    and the update are left out.
    """
    counts: list[int] = []
    unneeded = 0
    has_norm = False
    for layer in _flat(plan(config)):
        # the scale and shift of a norm before the first layer need that layer's input gradient
        has_norm = has_norm or layer.config.type == "norm"
        if layer.weight_shape:
            pixels = math.prod(layer.out_shape[1:])
            counts.append(2 * math.prod(layer.weight_shape) * pixels)
            unneeded = counts[0] if len(counts) == 1 and not has_norm else unneeded
    return sum(counts), 3 * sum(counts) - unneeded


def _flat(layers: list[Layout]) -> Iterator[Layout]:
    for layer in layers:
        yield from layer.branch
        yield layer


def _check_shared(config: ModelConfig) -> None:
    """A setting that no layer refers to would change nothing."""
    for size, keys in {"depth": ("repeat",), "width": ("out",), "stride": ("stride",)}.items():
        chosen = getattr(config, size)
        if chosen is not None and all(getattr(layer, key) != chosen for layer in config.layers for key in keys):
            raise UsageError(f"model.{size}={chosen}: no layer of this model refers to it; see model=deep")
    plain = ModelConfig()
    for name in ("preactivation", "learned_scale"):
        given = getattr(config, name)
        if given != getattr(plain, name) and all(layer.type != "residual" for layer in config.layers):
            raise refusal(f"model.{name}", given, "this model has no residual layer", "use model=residual")


_REQUIRED = {
    "conv": {"name", "out", "kernel"},
    "dense": {"name", "out"},
    "pool": {"size"},
    "activation": set[str](),
    "norm": {"kind"},
    "dropout": {"p"},
    "residual": {"name", "kernel"},
}
_OPTIONAL = {
    "conv": {"stride", "repeat", "bias", "norm", "padding", "padding_mode"},
    "dense": {"repeat", "bias", "norm"},
    "activation": {"activation"},
    "norm": {"name", "groups"},
    "residual": {"convs", "repeat", "bias", "norm", "padding_mode", "preactivation", "learned_scale"},
}
_SIZES = ("out", "kernel", "size", "stride", "convs", "repeat", "groups")
_NAMES = {
    "kind": NORMS,
    "norm": ("none", *NORMS),
    "padding": ("same", "valid"),
    "padding_mode": ("zeros", "circular"),
    "activation": tuple(ACTIVATIONS),
}


def _layouts(config: ModelConfig) -> Iterator[Layout]:
    shape: tuple[int, ...] = IMAGE_SHAPE
    for position, (where, layer) in enumerate(_unrolled(config)):
        _check_sizes(layer, where, shape)
        layout = _layout(layer, layer.name or f"{layer.type}_{position}", shape)
        shape = layout.out_shape
        yield layout


def _unrolled(config: ModelConfig) -> Iterator[tuple[str, LayerConfig]]:
    """Each layer with its place in the config: repeated ones written out, norms behind their layers."""
    last = len(config.layers) - 1
    for index, given in enumerate(config.layers):
        where = f"model.layers[{index}]"
        _check_keys(given, where)
        if index == last and given.norm not in (None, "none"):
            raise refusal(f"{where}.norm", given.norm, "the last layer gives the logits", "leave norm out there")
        layer = _filled(given, config, is_last=index == last)
        if layer.repeat is None:
            yield from _with_norm(where, layer)
        for number in range(1, (layer.repeat or 0) + 1):
            yield from _with_norm(where, dataclasses.replace(layer, name=f"{layer.name}{number}", repeat=None))
            if not layer.preactivation:
                yield where, LayerConfig(type="activation", activation=config.activation)


def _with_norm(where: str, layer: LayerConfig) -> Iterator[tuple[str, LayerConfig]]:
    """The layer, and its norm if it has one; a residual layer has its norms in its branch."""
    yield where, layer
    if layer.type in ("conv", "dense") and layer.norm != "none":
        yield f"{where}.norm", LayerConfig(type="norm", name=f"{layer.name}_norm", kind=layer.norm)


def _filled(layer: LayerConfig, config: ModelConfig, *, is_last: bool) -> LayerConfig:
    """The layer with what it leaves to the model."""
    keys = {"conv": ("bias", "norm", "padding_mode"), "dense": ("bias", "norm"), "activation": ("activation",)}
    keys["residual"] = (*keys["conv"], "activation", "preactivation", "learned_scale")
    values = {key: getattr(config, key) for key in keys.get(layer.type, ()) if getattr(layer, key) is None}
    if is_last:
        values["norm"] = "none"
    return dataclasses.replace(layer, **values)


def _check_keys(layer: LayerConfig, where: str) -> None:
    if layer.type not in _REQUIRED:
        raise UsageError(f"{where}: type '{layer.type}' is unknown; choose one of: {', '.join(_REQUIRED)}")
    given = {key: value for key, value in dataclasses.asdict(layer).items() if key != "type" and value is not None}
    required, optional = _REQUIRED[layer.type], _OPTIONAL.get(layer.type, set())
    if not required <= given.keys() <= required | optional:
        needs = ", ".join(sorted(required)) or "nothing"
        may = f" and may have {', '.join(sorted(optional))}" if optional else ""
        raise UsageError(f"{where}: {layer.type} takes {needs}{may}; given {', '.join(sorted(given)) or 'nothing'}")
    sizes = {key: value for key, value in given.items() if key in _SIZES}
    if any(value < 1 for value in sizes.values()):
        raise UsageError(f"{where}: sizes must be at least 1, given {sizes}")
    for key, choices in _NAMES.items():
        if key in given and given[key] not in choices:
            raise refusal(f"{where}.{key}", given[key], "no such choice", f"give one of: {', '.join(choices)}")
    if layer.p is not None and not 0 <= layer.p < 1:
        raise refusal(f"{where}.p", layer.p, "out of range", "give a share of at least 0 and below 1")
    _check_kernel(layer, where)
    if layer.name is not None and (not layer.name.isidentifier() or hasattr(nn.Sequential(), layer.name)):
        raise UsageError(
            f"{where}: name={layer.name}; give letters, digits and underscores, and no name of torch's own modules"
        )


def _check_kernel(layer: LayerConfig, where: str) -> None:
    if layer.padding == "valid":
        if layer.padding_mode is not None:
            raise refusal(f"{where}.padding_mode", layer.padding_mode, "padding=valid pads nothing", "leave it out")
    elif layer.kernel is not None and layer.kernel % 2 == 0:
        raise UsageError(f"{where}: kernel={layer.kernel}; SAME padding needs an odd kernel")


def _check_sizes(layer: LayerConfig, where: str, shape: tuple[int, ...]) -> None:
    if layer.type == "norm":
        _check_norm(layer, where, shape)
    if layer.type not in ("conv", "pool", "residual"):
        return
    least, kernel = layer.size or 1, layer.kernel or 1
    if layer.padding == "valid":
        least = max(least, kernel)
    elif layer.padding_mode == "circular":
        least = max(least, kernel // 2)
    if len(shape) != len(IMAGE_SHAPE) or least > shape[-1]:
        raise UsageError(f"{where}: {layer.type} needs an image that is large enough, and gets shape {shape}")
    if layer.type == "residual" and layer.norm != "none":
        _check_norm(LayerConfig(type="norm", kind=layer.norm), f"{where}.norm", shape)


def _check_norm(layer: LayerConfig, where: str, shape: tuple[int, ...]) -> None:
    """Statistics must be those of more than one number, and groups must divide the channels."""
    if layer.groups is not None and layer.kind != "group":
        raise refusal(f"{where}.groups", layer.groups, f"kind={layer.kind} has no groups", "set kind=group")
    groups = groups_of(layer, shape)
    if shape[0] % groups:
        raise refusal(f"{where}.groups", groups, f"does not divide the {shape[0]} channels", "give a divisor of them")
    if layer.kind != "batch" and math.prod(shape) // groups < 2:
        problem = f"the statistics of shape {shape} would be those of one number"
        raise refusal(f"{where}.kind", layer.kind, problem, "use fewer groups or more units")


def groups_of(layer: LayerConfig, shape: tuple[int, ...]) -> int:
    """How many groups of channels a norm takes the statistics of; 1 for every kind but group."""
    if layer.kind != "group":
        return 1
    numbers = math.prod(shape)
    return layer.groups or next((n for n in GROUPS if shape[0] % n == 0 and numbers > n), 1)


def _layout(layer: LayerConfig, name: str, shape: tuple[int, ...]) -> Layout:
    """One checked layer behind an output of ``shape``."""
    if layer.type == "conv":
        return _conv_layout(layer, name, shape)
    if layer.type == "dense":
        assert layer.out is not None
        return Layout(name, layer, (layer.out,), (layer.out, math.prod(shape)))
    if layer.type == "pool":
        assert layer.size is not None
        return Layout(name, layer, (shape[0], shape[1] // layer.size, shape[2] // layer.size))
    if layer.type == "residual":
        return Layout(name, layer, shape, branch=_branch(layer, name, shape))
    return Layout(name, layer, shape)


def _conv_layout(layer: LayerConfig, name: str, shape: tuple[int, ...]) -> Layout:
    assert layer.out is not None
    assert layer.kernel is not None
    stride, lost = layer.stride or 1, layer.kernel - 1 if layer.padding == "valid" else 0
    out = (layer.out, -(-(shape[1] - lost) // stride), -(-(shape[2] - lost) // stride))
    return Layout(name, layer, out, (layer.out, shape[0], layer.kernel, layer.kernel))


def _branch(layer: LayerConfig, name: str, shape: tuple[int, ...]) -> list[Layout]:
    """Convolutions that keep the shape: an activation between each two, or before each if ``preactivation`` is set.

    A norm stands behind each convolution, or before each activation of a preactivation branch (He et al. 2016).
    """
    count = layer.convs or BRANCH_CONVS
    convs = [
        LayerConfig("conv", out=shape[0], kernel=layer.kernel, bias=layer.bias, padding_mode=layer.padding_mode)
    ] * count
    layers: list[Layout] = []
    for number, conv in enumerate(convs, 1):
        norm = LayerConfig("norm", kind=layer.norm)
        norms = [Layout(f"{name}_norm{number}", norm, shape)] if layer.norm != "none" else []
        here = number if layer.preactivation else number - 1
        function = LayerConfig("activation", activation=layer.activation)
        activation = [Layout(f"{name}_activation{here}", function, shape)] if here else []
        made = [_conv_layout(conv, f"{name}_conv{number}", shape)]
        layers += [*norms, *activation, *made] if layer.preactivation else [*activation, *made, *norms]
    return layers
