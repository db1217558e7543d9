"""What a trial is: a frozen, typed, validated configuration, and the key of what determines its result.

Nothing here imports torch, so that ``--help`` and ``--cfg job`` answer quickly.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


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
    gain: Any = 1.0
    conv: str | None = None
    layers: dict[str, str] = field(default_factory=dict)
    bias_layers: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    bias_options: dict[str, Any] = field(default_factory=dict)
    branch_scale: float = 1.0
    adapt: str = "none"
    adapt_options: dict[str, Any] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DeviceConfig:
    """Where the trial runs, with which precision and determinism."""

    name: str = "auto"
    index: int = 0
    threads: int | None = None
    tf32: bool = False
    deterministic: bool = True
    memory_format: str = "auto"


@dataclass(frozen=True)
class KernelConfig:
    """Which convolution: a name of ``kernels.KERNELS``, and how Triton's multiply float32 numbers.

    ``precision`` auto is tf32 if ``device.tf32`` is set, else ieee.
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
    """

    activation: str = "relu"
    bias: bool = True
    padding_mode: str = "zeros"
    pooling: str = "max"
    depth: int | None = None
    width: int | None = None
    stride: int | None = None
    layers: list[LayerConfig] = field(default_factory=list)


@dataclass(frozen=True)
class DataConfig:
    """Which images, in which order and scale."""

    name: str = "mnist5k"
    root: str = "data"
    mirrors: list[str] = field(default_factory=list)
    batches: str = "fixed"
    scaling: str = "raw"


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its settings; momentum belongs to ``momentum``, betas are torch's."""

    name: str = "sgd"
    lr: float = 1e-4
    momentum: float = 0.0
    weight_decay: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """How long, how large a batch, and where on the way to look."""

    steps: int = 1000
    batch_size: int = 50
    eval_every: int = 100
    warmup_steps: int = 3
    window_steps: int = 25
    targets: list[float] = field(default_factory=lambda: [0.5, 0.8, 0.9, 0.95])
    max_seconds: float | None = None


@dataclass(frozen=True)
class ResultsConfig:
    """Where the tables go."""

    dir: str = "outputs/results"


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

    seed: int = 0
    init: InitConfig = field(default_factory=InitConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    kernel: KernelConfig = field(default_factory=KernelConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)
    labels: Labels = field(default_factory=Labels)
    sources: dict[str, str] = field(default_factory=dict)

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
    """Whole numbers as such, also where they were given as real ones: 1 and 1.0 are the same setting."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_SECTIONS = frozenset(
    section.name for section in dataclasses.fields(TrialConfig) if dataclasses.is_dataclass(section.default_factory)
)
