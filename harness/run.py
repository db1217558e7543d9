"""The command: ``python -m harness.run [-m] CHOICES``; ``--help`` lists them. One trial or a sweep, then tables.

This module parses, calls and prints. Torch is imported in the workers, or inside the one trial, so that ``--help`` and
``--cfg job`` answer at once.
"""

import argparse
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness import article, output, usage
from harness.arguments import in_one_line, refusal
from harness.audience import OK, SAFE, SOME_FAILED, WRONG_COMMAND, Audience
from harness.compose import CONF_DIR, one_line
from harness.config import SweepConfig, SweepPlace, TrialConfig
from harness.errors import UsageError
from harness.interrupts import on_interrupt
from harness.model_choices import composable, with_options_added
from harness.paths import typed_path
from harness.trial_line import trial_line
from harness.wording import counted, few

if TYPE_CHECKING:
    from rich.console import Console

    from harness.sweep.conduct import Conducted, SweepConductor
    from harness.sweep.outcome import Failure, SweepOutcome
    from harness.sweep.plan import Plan, PlannedTrial


_NO_SIGNAL = "error: init.modules: its code raised KeyboardInterrupt, and no signal came; mend the module"


class Interruptions:
    """What a signal to end does: at once as long as nothing runs that has to be wound up.

    Attributes:
        count: how many came.
        wind_up: what to call instead of ending at once.
    """

    def __init__(self) -> None:
        self.count = 0
        self.wind_up: Callable[[], None] | None = None

    def handle(self, _signal: int, _frame: FrameType | None) -> None:
        """Take a signal; it is counted, for libraries catch the exception or turn it into another."""
        self.count += 1
        if self.wind_up is None:
            raise KeyboardInterrupt
        self.wind_up()


def main() -> None:
    """Entry point of ``python -m harness.run`` and ``initbench``; ends the process with its exit code."""
    with output.forgiving():
        code = _main()
        if code == OK and output.lost():
            code = WRONG_COMMAND
        sys.exit(code)


def _main() -> int:
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(usage.text())
        return OK
    with suppress(FileNotFoundError):
        if (here := str(Path.cwd())) not in sys.path:
            # as python -m does, so that a user's modules find each other also when they draw
            sys.path.insert(0, here)
    # Hydra then raises instead of printing a page, and the one line that matters is printed here
    os.environ["HYDRA_FULL_ERROR"] = "1"
    interruptions = Interruptions()
    on_interrupt(interruptions.handle)
    try:
        return _run(interruptions)
    except KeyboardInterrupt:
        by_a_signal = f"interrupted: {SAFE}"
        print(by_a_signal if interruptions.count else _NO_SIGNAL, file=sys.stderr)
        return SOME_FAILED


def _switches() -> argparse.Namespace:
    """What was typed, as Hydra will read it, but refused in one line."""

    def refuse(message: str) -> NoReturn:
        raise refusal("python -m harness.run", message)

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    switches = parser.parse_intermixed_args()
    # Hydra reads them as well where it answers by itself, and wants what it cannot name in one piece
    options = list(sys.argv[1:])
    for override in reversed(switches.overrides):
        del options[-1 - options[::-1].index(override)]
    sys.argv[1:] = [*options, *switches.overrides]
    modes = [f"--{name}" for name in ("run", "multirun", "cfg", "info", "shell_completion") if getattr(switches, name)]
    if len(modes) > 1:
        refuse(f"{' and '.join(modes)} do not go together; give one of them".replace("_", "-"))
    return switches


def _run(interruptions: Interruptions) -> int:
    """Read the command and do what it says; whatever is wrong with it is one line."""
    audience = Audience()
    try:
        switches = _switches()
        return _answer(switches) if _only_asks(switches) else _trials(switches, audience, interruptions)
    except Exception as error:
        if interruptions.count:
            raise KeyboardInterrupt from error
        known = isinstance(error, HydraException | OmegaConfBaseException)
        audience.refuse(one_line(error) if known else in_one_line(error))
        return WRONG_COMMAND


def _only_asks(switches: argparse.Namespace) -> bool:
    """Whether the command asks Hydra something and runs nothing."""
    return any((switches.cfg, switches.info, switches.hydra_help, switches.shell_completion))


def _answer(switches: argparse.Namespace) -> int:
    """Let Hydra answer what it is asked."""
    overrides = with_options_added(switches.overrides)
    # the last ones, see _switches
    sys.argv[len(sys.argv) - len(overrides) :] = overrides

    # hydra.main looks at the function's own module, and wants a function
    def nothing(_composed: DictConfig) -> None:
        """Run nothing."""

    search_path = create_config_search_path(str(CONF_DIR))
    if switches.config_dir is not None:
        search_path.prepend("command-line", str(Path(switches.config_dir).absolute()))
    with composable(overrides, ConfigLoaderImpl(search_path)):
        hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")(nothing)()
    return OK


def _trials(switches: argparse.Namespace, audience: Audience, interruptions: Interruptions) -> int:
    """Plan, then run one trial here or a sweep in workers."""
    from harness.sweep import plan as planning
    from harness.sweep.composer import Composer

    if switches.experimental_rerun:
        raise UsageError(f"--experimental-rerun={switches.experimental_rerun}: runs no trial; type its command again")
    config_path = str(typed_path(switches.config_path or str(CONF_DIR), "--config-path=").absolute())
    loader = planning.loader_of(config_dir=switches.config_dir, config_path=config_path)
    composed = planning.composed(loader, switches.overrides, switches.config_name or "config")
    command = shlex.join(["python", "-m", "harness.run", *sys.argv[1:]])
    plan = planning.plan_of(loader, composed, multirun=switches.multirun, command=command)
    composer = Composer.of(loader, composed)
    os.environ.update(composed.hydra.job.env_set)
    if not plan.is_multirun:
        if OmegaConf.select(composed, "hydra.sweeper.params"):
            audience.note("hydra.sweeper.params has a sweep, which only runs with -m; this is one trial")
        return _one_trial(composer.config(plan.trials[0].overrides), plan.sweep_id, audience)
    from harness.sweep.conduct import SweepConductor

    return _sweep(SweepConductor(plan, composer, composed, audience), interruptions)


