"""The steps of measuring a trial, each a function of its record; ``harness.trial`` puts them in order for one trial."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from harness import (
    allocator,
    data,
    device,
    engine,
    evaluation,
    kernel_check,
    kernel_choice,
    looking,
    metrics,
    own_models,
    provenance,
    random_streams,
    rows,
    timing,
    trial_setup,
)
from harness.config import TrialConfig
from harness.data import Digits
from harness.engine import equality
from harness.errors import DivergedError, TimeBudgetError
from harness.timing import Stopwatch, matmul_flops_per_s
from harness.train import Engine, WindowEnd
from harness.trial_setup import TrialSetup
from harness.wording import error_text

_ARTICLE_TEST_IMAGES = 1000


@dataclass
class Record:
    """What a trial has shown so far; whatever stops it, this much is written.

    Attributes:
        config: of the trial, resolved.
        device: where it runs.
        row: its row of ``trials``.
        curves: its rows of ``curves``.
        layers: its rows of ``layers``.
        window_ends: where training stood at the end of each timing window.
        losses: float32 (steps,), of each step's batch before its update; NaN where training did not get.
        differences: parameter name -> initial minus final value, on the CPU.
    """

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
class Shared:
    """What the trials of a stack have in common once the first of them is set up.

    Attributes:
        digits: the data on the device.
        matmul_flops_per_s: measured rate of the machine.
    """

    digits: Digits
    matmul_flops_per_s: float


def set_up(record: Record, shared: Shared | None = None) -> TrialSetup:
    """Put everything on the device, measure the machine and check the kernels, on the clock of setting up.

    Args:
        record: of the trial.
        shared: what another trial of its stack has put there and measured.
    """
    config = record.config
    with record.clock("setup_time_s"):
        record.row.update(rows.environment(provenance.environment(record.device)))
        record.row["memory_kept"] = record.device.type == "cpu" and allocator.keeps_memory()
        setup = trial_setup.assemble(config, record.device, digits=shared.digits if shared else None)
        record.losses = torch.full((config.train.steps,), torch.nan, device=record.device)
        forward, training = own_models.flops_per_image(config.model, setup.network)
        record.row.update(forward_flops_per_image=forward, train_flops_per_image=training)
        record.row.update(own_models.columns(setup.network, is_torch=kernel_choice.backend_of(config).is_torch))
        record.row["matmul_flops_per_s"] = shared.matmul_flops_per_s if shared else matmul_flops_per_s(record.device)
        if not kernel_choice.backend_of(config).is_torch:
            record.row["kernel_error"] = kernel_check.largest_error(
                setup.network,
                setup.trained.kernel,
                setup.batch(0)[0],
                precision=config.kernel.precision,
                seed=config.seed,
                autocast=setup.trained.autocast,
            )
    return setup


def initialise(record: Record, setup: TrialSetup) -> dict[str, torch.Tensor]:
    """Fill the parameters, on their own clock; returns a copy of each."""
    config = record.config
    with record.clock("init_time_s"):
        trial_setup.initialise(config, setup)
    initial = {name: value.detach().clone() for name, value in setup.network.tensors().items()}
    record.row["initial_weights_sha256"] = metrics.weights_sha256(initial)
    with record.clock("eval_time_s"):
        chosen = data.random_test_indices(config.data, config.seed).to(record.device)
        logits = metrics.logits_of(setup.network, setup.digits.test_images[chosen])
        record.row["test_accuracy_before"] = metrics.score(logits, setup.digits.test_labels[chosen]).accuracy
    return initial


def diagnose(record: Record, setup: TrialSetup) -> None:
    """Record why it will or will not learn, from a few steps on copies; on the clock of evaluation."""
    with record.clock("eval_time_s"):
        try:
            result = trial_setup.diagnose(record.config, setup)
        except TimeBudgetError:
            raise
        except Exception as error:  # noqa: BLE001 - such as too little memory for it: the training may still go well
            record.row["diagnosis_reason"] = f"not diagnosed: {error_text(error)}"
            return
    record.row.update(diagnosis=result.network.kind, diagnosis_reason=result.network.reason)
    record.row["layer_diagnoses"] = json.dumps({name: str(finding) for name, finding in result.layers.items()})


def warm_up(record: Record, setup: TrialSetup) -> None:
    """Steps on a copy of the network, from its first batch."""
    steps = min(record.config.train.warmup_steps, record.config.train.steps)

    def run(network: torch.nn.Module) -> None:
        engine.build(record.config, network, setup.batch, torch.empty_like(record.losses)).run(range(steps))

    with record.clock("warmup_time_s"):
        timing.warm_up(setup.trained, run)


def engine_of(record: Record, setup: TrialSetup) -> Engine:
    """Return the trial's engine, ready to train: compiled or captured where it is, and then set against eager.

    Raises:
        WrongEngineError: it does not train as eager does.
    """
    config, row = record.config, record.row
    if config.engine.name == "eager":
        return engine.build(config, setup.trained, setup.batch, record.losses)
    with record.clock("compile_time_s"):
        ready = engine.prepare(config, setup.trained, setup.batch, record.losses)
    row.update(engine=ready.name, engine_reason=ready.reason)
    if not isinstance(ready.engine, engine.Rewindable):
        return ready.engine
    try:
        with record.clock("warmup_time_s"):
            row["engine_error"] = equality.largest_difference(
                config, setup.trained, setup.batch, ready.engine, exact=ready.exact
            )
    except equality.WrongEngineError as error:
        if not (config.engine.fallback and isinstance(setup.network, own_models.OwnNetwork)):
            raise
        # its code may draw random numbers (F.dropout), which a graph draws otherwise
        row.update(engine="eager", engine_reason=error_text(error))
        record.losses.fill_(torch.nan)
        return engine.build(config, setup.trained, setup.batch, record.losses)
    ready.engine.rewind()
    return ready.engine


def begin_training(record: Record) -> None:
    """Seed what training itself draws, such as the masks of dropout."""
    looking.seed(random_streams.seed_of(record.config.seed, "training"))


def window_ended(record: Record, setup: TrialSetup, initial: Mapping[str, torch.Tensor], window_end: WindowEnd) -> None:
    """Record the end of a timing window, and look at the network where it is on the evaluation grid.

    Raises:
        DivergedError: the loss after the last step is not finite.
    """
    record.window_ends.append(window_end)
    record.row["steps_done"] = window_end.step
    record.row["train_time_s"] = (record.row["train_time_s"] or 0.0) + window_end.seconds
    if window_end.evaluate:
        with record.clock("eval_time_s"):
            evaluate(record, setup, initial, window_end.step)


def evaluate(record: Record, setup: TrialSetup, initial: Mapping[str, torch.Tensor], step: int) -> None:
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


def _record_end(record: Record, logits: torch.Tensor, labels: torch.Tensor) -> None:
    """Accuracy after training on the article's 1,000 test images, and the tie of a network blind to them."""
    record.row["test_accuracy_after"] = metrics.score(logits, labels).accuracy
    tie = metrics.tie(logits, labels)
    if tie is not None:
        record.row.update(tie_classes=tie.classes, tie_accuracies=tie.accuracies)


def look_back(record: Record, setup: TrialSetup, initial: Mapping[str, torch.Tensor]) -> None:
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


def summarise(record: Record) -> None:
    """The columns that follow from the others; nothing here asks the device, which may be what failed."""
    row, train = record.row, record.config.train
    row["measured_at"] = datetime.now(UTC)
    row.update(rows.convergence(record.curves, train.targets))
    if record.window_ends:
        flops, matmul = row["train_flops_per_image"], row["matmul_flops_per_s"]
        rates = [end.steps * train.batch_size * end.share / end.seconds for end in record.window_ends if end.steps]
        row.update(
            timing.throughput(
                rates, batch_size=train.batch_size, train_flops_per_image=flops, matmul_flops_per_s=matmul
            )
        )


def measure_matmul_again(record: Record) -> None:
    """Measure the machine once more, because another process may have held it when it was measured first."""
    with record.clock("setup_time_s"):
        again = matmul_flops_per_s(record.device)
        record.row["matmul_flops_per_s"] = max(record.row["matmul_flops_per_s"], again)
