"""What a trial is: a frozen, typed configuration with its bounds, and the key of what determines its result.

Bounds and choices stand beside the field they bound, rules over several fields in ``conflicts`` of their class, and
``harness.bounds.check`` reads both. What only torch or the user's own modules can tell (initializers, activations,
layers, kernels) is checked before a trial begins, in ``harness.resolution.resolved``.

Nothing here imports torch, Hydra or OmegaConf, so that ``--help`` and ``--cfg job`` answer quickly.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.bounds import Conflict, above, at_least, between, bound, finite, is_finite, one_of
from harness.datasets import DATASETS
from harness.optimizers import OPTIMIZERS

UNKNOWN = "unknown"
"""``model.activation`` of a network of the user's own that does not say which activation function it has."""

_GAINS = ("auto", "torch")
_OF_LAYERS = frozenset({"bias", "padding_mode", "pooling", "depth", "width", "stride"})
# a field that came later and is at its default is no part of a key, so that the keys of earlier results stay
_LATER = {"later": True}
_MOST_IMAGES = 500_000_000


def _are_targets(given: list[float]) -> bool:
    return all(is_finite(target) and 0 < target <= 1 for target in given) and len(set(given)) == len(given)


@dataclass(frozen=True)
class InitConfig:
    """Which initializer fills which tensor; names are those of ``harness.initializers.REGISTRY``.

    ``gain`` is a number, ``auto`` or ``torch`` (see ``harness.initializers.gains.resolve``). ``options`` go to the
    initializers of the weights, ``bias_options`` to those of the biases. ``adapt`` is a name of
    ``harness.initializers.ADAPTERS``: what looks at the training batch and changes the weights that were drawn, with
    its ``adapt_options``. ``branch_scale`` is the initial scale of each residual branch.
    """

    weight: str = "glorot_truncated"
    bias: str = "zeros"
    gain: Any = field(
        default=1.0,
        metadata=bound(
            lambda given: is_finite(given) or given in _GAINS,
            "neither a finite number nor a rule",
            f"give a finite number, {' or '.join(_GAINS)}",
        ),
    )
    conv: str | None = None
    layers: dict[str, str] = field(default_factory=dict)
    bias_layers: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    bias_options: dict[str, Any] = field(default_factory=dict)
    branch_scale: float = finite(default=1.0)
    adapt: str = "none"
    adapt_options: dict[str, Any] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DeviceConfig:
    """Where the trial runs, with which precision and determinism."""

    name: str = one_of("auto", "cpu", "cuda", default="auto")
    index: int = at_least(0, default=0)
    threads: int | None = at_least(1, default=None)
    tf32: bool = False
    deterministic: bool = True
    memory_format: str = one_of("auto", "contiguous", "channels_last", default="auto")


@dataclass(frozen=True)
class KernelConfig:
    """Which convolution: ``name`` is one of ``harness.backends.KERNELS``.

    ``precision`` says how it multiplies float32 numbers: auto is tf32 if ``device.tf32`` is set, else ieee. Each kernel
    offers precisions of its own, so that ``harness.kernel_choice.check`` checks both fields against it.
    """

    name: str = "torch"
    precision: str = "auto"


@dataclass(frozen=True)
class LayerConfig:
    """One layer: ``type`` is conv, dense, pool, activation or residual; the other fields belong to some of these.

    ``repeat: n`` stands for n copies named name1 ... name-n, each followed by an activation. A residual layer adds a
    branch of ``convs`` convolutions to its input.
    """

    type: str = "activation"
    name: str | None = None
    out: int | None = None
    kernel: int | None = None
    size: int | None = None
    stride: int | None = None
    convs: int | None = None
    repeat: int | None = None


