"""Find the tensors at fault by experiment: redraw some healthily on a copy, train it, and see what recovers.

A tensor is a cause if making it healthy cures a layer that is ill, and not because of what it looks like. The smallest
set that cures all is found by halving (QuickXplain, Junker 2004), and for each of its members what could be healed in
its place.
"""

import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from harness.diagnosis.case import Case, owners_of, trainable
from harness.diagnosis.healing import DRAWS, Draw, deviation, healed, in_words
from harness.diagnosis.judging import HARMFUL, LOSS_BLOW_UP, LOSS_SEES, Evidence, Verdict, judge
from harness.diagnosis.watching import Change, Course, Step, settled, watch
from harness.errors import TimeBudgetError

LOWER, HIGHER = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-12), (1e3, 1e6, 1e9)
"""Factors on the learning rate in the experiments that ask whether the rate is at fault."""

PATIENCE = 3
"""Steps after which an experiment in which no further layer begins to learn is over."""

# these are counts and no times, so that a result does not depend on how busy the machine is
_MOST_EXPERIMENTS, _MOST_LAYER_STEPS, _MOST_NUMBERS = 60, 12_000, 200_000_000
_MOST_JOINT = 3
# the usual draws of one layer differ up to sixfold (conv1 of the article: glorot and he)
_CLEARLY_UNUSUAL = 8.0
# sizes multiply over the layers, so that each layer adds its part
_BY_SIZE = ("not finite", "exploding", "vanishing")
_MOST_SHOWN, _MOST_CONTRAST = 8, 2
# an experiment on a few images is as telling as on all, and a deep network is slow
_FEWEST_EXAMPLES, _MOST_EXAMPLES, _NUMBERS = 8, 32, 4_000_000


@dataclass(frozen=True)
class Experiment:
    """Records what became of a copy with some tensors redrawn.

    Attributes:
        healed: names of those tensors.
        rate: factor on the learning rate.
        with_gradient: tensors of the copy that had a gradient at some step.
        cured: names of the layers that were ill and no longer are; "" stands for the whole model.
    """

    healed: frozenset[str]
    rate: float
    with_gradient: int
    cured: frozenset[str]


@dataclass(frozen=True)
class Causes:
    """Holds what is at fault.

    Attributes:
        slots: the model is cured when a different tensor of every slot is made healthy. Two faults that each suffice
            are two slots. Two that harm only together, such as a branch's scale and its last weight, both zero, are
            one slot.
        rate: where no initial value cures the model, the factor on the learning rate that does; None if none does.
        ill: names of the layers that were ill at first; "" stands for the whole model.
        incurable: those of them that no redrawing cures.
        draw: how weights were redrawn.
        how: tensor name -> how it was made healthy, in words.
        experiments: those that show it, the cures first.
        tensors: how many trainable tensors the model has.
        complete: whether the search came to its end; else fewer tensors may be enough.
    """

    slots: tuple[tuple[str, ...], ...] = ()
    rate: float | None = None
    ill: frozenset[str] = frozenset()
    incurable: frozenset[str] = frozenset()
    draw: Draw = DRAWS[0]
    how: Mapping[str, str] = field(default_factory=dict)
    experiments: tuple[Experiment, ...] = ()
    tensors: int = 0
    complete: bool = True

    @property
    def to_blame(self) -> frozenset[str]:
        """Every tensor in any slot."""
        return frozenset(name for slot in self.slots for name in slot)


def find(case: Case, course: Course, verdict: Verdict, healthy: Step | None, *, steps: int) -> Causes:
    """Find what is at fault for the layers that a verdict calls ill.

    Args:
        case: what was watched.
        course: its steps.
        verdict: on them.
        healthy: see :class:`harness.diagnosis.judging.Evidence`.
        steps: how many an experiment may take.
    """
    search = _Search(case, course, verdict, healthy, steps)
    search.prepare()
    begins_well = not judge(case, replace(course, steps=course.steps[:1]), Evidence(healthy=healthy)).ill
    if begins_well or verdict.network.kind == "rounded away":
        # initial values with which step 0 is sound are not to blame for what the updates make of them
        causes = search.of_the_rate()
        if causes.rate:
            return causes
    search.choose_draw()
    return search.of_tensors() if search.worthwhile else search.of_the_rate()


