"""From what was typed to a :class:`harness.TrialConfig`: Hydra composes the config groups, the schema checks them."""

import dataclasses
import re
import shlex
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from hydra.version import VersionBase, setbase
from omegaconf import DictConfig, OmegaConf
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from harness.arguments import in_one_line
from harness.bounds import check, refusal
from harness.config import Labels, TrialConfig
from harness.errors import UsageError
from harness.model_choices import composable, with_options_added
from harness.wording import hydra_quoted

_COMPOSING = threading.RLock()
# what Hydra registers each time it is initialized; its plugins register theirs once in a process
_RESOLVERS = ("hydra", "now", "python_version")
_NOT_LEXED = re.compile("token recognition error at: '(.)")
# lists, dictionaries, what is quoted already, and functions such as range(0,3)
_IS_STRUCTURED = re.compile(r"[\[{'\"]|\w+\(")
_NOT_IN_DOUBLE_QUOTES = re.compile(r'["$`!]|\\\\')
_PACKAGED = Path(__file__).parent / "conf"
CONF_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parent.parent / "conf"
"""Folder of the config groups: inside an installed package, else beside it in a checkout."""


def from_composed(composed: DictConfig, *, choices: dict[str, Any], overrides: Sequence[str] = ()) -> TrialConfig:
    """Turn a config that Hydra composed into a validated :class:`TrialConfig`.

    Args:
        composed: the composed config, without its ``hydra`` node.
        choices: config group -> the choice that was taken.
        overrides: the overrides the user typed; those below ``init.``, ``model.layers`` and ``model.options``
            become part of the labels.

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
        problem = "is read from the modules of init.modules and model.modules and cannot be given"
        raise UsageError(f"sources: {problem}; leave it out")
    try:
        # the schema is copied by merge and stays as it is
        merged = OmegaConf.merge(_schema(), composed)
        merged.labels = labels_of(choices, overrides)
        config = cast("TrialConfig", OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        key = f"{error.full_key}: " if error.full_key else ""
        raise UsageError(f"{key}{first}; `--cfg job` prints every key with its value") from error
    return with_one_length(config, overrides)


def with_one_length(config: TrialConfig, overrides: Sequence[str]) -> TrialConfig:
    """Turn ``train.epochs`` into steps; typed steps take the place of an experiment's epochs.

    Raises:
        UsageError: steps and epochs are both typed.
    """
    typed = {given.lstrip("+").partition("=")[0]: given for given in overrides}
    if config.train.epochs is None or "train.steps" not in typed:
        return config.completed()
    if "train.epochs" in typed:
        problem = f"{typed['train.steps']} is given too"
        raise refusal("train.epochs", config.train.epochs, problem, "give one of the two")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=None))


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
        init=_label(choices["init"], ("init.",), overrides),
        model=_label(choices["model"], ("model.layers", "model.options"), overrides),
        experiment=str(choices["experiment"]),
    )


def _label(choice: str, prefixes: tuple[str, ...], overrides: Sequence[str]) -> str:
    """The choice's name, with what the user changed in it, so that a changed choice never goes under its old name."""
    typed = [override.lstrip("+~") for override in overrides]
    short = [(text, text.removeprefix("init.").replace("model.options", "options", 1)) for text in typed]
    changed = sorted(named for text, named in short if text.startswith(prefixes))
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
    if isinstance(overrides, str):
        raise UsageError(f"overrides={overrides}: is one text; give a list, such as ['init=zero', 'train.steps=200']")
    with _ready_hydra(), refusals():
        # without hydra.initialize, because a program can initialize Hydra only once
        typed = with_options_added(overrides)
        loader = ConfigLoaderImpl(create_config_search_path(str(CONF_DIR)))
        with composable(typed, loader):
            return split_hydra(loader.load_configuration("config", typed, RunMode.RUN, from_shell=False))


@contextmanager
def _ready_hydra() -> Iterator[None]:
    """Have what Hydra registers when it is initialized for the block; what a program around us has, stays as it is."""
    version = VersionBase.instance()
    with _COMPOSING:
        base, resolvers = version.getbase(), BaseContainer._resolvers  # noqa: SLF001
        before = {name: resolvers[name] for name in _RESOLVERS if name in resolvers}
        if len(before) < len(_RESOLVERS):
            setup_globals()
            resolvers.update(before)
        setbase("1.3")
        try:
            yield
        finally:
            version.version_base = base
            for name in _RESOLVERS:
                if name not in before:
                    resolvers.pop(name, None)


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
        raise UsageError(one_line(error) if named else in_one_line(error)) from error


def one_line(error: Exception) -> str:
    """Hydra's message without its line breaks, search path and addresses, beginning with what it is about."""
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    line = " ".join(str(error).split()).partition(" Config search path:")[0].partition(" See https://hydra.cc")[0]
    if isinstance(error, MissingConfigException) and str(error.missing_cfg_file).startswith("model/"):
        return f"{line}; for a network of your own add model.modules=[MODULE]"
    return line


def _unreadable(error: OverrideParseException) -> str:
    """Return what is wrong with an override that Hydra cannot read, and how to quote it, also for a shell."""
    override, said = str(error.override), " ".join(str(error.__context__ or error).split())
    lexed = _NOT_LEXED.match(said)
    problem = f"the character {lexed[1]} must be quoted" if lexed else f"cannot be read ({said})"
    key, equals, value = override.partition("=")
    if not equals or _IS_STRUCTURED.match(value):
        return f"{override}: {problem}; see Hydra's grammar of overrides"
    return f"{override}: {problem}; quote the value, in a shell as {in_shell(f'{key}={hydra_quoted(value)}')}"


def in_shell(text: str) -> str:
    """A word as it is typed in a shell, in double quotes where they do, because Hydra's quotes are single ones."""
    return shlex.quote(text) if _NOT_IN_DOUBLE_QUOTES.search(text) else f'"{text}"'


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
