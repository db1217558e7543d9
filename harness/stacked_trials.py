"""Several trials trained by the same launches: each is prepared, looked at, ended and recorded as it is alone.

What is done for one trial (drawing its weights, its diagnosis, an evaluation) is that trial's own step: it takes of its
own time, and its failure ends that trial alone. What is done for all at once (a window of training steps) is a shared
step: of a time limit each trial bears its share, and its failure ends the launch, whose trials can then be run again.

The seconds of a shared step that a trial records are those that passed. So its images per second are its share of the
rate of the launch.
"""

import copy
import gc
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace

import torch

from harness import device, measuring, results, rows, torch_state, trial
from harness.config import TrialConfig
from harness.engine import equality, stacked_graph
from harness.engine.stacked import StackedTraining, stacked_batches
from harness.engine.stacked_graph import Stack
from harness.errors import TimeBudgetError, UsageError
from harness.interrupts import uninterrupted
from harness.looking import own_randomness
from harness.measuring import Record, Shared
from harness.models import Network
from harness.resolution import resolved
from harness.stack_memory import largest_stack
from harness.stack_report import Order, StackReport
from harness.time_limit import time_limit
from harness.timing import Stopwatch
from harness.train import WindowEnd, check_budget, check_finite, windows
from harness.trial import Progress
from harness.trial_setup import TrialSetup
from harness.trial_status import is_out_of_memory, record_failure
from harness.wording import error_text

__all__ = ["Order", "StackReport", "run_stack"]

_LIMIT = "sweep.trial_timeout_s"
_MOST_TEXT = 30_000
"""Letters in a report, which must go through a pipe in one piece."""


@dataclass(eq=False)
class _Member:
    """A trial in hand."""

    record: Record
    running: results.Running
    spent_s: float = 0.0
    trained_s: float = 0.0
    setup: TrialSetup | None = None
    initial: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def trial_id(self) -> str:
        return str(self.record.row["trial_id"])

    @property
    def ready(self) -> TrialSetup:
        assert self.setup is not None, "it has been set up"
        return self.setup

    @property
    def network(self) -> Network:
        network = self.ready.network
        assert isinstance(network, Network), "one of the user's own is not stacked"
        return network


def run_stack(orders: Sequence[Order], *, on_progress: Progress | None = None) -> StackReport:
    """Run trials that :func:`harness.stackable.stack_key` calls alike, and spool the rows of each.

    Args:
        orders: two or more.
        on_progress: called between timing windows with the updates of each trial and the training seconds of all.

    Returns:
        what became of those that have no row.

    Raises:
        KeyboardInterrupt: it was interrupted; the rows of the trials in hand say ``killed``.
    """
    with torch_state.ONE_AT_A_TIME:
        stack = _Stack(on_progress or (lambda _step, _seconds: None))
        stack.run(orders)
        return stack.report


