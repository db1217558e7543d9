"""The ways in which what a user asked for can fail."""

import traceback


class UsageError(Exception):
    """The command or its configuration is wrong: one line saying what was given, what is allowed, what to do."""


class DataError(Exception):
    """The data cannot be had: why, and what to do."""


class DivergedError(Exception):
    """The training loss stopped being a finite number.

    Args:
        step: the first step (0-based: the number of updates made before it) whose loss is not finite.
    """

    def __init__(self, step: int) -> None:
        super().__init__(f"the training loss is not finite at step {step}; try a smaller optimizer.lr")
        self.step = step


class TimeBudgetError(Exception):
    """Training took longer than ``train.max_seconds``, or the trial longer than ``sweep.trial_timeout_s``."""


def let_go(error: BaseException) -> None:
    """Empty the frames that an error came through: they hold tensors, on a GPU most of its memory.

    From Python 3.12 on, an error that was raised within several ``with`` blocks of generators refers to itself, so that
    it would live until the garbage collector runs, which nothing on a GPU makes it do.
    """
    waiting: list[BaseException | None] = [error]
    emptied: set[int] = set()
    while waiting:
        found = waiting.pop()
        # an error may be its own cause
        if found is None or id(found) in emptied:
            continue
        emptied.add(id(found))
        traceback.clear_frames(found.__traceback__)
        waiting += [found.__cause__, found.__context__]
