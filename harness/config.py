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

from harness.bounds import Conflict, above, at_least, between, bound, finite, is_finite, later, one_of, without_unused
from harness.datasets import DATASETS
from harness.model_config import LayerConfig, ModelConfig
from harness.optimizer_config import OptimizerConfig
from harness.sweep_config import SweepConfig, SweepPlace

__all__ = [
    "ENGINES",
    "INCIDENTAL",
    "DataConfig",
    "DeviceConfig",
    "EngineConfig",
    "InitConfig",
    "KernelConfig",
    "Labels",
    "LayerConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ResultsConfig",
    "SweepConfig",
    "SweepPlace",
    "TrainConfig",
    "TrialConfig",
    "leaves",
]

ENGINES = ("eager", "compiled", "graph")
"""Names of ``engine=`` that execute steps; ``auto`` stands for one of them."""

_GAINS = ("auto", "torch")
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
    """Where the trial runs, with which precision and determinism.

    ``keep_memory`` lets the process of a command that trains on a CPU keep freed memory; see ``harness.allocator``.
    """

    name: str = one_of("auto", "cpu", "cuda", default="auto")
    index: int = at_least(0, default=0)
    threads: int | None = at_least(1, default=None)
    tf32: bool = False
    deterministic: bool = True
    memory_format: str = one_of("auto", "contiguous", "channels_last", default="auto")
    keep_memory: bool = True


@dataclass(frozen=True)
class KernelConfig:
    """Which convolution: ``name`` is one of ``harness.backends.KERNELS``.

    ``precision`` says how it multiplies float32 numbers: auto is tf32 if ``device.tf32`` is set, else ieee. Each kernel
    offers precisions of its own, so that ``harness.kernel_choice.check`` checks both fields against it.
    """

    name: str = "torch"
    precision: str = "auto"