@dataclass(frozen=True)
class ModelConfig:
    """The network: its layers in order, and what they have in common.

    ``depth``, ``width`` and ``stride`` are there for the layers to refer to; a model whose layers do not has none.

    A network of the user's own has no layers here: ``function`` is the name under which its function was registered
    (see ``harness.model_registry``), ``modules`` are imported first so that they register it, and ``options`` are its
    keyword arguments. Its ``activation`` is :data:`UNKNOWN` unless it is given, because nothing tells it.
    """

    activation: str = "relu"
    bias: bool = True
    padding_mode: str = one_of("zeros", "circular", default="zeros")
    pooling: str = one_of("max", "avg", default="max")
    depth: int | None = None
    width: int | None = None
    stride: int | None = None
    layers: list[LayerConfig] = field(default_factory=list)
    function: str | None = field(default=None, metadata=_LATER)
    options: dict[str, Any] = field(default_factory=dict, metadata=_LATER)
    modules: list[str] = field(default_factory=list, metadata=_LATER)

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


@dataclass(frozen=True)
class DataConfig:
    """Which images, in which order and scale."""

    name: str = one_of(*DATASETS, default="mnist5k")
    root: str = "data"
    mirrors: list[str] = field(default_factory=list)
    batches: str = one_of("fixed", "random", "epochs", default="fixed")
    scaling: str = one_of("raw", "unit", "standardised", default="raw")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, a name of ``harness.optimizers.OPTIMIZERS``, and its settings.

    The default of a setting is the value that it has where an optimizer does not take it.
    """

    name: str = one_of(*OPTIMIZERS, default="sgd")
    lr: float = above(0, default=1e-4)
    momentum: float = at_least(0, default=0.0)
    weight_decay: float = at_least(0, default=0.0)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield each setting that was set though the optimizer does not take it."""
        for setting in dataclasses.fields(self):
            name, unset = setting.name, setting.default
            if name != "name" and name not in OPTIMIZERS[self.name].settings and getattr(self, name) != unset:
                takers = [f"optimizer={other}" for other, entry in OPTIMIZERS.items() if name in entry.settings]
                fix = f"set optimizer.{name}={unset} or use {' or '.join(takers)}"
                yield Conflict(name, f"optimizer={self.name} takes no {name}", fix)


@dataclass(frozen=True)
class TrainConfig:
    """How long, how large a batch, and where on the way to look."""

    steps: int = at_least(1, default=1000)
    batch_size: int = at_least(1, default=50)
    eval_every: int = at_least(1, default=100)
    warmup_steps: int = at_least(0, default=3)
    window_steps: int = at_least(1, default=25)
    targets: list[float] = field(
        default_factory=lambda: [0.5, 0.8, 0.9, 0.95],
        metadata=bound(_are_targets, "no list of targets", "give different accuracies above 0 and up to 1"),
    )
    max_seconds: float | None = above(0, default=None)


@dataclass(frozen=True)
class ResultsConfig:
    """Where the tables go."""

    dir: str = field(
        default="outputs/results", metadata=bound(lambda given: bool(given.strip()), "empty", "give a folder's name")
    )


@dataclass(frozen=True)
class SweepConfig:
    """How the trials of a sweep are run: in how many processes, for how long at most, and which of them.

    ``workers`` is a number of processes, or auto: one for each GPU, or on a CPU one for each core.
    """

    workers: Any = field(
        default=1,
        metadata=bound(
            lambda given: given == "auto" or (type(given) is int and given >= 1),
            "neither a number of processes nor auto",
            "give a whole number of at least 1, or auto",
        ),
    )
    trial_timeout_s: float | None = above(0, default=None)
    resume: bool = False
    trials_per_job: int = at_least(1, default=1)


@dataclass(frozen=True)
class Labels:
    """The names of the choices that made a config, for people and for the columns of the results."""

    init: str = "glorot"
    model: str = "article"
    experiment: str = "article"


INCIDENTAL = frozenset(
    {
        "data.mirrors",
        "data.root",
        "device.index",
        "labels.experiment",
        "labels.init",
        "labels.model",
        "results.dir",
        "sweep.resume",
        "sweep.trial_timeout_s",
        "sweep.trials_per_job",
        "sweep.workers",
        "train.max_seconds",
        "train.targets",
        "train.warmup_steps",
        "train.window_steps",
    }
)
"""Settings that do not determine a trial's result: where it is read and written, how it is named, timed and watched.

All others are part of :attr:`TrialConfig.trial_key` and of :attr:`TrialConfig.arm_key`.
"""


