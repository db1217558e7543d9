"""The trials that a command means, known before the first of them runs.

Hydra composes the command once as a sweep, whatever it was written in: the command line, ``hydra.sweeper.params`` of
the top config or of an experiment. Hydra's own sweeper then says which overrides make each trial.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, cast, overload

from hydra._internal.config_loader_impl import ConfigLoaderImpl

# the module and not its class, because Hydra imports its plugins anew and an old class then fails in super()
from hydra._internal.core_plugins import basic_sweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from hydra.version import setbase
from omegaconf import DictConfig, OmegaConf

from harness.compose import CONF_DIR, refusals, typed_overrides
from harness.errors import UsageError
from harness.model_choices import composable, with_options_added
from harness.paths import typed_path
from harness.sweep import engines
from harness.sweep.composer import Composer

if TYPE_CHECKING:
    from harness.results import StoredPlan

_BASIC = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
_EMPTY = "the sweep is empty: no choice matches, or a range has no number in it"


@dataclass(frozen=True)
class PlannedTrial:
    """One trial of a plan.

    Attributes:
        index: its place, counted from 1.
        overrides: what Hydra would compose it from.
        title: what the sweep varies, such as ``init=zero seed=3``.
    """

    index: int
    overrides: tuple[str, ...]
    title: str

    def named(self, size: int) -> str:
        """Return its place among so many trials with its title, such as ``[3/12] init=zero seed=3``."""
        return f"[{self.index}/{size}] {self.title}"


class PlannedTrials(Sequence[PlannedTrial]):
    """The trials of a plan in their order; each is made when it is asked for, because there may be 100,000."""

    def __init__(self, overrides: Sequence[Sequence[str]], only_title: str) -> None:
        """Take the overrides of each trial, and the title of one that differs from the others in nothing."""
        self._overrides, self._only_title = overrides, only_title
        columns = zip(*overrides, strict=True)
        self._varied = [place for place, values in enumerate(columns) if len(set(values)) > 1]

    def __len__(self) -> int:
        return len(self._overrides)

    @property
    def varied(self) -> dict[str, list[str]]:
        """What differs among the trials: name -> its values, in the order of the trials."""
        columns = [dict.fromkeys(own[place].lstrip("+") for own in self._overrides) for place in self._varied]
        pairs = [[text.partition("=")[::2] for text in column] for column in columns]
        return {own[0][0]: [value for _, value in own] for own in pairs}

    @overload
    def __getitem__(self, place: int) -> PlannedTrial: ...
    @overload
    def __getitem__(self, place: slice) -> list[PlannedTrial]: ...
    def __getitem__(self, place: int | slice) -> PlannedTrial | list[PlannedTrial]:
        if isinstance(place, slice):
            return [self[each] for each in range(*place.indices(len(self)))]
        place = range(len(self))[place]
        overrides = self._overrides[place]
        varied = [overrides[each].lstrip("+") for each in self._varied]
        return PlannedTrial(place + 1, tuple(overrides), " ".join(varied) or self._only_title)


@dataclass(frozen=True)
class Plan:
    """What one command runs.

    Attributes:
        sweep_id: what its trials have in common.
        command: what was typed, quoted for a shell.
        folder: the folder that it was typed in.
        is_multirun: whether it is a sweep (``-m``, or ``hydra.mode=MULTIRUN`` in a config).
        trials: in the order in which Hydra runs them.
    """

    sweep_id: str
    command: str
    folder: str
    is_multirun: bool
    trials: PlannedTrials = field(repr=False)

    @property
    def size(self) -> int:
        """The number of trials."""
        return len(self.trials)


def loader_of(*, config_dir: str | None = None, config_path: str = str(CONF_DIR)) -> ConfigLoaderImpl:
    """Return Hydra's loader of configs, as ``@hydra.main`` makes it, without a global state.

    Args:
        config_dir: a folder of the user's own choices, as in ``--config-dir``, which come before ours.
        config_path: the folder of the top config.

    Raises:
        UsageError: there is no such folder.
    """
    setbase("1.3")
    search_path = create_config_search_path(config_path)
    if config_dir is not None:
        folder = typed_path(config_dir, "--config-dir=").absolute()
        if not folder.is_dir():
            raise UsageError(f"--config-dir={config_dir}: not found; name a folder that exists")
        search_path.prepend("command-line", f"file://{folder}", SearchPathQuery(provider="schema"))
    loader = ConfigLoaderImpl(config_search_path=search_path)
    # registers the resolvers and the job's name, without which nothing composes
    Hydra(task_name="run", config_loader=loader)
    return loader


def composed(loader: ConfigLoaderImpl, overrides: Sequence[str], config_name: str = "config") -> DictConfig:
    """Compose a command once, as Hydra does for a sweep: what is swept keeps its default.

    Args:
        loader: Hydra's.
        overrides: what was typed, sweeps and settings of Hydra included.
        config_name: the top config.

    Returns:
        the config with its ``hydra`` node.

    Raises:
        UsageError: something typed is wrong, or a config is.
    """
    typed = with_options_added(overrides)
    with refusals(), composable(typed, loader):
        try:
            return loader.load_configuration(
                config_name, typed, RunMode.MULTIRUN, from_shell=True, validate_sweep_overrides=False
            )
        except MissingConfigException as error:
            engines.refuse_missing(error.missing_cfg_file)
            raise


def plan_of(loader: ConfigLoaderImpl, config: DictConfig, *, multirun: bool, command: str = "") -> Plan:
    """Plan the trials of a command.

    Args:
        loader: Hydra's.
        config: what :func:`composed` returned.
        multirun: whether ``-m`` was typed; ``hydra.mode`` of a config makes it a sweep as well.
        command: what was typed, quoted for a shell.

    Raises:
        UsageError: what is swept cannot be, or no trial is left.
    """
    multirun = multirun or config.hydra.mode == RunMode.MULTIRUN
    typed = typed_overrides(config.hydra)
    parser = OverridesParser.create(config_loader=loader)
    with refusals():
        ours = cast("list[str]", OmegaConf.to_container(config.hydra.overrides.hydra, resolve=False))
        loader.validate_sweep_overrides_legal(
            parser.parse_overrides([*ours, *typed]), RunMode.MULTIRUN if multirun else RunMode.RUN, from_shell=True
        )
        lists = _split(_sweeper(config), parser, typed) if multirun else [typed]
    if not lists:
        raise UsageError(_EMPTY)
    trials = PlannedTrials(lists, _title_of_one(config, lists[0]))
    return Plan(uuid.uuid4().hex[:16], command, os.getcwd(), multirun, trials)  # noqa: PTH109 - text, as it is stored


def _title_of_one(config: DictConfig, overrides: Sequence[str]) -> str:
    """The title where nothing varies."""
    seed = OmegaConf.to_container(OmegaConf.masked_copy(config, ["seed"]), resolve=False)
    values = {"init": config.hydra.runtime.choices.get("init"), **cast("dict[str, object]", seed)}
    values |= {key: value for key, _, value in (text.partition("=") for text in overrides) if key in values}
    return " ".join(f"{key}={value}" for key, value in values.items())


def _sweeper(config: DictConfig) -> basic_sweeper.BasicSweeper:
    """The sweeper that Hydra would use; it must be Hydra's own, because others choose trials as they go."""
    settings = config.hydra.sweeper
    if settings is None or settings.get("_target_") != _BASIC:
        name = config.hydra.runtime.choices.get("hydra/sweeper")
        raise UsageError(f"hydra/sweeper={name}: its trials are not known beforehand; use hydra/sweeper=basic")
    most = settings.max_batch_size
    if most is not None and most < 1:
        fix = "give null or a whole number of at least 1"
        raise UsageError(f"hydra.sweeper.max_batch_size={most}: out of range; {fix}")
    # by its module, which Hydra loads anew while it looks for plugins
    return basic_sweeper.BasicSweeper(max_batch_size=most, params=settings.params)


