"""Ctrl-C and termination: who is told, and how they are held back where half of something is worse than a wait."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

Handler = Callable[[int, FrameType | None], object]

_HELD = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


def on_interrupt(handler: Handler) -> None:
    """Call ``handler`` with the signal's number and the frame when Ctrl-C or a termination signal comes.

    Whoever wants a method called must say so here and not to ``signal.signal``. Up to Python 3.11 that function looks
    for the handler it replaces among the names SIG_DFL and SIG_IGN, and writes the handler's repr into an error that it
    drops. The repr of a method holds that of its object: for an object with all results of a sweep, seconds a trial.
    """

    def call(number: int, frame: FrameType | None) -> None:
        handler(number, frame)

    for number in _HELD:
        # what nohup starts ignores a hang-up, and is to go on
        if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, call)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C, termination and hang-up back until the block has ended, so that impatience costs no row."""
    if threading.current_thread() is not threading.main_thread():
        # only the main thread is interrupted
        yield
        return
    held: list[int] = []
    # an ignored signal must not take the place of one that is handled, because only one is passed on; a handler that is
    # None was not set by Python, which could not put it back
    heeded = [number for number in _HELD if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, lambda caught, _frame: held.append(caught)) for number in heeded}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if held:
            signal.raise_signal(held[0])