class _Stack:
    def __init__(self, on_progress: Progress) -> None:
        self.report = StackReport()
        self._on_progress = on_progress
        self._folder = os.getcwd()  # noqa: PTH109 - text is enough
        self._in_hand: list[_Member] = []
        self._trained: list[_Member] = []
        self._training: StackedTraining | None = None

    def run(self, orders: Sequence[Order]) -> None:
        with ExitStack() as held:
            # a trial whose note is written has begun, and whatever ends it is recorded
            held.enter_context(uninterrupted())
            self._begin(orders)
            try:
                self._run_begun(held)
            except KeyboardInterrupt as error:
                self._end_all(error)
                raise

    def _run_begun(self, held: ExitStack) -> None:
        """Measure the trials in hand; a launch that fails gives those back that have not ended."""
        count = len(self._in_hand)
        if not count:
            return
        try:
            with torch_state.set_for(self._config.device):
                held.close()
                self._measure()
        except KeyboardInterrupt:
            raise
        except TimeBudgetError as error:
            self._end_all(error)
        except BaseException as error:  # noqa: BLE001 - whatever failed the launch may be the fault of one trial
            self._give_back((count + 1) // 2, error)
        self._forget()

    @property
    def _config(self) -> TrialConfig:
        """What all trials have in common."""
        return self._in_hand[0].record.config

    def _begin(self, orders: Sequence[Order]) -> None:
        """Take as many trials in hand as the device holds; the others are left for another launch."""
        known = [own for order in orders if (own := self._record_of(order))]
        if not known:
            return
        self.report.most = most = largest_stack(known[0][1].config, known[0][1].device)
        self.report.holds = most if most < len(known) else None
        taken = known[:most] if most > 1 else []
        self.report.again = [order.trial_id for order, *_ in known[len(taken) :]]
        for order, record, folder in taken:
            record.row["stacked_trials"] = len(taken)
            with self._recording(order.trial_id):
                self._in_hand.append(_Member(record, results.Running(folder, record.row, owner=order.owner)))

    def _record_of(self, order: Order) -> tuple[Order, Record, results.Place] | None:
        try:
            self._return()
            # before the user's modules are imported, which may go to another folder
            folder, root = trial.places(order.config)
            config = resolved(order.config)
        except UsageError as error:
            self.report.refused[order.trial_id] = self._short(error_text(error))
            return None
        except Exception as error:  # noqa: BLE001 - a module of the user's own may raise anything, which costs no other
            self.report.broken[order.trial_id] = self._short(f"{type(error).__name__}: {error_text(error)}")
            return None
        here = replace(config, data=replace(config.data, root=root))
        row = rows.planned(config, order.trial_id, order.place)
        return order, Record(here, device.resolve(config.device), row), folder

    def _short(self, text: str) -> str:
        return text[: _MOST_TEXT // (1 + len(self._in_hand) + len(self.report.refused) + len(self.report.broken))]

    @contextmanager
    def _recording(self, trial_id: str) -> Iterator[None]:
        """Write to the disk for one trial; what fails costs no other one."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a full disk, a lock that another process holds, and the like
            self.report.broken[trial_id] = self._short(f"{type(error).__name__}: {error_text(error)}")

    def _return(self) -> None:
        """Go back to the folder of the command, from where an initializer may have gone elsewhere."""
        with suppress(OSError):
            os.chdir(self._folder)

    def _measure(self) -> None:
        """All trials of the launch."""
        target = self._in_hand[0].record.device
        device.reset_peak_memory(target)
        self._each(self._prepare)
        if len(self._in_hand) == 1:
            # alone it is trained by the engine that its config names, and measured under the conditions of that
            self._give_back(1)
        if not self._in_hand:
            return
        self._warm_up()
        self._make_ready()
        self._each(lambda member: measuring.diagnose(member.record, member.ready))
        device.reset_peak_memory(target)
        energy = device.energy_j(target)
        self._train()
        self._finish(device.energy_since(energy, target))

    def _prepare(self, member: _Member) -> None:
        first = next((own for own in self._in_hand if own.setup is not None), None)
        shared = Shared(first.ready.digits, first.record.row["matmul_flops_per_s"]) if first else None
        # an initializer of the user's own may set what holds for the process, which must not reach the next trial
        with torch_state.set_for(member.record.config.device):
            member.setup = measuring.set_up(member.record, shared)
            member.initial = measuring.initialise(member.record, member.setup)

    def _warm_up(self) -> None:
        """Steps of the whole launch on copies."""
        train, target = self._config.train, self._in_hand[0].record.device
        steps, watch = min(train.warmup_steps, train.steps), Stopwatch(target)
        with self._shared(), watch, own_randomness():
            copies = [copy.deepcopy(member.network) for member in self._in_hand]
            losses = torch.empty(len(copies), train.steps, device=target)
            self._stack(self._in_hand, copies, losses).eager().run(range(steps))
        for member in self._in_hand:
            member.record.row["warmup_time_s"] = watch.total_s

    def _stack(self, members: Sequence[_Member], networks: Sequence[Network], losses: torch.Tensor) -> Stack:
        """What is trained; ``losses`` (R, steps) fills up."""
        first = members[0].ready
        batches = stacked_batches(
            first.digits.train_images,
            first.digits.train_labels,
            [member.ready.batch.indices for member in members],
            self._config.train.batch_size,
        )
        optimizers = [member.record.config.optimizer for member in members]
        return Stack(networks, first.trained.kernel, optimizers, batches, losses, self._config.train)

    def _make_ready(self) -> None:
        """Capture the steps where the engine does that, and set them against training alone."""
        # neighbours with equal settings are updated together
        members = sorted(self._in_hand, key=lambda member: repr(member.record.config.optimizer))
        train, target = self._config.train, members[0].record.device
        losses = torch.full((len(members), train.steps), torch.nan, device=target)
        for member, own in zip(members, losses, strict=True):
            member.record.losses = own
            member.record.row["stacked_trials"] = len(members)
        engine, watch = self._config.engine, Stopwatch(target)
        with self._shared(), watch:
            stack = self._stack(members, [member.network for member in members], losses)
            ready = stacked_graph.prepare(engine, stack)
        self._training, self._trained = ready.training, members
        if engine.name != "eager":
            for member in members:
                member.record.row.update(engine=ready.name, engine_reason=ready.reason, compile_time_s=watch.total_s)
        if ready.training.together:
            self._check(ready.training)

    def _check(self, training: StackedTraining) -> None:
        """Set the first steps of each model against those that it takes alone; one that differs has failed."""
        with self._shared():
            networks = [member.network for member in self._trained]
            courses = equality.stacked_courses(self._config, networks, training)
        for member, own in zip(self._trained, courses, strict=True):
            record, setup = member.record, member.ready
            with self._own(member), record.clock("warmup_time_s"):
                record.row["engine_error"] = equality.difference_of_model(
                    record.config, setup.trained, setup.batch, own
                )

    def _train(self) -> None:
        """Train in windows, as :func:`harness.train.train` does for one network."""
        if not self._in_hand:
            return
        assert self._training is not None
        watch = Stopwatch(self._trained[0].record.device)
        self._window_ended(range(0), 0.0, len(self._trained))
        for window in windows(self._config.train):
            if not self._in_hand:
                return
            # together, all are computed to the end; in turn, what has ended leaves the others more of the machine
            computed = len(self._trained) if self._training.together else len(self._in_hand)
            with self._shared(), watch:
                self._training.run(window)
            self._window_ended(window, watch.laps_s[-1], computed)
            self._on_progress(window.stop, watch.total_s)

    def _window_ended(self, window: range, seconds: float, computed: int) -> None:
        """Record the end of a window, in which so many models were computed, and look at each trial if that is due."""
        assert self._training is not None
        with self._shared():
            rates, right = self._training.rates(), self._training.right()
        train = self._config.train
        on_grid = window.stop % train.eval_every == 0 or window.stop == train.steps
        for place, member in enumerate(self._trained):
            if member not in self._in_hand:
                continue
            with self._own(member):
                check_finite(member.record.losses, window)
                share = computed / len(self._trained)
                end = WindowEnd(window.stop, len(window), seconds, on_grid, rates[place], right[place], share)
                measuring.window_ended(member.record, member.ready, member.initial, end)
                member.trained_s += seconds / computed
                check_budget(member.record.config.train, member.trained_s, window.stop)

    def _finish(self, energy_j: float | None) -> None:
        """End the trials that were trained to their end."""
        if not self._in_hand:
            return
        first = self._in_hand[0].record
        with self._shared():
            measuring.measure_matmul_again(first)
        rate = first.row["matmul_flops_per_s"]
        for member in list(self._in_hand):
            energy_share_j = None if energy_j is None else energy_j / len(self._trained)
            member.record.row.update(energy_j=energy_share_j, matmul_flops_per_s=rate)
            self._end(member)

    def _each(self, step: Callable[[_Member], None]) -> None:
        for member in list(self._in_hand):
            with self._own(member):
                step(member)

    @contextmanager
    def _own(self, member: _Member) -> Iterator[None]:
        """A step of one trial, on its own time; its failure ends that trial alone."""
        begun_s = time.monotonic()
        limit_s = member.record.config.sweep.trial_timeout_s
        self._return()
        try:
            with time_limit(limit_s, _LIMIT, spent_s=member.spent_s):
                yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            if is_out_of_memory(error) and len(self._in_hand) > 1:
                # fewer neighbours may leave it enough
                raise
            self._end(member, error)
        member.spent_s += time.monotonic() - begun_s

    @contextmanager
    def _shared(self) -> Iterator[None]:
        """A step of all trials in hand, each of which bears its share of the time."""
        begun_s, members = time.monotonic(), list(self._in_hand)
        limit_s = self._config.sweep.trial_timeout_s
        left_s = (limit_s or 0.0) * len(members) - sum(member.spent_s for member in members)
        with time_limit(limit_s, _LIMIT, spent_s=(limit_s or 0.0) - left_s):
            yield
        for member in members:
            member.spent_s += (time.monotonic() - begun_s) / len(members)

    def _end(self, member: _Member, error: BaseException | None = None) -> None:
        """Write the rows of a trial that has ended, as planned or by an error."""
        record = member.record
        with uninterrupted():
            if member in self._trained:
                assert self._training is not None
                self._training.drop(self._trained.index(member))
                error = _looked_back(member) or error
            if error is None:
                record.row["status"] = "ok"
            else:
                record_failure(record.row, error)
            measuring.summarise(record)
            with self._recording(member.trial_id):
                member.running.finish(record.row, record.curves, record.layers)
            self._in_hand.remove(member)
            member.setup, member.initial = None, {}

    def _end_all(self, error: BaseException) -> None:
        with uninterrupted():
            for member in list(self._in_hand):
                self._end(member, error)

    def _give_back(self, most: int, error: BaseException | None = None) -> None:
        """Leave the trials in hand to other launches of at most so many."""
        report = self.report
        with uninterrupted():
            report.most = min(report.most, most)
            if error is not None:
                report.reason = self._short(f"{type(error).__name__}: {error_text(error)}")
                if is_out_of_memory(error):
                    report.holds = min(most, report.holds or most)
            for member in list(self._in_hand):
                with self._recording(member.trial_id):
                    member.running.withdraw()
                    report.again.append(member.trial_id)
                self._in_hand.remove(member)

    def _forget(self) -> None:
        """Let go of the device's memory, which the next launch needs."""
        self._trained, self._training = [], None
        gc.collect()
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def _looked_back(member: _Member) -> Exception | None:
    """What went wrong when the trained network was looked back at."""
    try:
        measuring.look_back(member.record, member.ready, member.initial)
    except Exception as error:  # noqa: BLE001 - such as a device that does not answer any more
        return error
    return None
