"""Why a model learns or does not: a few real training steps on a copy, and experiments that find what is at fault.

Nothing here knows which initializer filled the model; every finding follows from measured tensors. It takes four steps,
of which a healthy model needs only the first two:

1. :mod:`watching <harness.diagnosis.watching>`: train a copy and see which tensors get a gradient and move;
2. :mod:`judging <harness.diagnosis.judging>`: a finding for each layer;
3. evidence for what is not fine: the same steps in float64 tell zero from underflow, other batches tell never from
   sometimes, and the loss of the model filled healthily tells whether the loss sees that a signal is too large;
4. :mod:`causes <harness.diagnosis.causes>`: tensors are redrawn healthily until the layers recover.
"""

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from harness.diagnosis.batches import Batches, mapped, output_of
from harness.diagnosis.case import (
    Case,
    Loss,
    Optimizer,
    case_of,
    layers_of,
    original_of,
    owners_of,
    trainable,
    untouched,
)
from harness.diagnosis.causes import HIGHER, LOWER, PATIENCE, Causes, Experiment, examples_for, find
from harness.diagnosis.elsewhere import elsewhere
from harness.diagnosis.healing import DRAWS, described, healed
from harness.diagnosis.judging import (
    FAINT,
    GROWS,
    HARMFUL,
    KINDS,
    LARGEST_RATIO,
    LOSS_BLOW_UP,
    LOSS_SEES,
    Evidence,
    Finding,
    Verdict,
    judge,
    reach,
)
from harness.diagnosis.result import LEGEND, Diagnosis
from harness.diagnosis.watching import Change, Course, Step, batch_of, settled, watch
from harness.errors import TimeBudgetError
from harness.looking import same_randomness
from harness.wording import error_text, few

__all__ = [
    "GROWS",
    "HARMFUL",
    "KINDS",
    "LARGEST_RATIO",
    "LEGEND",
    "LOSS_BLOW_UP",
    "LOSS_SEES",
    "Causes",
    "Diagnosis",
    "Experiment",
    "Finding",
    "Step",
    "diagnose",
    "finding",
    "steps_needed",
]

LEAST = 2
"""A zero last layer keeps the others from a gradient at step 0 and not at step 1, so fewer steps show nothing."""
LEARNS = 0.7
"""A loss that falls to this share of its first value shows that the model learns, whatever the sizes of signals."""
PAYS = 0.9
"""A loss below this share of what the mean answer would have shows that the model tells examples apart."""
LONGER, CHECKED_EVERY = 100, 10
"""Steps that a copy is trained to see whether a size that is out of range recovers, and how often that is checked."""
ENOUGH = 8
"""Steps that are watched even if all layers learn from the first one on, or none has begun to."""
FEW = 3
"""More tensors to blame than this are not all named in one sentence."""


def steps_needed(model: nn.Module) -> int:
    """Count the steps after which a gradient that gains one layer per step has passed the model, and two more."""
    return sum(layer.matrix for layer in layers_of(model).values()) + 2


