"""Which trials can be trained by the same launches: what a stack of them has in common, and what cannot be in one.

Nothing here imports torch, because a sweep plans its stacks before its workers have begun.
"""

import json
from dataclasses import replace
from typing import Any

from harness.config import TrialConfig
from harness.optimizer_config import OptimizerConfig

MOST_BY_ITSELF = 256
"""The most trials that ``sweep.stack=auto`` puts into a launch; more of them hardly use a GPU better."""

OWN = ("seed", "init", "labels", "sources")
"""Fields of :class:`harness.TrialConfig` in which the trials of a stack may differ."""


def unstackable(config: TrialConfig) -> str | None:
    """Say why a trial cannot be trained in a stack, in words for a refusal; None: it can.

    Args:
        config: of the trial.
    """
    if config.model.function is not None:
        return f"model={config.model.function} is a network of your own, whose layers a stack cannot compute"
    if any(layer.type == "dropout" for layer in config.model.layers):
        return "the masks of a dropout layer are drawn from one generator, in an order that a stack would change"
    if config.engine.name == "compiled":
        return "engine=compiled compiles the steps of one model; use engine=auto, engine=graph or engine=eager"
    if config.train.autocast != "none":
        return f"train.autocast={config.train.autocast} computes the steps of one model; use train.autocast=none"
    return None


def most_in_stack(config: TrialConfig) -> int | None:
    """Return how many trials ``sweep.stack`` allows in a launch; None: as many as the device can hold."""
    asked = config.sweep.stack
    if asked in ("off", False):
        return 1
    return None if asked == "auto" else int(asked)


def stack_key(config: TrialConfig) -> str:
    """Return what the trials of a stack have in common, as a text: all but ``OWN`` and the optimizer's numbers.

    Data, batches, network, kernel and device are the same, and so are the steps and where on the way they are looked
    at. Each model has an optimizer of its own, but all of them are of one class and follow one schedule.

    Args:
        config: of the trial, as composed or resolved; keys of the two kinds do not mix.
    """
    unset = OptimizerConfig(name=config.optimizer.name, schedule=config.optimizer.schedule)
    shared: dict[str, Any] = replace(config, optimizer=unset).as_dict()
    return json.dumps({name: value for name, value in shared.items() if name not in OWN}, sort_keys=True)
