"""Initializers: a registry of functions, and applying a spec to a network.

To add one, write a function and register it; ``init.weight=NAME init.modules=[your_module]`` then uses it::

    from harness.initializers import register

    @register("small_normal")
    def small_normal(shape, *, gain, generator, std=0.01):
        return torch.randn(shape, generator=generator) * std * gain

Weights are drawn on the CPU by one thread in float32, from one generator per (seed, tensor), and copied. So they are
the same on every device and for any number of threads, and one tensor's weights do not depend on how another was
filled. What then looks at the training batch (``init.adapt``) computes on the trial's device with its threads.
"""

from collections.abc import Iterator

import torch

from harness import device, layouts, own_models, own_modules
from harness.activations import ACTIVATIONS
from harness.bounds import refusal
from harness.config import InitConfig, ModelConfig
from harness.errors import UsageError
from harness.initializers import adaptive, gains, random, structured
from harness.initializers.adaptive import ADAPTERS
from harness.initializers.registry import (
    REGISTRY,
    Branch,
    Site,
    fans,
    options_of,
    register,
    standard_normal,
    values,
)
from harness.looking import undisturbed
from harness.model_config import UNKNOWN
from harness.models import Parametrised
from harness.own_layers import trainable_parameter
from harness.own_models import AnyNetwork
from harness.random_streams import generator as random_stream

__all__ = [
    "ADAPTERS",
    "REGISTRY",
    "Branch",
    "Site",
    "adapt",
    "adaptive",
    "apply",
    "check",
    "fans",
    "gain_of",
    "random",
    "register",
    "sources",
    "standard_normal",
    "structured",
]

_GAIN_BUILT_IN = ("he_truncated", "he_normal", "he_uniform", "random_walk", "fixup")


def sources(config: InitConfig) -> dict[str, str]:
    """Hash the user's own code that a spec rests on, for the key of the trial.

    Returns:
        module -> SHA-256 of its source, for each module of ``init.modules`` (of a package, all its Python files), and
        for each other module that registered an initializer which the spec names. In a notebook or a script that is
        run, the source of the initializer itself stands for its module. What these modules import is not in it.
    """
    named = {name: REGISTRY[name] for name in sorted({*_weight_names(config), *_bias_names(config)})}
    return own_modules.sources("init.modules", config.modules, named)


def check(config: InitConfig, model: ModelConfig) -> None:
    """Check every layer, initializer and option that a spec names.

    Raises:
        UsageError: an unknown layer, initializer, adapter or option, with the choices; a gain that does not fit.
    """
    own_modules.imported("init.modules", config.modules)
    layer_names = own_models.weight_layers(model)
    norms = layouts.norm_layers(model) if model.function is None else []
    for layer in [*config.layers, *config.bias_layers]:
        if layer in norms:
            name = "layers" if layer in config.layers else "bias_layers"
            problem = "a normalisation, whose scale starts at 1 and whose shift at 0"
            raise refusal(f"init.{name}.{layer}", getattr(config, name)[layer], problem, "leave it out")
        if layer not in layer_names:
            raise UsageError(f"init names the layer '{layer}'; this model's layers are: {', '.join(layer_names)}")
    for name in [*_weight_names(config), *_bias_names(config)]:
        if name not in REGISTRY:
            raise UsageError(f"unknown initializer '{name}'; registered are: {', '.join(sorted(REGISTRY))}")
    if config.adapt not in ADAPTERS:
        raise UsageError(f"init.adapt={config.adapt}; choose one of: {', '.join(ADAPTERS)}")
    _check_options("init.options", config.options, [options_of(name) for name in _weight_names(config)])
    _check_options("init.bias_options", config.bias_options, [options_of(name) for name in _bias_names(config)])
    _check_options("init.adapt_options", config.adapt_options, [adaptive.options_of(config.adapt)])
    _check_structure(config, model)


def _weight_names(config: InitConfig) -> list[str]:
    return [config.weight, *([config.conv] if config.conv else []), *config.layers.values()]


def _bias_names(config: InitConfig) -> list[str]:
    return [config.bias, *config.bias_layers.values()]


def _check_options(path: str, options: dict[str, object], defaults: list[dict[str, object]]) -> None:
    known = {name: default for initializer in defaults for name, default in initializer.items()}
    own_modules.check_options(path, options, known, "the chosen initializers have", "they have")


def _check_structure(config: InitConfig, model: ModelConfig) -> None:
    _check_gain(config, model)
    _check_biases(config, model)
    if model.function is not None:
        return
    if config.adapt == "metainit" and "batch" in layouts.norm_kinds(model):
        problem = "torch has no third derivatives of batch normalisation"
        raise refusal("init.adapt", config.adapt, problem, "use another kind of norm or another init.adapt")
    if config.branch_scale != 1.0 and layouts.has_unscaled_branches(model):
        fix = "set model.learned_scale=true or use another init"
        raise refusal("init.branch_scale", config.branch_scale, "this model's branches have no learned scale", fix)


