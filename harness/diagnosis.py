"""Why a layer learns or does not: a few real training steps on a copy of the network, and what they show.

Nothing here knows which initializer filled the network; every finding follows from measured tensors.
"""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from harness import metrics, signals
from harness.config import OptimizerConfig
from harness.metrics import TensorProbe
from harness.models import Network, Parametrised, Residual
from harness.signals import ModuleSignals, Signals
from harness.train import Batch, optimizer_for, plain_step

KINDS = ("not finite", "dead", "symmetric", "exploding", "vanishing", "delayed", "fine")
"""Kinds of findings, the gravest first."""

_MOST_NAMES = 8
_LATE = "from step"
_LOSS_BLOW_UP = 1e3
_NEAR_LIMIT = 1e8
LARGEST_RATIO = 1e6
"""A second moment that leaves [1/LARGEST_RATIO, LARGEST_RATIO] times its reference is vanishing or exploding."""


@dataclass(frozen=True)
class Finding:
    """One of :data:`KINDS`, and the reason in plain words."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


@dataclass(frozen=True)
class Step:
    """The network before one update, on that update's own batch.

    Attributes:
        signals: how the batch passed.
        tensors: parameter name -> what it was.
        moved: names of the parameters that the update changed.
        units: layer name -> outputs: rows of its weight.
    """

    signals: Signals
    tensors: dict[str, TensorProbe]
    moved: set[str]
    units: dict[str, int]

    def has_gradient(self, parameter: str) -> bool:
        """Whether any entry of the parameter's gradient is not 0."""
        return self.tensors[parameter].gradient_norm != 0


@dataclass(frozen=True)
class Diagnosis:
    """What the first steps show.

    Attributes:
        steps: each of them, from step 0.
        layers: layer name -> finding.
        network: the gravest of them, for the whole network.
        mean_field: layer name -> second moment of its output at step 0 by wide-network theory.
    """

    steps: list[Step]
    layers: dict[str, Finding]
    network: Finding
    mean_field: dict[str, float]


def steps_needed(network: Network) -> int:
    """Steps after which a gradient that gains one layer per step has passed the network, and two more."""
    return len(network.parametrised()) + 2


def diagnose(
    network: Network, batch: Callable[[int], Batch], optimizer: OptimizerConfig, *, steps: int | None = None
) -> Diagnosis:
    """Train a copy for a few steps and judge every layer.

    Args:
        network: filled; left as it is.
        batch: step -> batch, on the network's device.
        optimizer: as the training will use it.
        steps: how many; None: :func:`steps_needed`.
    """
    scratch = copy.deepcopy(network)
    probed = list(_take(scratch, batch, optimizer, steps or steps_needed(network)))
    judge = _Judge(network, scratch, probed)
    layers = {name: judge.layer(name) for name in network.parametrised()}
    return Diagnosis(probed, layers, judge.network(layers), signals.mean_field(network, probed[0].signals))


def _take(network: Network, batch: Callable[[int], Batch], config: OptimizerConfig, steps: int) -> Iterator[Step]:
    initial = {name: value.detach().clone() for name, value in network.tensors().items()}
    optimizer = optimizer_for(network, config)
    for index in range(steps):
        images_NCHW, labels = batch(index)
        batch_signals = signals.record(network, images_NCHW, labels)
        tensors = {probe.parameter: probe for probe in metrics.probe(network, initial, batch_signals)}
        # as large as the network, and told of by the probes
        batch_signals.gradients.clear()
        before = {name: value.detach().clone() for name, value in network.tensors().items()}
        plain_step(network, optimizer, (images_NCHW, labels))
        moved = {name for name, value in network.tensors().items() if not before[name].equal(value.detach())}
        units = {name: layer.weight.shape[0] for name, layer in network.parametrised().items()}
        yield Step(batch_signals, tensors, moved, units)
        if not math.isfinite(batch_signals.loss):
            return


