"""Does an engine train as eager does? Asked before anything is timed, by some steps from the same weights.

Two things are compared: each loss of these steps, and how far the parameters moved, all of them as one vector. Where
the arithmetic is the same, they must be equal bit for bit. Where it is not, rounding differs, and how much that matters
depends on the network, its data and its optimizer: Adam turns a gradient of rounding noise into a whole step, and a
relu that one order of summation opens and the other leaves shut moves a loss by a thousand roundings. So it is measured
what rounding does here: eager steps from weights that are moved by some roundings each differ from eager steps by so
much, up to each step, and a multiple of the most of several draws is allowed.

The first ``STEPS`` are always compared, and at most ``_MOST_ALLOWED`` is allowed. Longer runs, which it takes to replay
every captured graph, are compared up to the step at which more than that would be: from there on two roundings of the
same training have come apart, and their difference says nothing.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from harness.config import TrialConfig
from harness.engine.eager import Eager
from harness.engine.graph import kept
from harness.engine.stacked import StackedTraining
from harness.looking import undisturbed
from harness.random_streams import generator
from harness.train import Batches, Engine, optimizer_for

STEPS = 3
"""How many steps are compared, if the training has so many and the engine has no longer piece to be tried."""

_SLACK, _SLACK_OF_LONGER = 10.0, 100.0
"""The effect of rounding has a heavy tail, and the more so the longer it grows; a wrong graph shows in its first steps,
where it is small."""
_LEAST_ALLOWED = 1e-4
_MOST_ALLOWED = 0.5
"""An engine that updates nothing differs by 1, so that however noisy the arithmetic is, no such engine passes."""
_ROUNDING = {None: 2.0**-24, torch.bfloat16: 2.0**-9}
_TF32_ROUNDING = 2.0**-11
_MOVED_BY = 8
"""Roundings by which each weight is moved to measure their effect."""
_DRAWS = 4
"""Most measurements: a relu at its threshold shows in some of them only."""


@runtime_checkable
class _Replaying(Protocol):
    """An engine of captured graphs."""

    @property
    def steps_to_try(self) -> int:
        """Steps that replay each graph at least once."""

    def rewind(self) -> None:
        """Begin at step 0 again."""


class WrongEngineError(Exception):
    """The engine does not train as eager does: by how much it differs, and what is allowed."""


@dataclass(frozen=True)
class Course:
    """What some steps did.

    Attributes:
        losses: float64 (steps,), before each update.
        movement: float64, final minus initial value of all parameters, one behind the other.
    """

    losses: torch.Tensor
    movement: torch.Tensor

    def differences(self, other: "Course") -> tuple[torch.Tensor, torch.Tensor]:
        """Return the relative differences from another course: (steps,) of the losses, and () of the movement.

        What is not finite in both is no difference; what is in one of the two is an infinite one.
        """
        ours, theirs = self.losses, other.losses
        finite = [torch.isfinite(losses) for losses in (ours, theirs)]
        relative = (ours - theirs).abs() / theirs.abs().clamp(min=1e-30)
        of_losses = torch.where(finite[0] & finite[1], relative, torch.where(finite[0] == finite[1], 0.0, torch.inf))
        moved = [course.movement.isfinite().all() for course in (self, other)]
        if not all(moved):
            return of_losses, torch.tensor(0.0 if moved[0] == moved[1] else torch.inf)
        apart = torch.linalg.vector_norm(self.movement - other.movement)
        return of_losses, apart / torch.linalg.vector_norm(other.movement).clamp(min=1e-30)


def largest_difference(
    config: TrialConfig, network: nn.Module, batches: Batches, engine: Engine, *, exact: bool
) -> float:
    """Set the first steps of an engine against eager; the network, its buffers and random numbers stay as they are.

    Args:
        config: of the trial.
        network: what the engine trains; eager trains copies.
        batches: of each step.
        engine: prepared and at step 0. It has taken the steps afterwards: rewind it.
        exact: whether its arithmetic is that of eager.

    Returns:
        the largest relative difference.

    Raises:
        WrongEngineError: it is more than rounding explains.
    """
    initial, courses = _flat(network), []
    lengths = _lengths(config, engine)
    for length in lengths:
        with undisturbed(network), kept(network):
            engine.run(range(length))
            courses.append(Course(_losses(engine.losses, length), _flat(network) - initial))
        if length != lengths[-1]:
            assert isinstance(engine, _Replaying)
            engine.rewind()
    how = f"of engine={config.engine.name} differ from eager's"
    return _accepted(config, network, batches, courses, how=how, fix="engine=eager", exact=exact)


def stacked_courses(
    config: TrialConfig, networks: Sequence[nn.Module], training: StackedTraining
) -> list[list[Course]]:
    """Take the first steps of a stack; the networks, their buffers and random numbers stay as they are.

    All models are looked at after the shortest run. The first, the last and one between are also looked at after the
    longer one, which replays the graph of many steps: it was captured from the same step of all models.

    Args:
        config: of one of the trials.
        networks: what the stack trains.
        training: at step 0, and rewound to it afterwards.

    Returns:
        what became of each model, by length of the run.
    """
    initial = [_flat(network) for network in networks]
    courses: list[list[Course]] = [[] for _ in networks]
    last = len(networks) - 1
    for length in _lengths(config, training):
        with ExitStack() as held:
            for network in networks:
                held.enter_context(undisturbed(network))
                held.enter_context(kept(network))
            training.run(range(length))
            for model in range(len(networks)) if not courses[0] else sorted({0, last // 2, last}):
                movement = _flat(networks[model]) - initial[model]
                courses[model].append(Course(_losses(training.losses[model], length), movement))
        training.rewind()
    return courses


def difference_of_model(config: TrialConfig, network: nn.Module, batches: Batches, courses: Sequence[Course]) -> float:
    """Set the first steps of a model in a stack against eager steps of the model alone.

    Args:
        config: of its trial.
        network: the model as it was before those steps; eager trains copies.
        batches: of each of its steps.
        courses: what the stack's steps did to it, see :func:`stacked_courses`.

    Returns:
        the largest relative difference.

    Raises:
        WrongEngineError: it is more than rounding explains.
    """
    how = "in a stack differ from eager's of the model alone"
    return _accepted(config, network, batches, courses, how=how, fix="sweep.stack=off", exact=False)


def _lengths(config: TrialConfig, engine: object) -> list[int]:
    """Steps of the runs that are compared: STEPS, and as many as it takes to replay every graph that was captured."""
    most = engine.steps_to_try if isinstance(engine, _Replaying) else STEPS
    return sorted({min(length, config.train.steps) for length in (STEPS, max(STEPS, most))})


def _accepted(
    config: TrialConfig, network: nn.Module, batches: Batches, courses: Sequence[Course], *, how: str, fix: str,
    exact: bool,
) -> float:  # fmt: skip
    """Return the largest difference from eager steps, or refuse it where it is more than is allowed."""
    expected = _eager(config, network, batches, [len(course.losses) for course in courses])
    found = [_joined(course.differences(wanted)) for course, wanted in zip(courses, expected, strict=True)]
    allowed = [torch.full_like(each, 0.0 if exact else _LEAST_ALLOWED) for each in found]
    # measuring takes as many steps again, and most do not need it
    if not exact and not _all_within(found, allowed):
        for noise in _noise(config, network, batches, expected):
            allowed = _widened(allowed, noise)
            if _all_within(found, allowed):
                break
    for course, each, bound in zip(courses, found, allowed, strict=True):
        if not _all_within([each], [bound]):
            told = torch.where(bound <= _MOST_ALLOWED, each / bound.clamp(min=1e-30), 0.0)
            worst = int(told.nan_to_num(torch.inf, torch.inf).argmax())
            raise WrongEngineError(
                f"engine check: {len(course.losses)} steps {how} by {float(each[worst]):.3g}, relatively, "
                f"{float(bound[worst]):.3g} is allowed; train with {fix} and report this"
            )
    return max(float(each[bound <= _MOST_ALLOWED].max()) for each, bound in zip(found, allowed, strict=True))


def _widened(allowed: Sequence[torch.Tensor], noise: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """What is allowed after another measurement; never too much in the shortest run and the first steps of others."""
    slacks = (_SLACK, _SLACK_OF_LONGER)
    wider = [torch.maximum(bound, slack * each) for bound, each, slack in zip(allowed, noise, slacks, strict=False)]
    wider[0].clamp_(max=_MOST_ALLOWED)
    for bound in wider:
        bound[:STEPS].clamp_(max=_MOST_ALLOWED)
    return wider


def _all_within(found: Sequence[torch.Tensor], allowed: Sequence[torch.Tensor]) -> bool:
    """Whether no difference is more than is allowed, where it can be told."""
    # not difference > allowed, which no NaN is
    return all(
        bool(((each <= bound) | (bound > _MOST_ALLOWED)).all()) for each, bound in zip(found, allowed, strict=True)
    )


def _joined(differences: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(steps + 1,), of the losses and then of the movement."""
    of_losses, of_movement = differences
    return torch.cat([of_losses, of_movement.reshape(1).to(of_losses)])