def _check_gain(config: InitConfig, model: ModelConfig) -> None:
    if config.gain in ("auto", "torch"):
        for name in _weight_names(config):
            if name in _GAIN_BUILT_IN:
                raise UsageError(
                    f"init.gain={config.gain}: '{name}' has relu's gain built in; use lecun_* or orthogonal"
                )
        if model.function is not None:
            _check_known(config, model)
        elif others := layouts.activations(model) - {model.activation}:
            problem = f"is the gain of model.activation={model.activation}, and layers have {', '.join(sorted(others))}"
            raise refusal("init.gain", config.gain, problem, "give a number")
        gain_of(config, model.activation)
    elif model.function is not None and model.activation != UNKNOWN:
        problem = f"has no effect with init.gain={config.gain}, because model={model.function} has its own"
        raise refusal("model.activation", model.activation, problem, "leave it out, or give init.gain=auto")


def _check_known(config: InitConfig, model: ModelConfig) -> None:
    """A gain that follows from the activation function needs one; nothing tells that of a network of the user's own."""
    if model.activation == UNKNOWN:
        problem = f"nothing tells the activation function of model={model.function}"
        raise refusal("init.gain", config.gain, problem, "add model.activation=NAME, or give a number")
    if model.activation not in ACTIVATIONS:
        raise refusal("model.activation", model.activation, "no such choice", f"give one of: {', '.join(ACTIVATIONS)}")


def _check_biases(config: InitConfig, model: ModelConfig) -> None:
    biased = own_models.biased_layers(model)
    if model.function is not None and not biased and config.bias != "zeros":
        raise refusal(
            "init.bias", config.bias, f"no layer of model={model.function} has a bias", "give init.bias=zeros"
        )
    if not biased and (config.bias_layers or config.bias != "zeros"):
        raise UsageError("init.bias names an initializer and model.bias=false leaves nothing to fill; drop one of them")
    for layer, name in config.bias_layers.items():
        if layer not in biased:
            raise refusal(f"init.bias_layers.{layer}", name, "that layer has no bias", "leave it out")


def gain_of(config: InitConfig, activation: str) -> float:
    """The factor that ``init.gain`` means for this activation function; see :func:`gains.resolve`."""
    if not isinstance(config.gain, str):
        return float(config.gain)
    return gains.resolve(config.gain, activation, ACTIVATIONS[activation])


def apply(config: InitConfig, network: AnyNetwork, *, seed: int, activation: str) -> None:
    """Fill a network's parameters in place.

    The gain reaches every weight if it is a number; ``auto`` and ``torch`` reach all but the first layer's, which no
    activation function feeds.

    Args:
        config: the spec; :func:`check` it first.
        network: what to fill.
        seed: the trial's seed.
        activation: name of the network's activation function.

    Raises:
        ValueError: an initializer returned a wrong shape or refused one.
    """
    with device.single_thread():
        _apply(config, network, seed=seed, activation=activation)


def _apply(config: InitConfig, network: AnyNetwork, *, seed: int, activation: str) -> None:
    gain = gain_of(config, activation)
    layers = network.parametrised()
    for site in _sites(network):
        layer = layers[site.layer]
        from_activation = isinstance(config.gain, str) and site.position == 0
        weight = config.layers.get(site.layer, config.conv if config.conv and layer.weight.ndim > 2 else config.weight)
        _fill(layer.weight, weight, site, gain=1.0 if from_activation else gain, seed=seed, options=config.options)
        bias_tensor = trainable_parameter(layer, "bias")
        if bias_tensor is not None:
            bias = config.bias_layers.get(site.layer, config.bias)
            at_bias = Site(site.layer, "bias", site.position, site.layers, site.fan_shape, site.branch)
            _fill(bias_tensor, bias, at_bias, gain=1.0, seed=seed, options=config.bias_options)
    with torch.no_grad():
        for branch in network.branches().values():
            if branch.scale is not None:
                branch.scale.fill_(config.branch_scale)


def _fill(tensor: torch.Tensor, name: str, site: Site, *, gain: float, seed: int, options: dict[str, object]) -> None:
    draws = random_stream(seed, f"init/{site.layer}.{site.tensor}")
    known = {key: value for key, value in options.items() if key in options_of(name)}
    try:
        initial = values(name, tensor.shape, gain=gain, generator=draws, site=site, options=known)
    except ValueError as error:
        raise ValueError(f"{site.layer}.{site.tensor}: {error}") from error
    with torch.no_grad():
        tensor.copy_(initial)


def _sites(network: AnyNetwork) -> Iterator[Site]:
    """Each layer with a weight, and its place."""
    blocks = network.branches()
    inside = {
        name: Branch(position, len(names), len(blocks))
        for block in blocks.values()
        for names in [[name for name, layer in block.branch.named_children() if isinstance(layer, Parametrised)]]
        for position, name in enumerate(names)
    }
    layers = network.parametrised()
    for position, (name, layer) in enumerate(layers.items()):
        yield Site(name, "weight", position, len(layers), layer.weight.shape, inside.get(name))


def adapt(
    config: InitConfig, network: AnyNetwork, images_NCHW: torch.Tensor, labels: torch.Tensor, *, seed: int
) -> None:
    """Let ``init.adapt`` change the filled weights in place, from the first training batch.

    Args:
        config: the spec; :func:`check` it first.
        network: filled, on the trial's device.
        images_NCHW: images of the batch.
        labels: their labels.
        seed: the trial's seed.

    Raises:
        ValueError: the network cannot be adapted, e.g. a layer whose output is 0 whatever its scale.
    """
    draws = random_stream(seed, "init/adapt")
    with undisturbed(network):
        ADAPTERS[config.adapt](network, images_NCHW, labels, generator=draws, **config.adapt_options)
