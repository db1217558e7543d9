"""Does an engine train as eager does? Asked before anything is timed, by some steps from the same weights.

Two things are compared: the losses of these steps, and how far the parameters moved, all of them as one vector. Where
the arithmetic is the same, the two must be equal bit for bit. Where it is not, rounding differs, and how much that
matters depends on the network, its data and its optimizer (Adam turns a gradient of rounding noise into a whole
step). So it is measured: eager steps from weights that are moved by a rounding error each differ from eager steps by
so much, and ``_SLACK`` times that is allowed, up to ``_MOST_ALLOWED``.
"""

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

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

_SLACK = 16.0
_LEAST_ALLOWED = 1e-4
_MOST_ALLOWED = 0.5
"""An engine that updates nothing differs by 1, so that however noisy the arithmetic is, no such engine passes."""
_ROUNDING = {None: 2.0**-24, torch.bfloat16: 2.0**-9}


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

    def difference(self, other: "Course") -> float:
        """Return the largest relative difference from another course: of a loss, or of the whole movement.

        Both may stop being finite, at the same step; then what comes before counts.
        """
        ours, theirs = self.losses, other.losses
        finite = torch.isfinite(ours)
        if not torch.equal(finite, torch.isfinite(theirs)):
            return float("inf")
        of_losses = ((ours - theirs)[finite].abs() / theirs[finite].abs().clamp(min=1e-30)).max() if finite.any() else 0
        if not finite.all() or not self.movement.isfinite().all() or not other.movement.isfinite().all():
            return float(of_losses)
        apart = torch.linalg.vector_norm(self.movement - other.movement)
        return max(float(of_losses), float(apart / torch.linalg.vector_norm(other.movement).clamp(min=1e-30)))


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
    steps = _compared(config, engine)
    initial = _flat(network)
    with undisturbed(network), kept(network):
        engine.run(steps)
        course = Course(_losses(engine.losses, steps), _flat(network) - initial)
    difference, allowed = _against_eager(config, network, batches, course, exact=exact)
    how = f"of engine={config.engine.name} differ from eager's"
    return _accepted(difference, allowed, f"{len(steps)} steps {how}", "engine=eager")


def stacked_courses(config: TrialConfig, networks: Sequence[nn.Module], training: StackedTraining) -> list[Course]:
    """Take the first steps of a stack; the networks, their buffers and random numbers stay as they are.

    Args:
        config: of one of the trials.
        networks: what the stack trains.
        training: at step 0. It has taken the steps afterwards: rewind it.

    Returns:
        what became of each model.
    """
    steps = _compared(config, training)
    initial = [_flat(network) for network in networks]
    with ExitStack() as held:
        for network in networks:
            held.enter_context(undisturbed(network))
            held.enter_context(kept(network))
        training.run(steps)
        return [
            Course(_losses(losses, steps), _flat(network) - before)
            for losses, network, before in zip(training.losses, networks, initial, strict=True)
        ]


def difference_of_model(config: TrialConfig, network: nn.Module, batches: Batches, course: Course) -> float:
    """Set the first steps of a model in a stack against eager steps of the model alone.

    Args:
        config: of its trial.
        network: the model as it was before those steps; eager trains copies.
        batches: of each of its steps.
        course: what the stack's steps did to it.

    Returns:
        the largest relative difference.

    Raises:
        WrongEngineError: it is more than rounding explains.
    """
    difference, allowed = _against_eager(config, network, batches, course, exact=False)
    how = "in a stack differ from eager's of the model alone"
    return _accepted(difference, allowed, f"{len(course.losses)} steps {how}", "sweep.stack=off")


def _accepted(difference: float, allowed: float, problem: str, fix: str) -> float:
    """Return the difference, or refuse it where it is more than is allowed."""
    # not difference > allowed, which no NaN is
    if not difference <= allowed:
        raise WrongEngineError(
            f"engine check: {problem} by {difference:.3g}, relatively, {allowed:.3g} is allowed; "
            f"train with {fix} and report this"
        )
    return difference


def _compared(config: TrialConfig, engine: object) -> range:
    """The steps that are compared: as many as it takes to run every graph that was captured, and at least STEPS."""
    return range(min(max(STEPS, getattr(engine, "steps_to_try", 0)), config.train.steps))


def _against_eager(
    config: TrialConfig, network: nn.Module, batches: Batches, course: Course, *, exact: bool
) -> tuple[float, float]:
    """The largest difference from eager steps, and what is allowed."""
    steps = range(len(course.losses))
    expected = _eager(config, network, batches, steps)
    difference = course.difference(expected)
    allowed = 0.0 if exact else _LEAST_ALLOWED
    # measuring the noise takes as many steps again, and most do not need it
    if not exact and not difference <= allowed:
        noise = _noise(config, network, batches, steps, expected)
        allowed = min(max(allowed, _SLACK * noise), _MOST_ALLOWED)
    return difference, allowed


def _noise(config: TrialConfig, network: nn.Module, batches: Batches, steps: range, expected: Course) -> float:
    """How far eager steps differ from ``expected`` if each weight is moved by a rounding error."""
    moved, random = copy.deepcopy(network), generator(config.seed, "engine_check")
    unit = 2 * _ROUNDING[getattr(network, "autocast", None)]
    with torch.no_grad():
        for value in moved.parameters():
            signs = torch.randint(2, value.shape, generator=random).to(value) * 2 - 1
            value.mul_(1 + unit * signs)
    return _eager(config, moved, batches, steps).difference(expected)


def _eager(config: TrialConfig, network: nn.Module, batches: Batches, steps: range) -> Course:
    """Eager steps of a copy."""
    trained = copy.deepcopy(network)
    scratch = torch.full((len(steps),), torch.nan, device=next(trained.parameters()).device)
    optimizer = optimizer_for(trained, config.optimizer, steps=config.train.steps)
    with undisturbed(trained):
        Eager(trained, optimizer, batches, scratch).run(steps)
        return Course(_losses(scratch, steps), _flat(trained) - _flat(network))


def _losses(losses: torch.Tensor, steps: range) -> torch.Tensor:
    return losses[: steps.stop].detach().double().cpu()


def _flat(network: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().double().flatten() for value in network.parameters()])
