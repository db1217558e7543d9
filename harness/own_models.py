"""Networks of the user's own: made by a registered function, tried on a few images, and used as a declared one is.

    from torch import nn
    from harness.models import register

    @register("mine")
    def mine(width=32):
        return nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(), nn.Linear(width, 10))

``model=mine model.modules=[net]`` then uses it, ``net.py`` being the file. Shapes: images (N, 1, 28, 28), logits
(N, 10).
"""

import copy
import functools
import importlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import layouts, looking, models, own_modules, random_streams, torch_state
from harness.bounds import refusal
from harness.compose import CONF_DIR
from harness.config import DeviceConfig, ModelConfig
from harness.errors import UsageError
from harness.layouts import CLASSES, IMAGE_SHAPE
from harness.model_registry import REGISTRY, options_of
from harness.models import Network, Residual
from harness.own_layers import CONVOLUTIONS, WEIGHTED, Convolution, Weighted, applied, is_plain, trainable_parameter
from harness.wording import error_text

_IMAGES = 3
"""So many are passed through a network to try it: a batch norm in training needs two or more."""


class OwnNetwork(nn.Module):
    """A module of the user's own with the interface of :class:`harness.models.Network`.

    Attributes:
        module: what the registered function returned; its parameters go by the names that they have there.
        paths: layer name -> its path in the module, of each layer whose weight initializers fill, in the order in
            which a batch passes them. The name is the path, or the class of a module that is itself such a layer.
        convolutions: paths of all convolutions that a batch passes, in the same order.
    """

    def __init__(self, module: nn.Module, called: list[str]) -> None:
        """Take the module and the paths of its dense and convolution layers in the order of their first call."""
        super().__init__()
        self.module = module
        self.paths = {path or type(module).__name__: path for path in _filled(module, called)}
        self.convolutions = [path for path in called if isinstance(module.get_submodule(path), CONVOLUTIONS)]
        layers = {path: module.get_submodule(path) for path in self.convolutions}
        # found once, because training asks for them at each step
        self._by_kernel = {
            path: each for path, each in layers.items() if isinstance(each, nn.Conv2d) and is_plain(each)
        }

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Images (N, 1, 28, 28) -> logits (N, 10)."""
        logits: torch.Tensor = self.module(x_NCHW)
        return logits

    def parametrised(self) -> dict[str, Weighted]:
        """Layer name -> layer whose weight initializers fill, in the order of the first call."""
        layers = {name: self.module.get_submodule(path) for name, path in self.paths.items()}
        return {name: layer for name, layer in layers.items() if isinstance(layer, WEIGHTED)}

    def branches(self) -> dict[str, Residual]:
        """Return no residual layers: what adds within the user's module has no scale that an initializer could set."""
        return {}

    def tensors(self) -> dict[str, nn.Parameter]:
        """Name -> parameter that training changes, in the module's own order."""
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def left_as_built(self) -> list[str]:
        """Names of the parameters that no initializer fills: they keep what their constructors gave them."""
        layers = self.parametrised().values()
        filled = {id(trainable_parameter(layer, kind)) for layer in layers for kind in ("weight", "bias")}
        return [name for name, value in self.module.named_parameters() if id(value) not in filled]

    def by_kernel(self) -> dict[str, nn.Conv2d]:
        """Path -> convolution that ``kernel=`` computes while training: torch's own class, for images."""
        return self._by_kernel

    def by_torch(self) -> list[str]:
        """Paths of the convolutions that torch computes whatever ``kernel=`` is."""
        return [path for path in self.convolutions if path not in self._by_kernel]

    @contextmanager
    def convolved_by(self, conv2d: Convolution) -> Iterator[None]:
        """Let a function with the signature of ``torch.nn.functional.conv2d`` convolve within the block."""
        layers = list(self._by_kernel.values())
        for layer in layers:
            # an attribute of the object comes before its class's method, and goes away without a trace
            vars(layer)["forward"] = functools.partial(_convolved, layer, conv2d)
        try:
            yield
        finally:
            for layer in layers:
                del vars(layer)["forward"]


