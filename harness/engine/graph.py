"""The graph engine: whole runs of steps are captured in CUDA graphs and replayed, with no work of Python between them.

A graph replays the same operations on the same memory, so nothing of a step may depend on Python:

- a counter on the device says which step it is; it gathers the batch, the learning rate and the place of the loss;
- the optimizer keeps its own step counts on the device (``capturable``);
- parameters, state of the optimizer, counter, losses and the count of right answers keep their addresses.

The steps of a window are replayed by a graph of several steps and, for what remains of it, by a graph of one.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.config import OptimizerConfig, TrainConfig
from harness.looking import undisturbed
from harness.optimizers import OPTIMIZERS
from harness.train import Batches, optimizer_of

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Function -> what replays its operations on the same memory."""

_MOST_STEPS = 50
"""Longest graph: capturing takes as long as running so many steps eagerly, and replaying gains nothing beyond it."""

_WARM_UP = 3
"""Steps before capturing, as torch's notes on CUDA graphs ask: they choose algorithms and create optimizer states."""

_FIRST_STATES = {"mu_product": 1.0}
"""States of torch's optimizers that do not begin at 0."""


def captured(function: Callable[[], None]) -> Callable[[], None]:
    """Capture a function in a CUDA graph with a memory pool of its own."""
    graph = torch.cuda.CUDAGraph()
    # a stream of the current device; torch's own default for captures stays on the device that captured first
    with torch.cuda.graph(graph, stream=torch.cuda.Stream()):  # type: ignore[no-untyped-call]
        function()
    return graph.replay


def rates(config: OptimizerConfig, steps: int) -> list[float]:
    """Return the learning rate of each step, by torch's own scheduler on an optimizer of nothing."""
    if config.schedule == "constant":
        return [config.lr] * steps
    nothing = optimizer_of([nn.Parameter(torch.zeros(1))], config, steps=steps)
    table = []
    for _ in range(steps):
        table.append(float(nothing.param_groups[0]["lr"]))
        nothing.step()
    return table


class Rate:
    """The learning rate of each step by one setting, for steps that count themselves on the device.

    Args:
        config: the setting.
        steps: length of the training.
        device: where the steps are taken.

    Attributes:
        now: a tensor () on the device, the rate of the step that is taken; None: it is constant.
    """

    def __init__(self, config: OptimizerConfig, steps: int, device: torch.device) -> None:
        self._rates = rates(config, steps)
        self._rate_of_step = torch.tensor(self._rates, device=device)
        self.now = None if config.schedule == "constant" else self._rate_of_step[0].clone()

    def follow(self, step_number: torch.Tensor) -> None:
        """Fill ``now`` with the rate of the step that a tensor (1,) on the device counts."""
        if self.now is not None:
            self.now.copy_(self._rate_of_step.index_select(0, step_number).squeeze(0))

    def at(self, step: int) -> float:
        """Return the rate of a step; behind the last one, its own."""
        return self._rates[min(step, len(self._rates) - 1)]


def same_arithmetic(config: OptimizerConfig, device: torch.device) -> bool:
    """Whether an update rounds as the eager one does: no tensor stands where that computes in Python's numbers."""
    return config.schedule == "constant" and (
        device.type == "cpu" or OPTIMIZERS[config.name].torch_class in ("SGD", "RMSprop")
    )


class Replays:
    """Captures a step that finds everything by a counter on the device, and replays it over whole windows.

    Args:
        train: windows and grid, which say how many steps a graph holds.
        capture: what captures a function.
    """

    def __init__(self, train: TrainConfig, capture: Capture) -> None:
        self._capture = capture
        self._warm_up = min(_WARM_UP, train.steps)
        self._steps_of_graph = min(train.window_steps, train.eval_every, train.steps, _MOST_STEPS)
        self._graphs: dict[int, Callable[[], None]] = {}
        self.done = 0

    def prepare(self, step: Callable[[], None], network: nn.Module, device: torch.device) -> None:
        """Capture the graphs; the network whose parameters the steps update is afterwards as it was.

        The step is not kept: an engine that owned its replays and was owned by them would hold the device's memory
        until the garbage collector runs.

        Args:
            step: one update, with no argument.
            network: what it updates.
            device: where.

        Raises:
            Exception: whatever torch raises where an operation of a step cannot be captured.
        """
        with undisturbed(network), kept(network), _side_stream(device):
            _repeat(step, self._warm_up)
        with undisturbed(network), kept(network):
            for steps in {1, self._steps_of_graph}:
                self._graphs[steps] = self._capture(partial(_repeat, step, steps))

    @property
    def steps_to_try(self) -> int:
        """Steps that replay each graph at least once."""
        return self._steps_of_graph + 1

    def run(self, window: range) -> None:
        """Take these steps, which must follow those before."""
        assert window.start == self.done, "a graph counts its steps itself"
        many, single = divmod(len(window), self._steps_of_graph)
        for steps, times in ((self._steps_of_graph, many), (1, single)):
            for _ in range(times):
                self._graphs[steps]()
        self.done = window.stop


