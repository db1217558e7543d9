"""One trial from config to rows: the only place where the parts are put together."""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from harness import (
    data,
    device,
    diagnosis,
    evaluation,
    fusion,
    initializers,
    kernel_check,
    kernel_choice,
    looking,
    metrics,
    models,
    provenance,
    random_streams,
    results,
    rows,
    torch_state,
)
from harness.config import SweepPlace, TrialConfig
from harness.data import Digits
from harness.diagnosis import Diagnosis, Finding
from harness.diagnosis.case import Optimizer
from harness.errors import DivergedError, TimeBudgetError, UsageError
from harness.interrupts import uninterrupted
from harness.models import Network
from harness.paths import typed_path
from harness.resolution import resolved
from harness.timing import Stopwatch, matmul_flops_per_s, throughput, warm_up
from harness.train import Batch, WindowEnd, batch_source, optimizer_for, optimizer_of, take_steps, train
from harness.trial_status import status_of
from harness.wording import error_text

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, float], None]
"""Called between windows with (updates made, training seconds so far)."""

_ARTICLE_TEST_IMAGES = 1000


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


@dataclass
class _Record:
    """What a trial has shown so far; whatever stops it, this much is written."""

    config: TrialConfig
    device: torch.device
    row: dict[str, Any]
    curves: list[dict[str, Any]] = field(default_factory=list)
    layers: list[dict[str, Any]] = field(default_factory=list)
    window_ends: list[WindowEnd] = field(default_factory=list)
    losses: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    differences: dict[str, torch.Tensor] = field(default_factory=dict)

    @contextmanager
    def clock(self, column: str) -> Iterator[None]:
        """Add the block's seconds to a column."""
        watch = Stopwatch(self.device)
        try:
            with watch:
                yield
        finally:
            self.row[column] = (self.row[column] or 0.0) + watch.total_s


@dataclass(frozen=True)
class TrialSetup:
    """All that training needs, on the device.

    Attributes:
        network: in the trial's memory format.
        digits: images as the trial scales them, and labels.
        batch: step -> images and labels of its batch.
        trained: the same network by the trial's kernel; what is on the training clock.
    """

    network: Network
    digits: Digits
    batch: Callable[[int], Batch]
    trained: fusion.Trained


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
        record = _Record(here, device.resolve(config.device), planned)
        _record_trial(record, folder, on_progress or (lambda _step, _seconds: None), owner)
    return _result(record)


def _places(config: TrialConfig) -> tuple[results.Place, str]:
    """The results folder and the folder of the data, as absolute paths."""
    folder = results.place_of(config.results.dir, "results.dir=")
    root = typed_path(config.data.root, "data.root=").absolute()
    return folder.absolute() if isinstance(folder, Path) else folder, str(root)


def _record_trial(record: _Record, folder: results.Place, on_progress: Progress, owner: str | None) -> None:
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
                _summarise(record)
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


def _measure(record: _Record, on_progress: Progress) -> None:
    """The trial itself."""
    device.reset_peak_memory(record.device)
    setup = _set_up(record)
    # from here on, for the kernels' check in float64 holds more than training does; set-up's own shows if it fails
    device.reset_peak_memory(record.device)
    initial = _initialise(record, setup)
    _warm_up(record, setup)
    _diagnose(record, setup)
    # the diagnosis holds more copies than training does
    device.reset_peak_memory(record.device)
    energy = device.energy_j(record.device)
    try:
        _train(record, setup, initial, on_progress)
    finally:
        _look_back(record, setup, initial)
    record.row["energy_j"] = device.energy_since(energy, record.device)
    with record.clock("setup_time_s"):
        # once more, for another process may have held the machine when it was measured first
        record.row["matmul_flops_per_s"] = max(record.row["matmul_flops_per_s"], matmul_flops_per_s(record.device))


