"""Clocks: they wait for the device at both ends, warm-up leaves no trace, quartiles are numpy's."""

import statistics
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import timing
from harness.timing import Stopwatch, matmul_flops_per_s, quartiles, warm_up

CPU = torch.device("cpu")


class SlowDevice:
    """A device with work outstanding: waiting for it takes a while the first time it is asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outstanding_s = 0.0
        monkeypatch.setattr(timing, "synchronise", self.wait)

    def wait(self, _device: torch.device) -> None:
        time.sleep(self.outstanding_s)
        self.outstanding_s = 0.0


def test_stopwatch_counts_the_work_a_block_left_outstanding(monkeypatch: pytest.MonkeyPatch) -> None:
    device, watch = SlowDevice(monkeypatch), Stopwatch(CPU)
    with watch:
        device.outstanding_s = 0.1
    assert watch.total_s >= 0.1


def test_stopwatch_does_not_count_work_from_before_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    device, watch = SlowDevice(monkeypatch), Stopwatch(CPU)
    device.outstanding_s = 0.2
    with watch:
        pass
    assert watch.total_s < 0.1


def test_stopwatch_adds_up_its_blocks_and_not_what_lies_between() -> None:
    watch = Stopwatch(CPU)
    for _ in range(2):
        with watch:
            time.sleep(0.02)
        time.sleep(0.2)
    assert len(watch.laps_s) == 2
    assert 0.04 <= watch.total_s < 0.2


def test_stopwatch_keeps_the_time_of_a_block_that_raised() -> None:
    watch = Stopwatch(CPU)

    def fail() -> None:
        with watch:
            time.sleep(0.02)
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert watch.total_s >= 0.02


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=50))
def test_quartiles_are_numpys(values: list[float]) -> None:
    spread = quartiles(values)
    assert spread is not None
    np.testing.assert_allclose([spread.q25, spread.median, spread.q75], np.quantile(values, [0.25, 0.5, 0.75]))


def test_quartiles_of_nothing_are_none() -> None:
    assert quartiles([]) is None


def test_warm_up_trains_a_copy() -> None:
    network = torch.nn.Linear(3, 2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained: list[torch.nn.Module] = []

    def run(copy: torch.nn.Module) -> None:
        copy(torch.ones(1, 3)).sum().backward()
        torch.optim.SGD(copy.parameters(), lr=1.0).step()
        trained.append(copy)

    warm_up(network, run)
    assert not torch.equal(trained[0].weight, before["weight"]), "the copy must really have been trained"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_matmul_rate_counts_two_operations_per_multiply_add() -> None:
    """Against the same product timed by hand: the two medians agree within a factor that a wrong count would break."""
    left = torch.rand(1024, 1024)
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        left @ left
        seconds.append(time.perf_counter() - start)
    by_hand = 2 * 1024**3 / statistics.median(seconds)
    assert 0.4 < matmul_flops_per_s(CPU) / by_hand < 2.5