def _noise(
    config: TrialConfig, network: nn.Module, batches: Batches, expected: Sequence[Course]
) -> Iterator[list[torch.Tensor]]:
    """How far eager steps differ from ``expected`` if each weight is moved by some roundings, in several draws."""
    random = generator(config.seed, "engine_check")
    rounding = _ROUNDING[getattr(network, "autocast", None)]
    unit = _MOVED_BY * (max(rounding, _TF32_ROUNDING) if config.device.tf32 else rounding)
    for _ in range(_DRAWS):
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for value in moved.parameters():
                signs = torch.randint(2, value.shape, generator=random).to(value) * 2 - 1
                value.mul_(1 + unit * signs)
        courses = _eager(config, moved, batches, [len(course.losses) for course in expected])
        yield [
            # once two roundings have come apart they stay so, though a loss may agree by chance
            _joined((of_losses.cummax(0).values, of_movement))
            for of_losses, of_movement in (
                course.differences(wanted) for course, wanted in zip(courses, expected, strict=True)
            )
        ]


def _eager(config: TrialConfig, network: nn.Module, batches: Batches, lengths: Sequence[int]) -> list[Course]:
    """Eager steps of a copy, in one run: what it had done after each of these lengths."""
    trained, initial = copy.deepcopy(network), _flat(network)
    scratch = torch.full((lengths[-1],), torch.nan, device=next(trained.parameters()).device)
    eager = Eager(trained, optimizer_for(trained, config.optimizer, steps=config.train.steps), batches, scratch)
    courses = []
    with undisturbed(trained):
        for start, length in pairwise((0, *lengths)):
            eager.run(range(start, length))
            courses.append(Course(_losses(scratch, length), _flat(trained) - initial))
    return courses


def _losses(losses: torch.Tensor, steps: int) -> torch.Tensor:
    return losses[:steps].detach().double().cpu()


def _flat(network: nn.Module) -> torch.Tensor:
    # on the CPU, because a stack has many of them
    return torch.cat([value.detach().double().flatten().cpu() for value in network.parameters()])
