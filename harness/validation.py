"""The values a config may hold, beyond their types: choices, ranges, and what must fit together."""

import math
from typing import TYPE_CHECKING, Any

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.config import InitConfig, TrainConfig, TrialConfig

DATA_SIZES = {"mnist5k": (5_000, 1_000), "mnist": (60_000, 10_000)}
"""Name of ``data=`` -> (training images, test images)."""

_CHOICES = {
    "device.name": ("auto", "cpu", "cuda"),
    "device.memory_format": ("auto", "contiguous", "channels_last"),
    "model.padding_mode": ("zeros", "circular"),
    "model.pooling": ("max", "avg"),
    "data.name": tuple(DATA_SIZES),
    "data.batches": ("fixed", "random", "epochs"),
    "data.scaling": ("raw", "unit", "standardised"),
    "kernel.precision": ("auto", "ieee", "tf32", "tf32x3"),
    "optimizer.name": ("sgd", "momentum", "adam", "adamw"),
}
_AT_LEAST = {
    "seed": 0,
    "device.index": 0,
    "train.steps": 1,
    "train.batch_size": 1,
    "train.eval_every": 1,
    "train.warmup_steps": 0,
    "train.window_steps": 1,
    "optimizer.momentum": 0,
    "optimizer.weight_decay": 0,
}
_MOST_IMAGES = 500_000_000
_LARGEST_WHOLE = 2**31 - 1
_SEED_LIMIT = 2**63


def _value(config: "TrialConfig", path: str) -> Any:  # noqa: ANN401 - any field of the config
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def _require(*, holds: bool, path: str, given: object, allowed: str) -> None:
    if not holds:
        raise UsageError(f"{path}={given} is not allowed; give {allowed}")


def validate(config: "TrialConfig") -> None:
    """Check every value that types alone do not.

    Raises:
        UsageError: naming the value, what was given and what is allowed.
    """
    for path, choices in _CHOICES.items():
        given = _value(config, path)
        _require(holds=given in choices, path=path, given=given, allowed=f"one of: {', '.join(choices)}")
    for path, least in _AT_LEAST.items():
        given = _value(config, path)
        _require(
            holds=math.isfinite(given) and given >= least,
            path=path,
            given=given,
            allowed=f"a number of at least {least}",
        )
    _validate_sizes("", config.as_dict())
    _validate_ranges(config)


def _validate_sizes(path: str, value: Any) -> None:  # noqa: ANN401 - any value of the config
    """No whole number but the seed is large: Parquet and torch could not hold it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _validate_sizes(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _validate_sizes(f"{path}[{index}]", inner)
    elif isinstance(value, int) and path != "seed":
        _require(
            holds=abs(value) <= _LARGEST_WHOLE, path=path, given=value, allowed=f"a number up to {_LARGEST_WHOLE:,}"
        )


def _validate_ranges(config: "TrialConfig") -> None:
    train, threads, lr = config.train, config.device.threads, config.optimizer.lr
    _require(holds=config.seed < _SEED_LIMIT, path="seed", given=config.seed, allowed="a number below 2**63")
    _validate_batch(config)
    _require(holds=math.isfinite(lr) and lr > 0, path="optimizer.lr", given=lr, allowed="a finite number above 0")
    _validate_init(config.init)
    _validate_train(train)
    _require(
        holds=config.kernel.precision == "auto" or config.kernel.name != "torch",
        path="kernel.precision",
        given=config.kernel.precision,
        allowed="auto, for kernel=torch follows device.tf32, or choose kernel=triton or kernel=triton_fused",
    )
    _require(
        holds=config.optimizer.momentum == 0 or config.optimizer.name == "momentum",
        path="optimizer.momentum",
        given=config.optimizer.momentum,
        allowed=f"0, for {config.optimizer.name} has none, or choose optimizer=momentum",
    )
    _require(holds=threads is None or threads >= 1, path="device.threads", given=threads, allowed="null or at least 1")
    _require(
        holds=bool(config.results.dir.strip()), path="results.dir", given=config.results.dir, allowed="a folder's name"
    )


def _validate_train(train: "TrainConfig") -> None:
    _require(
        holds=all(0 < target <= 1 for target in train.targets) and len(set(train.targets)) == len(train.targets),
        path="train.targets",
        given=train.targets,
        allowed="different accuracies above 0 and up to 1",
    )
    _require(
        holds=train.max_seconds is None or train.max_seconds > 0,
        path="train.max_seconds",
        given=train.max_seconds,
        allowed="null or a number above 0",
    )


def _validate_init(init: "InitConfig") -> None:
    gain, named = init.gain, ("auto", "torch")
    is_number = isinstance(gain, int | float) and not isinstance(gain, bool) and math.isfinite(gain)
    _require(
        holds=is_number or gain in named, path="init.gain", given=gain, allowed=f"a finite number, {' or '.join(named)}"
    )
    _require(
        holds=math.isfinite(init.branch_scale),
        path="init.branch_scale",
        given=init.branch_scale,
        allowed="a finite number",
    )


def _validate_batch(config: "TrialConfig") -> None:
    train, images = config.train, DATA_SIZES[config.data.name][0]
    _require(
        holds=config.data.batches == "random" or train.batch_size <= images,
        path="train.batch_size",
        given=train.batch_size,
        allowed=f"at most the {images:,} training images of data={config.data.name}, or data.batches=random",
    )
    # the order of the images is drawn before the clock starts, 8 bytes for each image of each step
    _require(
        holds=config.data.batches == "fixed" or train.steps * train.batch_size <= _MOST_IMAGES,
        path="train.steps",
        given=train.steps,
        allowed=f"at most {_MOST_IMAGES // train.batch_size:,} steps of {train.batch_size} images",
    )