class _Judge:
    """The findings, from the steps that were probed."""

    def __init__(self, network: Network, trained: Network, steps: list[Step]) -> None:
        self._steps = steps
        self._paths = _Paths(network, steps[0].signals.modules)
        self._late_paths = _Paths(trained, steps[-1].signals.modules)

    def layer(self, name: str) -> Finding:
        weight = f"{name}.weight"
        if not all(math.isfinite(step.tensors[weight].gradient_norm) for step in self._steps):
            return Finding("not finite", "its gradient is not a finite number")
        with_gradient = [index for index, step in enumerate(self._steps) if step.has_gradient(weight)]
        if not with_gradient:
            return self._without_gradient(name)
        if self._is_symmetric(name, with_gradient):
            return Finding("symmetric", "all its units are identical, and so are their gradients")
        return self._learning(name, with_gradient)

    def _learning(self, name: str, with_gradient: list[int]) -> Finding:
        """Judge a layer that has a gradient at some of the steps."""
        start = with_gradient[0]
        size = self._size(name) if start == 0 else Finding("fine", "")
        if size.kind == "exploding":
            return size
        if self._dies_late(with_gradient[-1]):
            return Finding("dead", f"{_LATE} {with_gradient[-1] + 1} on; {self._late_paths.why_no_gradient(name)[1]}")
        if start > 0:
            _, why = self._paths.why_no_gradient(name)
            return Finding("delayed", f"by {start} step{'s' if start > 1 else ''}; at first {why}")
        return size

    def _without_gradient(self, name: str) -> Finding:
        underflow, why = self._paths.why_no_gradient(name)
        return Finding("vanishing" if underflow else "dead", why)

    def _dies_late(self, last_gradient: int) -> bool:
        """Whether the last steps had none, though the loss had: a network that has learned all is not dead."""
        last = self._steps[-1].signals.modules[self._paths.layers[-1]]
        return last_gradient < len(self._steps) - 1 and last.output_gradient != 0

    def _is_symmetric(self, name: str, with_gradient: list[int]) -> bool:
        weight = f"{name}.weight"
        return (
            self._steps[0].units[name] > 1
            and self._steps[0].tensors[weight].distinct_rows == 1
            and all(self._steps[index].tensors[weight].distinct_gradient_rows == 1 for index in with_gradient)
        )

    def _size(self, name: str) -> Finding:
        """Judge the size of signal and gradient at a layer that learns from step 0.

        Too large at the first or last step is too large; too small is what does not recover.
        """
        first, last = (self._out_of_range(name, self._steps[index].signals) for index in (0, -1))
        for finding in (first, last):
            if finding.kind == "exploding":
                return finding
        return first if last.kind == "vanishing" else Finding("fine", "")

    def _out_of_range(self, name: str, batch_signals: Signals) -> Finding:
        layer, logits = batch_signals.modules[name], batch_signals.modules[self._paths.layers[-1]]
        images, output = batch_signals.input_moment, layer.output_moment
        # a bounded activation function need not keep the size of raw pixels, nor lose that of faint ones
        above, below = output / max(images, 1.0), output / min(images, 1.0) if images else 1.0
        gradient = layer.output_gradient / logits.output_gradient if logits.output_gradient else 1.0
        what = f"the root mean square of its output is {math.sqrt(output):.0e}, of the images {math.sqrt(images):.0e}"
        if gradient > LARGEST_RATIO or 0 < gradient < 1 / LARGEST_RATIO:
            what = f"the norm of its gradient is {math.sqrt(gradient):.0e} times that at the logits"
        if max(above, gradient) > LARGEST_RATIO:
            return Finding("exploding", what)
        # an exact zero is the work of a zero weight, not of size
        if any(0 < ratio < 1 / LARGEST_RATIO for ratio in (below, gradient)):
            return Finding("vanishing", what)
        return Finding("fine", "")

    def network(self, layers: dict[str, Finding]) -> Finding:
        losses = [step.signals.loss for step in self._steps]
        if not all(map(math.isfinite, losses)):
            index = next(i for i, loss in enumerate(losses) if not math.isfinite(loss))
            return Finding("not finite", f"the loss is not a finite number at step {index}")
        kinds = {finding.kind for finding in layers.values()}
        kind = min(kinds, key=KINDS.index)
        blown_up = max(losses) > _LOSS_BLOW_UP * max(losses[0], 1.0)
        if kind != "symmetric" and not self._dead_at_first(layers) and (blown_up or "exploding" in kinds):
            # whatever died later died of it
            kind = "exploding"
        if kind == "exploding" and blown_up:
            return Finding(kind, f"the loss goes from {losses[0]:.3g} to {max(losses):.3g} in {len(losses)} steps")
        if kind == "fine":
            return Finding("fine", "")
        return self._shared(kind, layers)

    def _shared(self, kind: str, layers: dict[str, Finding]) -> Finding:
        """The network's finding, for the layers that have it."""
        hit = [name for name, finding in layers.items() if finding.kind == kind]
        named = hit if len(hit) <= _MOST_NAMES else [*hit[:3], "...", hit[-1]]
        share = f"{len(hit)} of {len(layers)} layers ({', '.join(named)})"
        if kind == "dead" and not self._dead_at_first(layers):
            return Finding("dead", f"the weights of {share} stop getting a gradient")
        if kind == "dead":
            root = self._paths.root(hit)
            because = f", because of {root}" if root else ""
            return Finding("dead", f"the weights of {share} never get a gradient{because}")
        if kind == "delayed":
            latest = max(self._first_gradient(name) for name in hit)
            return Finding("delayed", f"{share} begin to learn up to {latest} step{'s' if latest > 1 else ''} late")
        return Finding(kind, share)

    def _dead_at_first(self, layers: dict[str, Finding]) -> bool:
        return any(finding.kind == "dead" and not finding.reason.startswith(_LATE) for finding in layers.values())

    def _first_gradient(self, name: str) -> int:
        return next(index for index, step in enumerate(self._steps) if step.has_gradient(f"{name}.weight"))