@dataclass(frozen=True)
class EngineConfig:
    """How the steps of a training are executed.

    ``auto`` is eager on a CPU and on a GPU graph with ``fallback``, which lets a trial whose steps cannot be captured
    go on with eager. The default is what every trial had before there was a choice.
    """

    name: str = later(one_of("auto", *ENGINES, default="eager"))
    fallback: bool = later(default=False)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield a fallback of an engine that has none, or that falls back anyway."""
        if self.fallback and self.name != "graph":
            problem = "has no effect but with engine=graph" if self.name != "auto" else "engine=auto falls back anyway"
            yield Conflict("fallback", problem, "set engine.fallback=false or use engine=graph")


@dataclass(frozen=True)
class DataConfig:
    """Which images, in which order and scale.

    ``train_images`` and ``test_images`` take the first so many; null takes all. Of the training images that remain, the
    last ``validation_images`` are held out and never trained on.
    """

    name: str = one_of(*DATASETS, default="mnist5k")
    root: str = "data"
    mirrors: list[str] = field(default_factory=list)
    batches: str = one_of("fixed", "random", "epochs", default="fixed")
    scaling: str = one_of("raw", "unit", "standardised", default="raw")
    train_images: int | None = later(at_least(1, default=None))
    test_images: int | None = later(at_least(1, default=None))
    validation_images: int = later(at_least(0, default=0))

    @property
    def trained_images(self) -> int:
        """How many images are trained on: ``train_images`` or all, without those that are held out."""
        return (self.train_images or DATASETS[self.name].train_images) - self.validation_images

    @property
    def tested_images(self) -> int:
        """How many images are tested on: ``test_images`` or all."""
        return self.test_images or DATASETS[self.name].test_images

    def conflicts(self) -> Iterator[Conflict]:
        """Yield a part that is larger than the data, and a validation split that leaves nothing to train on."""
        entry = DATASETS[self.name]
        for split, there in (("train", entry.train_images), ("test", entry.test_images)):
            asked = getattr(self, f"{split}_images")
            if asked is not None and asked > there:
                yield Conflict(
                    f"{split}_images", f"data={self.name} has only {there:,}", f"give null or at most {there:,}"
                )
        if self.trained_images < 1:
            most = self.trained_images + self.validation_images - 1
            yield Conflict("validation_images", "leaves no image to train on", f"give at most {most:,}")


@dataclass(frozen=True)
class TrainConfig:
    """How long, how large a batch, and where on the way to look.

    ``epochs`` is another way to say ``steps``: :func:`harness.load_config` turns it into steps, which alone count.
    """

    steps: int = at_least(1, default=1000)
    epochs: int | None = at_least(1, default=None)
    batch_size: int = at_least(1, default=50)
    eval_every: int = at_least(1, default=100)
    warmup_steps: int = at_least(0, default=3)
    window_steps: int = at_least(1, default=25)
    targets: list[float] = field(
        default_factory=lambda: [0.5, 0.8, 0.9, 0.95],
        metadata=bound(_are_targets, "no list of targets", "give different accuracies above 0 and up to 1"),
    )
    max_seconds: float | None = above(0, default=None)
    autocast: str = later(one_of("none", "bfloat16", default="none"))


@dataclass(frozen=True)
class ResultsConfig:
    """Where the tables go."""

    dir: str = field(
        default="outputs/results", metadata=bound(lambda given: bool(given.strip()), "empty", "give a folder's name")
    )


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
        "device.keep_memory",
        "engine.fallback",
        "labels.experiment",
        "labels.init",
        "labels.model",
        "results.dir",
        "sweep.resume",
        "sweep.stack",
        "sweep.trial_timeout_s",
        "sweep.trials_per_job",
        "sweep.workers",
        "train.epochs",
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
    engine: EngineConfig = field(default_factory=EngineConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    labels: Labels = field(default_factory=Labels)
    sources: dict[str, str] = field(default_factory=dict)

    def conflicts(self) -> Iterator[Conflict]:
        """Yield a batch larger than the data, a schedule longer than the training, and an order too long to hold."""
        size, images = self.train.batch_size, self.data.trained_images
        if self.data.batches != "random" and size > images:
            fix = f"give at most {images:,} or set data.batches=random"
            yield Conflict("train.batch_size", f"data={self.data.name} has only {images:,} training images", fix)
        if self.train.epochs is not None and self.data.batches != "epochs":
            fix = "set data.batches=epochs or give train.steps instead"
            yield Conflict("train.epochs", f"data.batches={self.data.batches} has no epochs", fix)
        for name, problem, fix in self.optimizer.too_long(self.train.steps):
            yield Conflict(f"optimizer.{name}", problem, fix)
        # the order is drawn before the clock starts, 8 bytes for each image of each step
        if self.data.batches != "fixed" and self.train.steps * size > _MOST_IMAGES:
            fix = f"give at most {_MOST_IMAGES // size:,} steps of {size} images or set data.batches=fixed"
            yield Conflict("train.steps", "the order of so many images needs too much memory", fix)

    def as_dict(self) -> dict[str, Any]:
        """The config as plain nested dictionaries, ready for JSON."""
        return dataclasses.asdict(self)

    def completed(self) -> "TrialConfig":
        """Turn ``train.epochs`` into steps: passes over the images trained on, the last batch full."""
        train, data = self.train, self.data
        if not train.epochs or data.batches != "epochs" or train.batch_size < 1 or data.name not in DATASETS:
            # what is wrong here is said by the bounds and conflicts
            return self
        steps = -(-train.epochs * data.trained_images // train.batch_size)
        return dataclasses.replace(self, train=dataclasses.replace(train, steps=steps))

    @property
    def is_resolved(self) -> bool:
        """Whether nothing that determines the result is left to the machine."""
        device = self.device
        is_open = "auto" in (device.name, device.memory_format, self.engine.name)
        return not is_open and device.threads is not None

    @property
    def trial_key(self) -> str:
        """16 hex digits: the hash of what determines the result (all settings but those of :data:`INCIDENTAL`).

        Trials with the same key that run on the same kind of device with the same software end with the same bits.

        Raises:
            ValueError: the config is not resolved.
        """
        return self._hash(_determining(without_unused(self)))

    @property
    def arm_key(self) -> str:
        """The same hash without the seed: trials with equal keys are one arm.

        Raises:
            ValueError: the config is not resolved.
        """
        settings = _determining(without_unused(self))
        del settings["seed"]
        return self._hash(settings)

    def _hash(self, settings: dict[str, Any]) -> str:
        if not self.is_resolved:
            raise ValueError(
                "the config leaves device, threads, memory format or engine to the machine; resolve it first"
            )
        if self.device.name == "cuda":
            # initial weights are drawn by one thread and the GPU does the rest
            del settings["device.threads"]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


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
    return {name: _plain(value) for name, value in leaves(settings) if name not in INCIDENTAL}


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