def diagnose(
    model: nn.Module,
    batches: Batches,
    *,
    loss: Loss = F.cross_entropy,
    optimizer: Optimizer | None = None,
    steps: int | None = None,
) -> Diagnosis:
    """Train copies of a model for a few steps, judge every layer, and find by experiment what is at fault.

    The model is left as it was: parameters, buffers, hooks, mode and the state of random generators. The copy is
    trained in training mode; a model that already is keeps the parts its owner set to evaluation.

    Args:
        model: filled with its initial values; any module. Parameters without ``requires_grad`` are not judged.
        batches: pairs (inputs, targets), as they will be trained on: a DataLoader, a list, a generator (of which some
            are used up), or a function step -> pair. Inputs are a tensor, a tuple of arguments or a dict of keywords.
            They are repeated from the start where they are too few, and moved to the model's device.
        loss: (output of the model, targets) -> a single number.
        optimizer: of this model, as the training will use it, or a function parameters -> optimizer; None: SGD with
            learning rate 0.01.
        steps: how many steps are watched at most; None: :func:`steps_needed`. They are fewer, but at least
            :data:`ENOUGH`, if all layers learn or no further one begins to.

    Raises:
        TypeError: an argument is of a kind that is not understood.
        ValueError: there is nothing to train, no batch, the loss is no single number, or the model cannot be copied.
    """
    model = original_of(model)
    case = case_of(model, batches, loss, optimizer)
    if steps is not None and steps < LEAST:
        raise ValueError(f"steps={steps}: too few to see a late start; give at least {LEAST}")
    with untouched(model):
        examined = _examined(case, steps or max(steps_needed(model), ENOUGH))
        causes = Causes(tensors=len(examined.course.steps[0].tensors))
        if examined.verdict.ill and _may_be_cured(examined.course):
            causes = find(case, examined.course, examined.verdict, examined.healthy, steps=examined.steps)
    verdict = examined.verdict
    if _grows(examined, causes):
        verdict, causes = _delayed(examined, causes), Causes(tensors=causes.tensors)
    looks = _looks(model, causes)
    layers = {name: _of_layer(name, finding, causes) for name, finding in verdict.layers.items()}
    network = _with_cause(verdict, causes, looks)
    return Diagnosis(network, layers, causes, looks, examined.course.steps, tuple(examined.unseen))


def finding(
    model: nn.Module, batches: Batches, *, loss: Loss = F.cross_entropy, optimizer: Optimizer | None = None
) -> Finding:
    """Return the finding for the whole model alone, without looking for its cause; see :func:`diagnose`."""
    with untouched(model):
        case = case_of(model, batches, loss, optimizer)
        return _examined(case, max(steps_needed(model), ENOUGH)).verdict.network


@dataclass(frozen=True)
class _Examined:
    """A verdict and what it rests on."""

    case: Case
    steps: int
    course: Course
    verdict: Verdict
    healthy: Step | None
    unseen: list[str]


def _examined(case: Case, steps: int) -> _Examined:
    course = watch(case, steps, ended=lambda course: settled(case, course, ENOUGH))
    unseen = list(_unseen(case, course))
    verdict, healthy = judge(case, course), None
    unused = any(finding.kind == "unused" for finding in verdict.layers.values())
    if verdict.ill or (unused and case.batches.differ):
        evidence = _evidence(case, course, verdict, steps, unseen)
        verdict, healthy = judge(case, course, evidence), evidence.healthy
    if verdict.ill and healthy is not None:
        evidence = dataclasses.replace(evidence, recovers=_recovers(case, course, verdict))
        verdict = judge(case, course, evidence)
    return _Examined(case, steps, course, verdict, healthy, unseen)


def _may_be_cured(course: Course) -> bool:
    """Say whether other values could help: not if an input is not finite, the loss is detached, or the rate is 0."""
    finite = all(math.isfinite(step.inputs_rms) for step in course.steps)
    connected = any(tensor.gradient_norm is not None for tensor in course.steps[0].tensors.values())
    return finite and connected and any(course.rates)


def _evidence(case: Case, course: Course, verdict: Verdict, steps: int, unseen: list[str]) -> Evidence:
    """Look for what tells the causes of the same symptom apart, where some layer is ill or unused."""
    looked = [name for name, found in verdict.layers.items() if found.kind in (*HARMFUL, "unused")]
    tensors = {tensor for name in looked for tensor in case.layers[name].judged}
    silent = {name for name in tensors if len(course.steps_with_gradient(name)) < len(course.steps)}
    evidence = Evidence(healthy=_healthy(case))
    if silent:
        evidence = dataclasses.replace(evidence, elsewhere=elsewhere(case, course, silent, steps))
        try:
            ended = lambda course: settled(case, course, PATIENCE)  # noqa: E731
            exact = watch(case, steps, Change(dtype=torch.float64), ended=ended)
            evidence = dataclasses.replace(evidence, exact=exact)
        except TimeBudgetError:
            raise
        except Exception as error:  # noqa: BLE001 - the model is the user's, and may want its own number format
            reason = error_text(error)
            unseen.append(f"whether a zero gradient is underflow, because the model fails in float64 ({reason})")
    return evidence


