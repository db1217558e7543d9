"""Choices of ``model=`` that have no file below ``conf/model``: the networks that a user's own module registers.

Hydra refuses a choice that no file describes. So for as long as a command is composed, its ConfigStore holds an entry
for each name that ``model=`` is given and that may be registered.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from harness.errors import UsageError
from harness.model_config import UNKNOWN
from harness.model_registry import REGISTRY

_OPTIONS = "model.options."
_LISTS = ("model.modules", "init.modules")
_ONE_NAME = re.compile(r"[\w./]+")


def with_options_added(overrides: Sequence[str]) -> list[str]:
    """Return overrides in which ``model.options.NAME=VALUE`` may be new: Hydra wants ``++`` before what no file has.

    Raises:
        UsageError: one module is given where a list of them belongs.
    """
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        if key in _LISTS and _ONE_NAME.fullmatch(value):
            raise UsageError(f"{text}: is one name; give a list: '{key}=[{value}]'")
    return [f"++{text}" if text.startswith(_OPTIONS) else text for text in overrides]


@contextmanager
def composable(overrides: Sequence[str], loader: ConfigLoaderImpl) -> Iterator[None]:
    """Let Hydra find each network of the user's own that the overrides choose, for the block.

    A name is taken on trust if ``model.modules`` is given, because the modules are imported only before a trial runs;
    else it must be registered already, as in a notebook.

    Args:
        overrides: of a command or of a trial; those that Hydra cannot read are left for it to refuse.
        loader: Hydra's, which knows the files. A name that has a file there means the file; an entry beside it would be
            merged with it.
    """
    parsed = list(_parsed(overrides))
    trusted = any(own.key_or_group == "model.modules" and own.value() != [] for own in parsed)
    named = {name for own in parsed if own.key_or_group == "model" for name in _names(own)}
    store = ConfigStore.instance()
    wanted = {name for name in named if trusted or name in REGISTRY}
    added = sorted(wanted.difference(loader.repository.get_group_options("model"))) if wanted else []
    for name in added:
        store.store(group="model", name=name, node={"function": name, "activation": UNKNOWN})
    try:
        yield
    finally:
        for name in added:
            del store.repo["model"][f"{name}.yaml"]


def _parsed(overrides: Sequence[str]) -> Iterator[Override]:
    parser = OverridesParser.create()
    for text in overrides:
        if text.lstrip("+").startswith(("model=", "model.modules=")):
            with suppress(HydraException):
                yield parser.parse_override(text)


def _names(override: Override) -> list[str]:
    """Return the names that ``model=`` is given; those of a pattern are files."""
    value = override.value()
    if isinstance(value, ChoiceSweep):
        return [each for each in value.list if isinstance(each, str)]
    return [value] if isinstance(value, str) else []
