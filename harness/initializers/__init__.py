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

import hashlib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, ModuleType

import torch

from harness import device, layouts
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
from harness.models import Network
from harness.random_streams import generator as random_stream
from harness.wording import error_text

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


def import_modules(names: list[str]) -> None:
    """Import the user's modules, from the current folder too, so that they register their initializers.

    Raises:
        UsageError: a module cannot be imported.
    """
    if not names:
        return
    here = Path.cwd()
    with _importable(str(here)):
        for name in names:
            try:
                importlib.import_module(name)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                # a script without a __main__ guard leaves by SystemExit, and a module may raise what it likes
                reason = f"{type(error).__name__}: {error_text(error)}"
                raise UsageError(
                    f"init.modules: cannot import '{name}' ({reason}); name a module on the Python path or in {here}"
                ) from error
            finally:
                if Path.cwd() != here:
                    # relative paths mean the folder of the command, wherever a module went
                    os.chdir(here)


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Let modules of a folder be imported in the block; the import path of the program stays as it was."""
    if folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def sources(config: InitConfig) -> dict[str, str]:
    """Hash the user's own code that a spec rests on, for the key of the trial.

    Returns:
        module -> SHA-256 of its source, for each module of ``init.modules`` (of a package, all its Python files), and
        for each other module that registered an initializer which the spec names. In a notebook or a script that is
        run, the source of the initializer itself stands for its module. What these modules import is not in it.
    """
    hashes = {name: _source_sha256(sys.modules[name]) for name in config.modules}
    for name in sorted({*_weight_names(config), *_bias_names(config)}):
        module = REGISTRY[name].__module__
        if module.split(".")[0] == "harness" or module in hashes:
            continue
        if module == "__main__" or getattr(sys.modules.get(module), "__file__", None) is None:
            hashes[f"{module}:{name}"] = _function_sha256(REGISTRY[name])
        else:
            hashes[module] = _source_sha256(sys.modules[module])
    return hashes


_read: dict[str, tuple[object, str]] = {}
"""Module -> its import (a reload makes another spec), and the hash of what was imported then."""


def _source_sha256(module: ModuleType) -> str:
    """Read once for each import: what a file holds after a later change is not what runs."""
    name, spec = module.__name__, module.__spec__
    if name not in _read or _read[name][0] is not spec:
        _read[name] = (spec, _files_sha256(name, module.__file__))
    return _read[name][1]


def _files_sha256(name: str, file: str | None) -> str:
    if file is None:
        raise UsageError(f"init.modules={name}: it has no file whose source could be recorded; name a module that has")
    path = Path(file)
    paths = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    for source in paths:
        digest.update(f"{source.relative_to(path.parent)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _function_sha256(function: Callable[..., torch.Tensor]) -> str:
    """Hash the source of a function, or its compiled code where the interpreter that it was typed into kept none."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        code = function.__code__
        text = repr((code.co_code, code.co_names, [c for c in code.co_consts if not isinstance(c, CodeType)]))
    return hashlib.sha256(text.encode()).hexdigest()


def check(config: InitConfig, model: ModelConfig) -> None:
    """Check every layer, initializer and option that a spec names.

    Raises:
        UsageError: an unknown layer, initializer, adapter or option, with the choices; a gain that does not fit.
    """
    import_modules(config.modules)
    layer_names, norms = layouts.weight_layers(model), layouts.norm_layers(model)
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
    for name, value in options.items():
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{path}.{name}: the chosen initializers have no such option; they have: {allowed}")
        if not _is_like(value, known[name]):
            raise UsageError(
                f"{path}.{name}={value} is not allowed; give a value like the default, "
                f"{known[name]} ({type(known[name]).__name__})"
            )


def _is_like(value: object, default: object) -> bool:
    """Whether a value has the type of an option's default; an integer is a number, a truth value is not."""
    if default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is type(default)


def _check_structure(config: InitConfig, model: ModelConfig) -> None:
    _check_gain(config, model)
    _check_biases(config, model)
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
        if others := layouts.activations(model) - {model.activation}:
            problem = f"is the gain of model.activation={model.activation}, and layers have {', '.join(sorted(others))}"
            raise refusal("init.gain", config.gain, problem, "give a number")
        gain_of(config, model.activation)


def _check_biases(config: InitConfig, model: ModelConfig) -> None:
    biased = layouts.biased_layers(model)
    if not biased and (config.bias_layers or config.bias != "zeros"):
        raise UsageError("init.bias names an initializer and model.bias=false leaves nothing to fill; drop one of them")
    for layer, name in config.bias_layers.items():
        if layer not in biased:
            raise refusal(f"init.bias_layers.{layer}", name, "that layer has no bias", "leave it out")


def gain_of(config: InitConfig, activation: str) -> float:
    """The factor that ``init.gain`` means for this activation function; see :func:`gains.resolve`."""
    return gains.resolve(config.gain, activation, ACTIVATIONS[activation])


def apply(config: InitConfig, network: Network, *, seed: int, activation: str) -> None:
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


def _apply(config: InitConfig, network: Network, *, seed: int, activation: str) -> None:
    gain = gain_of(config, activation)
    layers = network.parametrised()
    for site in _sites(network):
        layer = layers[site.layer]
        from_activation = isinstance(config.gain, str) and site.position == 0
        weight = config.layers.get(site.layer, config.conv if config.conv and layer.weight.ndim == 4 else config.weight)
        _fill(layer.weight, weight, site, gain=1.0 if from_activation else gain, seed=seed, options=config.options)
        if layer.bias is not None:
            bias = config.bias_layers.get(site.layer, config.bias)
            at_bias = Site(site.layer, "bias", site.position, site.layers, site.fan_shape, site.branch)
            _fill(layer.bias, bias, at_bias, gain=1.0, seed=seed, options=config.bias_options)
    with torch.no_grad():
        for branch in network.branches().values():
            if branch.scale is not None:
                branch.scale.fill_(config.branch_scale)


def _fill(tensor: torch.Tensor, name: str, site: Site, *, gain: float, seed: int, options: dict[str, object]) -> None:
    draws = random_stream(seed, f"init/{site.layer}.{site.tensor}")
    known = {key: value for key, value in options.items() if key in options_of(name)}
    initial = values(name, tensor.shape, gain=gain, generator=draws, site=site, options=known)
    with torch.no_grad():
        tensor.copy_(initial)


def _sites(network: Network) -> Iterator[Site]:
    """Each layer with a weight, and its place."""
    blocks = network.branches()
    inside = {
        name: Branch(position, len(names), len(blocks))
        for block in blocks.values()
        for names in [[name for name, layer in block.branch.named_children() if hasattr(layer, "weight")]]
        for position, name in enumerate(names)
    }
    layers = network.parametrised()
    for position, (name, layer) in enumerate(layers.items()):
        yield Site(name, "weight", position, len(layers), layer.weight.shape, inside.get(name))


def adapt(config: InitConfig, network: Network, images_NCHW: torch.Tensor, labels: torch.Tensor, *, seed: int) -> None:
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
