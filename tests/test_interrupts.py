"""Signals held back: nothing is lost, and what it costs does not depend on who is told."""

import os
import signal
from collections.abc import Iterator

import pytest

from harness.interrupts import on_interrupt, uninterrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """What pytest had installed is put back."""
    before = {number: signal.getsignal(number) for number in NUMBERS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Large:
    """An object whose repr is dear."""

    def __init__(self) -> None:
        self.described = 0
        self.told: list[int] = []

    def __repr__(self) -> str:
        self.described += 1
        return "large"

    def interrupt(self, number: int, _frame: object) -> None:
        self.told.append(number)


def test_holding_signals_back_describes_no_object() -> None:
    large = Large()
    on_interrupt(large.interrupt)
    for _ in range(100):
        with uninterrupted():
            pass
    assert large.described == 0
    signal.raise_signal(signal.SIGTERM)
    assert large.told == [signal.SIGTERM]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_that_was_held_back_comes_once_after_the_block(number: int) -> None:
    large = Large()
    on_interrupt(large.interrupt)
    with uninterrupted():
        with uninterrupted():
            for _ in range(3):
                os.kill(os.getpid(), number)
            assert large.told == []
        assert large.told == [], "the outer block goes on"
    assert large.told == [number]


def test_hang_up_is_held_back_for_whoever_handles_it() -> None:
    told: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, _frame: told.append(number))
    with uninterrupted():
        signal.raise_signal(signal.SIGHUP)
        assert told == []
    assert told == [signal.SIGHUP]


def test_an_ignored_signal_does_not_displace_one_that_is_handled() -> None:
    """A worker ignores Ctrl-C, and is ended by the SIGTERM of its parent that follows at once."""
    large = Large()
    on_interrupt(large.interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert large.told == [signal.SIGTERM]


def test_what_nohup_started_outlives_a_hang_up() -> None:
    large = Large()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    on_interrupt(large.interrupt)
    signal.raise_signal(signal.SIGHUP)
    assert large.told == []


def test_exception_of_the_handler_comes_after_the_block() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        done.append(2)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == [1]