def _split(
    sweeper: basic_sweeper.BasicSweeper, parser: OverridesParser, typed: Sequence[str]
) -> Sequence[Sequence[str]]:
    """The overrides of each trial, as :meth:`BasicSweeper.sweep` makes them; its batches do not change their order."""
    every = parser.parse_overrides([*sweeper._parse_config(), *typed])  # noqa: SLF001 - what reads hydra.sweeper.params
    (batch,) = sweeper.split_arguments(every, None)
    return batch


def stored(
    plan: Plan, *, results_dir: str, environment: Mapping[str, object], done_by: Sequence[str | None] | None = None
) -> "StoredPlan":
    """Return a plan as :func:`harness.results.write_plan` stores it.

    Args:
        plan: the plan.
        results_dir: ``results.dir`` as it was typed.
        environment: commit, package versions and hardware, such as :func:`harness.sweep.resume.columns_now` gives.
        done_by: of each trial, the id of the earlier one that makes it unnecessary; None: all are to run.
    """
    from harness.results import StoredPlan

    trials = list(plan.trials)
    return StoredPlan(
        sweep_id=plan.sweep_id,
        command=plan.command,
        typed_in=plan.folder,
        results_dir=results_dir,
        planned_at=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}",
        environment=dict(environment),
        overrides=[list(trial.overrides) for trial in trials],
        titles=[trial.title for trial in trials],
        done_by=list(done_by) if done_by is not None else [None] * len(trials),
    )


def plan_from(
    overrides: Sequence[str],
    *,
    multirun: bool = True,
    config_dir: str | None = None,
    config_name: str = "config",
    command: str = "",
) -> tuple[Plan, Composer]:
    """Plan what would be typed; arguments as of the functions above.

    Returns:
        the plan, and the composer of its trials' configs.
    """
    loader = loader_of(config_dir=config_dir)
    config = composed(loader, overrides, config_name)
    return plan_of(loader, config, multirun=multirun, command=command), Composer.of(loader, config)