class _Paths:
    """Who feeds whom, and where in it the signal or the gradient of step 0 ends."""

    def __init__(self, network: Network, modules: dict[str, ModuleSignals]) -> None:
        self._modules = modules
        self._layers, self._blocks = network.parametrised(), network.branches()
        self._order = list(modules)
        self.layers = [name for name in modules if isinstance(modules[name].module, Parametrised)]
        self._block_of = {
            inner: block for block, layer in self._blocks.items() for inner, _ in layer.branch.named_children()
        }

    def why_no_gradient(self, name: str) -> tuple[bool, str]:
        """Whether mere smallness is the reason (underflow), and the reason in words."""
        if self._modules[name].input_moment == 0:
            return self._no_input(name)
        if self._modules[name].output_gradient != 0:
            return self._disjoint(name)
        blocker = self._blocker(name)
        if blocker is None:
            return False, "the loss has no gradient, for every image is classified with certainty"
        return self._blocked(name, blocker)

    def _near_limit(self, norm: float) -> bool:
        """Whether a norm is near the smallest number of the network's format."""
        weight = next(iter(self._layers.values())).weight
        return norm < _NEAR_LIMIT * torch.finfo(weight.dtype).tiny

    def _disjoint(self, name: str) -> tuple[bool, str]:
        layer = self._modules[name]
        if self._near_limit(math.sqrt(layer.input_moment) * math.sqrt(layer.output_gradient)):
            return True, "the products of its input and gradient are too small for the number format"
        return False, "where its output gets a gradient, its input is zero"

    def _blocked(self, name: str, blocker: str) -> tuple[bool, str]:
        if self._modules[blocker].closed:
            return self._closed_gate(name, blocker)
        if blocker in self._blocks and float(self._blocks[blocker].scale.detach()) == 0:
            return False, f"its gradient is blocked by {blocker}: the scale of that branch is zero"
        if blocker in self._layers and not bool(self._layers[blocker].weight.detach().any()):
            return False, f"its gradient is blocked by {blocker}, whose weight is zero"
        owner = blocker if blocker in self._layers or blocker in self._blocks else self._layer_before(blocker)
        if self._near_limit(math.sqrt(self._modules[blocker].output_gradient)):
            return True, f"its gradient is too small for the number format behind {owner}"
        return False, f"its gradient is blocked by {owner}: what gets a gradient there has weight or derivative 0"

    def _no_input(self, name: str) -> tuple[bool, str]:
        source = self._silent(name)
        if source is None:
            return False, "the images are all zero"
        if self._modules[source].output_moment != 0:
            return False, f"its input is zero, for no unit of {source} is ever active"
        if self._underflows(source):
            return True, f"its input is zero, for the output of {source} is too small for the number format"
        return False, f"its input is zero, for {source} outputs only zeros"

    def _underflows(self, name: str) -> bool:
        """Whether a layer that outputs zeros should by theory not: its numbers are too small for the format."""
        if name not in self._layers:
            return False
        energy = float(self._layers[name].weight.detach().double().square().mean(dim=0).sum())
        expected = math.sqrt(energy) * math.sqrt(self._modules[name].input_moment)
        return 0 < expected < torch.finfo(self._layers[name].weight.dtype).tiny

    def _closed_gate(self, name: str, gate: str) -> tuple[bool, str]:
        feeding = self._layer_before(gate)
        source = self._silent(feeding) or feeding
        at_zero = self._modules[source].output_moment == 0
        if at_zero and self._underflows(source):
            return True, f"the output of {source} is too small for the number format, and the derivative at 0 is 0"
        state = "outputs exactly 0, where" if at_zero else "keeps every unit where"
        who = "it" if source == name else f"its gradient is blocked by {source}, which"
        return False, f"{who} {state} the derivative is 0"

    def root(self, names: list[str]) -> str:
        """The layer to blame for dead ones, if the first of them names one."""
        for name in names:
            if self._modules[name].input_moment == 0:
                return self._silent(name) or ""
            blocker = self._blocker(name)
            if blocker and self._modules[blocker].closed:
                feeding = self._layer_before(blocker)
                return self._silent(feeding) or feeding
            if blocker:
                return blocker
        return ""

    def _silent(self, name: str) -> str | None:
        """The layer that cut the signal: going up from a layer with zero input, the first whose input is not zero."""
        current = name
        while self._modules[current].input_moment == 0:
            above = self._above(current)
            if above is None:
                return None
            current = above
        return current if current != name else None

    def _above(self, name: str) -> str | None:
        """The layer or residual sum that feeds a layer; of the first in a branch, what feeds the branch."""
        here = self._order.index(name)
        block = self._block_of.get(name)
        for candidate in reversed(self._order[:here]):
            other = self._block_of.get(candidate)
            is_layer = isinstance(self._modules[candidate].module, Parametrised | Residual)
            if is_layer and other in (None, block) and not self._inside(candidate, name):
                return candidate
        return None

    def _inside(self, inner: str, block: str) -> bool:
        return self._block_of.get(inner) == block

    def _layer_before(self, gate: str) -> str:
        layer = self._above(gate)
        assert layer is not None
        return layer

    def _blocker(self, name: str) -> str | None:
        """Down the stream from a layer without gradient, the first module whose own output has one."""
        for below in self._below(name):
            if self._modules[below].output_gradient != 0:
                return below
        return None

    def _below(self, name: str) -> Iterator[str]:
        block = self._block_of.get(name)
        here = self._order.index(name)
        for candidate in self._order[here + 1 :]:
            if self._block_of.get(candidate) in (None, block):
                yield candidate
