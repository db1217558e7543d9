"""Whether a tensor that had no gradient on some of the steps' batches has one on others."""

import torch
import torch.nn.functional as F
from torch import nn

from harness.diagnosis.case import Case, trainable
from harness.diagnosis.watching import Course, backward, energy
from harness.looking import same_randomness
from harness.models import Network

OTHER_BATCHES = 32
"""Batches beyond those of the steps that are tried for a tensor that had no gradient on some of these."""
OTHER_NUMBERS = 8
"""How often the batch is tried with other random numbers, where there is only one."""


def elsewhere(case: Case, course: Course, tensors: set[str], steps: int) -> dict[str, tuple[int, int]]:
    """Pass other batches, or the same one with other random numbers, through the model as it was at first and at last.

    Args:
        case: what is diagnosed.
        course: the steps that were watched.
        tensors: names of the tensors that had no gradient on some of these.
        steps: how many steps may be watched at most.

    Returns:
        tensor name -> (passes with a gradient, passes): of a tensor that had one, behind the steps, else before them.
    """
    tries = OTHER_BATCHES if case.batches.differ else OTHER_NUMBERS
    # those of the steps first, because the others come behind them
    case.batches(steps - 1)
    found: dict[str, tuple[int, int]] = {}
    with torch.inference_mode(mode=False), torch.enable_grad(), same_randomness():
        late = {name for name in tensors if course.steps_with_gradient(name)}
        for names, model in ((tensors - late, case.copy()[0]), (late, course.model)):
            hits = _hits(case, model, names, tries) if names else {}
            found |= {name: (count, tries) for name, count in hits.items()}
    return found


def _hits(case: Case, model: nn.Module, names: set[str], tries: int) -> dict[str, int]:
    # the passes of a model that repeats itself are all like the first
    times = tries if _repeats(case, model) else 1
    hits = dict.fromkeys(names, 0)
    for batch in case.batches.others(tries // times):
        model.zero_grad(set_to_none=True)
        backward(case, model, batch)
        values = trainable(model)
        for name in names:
            gradient = values[name].grad
            hits[name] += times * (gradient is not None and energy(gradient) > 0)
    return hits


def _repeats(case: Case, model: nn.Module) -> bool:
    """Say whether each pass gives the same gradients: a declared network without dropout does, on its one batch."""
    draws = any(isinstance(module, nn.Dropout) for module in model.modules())
    return isinstance(model, Network) and not draws and case.loss is F.cross_entropy and not case.batches.differ