@dataclass(frozen=True)
class TrialConfig:
    """Everything that decides one trial. Build it with :func:`harness.load_config`.

    A config as it is typed leaves some settings to the machine (``device=auto``, ``device.threads=null``);
    :func:`harness.resolution.resolved` fills them in. ``sources`` is filled in there too: module of ``init.modules`` ->
    SHA-256 of its source.
    """

    seed: int = between(0, 2**63 - 1, default=0)
    init: InitConfig = field(default_factory=InitConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    kernel: KernelConfig = field(default_factory=KernelConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    labels: Labels = field(default_factory=Labels)
    sources: dict[str, str] = field(default_factory=dict)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield a batch larger than the data, and a training whose order of images is too long to hold."""
        size, images = self.train.batch_size, DATASETS[self.data.name].train_images
        if self.data.batches != "random" and size > images:
            fix = f"give at most {images:,} or set data.batches=random"
            yield Conflict("train.batch_size", f"data={self.data.name} has only {images:,} training images", fix)
        # the order is drawn before the clock starts, 8 bytes for each image of each step
        if self.data.batches != "fixed" and self.train.steps * size > _MOST_IMAGES:
            fix = f"give at most {_MOST_IMAGES // size:,} steps of {size} images or set data.batches=fixed"
            yield Conflict("train.steps", "the order of so many images needs too much memory", fix)

    def as_dict(self) -> dict[str, Any]:
        """The config as plain nested dictionaries, ready for JSON."""
        return dataclasses.asdict(self)

    @property
    def is_resolved(self) -> bool:
        """Whether nothing that determines the result is left to the machine."""
        device = self.device
        return device.name != "auto" and device.threads is not None and device.memory_format != "auto"

    @property
    def trial_key(self) -> str:
        """16 hex digits: the hash of what determines the result (all settings but those of :data:`INCIDENTAL`).

        Trials with the same key that run on the same kind of device with the same software end with the same bits.

        Raises:
            ValueError: the config is not resolved.
        """
        return self._hash(_determining(self.as_dict()))

    @property
    def arm_key(self) -> str:
        """The same hash without the seed: trials with equal keys are one arm.

        Raises:
            ValueError: the config is not resolved.
        """
        settings = _determining(self.as_dict())
        del settings["seed"]
        return self._hash(settings)

    def _hash(self, settings: dict[str, Any]) -> str:
        if not self.is_resolved:
            raise ValueError("the config leaves device, threads or memory format to the machine; resolve it first")
        if self.device.name == "cuda":
            # initial weights are drawn by one thread and the GPU does the rest
            del settings["device.threads"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class SweepPlace:
    """Which trial of which sweep it is, and in what company it runs.

    Attributes:
        sweep_id: what all trials of one command share.
        size: how many trials that command planned.
        index: which of them this is, counted from 1.
        simultaneous_trials: how many of them run at the same time on this machine, this one included.
    """

    sweep_id: str
    size: int
    index: int
    simultaneous_trials: int = 1


def leaves(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each setting of a config (see :meth:`TrialConfig.as_dict`) by its dotted name, such as ``optimizer.lr``.

    Options that a user names (``init.options``, ``init.layers``) are one setting each.
    """
    for name, value in settings.items():
        if isinstance(value, dict) and f"{prefix}{name}" in _SECTIONS:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _determining(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings that determine a result, by their dotted names."""
    unchanged = {name for name, default in _LATER_SETTINGS.items() if dict(leaves(settings))[name] == default}
    return {name: _plain(value) for name, value in leaves(settings) if name not in INCIDENTAL | unchanged}


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of the config
    """Whole numbers as such, also where they were given as real ones: 1 and 1.0 are one setting, 0.0 and -0.0 two."""
    if isinstance(value, dict):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    whole = isinstance(value, float) and value.is_integer() and str(value) != "-0.0"
    return int(value) if whole else value


_SECTIONS = frozenset(
    section.name for section in dataclasses.fields(TrialConfig) if dataclasses.is_dataclass(section.default_factory)
)
_LATER_SETTINGS = {
    f"{name}.{setting.name}": getattr(section, setting.name)
    for name, section in vars(TrialConfig()).items()
    if name in _SECTIONS
    for setting in dataclasses.fields(section)
    if setting.metadata.get("later")
}
