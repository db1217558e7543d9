"""The optimizers: which class of ``torch.optim`` each is, and which settings it takes.

To add one, add an entry here and a file ``conf/optimizer/NAME.yaml``. Nothing here imports torch.
"""

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
}
"""Name of ``optimizer=`` -> what it is. What is not among the settings, such as Adam's betas, is torch's default."""