AnyNetwork = Network | OwnNetwork
"""What a trial trains."""


def _convolved(layer: nn.Conv2d, conv2d: Convolution, x_NCHW: torch.Tensor) -> torch.Tensor:
    return applied(layer, x_NCHW, layer.weight, layer.bias, conv2d)


def _filled(module: nn.Module, called: list[str]) -> Iterator[str]:
    """Yield the path of each layer with a trainable weight; of those that share one, of the first that is called."""
    seen = set[int]()
    for path in called:
        layer = module.get_submodule(path)
        weight = trainable_parameter(layer, "weight") if isinstance(layer, WEIGHTED) else None
        if weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            yield path


def check(config: ModelConfig) -> None:
    """Import the user's modules, and try the network that a config names on a few images.

    Raises:
        UsageError: what is wrong with the module, the name, an option or the network.
    """
    own_modules.imported("model.modules", config.modules)
    built_in = {path.stem for path in (CONF_DIR / "model").glob("*.yaml")}
    for taken in sorted(built_in & REGISTRY.keys()):
        raise refusal("model", taken, f"built in, and {REGISTRY[taken].__module__} registers it", "choose another name")
    name = config.function
    if name is None:
        return
    if name not in REGISTRY:
        if config.modules and not REGISTRY:
            modules = ",".join(config.modules)
            problem, fix = f"{modules} registers no network", "decorate its function with @register"
            raise refusal("model.modules", f"[{modules}]", problem, fix)
        registered = ", ".join(sorted(REGISTRY)) or "none"
        problem = "no network of this name is registered" if config.modules else "its module is not imported"
        fix = f"registered are: {registered}; built in are: {', '.join(sorted(built_in))}"
        raise refusal("model", name, problem, fix if config.modules else f"add model.modules=[MODULE]; {fix}")
    own_modules.check_options("model.options", config.options, options_of(name), f"model={name} has", "it has")
    inspected(config)


def sources(config: ModelConfig) -> dict[str, str]:
    """Hash the user's own code that a network rests on; see :func:`harness.own_modules.sources`."""
    named = {} if config.function is None else {f"model={config.function}": REGISTRY[config.function]}
    return own_modules.sources("model.modules", config.modules, named)


def weight_layers(config: ModelConfig) -> list[str]:
    """Names of the layers that have a weight to fill, in order; of a network of the user's own, :func:`check` it first.

    Raises:
        UsageError: see :func:`harness.models.plan` and :func:`check`.
    """
    return layouts.weight_layers(config) if config.function is None else list(inspected(config).layers)


def biased_layers(config: ModelConfig) -> list[str]:
    """Names of those among them that have a bias."""
    return layouts.biased_layers(config) if config.function is None else list(inspected(config).biased)


@dataclass(frozen=True)
class Inspection:
    """What is known of a network of the user's own before a trial.

    Attributes:
        layers: names of the layers whose weights initializers fill.
        biased: names of those among them that have a bias.
        by_kernel: paths of the convolutions that ``kernel=`` computes.
    """

    layers: tuple[str, ...]
    biased: tuple[str, ...]
    by_kernel: tuple[str, ...]


def inspected(config: ModelConfig) -> Inspection:
    """Build and try a network of the user's own; a second time the answer is remembered.

    Raises:
        UsageError: what is wrong with it.
    """
    assert config.function is not None
    return _inspected(config.function, REGISTRY[config.function], json.dumps(config.options, sort_keys=True))


@functools.lru_cache(128)
def _inspected(name: str, _function: Callable[..., object], options: str) -> Inspection:
    # settings of the program around us, such as a default dtype, are none of a trial's
    with torch_state.set_for(DeviceConfig(name="cpu")):
        network = build(ModelConfig(function=name, options=json.loads(options)), seed=0)
    biased = [name for name, layer in network.parametrised().items() if trainable_parameter(layer, "bias") is not None]
    return Inspection(tuple(network.paths), tuple(biased), tuple(network.by_kernel()))


