"""The optimizers: which class of ``torch.optim`` each is, which settings it takes, and the learning rate's schedules.

To add one, add an entry here and a file ``conf/optimizer/NAME.yaml``. Nothing here imports torch.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Optimizer:
    """One choice of ``optimizer=``.

    Attributes:
        torch_class: name of a class of ``torch.optim``.
        settings: fields of ``OptimizerConfig`` that it takes, under the same names as torch's keyword arguments. A
            trial that sets another one is refused, because the setting would have no effect.
    """

    torch_class: str
    settings: tuple[str, ...] = ("lr", "weight_decay")


OPTIMIZERS = {
    "sgd": Optimizer("SGD"),
    "momentum": Optimizer("SGD", ("lr", "weight_decay", "momentum")),
    "adam": Optimizer("Adam"),
    "adamw": Optimizer("AdamW"),
    "rmsprop": Optimizer("RMSprop", ("lr", "weight_decay", "momentum")),
    "nadam": Optimizer("NAdam"),
}
"""Name of ``optimizer=`` -> what it is. What is not among the settings, such as Adam's betas, is torch's default."""

SCHEDULES: Mapping[str, Mapping[str, Callable[[int], float]]] = {
    "constant": {},
    "step": {"schedule_step": lambda steps: math.ceil(steps / 3), "schedule_factor": lambda _: 0.1},
    "cosine": {},
    "one_cycle": {"warmup_steps": lambda steps: max(2, math.ceil(0.3 * steps))},
    "linear_warmup": {"warmup_steps": lambda steps: math.ceil(0.1 * steps)},
}
"""Name of ``optimizer.schedule`` -> the fields of ``OptimizerConfig`` that it takes, each with its default for so many
training steps. ``harness.train.SCHEDULERS`` says which class of ``torch.optim.lr_scheduler`` a name stands for."""
