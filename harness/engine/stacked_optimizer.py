"""The optimizer of R stacked models: torch's own, one for each distinct setting, over slices of the parameters.

Every optimizer of ``harness.optimizers`` updates each number by itself, so one over the slice of some models computes
for each of them what its own would.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import nn

from harness.config import OptimizerConfig
from harness.train import optimizer_of

Make = Callable[[list[nn.Parameter], OptimizerConfig], torch.optim.Optimizer]
"""Parameters and settings -> their optimizer."""


class StackedOptimizer:
    """Updates parameters (R, ...), each model by its own settings and schedule.

    Neighbouring models with equal settings are one slice, so a stack sorted by its optimizers has the fewest tensors.

    Args:
        parameters: (R, ...) each; updated in place.
        configs: settings of each model.
        steps: length of the training.
        make: what makes the optimizer of each distinct setting; None: torch's own, with its schedule.

    Attributes:
        optimizers: that of each distinct setting.
    """

    def __init__(
        self,
        parameters: Sequence[torch.Tensor],
        configs: Sequence[OptimizerConfig],
        *,
        steps: int,
        make: Make | None = None,
    ) -> None:
        make = make or partial(optimizer_of, steps=steps)
        self._configs = list(configs)
        self._parts: list[tuple[nn.Parameter, int, slice]] = []
        by_config: dict[OptimizerConfig, list[nn.Parameter]] = {}
        for models in _runs(self._configs):
            for index, parameter in enumerate(parameters):
                part = nn.Parameter(parameter.detach()[models])
                self._parts.append((part, index, models))
                by_config.setdefault(self._configs[models.start], []).append(part)
        self.optimizers = {config: make(parts, config) for config, parts in by_config.items()}

    def step(self, gradients: Sequence[torch.Tensor]) -> None:
        """Update every model.

        Args:
            gradients: (R, ...) of each parameter, in their order.
        """
        for part, index, models in self._parts:
            gradient = gradients[index][models]
            # torch's fused update of a tensor reads the two number by number, as they lie in memory
            alike = gradient.stride() == part.stride()
            part.grad = gradient if alike else torch.empty_like(part).copy_(gradient)
        for optimizer in self.optimizers.values():
            optimizer.step()

    def rates(self) -> list[float]:
        """Return the learning rate of each model's next update."""
        return [float(self.optimizers[config].param_groups[0]["lr"]) for config in self._configs]


def _runs(configs: Sequence[OptimizerConfig]) -> Iterator[slice]:
    """Yield the longest slices of neighbours that are equal."""
    start = 0
    for stop in range(1, len(configs) + 1):
        if stop == len(configs) or configs[stop] != configs[start]:
            yield slice(start, stop)
            start = stop
