"""From what was typed to a :class:`harness.TrialConfig`: Hydra composes the config groups, the schema checks them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.bounds import check
from harness.config import Labels, TrialConfig
from harness.errors import UsageError

_PACKAGED = Path(__file__).parent / "conf"
CONF_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "conf"
"""Folder of the config groups: inside an installed package, else beside it in a checkout."""


def from_composed(composed: DictConfig, *, choices: dict[str, Any], overrides: Sequence[str] = ()) -> TrialConfig:
    """Turn a config that Hydra composed into a validated :class:`TrialConfig`.

    Args:
        composed: the composed config, without its ``hydra`` node.
        choices: config group -> the choice that was taken.
        overrides: the overrides the user typed; those below ``init.`` and ``model.layers`` become part of the labels.

    Raises:
        UsageError: an unknown key, a wrong type or a value out of range, by name.
    """
    config = unchecked(composed, choices=choices, overrides=overrides)
    check(config)
    return config


def unchecked(composed: DictConfig, *, choices: dict[str, Any], overrides: Sequence[str] = ()) -> TrialConfig:
    """As :func:`from_composed`, but values may be out of range."""
    for group in ("init", "model", "experiment"):
        if group not in choices:
            raise UsageError(f"{group}: no choice, or more than one; give one, as in {group}=NAME (--help lists them)")
    if "sources" in composed:
        raise UsageError("sources: is read from the modules of init.modules and cannot be given; leave it out")
    try:
        # the schema is copied by merge and stays as it is
        merged = OmegaConf.merge(_schema(), composed)
        merged.labels = labels_of(choices, overrides)
        return cast("TrialConfig", OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        key = f"{error.full_key}: " if error.full_key else ""
        raise UsageError(f"{key}{first}; `--cfg job` prints every key with its value") from error


@cache
def _schema() -> DictConfig:
    return writable_schema()


def writable_schema() -> DictConfig:
    """Return the typed nodes of :class:`TrialConfig` with its defaults, ready to be assigned to."""
    schema: DictConfig = OmegaConf.structured(TrialConfig)
    OmegaConf.set_readonly(schema, value=False)
    _clear_readonly(schema)
    return schema


def _clear_readonly(node: DictConfig) -> None:
    """Frozen dataclasses become read-only nodes; merging needs them writable."""
    for key in node:
        child = node._get_node(key)  # noqa: SLF001 - the only way to a node that may be missing
        if isinstance(child, DictConfig):
            OmegaConf.set_readonly(child, value=False)
            _clear_readonly(child)


def labels_of(choices: dict[str, Any], overrides: Sequence[str]) -> Labels:
    """Return the names under which a config goes; arguments as of :func:`from_composed`."""
    return Labels(
        init=_label(choices["init"], "init.", overrides),
        model=_label(choices["model"], "model.layers", overrides),
        experiment=str(choices["experiment"]),
    )


def _label(choice: str, prefix: str, overrides: Sequence[str]) -> str:
    """The choice's name, with what the user changed in it, so that a changed choice never goes under its old name."""
    changed = sorted(o.lstrip("+~").removeprefix("init.") for o in overrides if o.lstrip("+~").startswith(prefix))
    return f"{choice}[{','.join(changed)}]" if changed else choice


def load_config(overrides: Sequence[str] = ()) -> TrialConfig:
    """Compose a config as the command line does.

    Args:
        overrides: what would be typed, e.g. ``["init=zero", "train.steps=200"]``; sweeps are not for here.

    Returns:
        the validated config.

    Raises:
        UsageError: an unknown group, choice, key or value.
    """
    with refusals(), initialize_config_dir(config_dir=str(CONF_DIR), version_base="1.3"):
        composed = compose("config", overrides=list(overrides), return_hydra_config=True)
    return split_hydra(composed)


@contextmanager
def refusals() -> Iterator[None]:
    """Turn whatever Hydra raises at what it cannot read into a :class:`UsageError` of one line."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        # assertions and attributes of None among them, which say little without their name
        named = isinstance(error, HydraException | OmegaConfBaseException | ValueError)
        raise UsageError(one_line(error) if named else f"{type(error).__name__}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """Hydra's message without its line breaks, search path and addresses, beginning with what it is about."""
    text = " ".join(str(error).split()).partition(" Config search path:")[0].partition(" See https://hydra.cc")[0]
    return f"'{error.override}': {text}" if isinstance(error, OverrideParseException) else text


def typed_overrides(hydra: DictConfig) -> list[str]:
    """The overrides as they were typed; read otherwise, one that holds an interpolation would be resolved."""
    return cast("list[str]", OmegaConf.to_container(hydra.overrides.task, resolve=False))


def split_hydra(composed: DictConfig) -> TrialConfig:
    """A :class:`TrialConfig` from a composed config that still has its ``hydra`` node."""
    overrides = typed_overrides(composed.hydra)
    return from_composed(without_hydra(composed), choices=choices_of(composed.hydra), overrides=overrides)


def without_hydra(composed: DictConfig) -> DictConfig:
    """A composed config without its ``hydra`` node."""
    copied: DictConfig = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    return copied


def choices_of(hydra: DictConfig) -> dict[str, Any]:
    """Config group -> the choice that was taken."""
    return cast("dict[str, Any]", OmegaConf.to_container(hydra.runtime.choices))


def from_hydra_job(composed: DictConfig) -> TrialConfig:
    """A :class:`TrialConfig` from what ``@hydra.main`` hands to a job."""
    hydra = cast("DictConfig", HydraConfig.get())
    return from_composed(composed, choices=choices_of(hydra), overrides=typed_overrides(hydra))