def network_of(config: ModelConfig, *, seed: int) -> AnyNetwork:
    """Return the network of a config on the CPU, before initializers fill it.

    Args:
        config: of a network; :func:`check` it first.
        seed: the trial's seed, from which the constructors of the user's own network draw.

    Raises:
        UsageError: see :func:`harness.models.plan` and :func:`check`.
    """
    return models.build(config) if config.function is None else build(config, seed=seed)


def build(config: ModelConfig, *, seed: int) -> OwnNetwork:
    """Return a network of the user's own on the CPU, its tensors as its constructors left them; try it on some images.

    Args:
        config: names the function and its options.
        seed: the trial's seed; the same network has the same tensors, and the shared random generators are put back.

    Raises:
        UsageError: what is wrong with the network.
    """
    with looking.own_randomness(), warnings.catch_warnings():
        # a warning would stand before the one line of a refusal
        warnings.simplefilter("ignore")
        looking.seed(random_streams.seed_of(seed, "model"))
        images = torch.rand(_IMAGES, *IMAGE_SHAPE, generator=random_streams.generator(seed, "model/images"))
        module = _made(config)
        _refuse_placement(config, module)
        if any(isinstance(value, nn.parameter.UninitializedParameter) for value in module.parameters()):
            # lazy layers learn their sizes from the first batch
            _run(config, module.eval(), images)
        called = _called(config, _copied(config, module).eval(), images)
        # the second size tells a network that takes any number of images from one that takes the first alone
        _run(config, _copied(config, module).eval(), images[:-1])
        _train_once(config, _copied(config, module).train(), images)
    # whatever mode the function left it or a part of it in
    network = OwnNetwork(module.train(), called)
    if not network.paths:
        kinds = ", ".join(f"nn.{kind.__name__}" for kind in WEIGHTED)
        _refuse(config, "no layer with a weight that an initializer could fill is called", f"call one of: {kinds}")
    return network


def _refuse(config: ModelConfig, problem: str, fix: str, cause: BaseException | None = None) -> NoReturn:
    options = [f"model.options.{name}={value}" for name, value in config.options.items()]
    named = f"{config.function} with {' '.join(options)}" if options else config.function
    raise refusal("model", named, problem, fix) from cause


def _made(config: ModelConfig) -> nn.Module:
    try:
        module = REGISTRY[str(config.function)](**config.options)
    except (KeyboardInterrupt, UsageError):
        raise
    except BaseException as error:  # noqa: BLE001 - the function is the user's, and may raise what it likes
        _refuse(config, f"its function raised {_named(error)}", "mend it", error)
    if not isinstance(module, nn.Module):
        _refuse(config, f"its function returned {type(module).__name__}", "return a torch.nn.Module")
    return module


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error_text(error)}"


def _refuse_placement(config: ModelConfig, module: nn.Module) -> None:
    for kind, tensors in (("parameter", module.named_parameters()), ("buffer", module.named_buffers())):
        for path, value in tensors:
            if value.device.type != "cpu":
                fix = "build the network on the CPU, the trial moves it"
                _refuse(config, f"its {kind} {path} is on {value.device}", fix)
            if kind == "parameter" and value.dtype != torch.float32:
                _refuse(config, f"its parameter {path} is of {value.dtype}", "make all parameters float32")
    if (parameters := list(module.parameters())) and not any(value.requires_grad for value in parameters):
        _refuse(config, "all its parameters are frozen", "set requires_grad of those to train")


