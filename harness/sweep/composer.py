"""The configs of many trials at a small part of Hydra's price.

Hydra needs tens of milliseconds for each trial. The trials of a sweep mostly differ in plain values (``seed=3``,
``optimizer.lr=0.1``), which are put into a config that Hydra composed from all else. Whatever is not certain to give
the same config or the same error that way is composed by Hydra.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import lru_cache
from typing import Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType, ValueType
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from harness.bounds import check
from harness.compose import (
    choices_of,
    labels_of,
    refusals,
    split_hydra,
    unchecked,
    with_one_length,
    without_hydra,
    writable_schema,
)
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.model_choices import composable

_MOST_BASES, _MOST_PARSED = 256, 4096
_SECTIONS = [each.name for each in fields(TrialConfig) if is_dataclass(each.default_factory) and each.name != "labels"]
# ${train.steps} and ${oc.env:HOME}; anything else may depend on anything
_PLAIN_INTERPOLATION = re.compile(r"\$\{(?:oc\.env:[^${}]*|([\w-][\w.\[\]-]*))\}")


@dataclass(frozen=True)
class _Base:
    """What Hydra composed from the overrides that are not plain.

    Attributes:
        config: the config, not checked, because plain values may yet set right what is wrong in it.
        choices: config group -> choice.
        values: dotted names of the plain values that it has, so that they can be overridden.
        mentioned: dotted names that its interpolations refer to; None: they cannot be known.
    """

    config: TrialConfig
    choices: dict[str, Any]
    values: frozenset[str]
    mentioned: tuple[str, ...] | None


class Composer:
    """Composes the trials of a command one after the other."""

    def __init__(
        self, loader: ConfigLoaderImpl, *, config_name: str = "config", hydra_overrides: Sequence[str] = ()
    ) -> None:
        """Take Hydra's loader, the top config's name and what was typed for Hydra itself (``hydra.searchpath=...``)."""
        self._loader, self._config_name, self._hydra_overrides = loader, config_name, list(hydra_overrides)
        # what cannot be composed is remembered as None
        self._bases: OrderedDict[tuple[str, ...], _Base | None] = OrderedDict()
        self._parse = lru_cache(_MOST_PARSED)(OverridesParser.create().parse_override)
        self._is_group = lru_cache(_MOST_PARSED)(loader.repository.group_exists)
        self._typed = writable_schema()

    @classmethod
    def of(cls, loader: ConfigLoaderImpl, composed: DictConfig) -> "Composer":
        """Return the composer of a command that :func:`harness.sweep.plan.composed` composed."""
        overrides = OmegaConf.to_container(composed.hydra.overrides.hydra, resolve=False)
        name = composed.hydra.job.config_name
        return cls(loader, config_name=name, hydra_overrides=cast("list[str]", overrides))

    @property
    def loader(self) -> ConfigLoaderImpl:
        """Hydra's loader."""
        return self._loader

    def config(self, overrides: Sequence[str], *, number: int = 0) -> TrialConfig:
        """Compose one trial.

        Args:
            overrides: of the trial.
            number: what ``${hydra:job.num}`` stands for: the trial's place, counted from 0.

        Raises:
            UsageError: they are wrong; the message is the one that Hydra's own composition gives.
        """
        try:
            with refusals():
                config = self._quick(overrides)
        except UsageError:
            # composed by Hydra it gives the error in full
            config = None
        return self._composed(overrides, number) if config is None else config

    def refuse_unknown(self, trials: Iterable[Sequence[str]]) -> None:
        """Refuse a sweep over a choice that does not exist; of the other errors those of the first trial.

        Args:
            trials: the overrides of each trial; nothing else is composed, so that 10,000 take a moment.

        Raises:
            UsageError: naming the choice and those that exist.
        """
        doubtful: dict[str, Sequence[str]] = {}
        for index, overrides in enumerate(trials):
            for text in overrides if index else ():
                doubtful.setdefault(text, overrides)
            if not index:
                self.config(overrides)
        for text, overrides in doubtful.items():
            if not self._is_known(text):
                self.config(overrides)

    def _is_known(self, text: str) -> bool:
        """Whether an override is no choice of a group, or one that exists."""
        group, _, choice = text.partition("=")
        group = group.lstrip("+").partition("@")[0]
        return not self._is_group(group) or choice in self._loader.repository.get_group_options(group)

    def _quick(self, overrides: Sequence[str]) -> TrialConfig | None:
        """The config without Hydra; None: only Hydra can tell."""
        parsed = [self._parse(text) for text in overrides]
        keys = [own.key_or_group for own in parsed if not self._is_plain(own) and not self._is_choice(own)]
        base, plain = self._base_and_plain(parsed, keys)
        if base is not None and base.mentioned and any(_meet(own.key_or_group, base.mentioned) for own in plain):
            base, plain = self._base_and_plain(parsed, [*keys, *base.mentioned])
        if base is None or base.mentioned is None:
            return None
        values = {override.key_or_group: override.value() for override in plain}
        if not values.keys() <= base.values:
            return None
        labels = labels_of(base.choices, overrides)
        if "${" in labels.init + labels.model:
            return None
        config = with_one_length(replace(self._with(base.config, values), labels=labels), overrides)
        check(config)
        return config

    def _is_choice(self, override: Override) -> bool:
        """Whether it chooses from a group; choices come before all values, wherever they are typed."""
        return self._is_group(override.key_or_group) and not isinstance(override.value(), dict)

    def _is_plain(self, override: Override) -> bool:
        """Whether it sets one existing number, word, flag or null, and nothing else."""
        is_change = override.type == OverrideType.CHANGE and override.value_type == ValueType.ELEMENT
        # epochs take the place of the steps of a base, which epochs=null asks for again
        is_change = is_change and override.key_or_group != "train.epochs"
        if not is_change or override.package is not None or self._is_group(override.key_or_group):
            return False
        value = override.value()
        return not isinstance(value, list | dict) and not (isinstance(value, str) and ("$" in value or value == "???"))

    def _base_and_plain(self, parsed: Sequence[Override], keys: Sequence[str]) -> tuple[_Base | None, list[Override]]:
        """What Hydra makes of the overrides that are not plain or meet one of ``keys``, and the others."""
        is_plain = [self._is_plain(own) and not _meet(own.key_or_group, keys) for own in parsed]
        kept = tuple(str(own.input_line) for own, plain in zip(parsed, is_plain, strict=True) if not plain)
        return self._base(kept), [own for own, plain in zip(parsed, is_plain, strict=True) if plain]

    def _base(self, overrides: tuple[str, ...]) -> _Base | None:
        if overrides not in self._bases:
            try:
                with refusals():
                    self._bases[overrides] = self._new_base(overrides)
            except UsageError:
                self._bases[overrides] = None
            if len(self._bases) > _MOST_BASES:
                self._bases.popitem(last=False)
        self._bases.move_to_end(overrides)
        return self._bases[overrides]

    def _new_base(self, overrides: tuple[str, ...]) -> _Base:
        composed = self._load(overrides)
        plain, choices = without_hydra(composed), choices_of(composed.hydra)
        raw = OmegaConf.to_container(plain, resolve=False)
        config = unchecked(plain, choices=choices, overrides=overrides)
        return _Base(config, choices, frozenset(_values(raw)), _mentioned(raw))

    def _load(self, overrides: Sequence[str]) -> DictConfig:
        every = [*self._hydra_overrides, *overrides]
        with composable(overrides, self._loader):
            return self._loader.load_configuration(self._config_name, every, RunMode.RUN, from_shell=False)

    def _composed(self, overrides: Sequence[str], number: int) -> TrialConfig:
        """The config as Hydra's own composition gives it."""
        with refusals():
            composed = self._load(overrides)
        if "${hydra:" in str(OmegaConf.to_container(without_hydra(composed), resolve=False)):
            with open_dict(composed):
                composed.hydra.job.num = composed.hydra.job.id = number
            HydraConfig.instance().set_config(composed)
        return split_hydra(composed)

    def _with(self, config: TrialConfig, values: dict[str, Any]) -> TrialConfig:
        """The config with other values, of the types of its fields."""
        changes: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            section, _, name = key.rpartition(".")
            # assigned and read again, a value has been converted as Hydra's own composition converts it
            typed = self._typed[section] if section else self._typed
            typed[name] = value
            changes.setdefault(section, {})[name] = typed[name]
        whole = changes.pop("", {})
        sections = {section: replace(getattr(config, section), **own) for section, own in changes.items()}
        return replace(config, **whole, **sections)


