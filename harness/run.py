"""The command: ``python -m harness.run [-m] CHOICES``; ``--help`` lists them. One trial or a sweep, then tables.

Torch is imported inside the first trial, so that ``--help`` and ``--cfg job`` answer at once.
"""

import argparse
import os
import shlex
import signal
import sys
import tempfile
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, cast

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from harness import usage
from harness.arguments import refusal
from harness.compose import CONF_DIR, from_hydra_job, one_line, typed_overrides
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.interrupts import on_interrupt

if TYPE_CHECKING:
    from harness.trial import TrialResult

OK, SOME_FAILED, WRONG_COMMAND = 0, 1, 2
"""The exit codes."""


@dataclass
class Sweep:
    """What the command has done so far, trial after trial."""

    arguments: list[str]
    results: "list[TrialResult]" = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    usage_errors: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    interrupted: bool = False
    position: int = 0
    sweep_id: str = field(default_factory=lambda: uuid.uuid4().hex[:16])

    def job(self, composed: DictConfig) -> None:
        """Run one composed config; whatever is wrong with it is kept for the end, so that the sweep goes on."""
        self.position += 1
        self._stop_if_interrupted()
        try:
            self._run(from_hydra_job(composed))
        except UsageError as error:
            self.refuse(str(error))
        except Exception as error:  # noqa: BLE001 - one line for a user, and the next trial still runs
            self._stop_if_interrupted()
            self.broken.append(f"{type(error).__name__}: {error}")
            print(f"error: trial {self.position} could not be recorded: {self.broken[-1]}", file=sys.stderr)

    def interrupt(self, _signal: int, _frame: FrameType | None) -> NoReturn:
        """What a signal to end does; it is remembered, for libraries catch the exception or turn it into another."""
        self.interrupted = True
        raise KeyboardInterrupt

    def _stop_if_interrupted(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def refuse(self, message: str) -> None:
        """Say what is wrong with the command, once and in one line."""
        message = " ".join(message.split())
        if message not in self.usage_errors:
            self.usage_errors.append(message)
            print(f"error: {message}", file=sys.stderr)

    def _run(self, config: TrialConfig) -> None:
        from harness import console, resolution, results, rows, trial

        self._stop_if_interrupted()
        config = resolution.resolved(config)
        out = console.console()
        if config.results.dir not in self.folders:
            recovered = results.prepare(config.results.dir)
            for trial_id in recovered.trial_ids:
                print(f"note: the trial {trial_id} of an earlier run was killed outright; its row says so now")
            for line in recovered.lines:
                print(f"note: {line}")
            self.folders.append(config.results.dir)
        title, size = self._title(config)
        with console.progress(out, title, steps=config.train.steps, batch_size=config.train.batch_size) as advance:
            place = rows.SweepPlace(self.sweep_id, size, self.position)
            result = trial.run_trial(config, on_progress=advance, place=place)
        line = console.trial_line(title, result.trial)
        print(line, flush=True)
        self.results.append(result)
        if not result.ok:
            self.failures.append(line)

    def _title(self, config: TrialConfig) -> tuple[str, int]:
        """The trial's place in the sweep with what distinguishes it there, and how many trials the sweep has."""
        hydra_config = cast("DictConfig", HydraConfig.get())
        if hydra_config.mode != RunMode.MULTIRUN:
            return f"[1/1] init={config.labels.init} seed={config.seed}", 1
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        typed = [argument for argument in self.arguments if "=" in argument and not argument.startswith("-")]
        parsed = parser.parse_overrides(typed)
        swept = {override.get_key_element() for override in parsed if override.is_sweep_override()}
        of_this_trial = [text for text in typed_overrides(hydra_config) if text.split("=", 1)[0] in swept]
        planned = len(BasicSweeper.split_arguments(parsed, None)[0])
        return f"[{self.position}/{planned}] {' '.join(of_this_trial) or config.labels.init}", planned

    def finish(self) -> int:
        """Print the tables and each failure; returns the exit code."""
        from harness import results

        if self.results:
            from harness import console

            console.show(console.console(), self.results)
            for line in self.failures:
                print(f"failed: {line}")
        if self.interrupted:
            print("interrupted: finished trials are safe, the one in hand is recorded as killed", file=sys.stderr)
        for folder in self.folders:
            place = results.place_of(folder)
            print(f"results: {place.absolute() if isinstance(place, Path) else place}")
            check = f"python -m harness.results validate {shlex.quote(folder)}"
            print(f'  read them: harness.load("{folder}")   check them: {check}')
        if self.usage_errors:
            return WRONG_COMMAND
        return SOME_FAILED if self.failures or self.broken or self.interrupted else OK


def main() -> None:
    """Entry point of ``python -m harness.run`` and ``initbench``; ends the process with its exit code."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        print(usage.text())
        sys.exit(OK)
    # Hydra then raises instead of printing a page, and the one line that matters is printed here
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sweep = Sweep(sys.argv[1:])
    on_interrupt(sweep.interrupt)
    with tempfile.TemporaryDirectory(prefix="initbench-") as scratch:
        os.environ["INITBENCH_SCRATCH"] = scratch
        try:
            sys.exit(_run_hydra(sweep))
        except KeyboardInterrupt:
            print("interrupted: all trials are recorded", file=sys.stderr)
            sys.exit(SOME_FAILED)


def _switches() -> argparse.Namespace:
    """What was typed, as Hydra will read it, but refused in one line."""

    def refuse(message: str) -> NoReturn:
        raise refusal("python -m harness.run", message)

    # argparse wants what it cannot name in one piece: `init=zero -m seed=0,1` would be refused
    sys.argv[1:] = sorted(sys.argv[1:], key=lambda argument: argument not in ("-m", "--multirun"))
    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_args()


def _run_hydra(sweep: Sweep) -> int:
    # hydra.main looks at the function's own module, and wants a function
    def job(composed: DictConfig) -> None:
        sweep.job(composed)

    try:
        switches = _switches()
        hydra.main(config_path=str(CONF_DIR), config_name="config", version_base="1.3")(job)()
    except KeyboardInterrupt:
        sweep.interrupted = True
    except Exception as error:  # noqa: BLE001 - Hydra raises all sorts at what it cannot read; a trial's end in job()
        if not sweep.interrupted:
            known = isinstance(error, HydraException | OmegaConfBaseException | UsageError)
            sweep.refuse(one_line(error) if known else f"{type(error).__name__}: {one_line(error)}")
    else:
        if switches.multirun and not sweep.position:
            sweep.refuse("the sweep is empty: no choice matches, or a range has no number in it")
    if sweep.interrupted:
        # impatience must not spoil the last lines
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return sweep.finish()


if __name__ == "__main__":
    main()