def _repeat(step: Callable[[], None], steps: int) -> None:
    for _ in range(steps):
        step()


class Graph:
    """Takes training steps by replaying captured ones.

    Args:
        network: what is trained, on the device of ``losses``; its parameters keep their addresses.
        optimizer: its settings.
        batches: of each step.
        losses: float32 (steps,) on the device; filled as training goes.
        train: windows and grid, which say how many steps a graph holds.
        capture: what captures a function; another one shows on a CPU what a graph would do.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: OptimizerConfig,
        batches: Batches,
        losses: torch.Tensor,
        train: TrainConfig,
        *,
        capture: Capture = captured,
    ) -> None:
        device = losses.device
        self.losses = losses
        self._network, self._batches = network, batches
        self._step_number = torch.zeros(1, dtype=torch.int64, device=device)
        self._right = torch.zeros((), dtype=torch.int64, device=device)
        self._rate = Rate(optimizer, train.steps, device)
        self._optimizer = capturable(network.parameters(), optimizer, self._rate.now, device)
        self._replays = Replays(train, capture)

    def prepare(self) -> None:
        """Capture the graphs; the network is afterwards as it was.

        Raises:
            Exception: whatever torch raises where an operation of a step cannot be captured.
        """
        self._replays.prepare(self._step, self._network, self.losses.device)
        self.rewind()

    @property
    def steps_to_try(self) -> int:
        """See :class:`Replays`."""
        return self._replays.steps_to_try

    def rewind(self) -> None:
        """Begin at step 0 again with a fresh optimizer; the parameters are the caller's business."""
        forget(self._optimizer)
        with torch.no_grad():
            self._step_number.zero_()
            self._right.zero_()
            self.losses.fill_(torch.nan)
            self._rate.follow(self._step_number)
        self._replays.done = 0

    def run(self, window: range) -> None:
        """Take these steps, which must follow those before."""
        self._replays.run(window)

    def rate(self) -> float:
        """Return the learning rate of the next update."""
        return self._rate.at(self._replays.done)

    def right(self) -> int:
        """Return how many images the steps since the last call answered right."""
        count = int(self._right)
        self._right.zero_()
        return count

    def _step(self) -> None:
        """One update, as ``harness.engine.eager.plain_step`` takes it, from the device's own counter."""
        self._rate.follow(self._step_number)
        images_NCHW, labels = self._batches.at(self._step_number)
        logits = self._network(images_NCHW)
        loss = F.cross_entropy(logits, labels)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.losses.index_copy_(0, self._step_number, loss.detach().reshape(1))
        self._right.add_((logits.detach().argmax(dim=1) == labels).sum())
        self._step_number.add_(1)


def capturable(
    parameters: Iterable[nn.Parameter], config: OptimizerConfig, rate: torch.Tensor | None, device: torch.device
) -> torch.optim.Optimizer:
    """Return the optimizer whose state and, where it follows a schedule, learning rate lie on the device.

    Args:
        parameters: what it updates.
        config: its settings.
        rate: the learning rate, a tensor () on the device that is filled before each step; None: it is constant.
        device: that of the parameters.
    """
    entry = OPTIMIZERS[config.name]
    kind = getattr(torch.optim, entry.torch_class)
    settings: dict[str, Any] = {name: getattr(config, name) for name in entry.settings}
    known = inspect.signature(kind).parameters
    if device.type == "cuda" and "capturable" in known:
        settings["capturable"] = True
    elif rate is not None and "fused" in known:
        # SGD has no step count, and reads a rate from the device only in its fused form
        settings["fused"] = True
    if rate is not None:
        settings["lr"] = rate
    made: torch.optim.Optimizer = kind(list(parameters), **settings)
    return made


def forget(optimizer: torch.optim.Optimizer) -> None:
    """Set an optimizer's state back to its beginning, where it lies, and drop its gradients."""
    with torch.no_grad():
        for states in optimizer.state.values():
            for name, value in states.items():
                if isinstance(value, torch.Tensor):
                    value.fill_(_FIRST_STATES.get(name, 0.0))
    # those of a graph lie in its memory, and the next replay writes there
    optimizer.zero_grad(set_to_none=True)


@contextmanager
def kept(network: nn.Module) -> Iterator[None]:
    """Put the parameters back into their memory afterwards, and drop the gradients."""
    before = [(value, value.detach().clone()) for value in network.parameters()]
    try:
        yield
    finally:
        with torch.no_grad():
            for value, old in before:
                value.copy_(old)
        network.zero_grad(set_to_none=True)


@contextmanager
def _side_stream(device: torch.device) -> Iterator[None]:
    """Run the block on a stream of its own, as what is captured does; on a CPU there are none."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