def _copied(config: ModelConfig, module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:  # noqa: BLE001 - the module is the user's
        _refuse(config, f"cannot be copied ({_named(error)})", "warm-up and diagnosis need copies", error)


def _run(config: ModelConfig, module: nn.Module, images_NCHW: torch.Tensor) -> torch.Tensor:
    """The logits of some images."""
    shape, mode = tuple(images_NCHW.shape), "training" if module.training else "evaluation"
    try:
        output = module(images_NCHW)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - the module is the user's
        fix = "it must take images (N, 1, 28, 28) of any N"
        _refuse(config, f"cannot run a batch of shape {shape} in {mode} mode ({_named(error)})", fix, error)
    wanted = f"return logits of shape (N, {CLASSES})"
    if not isinstance(output, torch.Tensor):
        _refuse(config, f"its output in {mode} mode is {type(output).__name__}", wanted)
    if output.shape != (len(images_NCHW), CLASSES):
        _refuse(config, f"its output has shape {tuple(output.shape)} where N is {len(images_NCHW)}", wanted)
    if output.dtype != torch.float32:
        _refuse(config, f"its output is of {output.dtype}", "return float32 logits")
    return output


def _train_once(config: ModelConfig, module: nn.Module, images_NCHW: torch.Tensor) -> None:
    """Take the gradient as training does."""
    logits = _run(config, module, images_NCHW)
    try:
        F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64)).backward()  # type: ignore[no-untyped-call]
    except Exception as error:  # noqa: BLE001 - the module is the user's
        fix = "let the logits depend on parameters with requires_grad"
        _refuse(config, f"its output has no gradient ({_named(error)})", fix, error)


def _called(config: ModelConfig, module: nn.Module, images_NCHW: torch.Tensor) -> list[str]:
    """Paths of the dense and convolution layers that a batch passes, in the order of their first call."""
    called: dict[str, None] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, _inputs, path=path: called.setdefault(path))
        for path, layer in module.named_modules()
        if isinstance(layer, (*WEIGHTED, *CONVOLUTIONS))
    ]
    with torch.no_grad():
        _run(config, module, images_NCHW)
    for hook in hooks:
        hook.remove()
    return list(called)


def subject(network: AnyNetwork) -> nn.Module:
    """Return what a diagnosis looks at: the user's module itself, so that its names are those that the user gave."""
    return network.module if isinstance(network, OwnNetwork) else network


def columns(network: AnyNetwork, *, is_torch: bool) -> dict[str, list[str]]:
    """Return what only the row of a network of the user's own says; ``is_torch`` of the kernel that trains it."""
    if not isinstance(network, OwnNetwork):
        return {}
    by_torch = {} if is_torch else {"convolutions_by_torch": network.by_torch()}
    return {"left_as_built": network.left_as_built(), **by_torch}


def flops_per_image(config: ModelConfig, network: AnyNetwork) -> tuple[int, int] | tuple[None, None]:
    """(forward, training step) floating-point operations per image, a multiplication and an addition counting 2.

    Those of a declared network follow from its layers; those of the user's own are counted by torch, for which all but
    convolutions and products of matrices (activations, norms) is 0.

    Returns:
        (None, None) for recurrent layers, which the counter does not see, and where it finds nothing.
    """
    if not isinstance(network, OwnNetwork):
        return layouts.flops_per_image(config)
    if any(isinstance(module, nn.RNNBase) for module in network.modules()):
        return None, None
    trained = copy.deepcopy(network).train()
    device = next(trained.parameters()).device
    # attention is counted as the products of matrices that it is: the counter knows no fused one of a CPU
    by_products = sdpa_kernel(SDPBackend.MATH)
    with looking.own_randomness(), by_products, _flop_counter() as counter:
        logits = trained(torch.zeros(_IMAGES, *IMAGE_SHAPE, device=device))
        forward = counter.get_total_flops()
        F.cross_entropy(logits, torch.zeros(_IMAGES, dtype=torch.int64, device=device)).backward()  # type: ignore[no-untyped-call]
        training = counter.get_total_flops()
    return (forward // _IMAGES, training // _IMAGES) if forward else (None, None)


def _flop_counter() -> Any:  # noqa: ANN401 - its class is imported here
    """Return torch's counter, imported only where it is used, because it warns on import where triton is missing."""
    logger = logging.getLogger("torch.utils.flop_counter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module("torch.utils.flop_counter").FlopCounterMode(display=False)
    finally:
        logger.setLevel(level)
