"""One trial from config to rows: the only place where the parts are put together."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness import device, engine, measuring, results, rows, torch_state
from harness.config import SweepPlace, TrialConfig
from harness.errors import UsageError
from harness.interrupts import uninterrupted
from harness.measuring import Record
from harness.paths import typed_path
from harness.resolution import resolved
from harness.train import train
from harness.trial_setup import TrialSetup
from harness.trial_status import status_of

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, float], None]
"""Called between windows with (updates made, training seconds so far)."""


@dataclass(frozen=True)
class TrialResult:
    """What one trial gave; the same rows lie in the results folder.

    Attributes:
        trial: its row of ``trials``, column name -> value.
        curves: its rows of ``curves``, one per evaluated step.
        layers: its rows of ``layers``, one per evaluated step and parameter.
        train_losses: float32 (steps,) on the CPU: the loss of each step's batch before its update; NaN where training
            did not get.
        differences: parameter name -> initial minus final value, on the CPU; empty if training did not begin.
    """

    trial: dict[str, Any]
    curves: "pd.DataFrame"
    layers: "pd.DataFrame"
    train_losses: torch.Tensor
    differences: dict[str, torch.Tensor]

    @property
    def ok(self) -> bool:
        """Whether the trial ended as planned."""
        return bool(self.trial["status"] == "ok")


def run_trial(
    config: TrialConfig,
    *,
    on_progress: Progress | None = None,
    place: SweepPlace | None = None,
    trial_id: str | None = None,
    owner: str | None = None,
) -> TrialResult:
    """Run one trial and write its rows below ``config.results.dir``.

    Whatever goes wrong once it has begun becomes the ``status`` of its row and is not raised.

    Args:
        config: what to run; see :func:`harness.load_config`.
        on_progress: called between timing windows, off the training clock.
        place: in its sweep; None outside a command.
        trial_id: its id, chosen by the caller; None: a new one.
        owner: who publishes its rows, a process that has prepared the folder and holds a
            :class:`harness.results.Publisher` of that name; None: nobody, so they are published before this returns.

    Raises:
        UsageError: the config cannot be run here, or the results folder not be written; no row is left. Also if the
            object store that it lies in can no longer be reached at the end.
        KeyboardInterrupt: it was interrupted; its row says ``killed``.
    """
    # before the user's modules are imported, which may go to another folder
    folder, root = _places(config)
    # what waits for another thread's trial has not begun, and can be interrupted
    with torch_state.ONE_AT_A_TIME:
        config = resolved(config)
        if owner is None:
            # an owner has done so, and would be robbed of the deaths that it is about to record
            results.prepare(folder)
        planned = rows.planned(config, trial_id or results.new_trial_id(), place)
        here = replace(config, data=replace(config.data, root=root))
        record = Record(here, device.resolve(config.device), planned)
        _record_trial(record, folder, on_progress or (lambda _step, _seconds: None), owner)
    return _result(record)


def _places(config: TrialConfig) -> tuple[results.Place, str]:
    """The results folder and the folder of the data, as absolute paths."""
    folder = results.place_of(config.results.dir, "results.dir=")
    root = typed_path(config.data.root, "data.root=").absolute()
    return folder.absolute() if isinstance(folder, Path) else folder, str(root)


def _record_trial(record: Record, folder: results.Place, on_progress: Progress, owner: str | None) -> None:
    with ExitStack() as held:
        # a trial whose note is written has begun, and whatever ends it is recorded
        held.enter_context(uninterrupted())
        running = results.Running(folder, record.row, owner=owner)
        try:
            with status_of(record.row, record.config.sweep.trial_timeout_s), torch_state.set_for(record.config.device):
                held.close()
                _measure(record, on_progress)
        finally:
            with uninterrupted():
                measuring.summarise(record)
                running.finish(record.row, record.curves, record.layers)
                if owner is None:
                    _publish(folder, record.row["trial_id"])


def _publish(folder: results.Place, trial_id: str) -> None:
    """Publish a trial that is its own owner."""
    try:
        with results.Publisher(folder, trial_id) as publisher:
            publisher.ended(trial_id)
    except OSError as error:
        safe = "the trial is safe in its .spool, and the next run into it publishes it"
        raise UsageError(f"results.dir={folder}: cannot be published ({error.strerror}); {safe}") from error


def _measure(record: Record, on_progress: Progress) -> None:
    """The trial itself."""
    device.reset_peak_memory(record.device)
    setup = measuring.set_up(record)
    # from here on, for the kernels' check in float64 holds more than training does; set-up's own shows if it fails
    device.reset_peak_memory(record.device)
    initial = measuring.initialise(record, setup)
    measuring.warm_up(record, setup)
    measuring.diagnose(record, setup)
    # the diagnosis holds more copies than training does
    device.reset_peak_memory(record.device)
    energy = device.energy_j(record.device)
    try:
        _train(record, setup, initial, on_progress)
    finally:
        measuring.look_back(record, setup, initial)
    record.row["energy_j"] = device.energy_since(energy, record.device)
    measuring.measure_matmul_again(record)


def _train(record: Record, setup: TrialSetup, initial: dict[str, torch.Tensor], on_progress: Progress) -> None:
    trainer = engine.build(record.config, setup.trained, setup.batch, record.losses)
    measuring.begin_training(record)
    for window_end in train(trainer, record.config.train):
        measuring.window_ended(record, setup, initial, window_end)
        on_progress(window_end.step, record.row["train_time_s"])


def _result(record: Record) -> TrialResult:
    import pandas as pd

    curves = pd.DataFrame(record.curves)
    # a column of nulls alone is one of numbers too, as in the file
    curves = curves.astype({name: "float64" for name in curves.columns if name.startswith("validation_")})
    return TrialResult(record.row, curves, pd.DataFrame(record.layers), record.losses.cpu(), record.differences)