def _recovers(case: Case, course: Course, verdict: Verdict) -> int | None:
    """Train on where only sizes are out of range, and return the steps after which none is any more."""
    if {verdict.layers[name].kind for name in verdict.ill if name} - {"vanishing", "exploding"} or "" in verdict.ill:
        return None
    checked = [layer.name for layer in case.layers.values() if layer.name in verdict.ill]

    def well(course: Course) -> bool:
        return not _ill_now(case, course).intersection(checked)

    def ended(course: Course) -> bool:
        count = len(course.steps)
        return count % CHECKED_EVERY == 0 and (well(course) or not _gets_better(course, checked))

    try:
        longer = watch(case, LONGER, Change(examples=examples_for(course)), ended=ended)
    except TimeBudgetError:
        raise
    except Exception:  # noqa: BLE001 - the model is the user's, and may not take a batch that is cut
        longer = watch(case, LONGER, ended=ended)
    last = longer.steps[-1]
    learns = (
        verdict.network.kind == "vanishing" and last.loss < LEARNS * longer.steps[0].loss and _tells_apart(case, longer)
    )
    return len(longer.steps) if learns or (math.isfinite(last.loss) and well(longer)) else None


def _ill_now(case: Case, course: Course) -> frozenset[str]:
    """Return the layers that are ill by the last step alone."""
    return judge(case, dataclasses.replace(course, steps=course.steps[-1:])).ill


def _tells_apart(case: Case, course: Course) -> bool:
    """Say whether the outputs' differences between examples pay; else biases alone have found the commonest answer."""
    called = [name for name, layer in case.layers.items() if layer.matrix and course.steps[0].passed[name].calls]
    if not called or called[-1] in _ill_now(case, course):
        return False
    inputs, targets = batch_of(case, 0, Change(examples=examples_for(course)))
    with torch.no_grad(), same_randomness():
        output = output_of(course.model, inputs)
        own, common = float(case.loss(output, targets)), float(case.loss(mapped(_averaged, output), targets))
    # a loss that a model returns by itself does not follow from the tensors beside it, so that nothing is known
    by_itself = not isinstance(output, torch.Tensor) and own == common
    return by_itself or own < PAYS * common


def _averaged(output: torch.Tensor) -> torch.Tensor:
    """Give each example the mean answer to all."""
    is_answer = output.is_floating_point() and output.ndim > 0
    return output.mean(dim=0, keepdim=True).expand_as(output) if is_answer else output


def _gets_better(course: Course, layers: list[str]) -> bool:
    """Say whether the loss fell, or the reach of the worst layer came nearer to 1, since the last check."""
    if len(course.steps) <= CHECKED_EVERY:
        return True
    before, now = course.steps[-1 - CHECKED_EVERY], course.steps[-1]
    off = [
        max(
            abs(math.log(max(reach(step, step.passed[name], step.passed[name].varying_rms), 1e-300))) for name in layers
        )
        for step in (before, now)
    ]
    return off[1] < 0.98 * off[0] or now.loss < 0.9 * before.loss


def _healthy(case: Case) -> Step:
    """Take step 0 of the model filled healthily."""
    return watch(case, 1, Change(healed(trainable(case.model), DRAWS[0]))).steps[0]


def _unseen(case: Case, course: Course) -> Iterator[str]:
    """Say what the hooks could not see."""
    first = course.steps[0]
    silent = [
        name
        for name, passed in first.passed.items()
        if not passed.calls
        and any(first.tensors[tensor].gradient_norm is not None for tensor in case.layers[name].judged)
    ]
    if silent:
        weights = "weight is" if len(silent) == 1 else "weights are"
        yield f"signals of {few(silent)}, whose {weights} used without calling the module"
    frozen = [name for name, value in case.model.named_parameters() if not value.requires_grad]
    if frozen:
        yield f"{len(frozen)} frozen tensors ({few(frozen)}), which training does not change"
    if any(value.grad is not None for value in case.model.parameters()):
        yield "what the model or the loss computes with the original's tensors, which a closure in it refers to"
    if not first.output_gradient_norm and any(tensor.gradient_norm for tensor in first.tensors.values()):
        yield "sizes of signals, because the model's output holds no tensor from which the loss is computed"


