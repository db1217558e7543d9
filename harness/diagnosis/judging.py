"""From the steps that were watched to a finding for each layer and for the whole model. Causes are found elsewhere."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from harness.diagnosis.case import Case, Layer, trainable
from harness.diagnosis.watching import Course, Passed, Step
from harness.wording import counted, few

KINDS = (
    "not finite",
    "dead",
    "symmetric",
    "exploding",
    "vanishing",
    "rounded away",
    "unused",
    "delayed",
    "intermittent",
    "fine",
)
"""Kinds of findings, the gravest first."""
HARMFUL = KINDS[: KINDS.index("unused")]
"""Those that keep a layer from learning, or the whole model."""

LARGEST_RATIO = 1e3
"""How far a layer's reach may lie from its reference before it is exploding or vanishing; see :func:`reach`."""
FAINT = 0.1
"""Inputs with a smaller root mean square than this are a fault of their own, and excuse no small reach."""
LOSS_SEES = 10.0
"""A large signal is exploding only if the loss is this many times that of the model filled healthily."""
LOSS_BLOW_UP = 1e3
"""A loss that grows to this many times its first value, or 1, is exploding."""
GROWS = 2.0
"""A reach that grew by this factor over the steps that were watched is recovering, and not vanishing."""

_LATE = "from step"


