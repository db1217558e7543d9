"""The section ``optimizer`` of a trial's config; see ``harness.config``."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from harness.bounds import Conflict, above, at_least, later, one_of
from harness.optimizers import OPTIMIZERS, SCHEDULES


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, a name of ``harness.optimizers.OPTIMIZERS``, its settings, and the schedule of its learning rate.

    The default of a setting is the value that it has where an optimizer or a schedule does not take it. ``schedule`` is
    a name of ``harness.optimizers.SCHEDULES``; a null setting of it stands for the value of :meth:`scheduled`.
    """

    name: str = one_of(*OPTIMIZERS, default="sgd")
    lr: float = above(0, default=1e-4)
    momentum: float = at_least(0, default=0.0)
    weight_decay: float = at_least(0, default=0.0)
    schedule: str = later(one_of(*SCHEDULES, default="constant"))
    schedule_step: int | None = later(at_least(1, default=None))
    schedule_factor: float | None = later(above(0, default=None))
    warmup_steps: int | None = later(at_least(1, default=None))

    def conflicts(self) -> Iterator[Conflict]:
        """Yield each setting that was set though the optimizer or its schedule does not take it."""
        of_schedules = {name for schedule in SCHEDULES.values() for name in schedule}
        for setting in dataclasses.fields(self):
            name, unset = setting.name, setting.default
            if name in ("name", "schedule") or getattr(self, name) == unset:
                continue
            kind, chosen, taken = "optimizer", self.name, {key: entry.settings for key, entry in OPTIMIZERS.items()}
            if name in of_schedules:
                kind, chosen, taken = "optimizer.schedule", self.schedule, {k: tuple(v) for k, v in SCHEDULES.items()}
            if name not in taken[chosen]:
                takers = [f"{kind}={other}" for other, settings in taken.items() if name in settings]
                shown = "null" if unset is None else unset
                fix = f"set optimizer.{name}={shown} or use {' or '.join(takers)}"
                yield Conflict(name, f"{kind}={chosen} takes no {name}", fix)

    def scheduled(self, steps: int) -> "OptimizerConfig":
        """Fill in the schedule's settings that are null, for a training of so many steps."""
        chosen: dict[str, Any] = {
            name: getattr(self, name) if getattr(self, name) is not None else default(steps)
            for name, default in SCHEDULES[self.schedule].items()
        }
        return dataclasses.replace(self, **chosen)

    def too_long(self, steps: int) -> Iterator[Conflict]:
        """Yield each setting of the schedule that does not fit into a training of so many steps, or has no effect."""
        filled = self.scheduled(steps)
        if self.schedule == "one_cycle" and min(filled.warmup_steps or 0, steps) < 2:
            yield Conflict("schedule", "needs at least 2 steps up", "give train.steps and optimizer.warmup_steps >= 2")
        if filled.warmup_steps is not None and filled.warmup_steps > steps:
            problem = f"the warm-up is longer than the training of {steps:,} steps"
            yield Conflict("warmup_steps", problem, f"give at most {steps:,}, or more train.steps")
        elif self.schedule == "linear_warmup" and filled.warmup_steps == 1:
            fix = "give optimizer.warmup_steps >= 2 or use optimizer.schedule=constant"
            yield Conflict("schedule", "a warm-up of 1 step begins at the full rate", fix)
        if steps == 1 and self.schedule in ("step", "cosine"):
            problem, fix = (
                "a training of 1 step has one rate",
                "give train.steps >= 2 or use optimizer.schedule=constant",
            )
            yield Conflict("schedule", problem, fix)
        elif self.schedule_step is not None and self.schedule_step >= steps:
            problem = f"a training of {steps:,} steps never gets there"
            yield Conflict("schedule_step", problem, f"give at most {steps - 1:,}, or more train.steps")
