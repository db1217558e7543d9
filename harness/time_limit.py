"""A limit on how long a block may take, by the system's timer: it also ends a loop in Python that never looks up."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from harness.errors import TimeBudgetError

# some systems' timers take no more; it is 31 years
_LONGEST_S = 1e9
_SOON_S = 1e-3


@contextmanager
def time_limit(seconds: float | None, setting: str, *, spent_s: float = 0.0) -> Iterator[None]:
    """End the block with an error once its time is over. What hangs outside of Python is not ended.

    Only the main thread has a timer; elsewhere, and without a limit, the block takes as long as it takes.

    Args:
        seconds: how long it may take; None: for ever.
        setting: what the limit is called in the error.
        spent_s: how much of it is over already.

    Raises:
        TimeBudgetError: its time is over.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise TimeBudgetError(f"{setting}={seconds:g} reached")

    begun_s = time.monotonic()
    before = signal.signal(signal.SIGALRM, ring)
    left_s, interval_s = signal.setitimer(signal.ITIMER_REAL, max(_SOON_S, min(seconds - spent_s, _LONGEST_S)))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        # None was not set by Python, which cannot put it back
        signal.signal(signal.SIGALRM, signal.SIG_DFL if before is None else before)
        if left_s:
            # the timer of the program around; one that would have rung meanwhile rings now
            left_s = max(_SOON_S, left_s - (time.monotonic() - begun_s))
            signal.setitimer(signal.ITIMER_REAL, left_s, interval_s)