@dataclass(frozen=True)
class Finding:
    """One of :data:`KINDS`, and the reason in plain words."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


@dataclass(frozen=True)
class Evidence:
    """Holds what is known beyond the steps themselves; all of it is looked for only where something is not fine.

    Attributes:
        exact: the same steps in float64; None where they were not taken.
        elsewhere: tensor name -> (passes with a gradient, passes tried) on other batches than those of the steps.
        healthy: step 0 of the model filled healthily; None where it was not taken.
        recovers: steps after which a longer training had no layer any more whose size is out of range; None if it did
            not come to that, or was not tried.
    """

    exact: Course | None = None
    elsewhere: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    healthy: Step | None = None
    recovers: int | None = None


@dataclass(frozen=True)
class Verdict:
    """A finding for each layer, and for the whole model."""

    layers: dict[str, Finding]
    network: Finding

    @property
    def ill(self) -> frozenset[str]:
        """The names of the layers with a harmful finding; "" stands for the whole model, whose loss is at fault."""
        harmed = {name for name, finding in self.layers.items() if finding.kind in HARMFUL}
        of_loss = {""} if self.network.kind in HARMFUL and not harmed else set()
        return frozenset(harmed | of_loss)


def judge(case: Case, course: Course, evidence: Evidence | None = None) -> Verdict:
    """Judge every layer and the whole model.

    Args:
        case: what was watched.
        course: its steps.
        evidence: what else is known; None: nothing, so zero and underflow are not told apart.
    """
    judge_ = _Judge(case, course, evidence or Evidence())
    layers = {name: judge_.layer(layer) for name, layer in case.layers.items()}
    if not any(layers[name].kind in HARMFUL for name, layer in case.layers.items() if layer.matrix):
        # such as the slope of a function for numbers that never come: it is idle, and the others learn
        idle = {name: finding for name, finding in layers.items() if finding.kind == "dead"}
        layers |= {name: Finding("unused", finding.reason) for name, finding in idle.items()}
    return Verdict(layers, judge_.network(layers))


def reach(step: Step, passed: Passed, size: float) -> float:
    """Say how much of a layer's output arrives at the model's output.

    It is the size of the layer's output times the norm of the loss's gradient there, over the norm of that gradient at
    the model's output. From layer to layer it stays the same if these keep the size of signals and gradients; what a
    normalisation behind the layer takes out of the signal, it gives back to the gradient.

    Args:
        step: when.
        passed: what passed the layer.
        size: root mean square of its output, or of the part that differs from example to example.
    """
    return size * (passed.gradient_norm / step.output_gradient_norm) if step.output_gradient_norm else 0.0


class _Judge:
    """The findings, from the steps that were watched."""

    def __init__(self, case: Case, course: Course, evidence: Evidence) -> None:
        self._case, self._course, self._evidence = case, course, evidence
        self._steps = course.steps
        self._rounding = 4 * torch.finfo(next(iter(trainable(case.model).values())).dtype).eps

    def layer(self, layer: Layer) -> Finding:
        """Judge a layer by each of its matrices; the gravest finding counts."""
        found = {tensor: self._tensor(layer, tensor) for tensor in layer.judged}
        tensor = min(found, key=lambda name: KINDS.index(found[name].kind))
        finding = found[tensor]
        if len(found) == 1 or finding.kind == "fine":
            return finding
        return Finding(finding.kind, f"{finding.reason} ({tensor})")

    def _tensor(self, layer: Layer, tensor: str) -> Finding:
        norms = [step.tensors[tensor].gradient_norm for step in self._steps]
        if all(norm is None for norm in norms) or not self._steps[0].tensors[tensor].held:
            return self._unused(tensor)
        if not all(math.isfinite(norm or 0.0) for norm in norms):
            return Finding("not finite", "its gradient is not a finite number")
        with_gradient = self._course.steps_with_gradient(tensor)
        if self._is_symmetric(tensor):
            underflows = len(self._exact_steps(tensor)) > len(with_gradient)
            faint = "; these are too small for the number format at some steps" if underflows else ""
            return Finding("symmetric", f"all its units are identical, and so are their gradients{faint}")
        if not with_gradient:
            return self._without_gradient(layer, tensor)
        return self._learning(layer, tensor, with_gradient)

    def _unused(self, tensor: str) -> Finding:
        hits, tried = self._evidence.elsewhere.get(tensor, (0, 0))
        if not self._steps[0].tensors[tensor].held:
            return Finding("unused", "the optimizer does not hold it, or with learning rate 0")
        if hits:
            return Finding("intermittent", f"it is used on {hits} of {tried} batches")
        return Finding("unused", "the loss does not depend on it: it is not called, or detached")

    def _exact_steps(self, tensor: str) -> list[int]:
        """The steps at which the parameter had a gradient in float64, where that was looked at."""
        exact = self._evidence.exact
        return exact.steps_with_gradient(tensor) if exact else []

    def _is_symmetric(self, tensor: str) -> bool:
        """Say whether the units were the same at first, and every gradient in either number format is too."""
        courses = [self._course, *([self._evidence.exact] if self._evidence.exact else [])]
        looked = [
            course.steps[index].tensors[tensor] for course in courses for index in course.steps_with_gradient(tensor)
        ]
        same_at_first = self._steps[0].tensors[tensor].same_rows
        return same_at_first and bool(looked) and all(seen.same_gradient_rows for seen in looked)

    def _without_gradient(self, layer: Layer, tensor: str) -> Finding:
        exact = self._exact_steps(tensor)
        hits, tried = self._evidence.elsewhere.get(tensor, (0, 0))
        if hits:
            return Finding("intermittent", f"it has a gradient on {hits} of {tried} batches")
        if exact and self._evidence.exact:
            norm = self._evidence.exact.steps[exact[0]].tensors[tensor].gradient_norm
            return Finding("vanishing", f"its gradient is too small for the number format ({norm:.0e} in float64)")
        if self._evidence.exact and _near_limit(self._evidence.exact):
            return Finding("vanishing", "its gradient is too small even for float64")
        return Finding("dead", self._symptom(layer, tensor, 0))

    def _symptom(self, layer: Layer, tensor: str, index: int) -> str:
        """Say what is wrong at the layer itself."""
        passed = self._steps[index].passed[layer.name]
        if not passed.calls or not layer.matrix or not layer.whole:
            # what passes a module of many parts does not tell why one tensor in it has no gradient
            return f"no gradient reaches {tensor}"
        if passed.input_energy == 0:
            return "its input is zero"
        if passed.output_energy == passed.gradient_energy == 0:
            return "it outputs only zeros, and no gradient comes back"
        if passed.gradient_energy == 0:
            return "no gradient reaches its output"
        return "where its output has a gradient, its input is zero"

    def _learning(self, layer: Layer, tensor: str, with_gradient: list[int]) -> Finding:
        """Judge a tensor that has a gradient at some of the steps."""
        start, last = with_gradient[0], with_gradient[-1]
        size = self._size(layer) if start == 0 else Finding("fine", "")
        if size.kind == "exploding":
            return size
        if last < len(self._steps) - 1 and self._steps[-1].output_gradient_norm:
            return self._stopped(layer, tensor, last)
        if len(with_gradient) < last - start + 1:
            return Finding("intermittent", f"it has a gradient at {len(with_gradient)} of {len(self._steps)} steps")
        if start > 0:
            return Finding("delayed", f"by {counted(start, 'step')}; at first {self._symptom(layer, tensor, 0)}")
        if size.kind == "fine" and self._rounds_away(tensor):
            return Finding("rounded away", "it has a gradient, but every update is too small to change it")
        return size

    def _rounds_away(self, tensor: str) -> bool:
        """Say whether no update changed the weight, and its gradient does not grow to where one will."""
        seen = [step.tensors[tensor] for step in self._steps]
        first, last = seen[0].gradient_norm or 0.0, seen[-1].gradient_norm or 0.0
        return len(seen) > 1 and not any(each.moved for each in seen) and last < GROWS * first

    def _stopped(self, layer: Layer, tensor: str, last: int) -> Finding:
        """Judge a tensor whose last steps had no gradient, although the loss had one."""
        hits, tried = self._evidence.elsewhere.get(tensor, (0, 0))
        if hits:
            return Finding("intermittent", f"behind the steps it has a gradient on {hits} of {tried} batches")
        if any(index > last for index in self._exact_steps(tensor)):
            return Finding("vanishing", f"{_LATE} {last + 1} on its gradient is too small for the number format")
        return Finding("dead", f"{_LATE} {last + 1} on {self._symptom(layer, tensor, -1)}")

    def _size(self, layer: Layer) -> Finding:
        """Judge the reach of a layer that has a gradient from step 0 on.

        Too large at the first or last step is too large; too small is what does not recover.
        """
        passed = self._steps[0].passed[layer.name]
        sized = layer.matrix and layer.whole and passed.calls
        if not sized or not self._steps[0].output_gradient_norm:
            return Finding("fine", "")
        first, last = (self._out_of_range(layer.name, self._steps[index]) for index in (0, -1))
        worst = min(first, last, key=lambda finding: KINDS.index(finding.kind))
        if worst.kind == "vanishing" and first.kind == last.kind:
            worst = self._grown(layer.name) or worst
        elif worst.kind != "exploding":
            return Finding("fine", "")
        if worst.kind in HARMFUL and self._evidence.recovers:
            return Finding("delayed", f"{worst.kind} at first, but it learns within {self._evidence.recovers} steps")
        return worst

    def _grown(self, name: str) -> Finding | None:
        """The finding on a small reach that grows within the steps; None if it does not."""
        before, after = (self._varying_reach(name, self._steps[index]) for index in (0, -1))
        if after < GROWS * before or after == 0:
            return None
        grew = f"grew {after / before:.3g} times" if before else "grew"
        return Finding("delayed", f"small at first, and {grew} in {counted(len(self._steps), 'step')}")

    def _varying_reach(self, name: str, step: Step) -> float:
        passed = step.passed[name]
        # what is below the rounding of the output is no signal
        size = passed.varying_rms if passed.varying_rms > self._rounding * passed.output_rms else 0.0
        return reach(step, passed, size)

    def _out_of_range(self, name: str, step: Step) -> Finding:
        passed = step.passed[name]
        # a bounded activation function need not keep the size of raw pixels, and pixels from 0 to 1 are mostly 0
        above = reach(step, passed, passed.output_rms) / max(step.inputs_rms, 1.0)
        below = self._varying_reach(name, step) / min(max(step.inputs_rms, FAINT), 1.0)
        gradient = passed.gradient_norm / step.output_gradient_norm if step.output_gradient_norm else 1.0
        sizes = (
            f"its output has a root mean square of {passed.output_rms:.2g} and varies by {passed.varying_rms:.2g} from "
            f"example to example (inputs: {step.inputs_rms:.2g}); the gradient there is {gradient:.2g} of that at the "
            "model's output"
        )
        if above > LARGEST_RATIO and (gradient > LARGEST_RATIO or self._loss_sees(step)):
            return Finding("exploding", sizes)
        # an output of zeros is the work of a zero weight, and not of size
        if below < 1 / LARGEST_RATIO and passed.output_energy and passed.gradient_energy:
            return Finding("vanishing", sizes)
        return Finding("fine", "")

    def _loss_sees(self, step: Step) -> bool:
        """Say whether the loss is much worse than that of the model filled healthily, as no shift of all logits is."""
        healthy = self._evidence.healthy
        if healthy is None or not math.isfinite(healthy.loss):
            return True
        return step.loss > LOSS_SEES * max(abs(healthy.loss), 1.0)

    def network(self, layers: dict[str, Finding]) -> Finding:
        losses = [step.loss for step in self._steps]
        if not all(map(math.isfinite, losses)):
            index = next(i for i, loss in enumerate(losses) if not math.isfinite(loss))
            what = "the loss is" if math.isfinite(self._steps[index].inputs_rms) else "an input is"
            return Finding("not finite", f"{what} not a finite number at step {index}")
        if all(tensor.gradient_norm is None for step in self._steps for tensor in step.tensors.values()):
            return Finding("dead", "the loss depends on none of its tensors: they are not used, or detached")
        kinds = {finding.kind for finding in layers.values() if not finding.reason.startswith(_LATE)}
        # what is the same for all units from the first step on is graver than what dies of it later
        late = set() if "symmetric" in kinds else {finding.kind for finding in layers.values()}
        kind = min(kinds | late, key=KINDS.index)
        blown_up = max(losses) > LOSS_BLOW_UP * max(losses[0], 1.0)
        at_first = any(each.kind == "dead" and not each.reason.startswith(_LATE) for each in layers.values())
        exploding = any(finding.kind == "exploding" for finding in layers.values())
        if kind != "symmetric" and not at_first and (blown_up or exploding):
            # whatever died later died of it
            kind = "exploding"
        if kind == "exploding" and blown_up:
            return Finding(kind, f"the loss goes from {losses[0]:.3g} to {max(losses):.3g} in {len(losses)} steps")
        if kind == "fine":
            return Finding("fine", "")
        return self._shared(kind, layers)

    def _shared(self, kind: str, layers: dict[str, Finding]) -> Finding:
        """The model's finding, for the layers that have it."""
        hit = [name for name, finding in layers.items() if finding.kind == kind]
        share = f"{len(hit)} of {len(layers)} layers ({few(hit, 6)})"
        if kind == "dead":
            late = all(layers[name].reason.startswith(_LATE) for name in hit)
            return Finding("dead", f"the weights of {share} {'stop getting' if late else 'never get'} a gradient")
        if kind == "delayed":
            judged = [self._case.layers[name].judged for name in hit]
            started = [self._course.steps_with_gradient(tensor)[:1] for tensors in judged for tensor in tensors]
            latest = max(first for firsts in started for first in firsts)
            if latest == 0:
                return Finding("delayed", f"{share} begin with too small or too large a signal, and learn all the same")
            return Finding("delayed", f"{share} begin to learn up to {counted(latest, 'step')} late")
        inputs = self._steps[0].inputs_rms
        faint = f"; the inputs are faint (root mean square {inputs:.0e})" if inputs < FAINT else ""
        return Finding(kind, share + faint if kind == "vanishing" else share)


def _near_limit(course: Course) -> bool:
    """Say whether a signal or gradient came near the smallest number of float64, so that zeros may be underflow."""
    smallest = math.sqrt(torch.finfo(torch.float64).tiny)
    sizes = [size for step in course.steps for passed in step.passed.values() for size in _sizes(passed)]
    return any(0 < size < smallest for size in sizes)


def _sizes(passed: Passed) -> tuple[float, float]:
    return passed.output_energy, passed.gradient_energy