def _values(raw: Any) -> Iterator[str]:  # noqa: ANN401 - a composed config as plain containers
    """The dotted names of the plain values of a config, by which a trial can be changed without Hydra."""
    for name, value in raw.items():
        if name in _SECTIONS and isinstance(value, dict):
            yield from (f"{name}.{inner}" for inner, own in value.items() if not isinstance(own, dict | list))
        elif name == "seed" and not isinstance(value, dict | list):
            yield name


def _mentioned(raw: Any) -> tuple[str, ...] | None:  # noqa: ANN401 - a composed config as plain containers
    """The dotted names that the interpolations of a config refer to; None if that cannot be read off them."""
    names: set[str] = set()
    for text in _texts(raw):
        matches = list(_PLAIN_INTERPOLATION.finditer(text))
        if len(matches) != text.count("${"):
            return None
        names |= {match[1].replace("[", ".").replace("]", "") for match in matches if match[1]}
    return tuple(sorted(names))


def _texts(raw: Any) -> Iterator[str]:  # noqa: ANN401 - a composed config as plain containers
    if isinstance(raw, str):
        yield raw
    elif isinstance(raw, dict | list):
        for inner in raw.values() if isinstance(raw, dict) else raw:
            yield from _texts(inner)


def _meet(key: str, others: Iterable[str]) -> bool:
    """Whether one of the others is this dotted name, lies within it or it within that one."""
    return any(f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.") for other in others)