def _one_trial(config: TrialConfig, sweep_id: str, audience: Audience) -> int:
    """Run the trial in this process."""
    _refuse_settings_of_sweeps(config)
    from harness import console, device, resolution, results, trial

    config = resolution.resolved(config)
    device.settle_process(config.device)
    audience.recovered(results.prepare(config.results.dir))
    out, title, here = console.console(), f"[1/1] init={config.labels.init} seed={config.seed}", Path.cwd()
    place = SweepPlace(sweep_id, size=1, index=1)
    try:
        with console.progress(out, title, steps=config.train.steps, batch_size=config.train.batch_size) as advance:
            result = trial.run_trial(config, on_progress=advance, place=place)
    except (OSError, UsageError) as error:
        # what is wrong with the command was found above
        audience.lose(
            f"{title}{'' if isinstance(error, UsageError) else ' could not be recorded'}: {in_one_line(error)}"
        )
        return audience.exit_code(failed=True)
    finally:
        # a user's initializer may have gone elsewhere
        with suppress(OSError):
            os.chdir(here)
    audience.ended(title, result.trial)
    console.show(out, [console.ShownTrial(result.trial, list(result.curves.get("train_accuracy", ())))])
    console.explain(out, [result.trial])
    if not result.ok:
        print(f"failed: {trial_line(title, result.trial)}")
    _tell_where(config.results.dir)
    return audience.exit_code(failed=not result.ok)


def _refuse_settings_of_sweeps(config: TrialConfig) -> None:
    for name, value in vars(config.sweep).items():
        if name != "trial_timeout_s" and value != getattr(SweepConfig(), name):
            raise UsageError(f"sweep.{name}={value}: has no effect on a single trial; add -m or leave it out")


def _sweep(conductor: "SweepConductor", interruptions: Interruptions) -> int:
    """Run the trials in workers, then print what the results folder holds of them."""
    from harness import console

    audience, plan, out = conductor.audience, conductor.plan, console.console()

    @contextmanager
    def watch(planned: int, done_before: int) -> Iterator[None]:
        with console.LiveTable(out, planned, done_before) as audience.table:
            yield
        audience.table = None

    def on_interruption(wind_up: Callable[[], None]) -> None:
        interruptions.wind_up = wind_up

    conducted = conductor.run(watch, on_interruption)
    # impatience must not spoil the last lines
    interruptions.wind_up = lambda: None
    if conducted is None:
        return audience.exit_code(failed=True)
    _show(conducted.outcome, out)
    failures = conducted.outcome.failures()
    for failure in failures:
        print(_failure_line(failure, plan))
    if audience.is_interrupted:
        print(f"interrupted: {audience.interruption}", file=sys.stderr)
    for line in _without_row(conducted, plan):
        print(line, file=sys.stderr)
    if not conducted.is_empty:
        _tell_where(conducted.folder)
    return audience.exit_code(failed=bool(failures or conducted.missing))


def _show(outcome: "SweepOutcome", out: "Console") -> None:
    """Print the tables of a sweep, and why an initializer cannot train."""
    from harness import console

    if len(outcome):
        rows = outcome.first(console.MOST_ROWS)
        curves = outcome.train_accuracies([row["trial_id"] for row in rows if article.applies(row)])
        shown = [console.ShownTrial(row, curves.get(row["trial_id"], ())) for row in rows]
        console.show(out, shown, more=len(outcome) - len(shown))
        console.explain(out, outcome.diagnoses())


def _failure_line(failure: "Failure", plan: "Plan") -> str:
    """One line for a cause, with the trials that it made fail."""
    titles = [plan.trials[index - 1].named(plan.size) for index in failure.indices]
    if len(titles) == 1:
        return f"failed: {titles[0]}: {failure.ending}"
    return f"failed: {len(titles):,} trials: {failure.ending}: {few(titles)}"


def _without_row(conducted: "Conducted", plan: "Plan") -> Iterator[str]:
    """The trials that were not run, and those that have no row though they were to run."""
    if conducted.refused:
        yield f"not run, see the errors: {_named(conducted.refused, plan)}"
    if conducted.missing:
        yield f"without a row: {_named(conducted.missing, plan)}"
        yield f"  run them: {plan.command} sweep.resume=true"


def _named(trials: "Sequence[PlannedTrial]", plan: "Plan") -> str:
    return f"{counted(len(trials), 'trial')}: {few(trial.named(plan.size) for trial in trials)}"


def _tell_where(folder: str) -> None:
    from harness import results

    place = results.place_of(folder)
    if isinstance(place, Path) and not place.exists():
        return
    folder = f"./{folder}" if folder.startswith("-") else folder
    print(f"results: {place.absolute() if isinstance(place, Path) else place}")
    check = f"python -m harness.results validate {shlex.quote(folder)}"
    print(f"  read them: harness.load({json.dumps(folder, ensure_ascii=False)})   check them: {check}")


if __name__ == "__main__":
    main()