def assemble(config: TrialConfig, target: torch.device) -> TrialSetup:
    """Data, batches and the network, its parameters unset, on the device.

    Raises:
        DataError: the data cannot be had.
    """
    digits = data.to_device(data.load(config.data), config.data, target)
    train = config.train
    indices = data.batch_indices(config.data, steps=train.steps, batch_size=train.batch_size, seed=config.seed)
    on_device = None if indices is None else indices.to(target)
    batch = batch_source(digits.train_images, digits.train_labels, on_device, train.batch_size)
    network = models.build(config.model)
    network.to(target).to(memory_format=kernel_choice.memory_format(config, target))
    return TrialSetup(network, digits, batch, fusion.Trained(network, kernel_choice.kernel_of(config)))


def initialise(config: TrialConfig, setup: TrialSetup) -> None:
    """Fill the parameters in place.

    Raises:
        ValueError: an initializer refused.
    """
    initializers.apply(config.init, setup.network, seed=config.seed, activation=config.model.activation)
    initializers.adapt(config.init, setup.network, *setup.batch(0), seed=config.seed)


def diagnose(config: TrialConfig, setup: TrialSetup) -> Diagnosis:
    """Say why the filled network will or will not learn, from a few steps on copies; see :mod:`harness.diagnosis`."""
    batch, optimizer = _as_trained(config, setup)
    return diagnosis.diagnose(setup.network, batch, optimizer=optimizer)


def finding(config: TrialConfig, setup: TrialSetup) -> Finding:
    """Return the diagnosis of the whole network alone, without looking for the cause."""
    batch, optimizer = _as_trained(config, setup)
    return diagnosis.finding(setup.network, batch, optimizer=optimizer)


def _as_trained(config: TrialConfig, setup: TrialSetup) -> tuple[Callable[[int], Batch], Optimizer]:
    return (lambda step: setup.batch(step % config.train.steps)), partial(
        optimizer_of, config=config.optimizer, steps=config.train.steps
    )


def _set_up(record: _Record) -> TrialSetup:
    config = record.config
    with record.clock("setup_time_s"):
        record.row.update(rows.environment(provenance.environment(record.device)))
        setup = assemble(config, record.device)
        record.losses = torch.full((config.train.steps,), torch.nan, device=record.device)
        forward, training = models.flops_per_image(config.model)
        record.row.update(forward_flops_per_image=forward, train_flops_per_image=training)
        record.row["matmul_flops_per_s"] = matmul_flops_per_s(record.device)
        if not kernel_choice.backend_of(config).is_torch:
            record.row["kernel_error"] = kernel_check.largest_error(
                setup.network,
                setup.trained.kernel,
                setup.batch(0)[0],
                precision=config.kernel.precision,
                seed=config.seed,
            )
    return setup


def _initialise(record: _Record, setup: TrialSetup) -> dict[str, torch.Tensor]:
    """Fill the parameters, on their own clock; returns a copy of each."""
    config = record.config
    with record.clock("init_time_s"):
        initialise(config, setup)
    initial = {name: value.detach().clone() for name, value in setup.network.tensors().items()}
    record.row["initial_weights_sha256"] = metrics.weights_sha256(initial)
    with record.clock("eval_time_s"):
        chosen = data.random_test_indices(config.data, config.seed).to(record.device)
        logits = metrics.logits_of(setup.network, setup.digits.test_images[chosen])
        record.row["test_accuracy_before"] = metrics.score(logits, setup.digits.test_labels[chosen]).accuracy
    return initial


def _diagnose(record: _Record, setup: TrialSetup) -> None:
    """Record why it will or will not learn, from a few steps on copies; on the clock of evaluation."""
    with record.clock("eval_time_s"):
        try:
            result = diagnose(record.config, setup)
        except TimeBudgetError:
            raise
        except Exception as error:  # noqa: BLE001 - such as too little memory for it: the training may still go well
            record.row["diagnosis_reason"] = f"not diagnosed: {error_text(error)}"
            return
    record.row.update(diagnosis=result.network.kind, diagnosis_reason=result.network.reason)
    record.row["layer_diagnoses"] = json.dumps({name: str(finding) for name, finding in result.layers.items()})


def _warm_up(record: _Record, setup: TrialSetup) -> None:
    """Steps on a copy of the network, from its first batch."""
    steps = min(record.config.train.warmup_steps, record.config.train.steps)

    def run(network: torch.nn.Module) -> None:
        scratch = torch.empty_like(record.losses)
        optimizer = optimizer_for(network, record.config.optimizer, steps=record.config.train.steps)
        take_steps(network, optimizer, setup.batch, range(steps), scratch)

    with record.clock("warmup_time_s"):
        warm_up(setup.trained, run)