class _Search:
    """The experiments on one case, each run once."""

    def __init__(self, case: Case, course: Course, verdict: Verdict, healthy: Step | None, steps: int) -> None:
        self._case, self._steps, self._healthy = case, steps, healthy
        self._tensors = list(course.steps[0].tensors)
        self._kind = verdict.network.kind
        # what blows up or dies late needs all the steps to show
        early = judge(case, replace(course, steps=course.steps[:PATIENCE]), Evidence(healthy=healthy))
        self._patient = not verdict.ill <= early.ill
        self._examples: int | None = examples_for(course)
        self._done: dict[tuple[frozenset[str], float], Experiment] = {}
        self._runs = self._layer_steps = self._numbers = 0
        self._blows_up = max(step.loss for step in course.steps) > LOSS_BLOW_UP * max(course.steps[0].loss, 1.0)
        self.draw, self.target, self.ill = DRAWS[0], frozenset[str](), verdict.ill

    def prepare(self) -> None:
        """Take all examples if few of them do not show what is wrong, or the model does not take few."""
        if self.heal(()).cured or not self._last_ran:
            self._examples = None
            self._done.clear()

    def choose_draw(self) -> None:
        """Take the first draw of everything that cures all; if none does, that which cures most."""
        cured = {}
        for draw in DRAWS:
            self.draw = draw
            self._done.clear()
            cured[draw] = self.heal(self._tensors).cured
            if cured[draw] == self.ill:
                break
        self.draw = max(cured, key=lambda draw: len(cured[draw]))
        self.target = cured[self.draw]
        self._done.clear()

    @property
    def worthwhile(self) -> bool:
        """Say whether redrawing everything cures enough to look for less.

        Where most layers stay ill, some recover by chance: of sizes, those that end just within the limits.
        """
        share = 1.0 if self._kind in _BY_SIZE else 0.5
        return len(self.target) >= share * len(self.ill) > 0

    def heal(self, names: Iterable[str], rate: float = 1.0) -> Experiment:
        """Redraw some tensors, train, and see which layers are no longer ill."""
        key = frozenset(names), rate
        if key not in self._done:
            self._runs += 1
            change = Change(healed(key[0], self.draw), rate, examples=self._examples)
            try:
                self._done[key] = self._seen(key, watch(self._case, self._steps, change, ended=self._ended))
                self._last_ran = True
            except TimeBudgetError:
                raise
            except Exception:  # noqa: BLE001 - the model is the user's, and may refuse values or a batch that is cut
                self._done[key] = Experiment(*key, 0, frozenset())
                self._last_ran = False
        return self._done[key]

    def _seen(self, key: tuple[frozenset[str], float], course: Course) -> Experiment:
        self._layer_steps += len(course.steps) * len(self._case.layers)
        self._numbers += sum(passed.output_count for step in course.steps for passed in step.passed.values())
        verdict = judge(self._case, course, Evidence(healthy=self._healthy))
        alive = sum(bool(course.steps_with_gradient(name)) for name in self._tensors)
        # a loss that grows a little less is not cured
        grows = self._blows_up and max(step.loss for step in course.steps) > LOSS_SEES * max(course.steps[0].loss, 1.0)
        cured = frozenset(name for name in self.ill if _is_well(verdict, name) and not grows)
        return Experiment(*key, alive, cured)

    @property
    def _over(self) -> bool:
        spent = (self._runs, self._layer_steps, self._numbers)
        return any(map(operator.ge, spent, (_MOST_EXPERIMENTS, _MOST_LAYER_STEPS, _MOST_NUMBERS)))

    def _cures(self, names: Iterable[str]) -> bool:
        """Say whether redrawing the tensors cures all that can be cured; no when too many experiments were run."""
        return not self._over and self.target <= self.heal(names).cured

    def _ended(self, course: Course) -> bool:
        return not self._patient and settled(self._case, course, PATIENCE)

    def of_the_rate(self) -> Causes:
        """Say whether another rate cures what no redrawing does."""
        for factor in HIGHER if self._kind == "rounded away" else LOWER:
            experiment = self.heal((), factor)
            if experiment.cured == self.ill:
                return self._causes((), rate=factor, shown=[experiment], incurable=frozenset())
        return self._causes((), shown=[], incurable=self.ill)

    def of_tensors(self) -> Causes:
        """Find the tensors to blame."""
        suspects = self._suspects()
        chosen = self._smallest_of(suspects)
        slots = tuple(self._with_alternatives(chosen, name) for name in chosen)
        complete = not self._over
        singles = dict.fromkeys([*(name for slot in slots for name in slot), *suspects])
        shown = [self.heal(chosen), *self._telling(list(singles))]
        return self._causes(
            slots, shown=list(dict.fromkeys(shown)), incurable=self.ill - self.target, complete=complete
        )

    def _telling(self, names: list[str]) -> Iterator[Experiment]:
        """Redraw tensors one by one: some that cure something, and two that do not, for contrast."""
        cures = others = 0
        while names and cures < _MOST_SHOWN and others < _MOST_CONTRAST and not self._over:
            experiment = self.heal([names.pop(0)])
            cures, others = cures + bool(experiment.cured), others + (not experiment.cured)
            yield experiment

    def _suspects(self) -> list[str]:
        """Tensors that differ from a healthy draw, the most different first, of equal ones the first in the model."""
        found = self._deviations
        return sorted((name for name, size in found.items() if size), key=lambda name: -found[name])

    @functools.cached_property
    def _deviations(self) -> dict[str, float]:
        owners, tensors = owners_of(self._case.model), trainable(self._case.model)
        return {name: deviation(name, value, owners[name], self.draw) for name, value in tensors.items()}

    def _smallest_of(self, suspects: list[str]) -> list[str]:
        """The smallest set that cures; where several layers share a fault, all tensors that differ as much."""
        alike = self._alike(suspects)
        if len(alike) > _MOST_JOINT and not self._cures(alike[:_MOST_JOINT]) and self._cures(alike):
            return alike
        chosen = self._quick_explanation([], self._candidates(suspects), new=False)
        part = self._kind in _BY_SIZE and 1 < len(chosen) < len(alike)
        return alike if part and self._cures(alike) else chosen

    def _candidates(self, suspects: list[str]) -> list[str]:
        """The fewest tensors that are known to cure together: those that stand out most, all that do, or all."""
        worst = [name for name in suspects if math.isinf(self._deviations[name])]
        for names in (worst, suspects):
            if names and self._cures(names):
                return names
        return [*suspects, *(name for name in self._tensors if name not in suspects)]

    def _alike(self, suspects: list[str]) -> list[str]:
        """Tensors that share a fault: those that stand out, or all weights where none does and each adds a little."""
        if self._kind not in (*_BY_SIZE, "symmetric"):
            return []
        if suspects and not self.draw.by_data:
            return self._as_unusual_as(suspects[0])
        return [name for name, value in trainable(self._case.model).items() if value.ndim > 1]

    def _quick_explanation(self, healthy: list[str], names: list[str], *, new: bool) -> list[str]:
        """The smallest part of ``names`` that cures together with ``healthy``; earlier names are preferred.

        Args:
            healthy: healed in any case.
            names: to choose from; together with ``healthy`` they cure.
            new: whether ``healthy`` has just grown, so that it may cure by itself.
        """
        if new and self._cures(healthy):
            return []
        if len(names) == 1:
            return names
        half = len(names) // 2
        second = self._quick_explanation([*healthy, *names[:half]], names[half:], new=True)
        first = self._quick_explanation([*healthy, *second], names[:half], new=bool(second))
        return first + second

    def _with_alternatives(self, chosen: list[str], name: str) -> tuple[str, ...]:
        """The tensor and those that can be healed in its place."""
        if len(chosen) > _MOST_JOINT:
            return (name,)
        slot, healthy = [name], [other for other in chosen if other != name]
        while len(slot) <= _MOST_JOINT:
            rest = [other for other in self._as_much_at_fault(name) if other not in (*chosen, *slot)]
            if not rest or not self._cures([*healthy, *rest]):
                break
            instead = self._quick_explanation(healthy, rest, new=False)
            if len(instead) != 1:
                break
            slot += instead
        return tuple(slot)

    def _as_much_at_fault(self, name: str) -> list[str]:
        """Tensors that may stand in for one: those that are clearly unusual, for others would only tip a threshold."""
        others = self._as_unusual_as(name) if self._kind in _BY_SIZE else self._tensors
        values = trainable(self._case.model)
        return [
            other
            for other in others
            if self._deviations[other] > (0 if values[other].ndim < 2 else math.log(_CLEARLY_UNUSUAL))
        ]

    def _as_unusual_as(self, name: str) -> list[str]:
        """Tensors that differ from a healthy draw at least half as much as this one does."""
        return [other for other, size in self._deviations.items() if 2 * size >= self._deviations[name]]

    def _causes(
        self,
        slots: tuple[tuple[str, ...], ...],
        *,
        shown: list[Experiment],
        incurable: frozenset[str],
        rate: float | None = None,
        complete: bool = True,
    ) -> Causes:
        shown.sort(key=lambda experiment: -len(experiment.cured))
        how = {name: in_words(name, value, self.draw) for name, value in trainable(self._case.model).items()}
        return Causes(slots, rate, self.ill, incurable, self.draw, how, tuple(shown), len(self._tensors), complete)


def _is_well(verdict: Verdict, name: str) -> bool:
    finding = verdict.layers[name] if name else verdict.network
    return finding.kind not in HARMFUL


def examples_for(course: Course) -> int:
    """Return how many examples an experiment may use, by the numbers that one of them makes in the layers."""
    largest = max(sum(passed.output_count for passed in step.passed.values()) for step in course.steps[:1])
    batch = max(course.examples, 1)
    return min(max(math.ceil(_NUMBERS * batch / max(largest, 1)), _FEWEST_EXAMPLES), _MOST_EXAMPLES)