def _grows(examined: _Examined, causes: Causes) -> bool:
    """Say whether all that is wrong is one tensor that is too small, and has as large a gradient as a healthy one.

    It grows as a zero tensor in its place would, so that the others are late and not lost. Two such tensors on one path
    shrink each other's gradient.
    """
    kinds = {finding.kind for finding in examined.verdict.layers.values()} & set(HARMFUL)
    faint = examined.course.steps[0].inputs_rms < FAINT
    if kinds != {"vanishing"} or len(causes.slots) != 1 or causes.incurable or examined.healthy is None or faint:
        return False
    small, usual = (step.tensors[causes.slots[0][0]] for step in (examined.course.steps[0], examined.healthy))
    return (small.gradient_norm or 0.0) * LARGEST_RATIO > (usual.gradient_norm or 0.0)


def _delayed(examined: _Examined, causes: Causes) -> Verdict:
    name = causes.slots[0][0]
    why = f"small at first because of {name}, whose gradient is large enough to make it grow"
    layers = {
        layer: Finding("delayed", why) if finding.kind == "vanishing" else finding
        for layer, finding in examined.verdict.layers.items()
    }
    late = [layer for layer, finding in layers.items() if finding.reason == why]
    return Verdict(layers, Finding("delayed", f"{len(late)} of {len(layers)} layers ({few(late, 6)}), {why}"))


def _looks(model: nn.Module, causes: Causes) -> dict[str, str]:
    owners, values = owners_of(model), trainable(model)
    return {name: described(name, values[name], owners[name], causes.draw) for name in sorted(causes.to_blame)}


def _with_cause(verdict: Verdict, causes: Causes, looks: dict[str, str]) -> Finding:
    """Add to the model's finding what is to blame."""
    kind, reason = verdict.network.kind, verdict.network.reason
    if causes.slots:
        fewer = "" if causes.complete else "; fewer may be enough"
        return Finding(kind, f"{reason}, because of {_named(causes, looks)}{fewer}")
    if causes.rate:
        return Finding(
            kind, f"{reason}, because of the learning rate: the same values learn at {causes.rate:g} times it"
        )
    if causes.ill:
        draws = ", ".join(draw.name for draw in DRAWS)
        rates = HIGHER if kind == "rounded away" else LOWER
        tried = f"{rates[0]:g} to {rates[-1]:g} times the learning rate"
        return Finding(kind, f"{reason}; not cured by redrawing all tensors ({draws}) or by {tried}")
    return verdict.network


def _of_layer(name: str, finding: Finding, causes: Causes) -> Finding:
    """Add to a layer's finding which single tensors cure it when they are redrawn."""
    singles = [each for each in causes.experiments if len(each.healed) == 1 and name in each.cured]
    names = sorted({tensor for each in singles for tensor in each.healed} & causes.to_blame)
    if not names or len(causes.slots) > FEW:
        return finding
    return Finding(finding.kind, f"{finding.reason}, because of {' together with '.join(names)}")


def _named(causes: Causes, looks: dict[str, str]) -> str:
    def with_looks(name: str) -> str:
        return f"{name} ({looks[name]})" if looks[name] else name

    enough = {1: "", 2: " (either healthy is enough)"}
    slots = [
        " together with ".join(map(with_looks, slot)) + enough.get(len(slot), " (one healthy is enough)")
        for slot in causes.slots
    ]
    if len(slots) > FEW:
        return f"{len(slots)} tensors together ({few(with_looks(slot[0]) for slot in causes.slots)})"
    return " and ".join(slots)