def _train(record: _Record, setup: TrialSetup, initial: dict[str, torch.Tensor], on_progress: Progress) -> None:
    config = record.config
    optimizer = optimizer_for(setup.trained, config.optimizer, steps=config.train.steps)
    looking.seed(random_streams.seed_of(config.seed, "training"))
    for window_end in train(setup.trained, optimizer, setup.batch, config.train, record.losses):
        record.window_ends.append(window_end)
        record.row["steps_done"] = window_end.step
        record.row["train_time_s"] = (record.row["train_time_s"] or 0.0) + window_end.seconds
        if window_end.evaluate:
            with record.clock("eval_time_s"):
                _evaluate(record, setup, initial, window_end.step)
        on_progress(window_end.step, record.row["train_time_s"])


def _evaluate(record: _Record, setup: TrialSetup, initial: dict[str, torch.Tensor], step: int) -> None:
    """One row of the curve and one per parameter."""
    config = record.config
    look = evaluation.evaluate(setup.network, setup.digits, config, initial)
    where = {"trial_id": record.row["trial_id"], "step": step}
    trained = evaluation.training_columns(record.window_ends, record.losses, config.train.batch_size)
    record.curves.append({**where, "train_time_s": record.row["train_time_s"], **look.scores, **trained})
    record.layers += [{**where, **asdict(tensor)} for tensor in look.probes]
    if step == config.train.steps:
        labels = setup.digits.test_labels
        _record_end(record, look.test_logits[:_ARTICLE_TEST_IMAGES], labels[:_ARTICLE_TEST_IMAGES])
    # no step comes after the last one to show that its update was too large
    if not math.isfinite(look.scores["train_loss"] or 0.0):
        raise DivergedError(step)


def _record_end(record: _Record, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Accuracy after training on the article's 1,000 test images, and the tie of a network blind to them."""
    record.row["test_accuracy_after"] = metrics.score(logits, labels).accuracy
    tie = metrics.tie(logits, labels)
    if tie is not None:
        record.row.update(tie_classes=tie.classes, tie_accuracies=tie.accuracies)


def _look_back(record: _Record, setup: TrialSetup, initial: dict[str, torch.Tensor]) -> None:
    """What training changed, also of a trial that did not reach its end."""
    final = {name: value.detach() for name, value in setup.network.tensors().items()}
    record.differences = {name: (initial[name] - value).cpu() for name, value in final.items()}
    unmoved = [name for name, value in final.items() if torch.equal(value, initial[name])]
    record.row.update(unmoved=unmoved, moved=[name for name in final if name not in unmoved])
    last_bias = record.differences.get(f"{list(setup.network.parametrised())[-1]}.bias")
    record.row["last_bias_difference"] = None if last_bias is None else last_bias.tolist()
    record.row["final_weights_sha256"] = metrics.weights_sha256(final)
    record.losses = record.losses.cpu()
    record.row["peak_memory_bytes"] = device.peak_memory_bytes(record.device)


def _summarise(record: _Record) -> None:
    """The columns that follow from the others; nothing here asks the device, which may be what failed."""
    row, train = record.row, record.config.train
    row["measured_at"] = datetime.now(UTC)
    row.update(rows.convergence(record.curves, train.targets))
    if record.window_ends:
        flops, matmul = row["train_flops_per_image"], row["matmul_flops_per_s"]
        rates = [end.steps * train.batch_size / end.seconds for end in record.window_ends if end.steps]
        row.update(
            throughput(rates, batch_size=train.batch_size, train_flops_per_image=flops, matmul_flops_per_s=matmul)
        )


def _result(record: _Record) -> TrialResult:
    import pandas as pd

    curves = pd.DataFrame(record.curves)
    # a column of nulls alone is one of numbers too, as in the file
    curves = curves.astype({name: "float64" for name in curves.columns if name.startswith("validation_")})
    return TrialResult(record.row, curves, pd.DataFrame(record.layers), record.losses.cpu(), record.differences)
