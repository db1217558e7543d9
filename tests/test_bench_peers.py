"""The bench of peers runs as a user runs it, and prints no speed of a peer whose losses are wrong."""

import dataclasses
import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
VMAP = "PyTorch, torch.func.vmap"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_peers")


def test_no_speed_of_a_peer_with_another_learning_rate(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The wrong peer alone trains two models, so the task of two models gets a rate that is off by one percent."""
    rounds = importlib.import_module("peers_rounds")
    right = rounds.only

    def wrong(whole: object, chosen: slice) -> object:
        task = right(whole, chosen)
        return dataclasses.replace(task, lr=1.01 * task.lr) if chosen.stop - chosen.start == 2 else task

    monkeypatch.setattr(rounds, "only", wrong)
    written = tmp_path / "peers.json"
    line = ["--quick", "--only", "steps", "--peers", "vmap", "--batch", "4", "--json", str(written)]
    assert bench.main(line) == 1
    printed = capsys.readouterr()
    assert f"no speed: batch 4: {VMAP}: differs at step" in printed.err
    assert "NOT FOR QUOTING" in printed.out
    found = json.loads(written.read_text())
    assert [arm["name"] for arm in found["steps"]] == ["PyTorch, plain"]
    assert len(found["steps"][0]["images_per_s"]) == bench.QUICK.rounds
    assert all(rate > 0 for rate in found["steps"][0]["images_per_s"])


def test_a_peer_that_dies_or_does_not_answer_costs_itself_alone(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds = importlib.import_module("peers_rounds")
    right = rounds.calibrated

    def calibrated(peer: Any, round_s: float) -> int:
        if peer.name == "eager":
            peer._give_up()
        steps: int = right(peer, round_s)
        return steps

    monkeypatch.setattr(rounds, "calibrated", calibrated)
    assert bench.main(["--quick", "--only", "steps", "--peers", "eager", "--batch", "4"]) == 1
    printed = capsys.readouterr()
    assert "no speed: batch 4: ours, engine=eager: its process did not answer for 240 s (--patience)" in printed.err
    assert "| PyTorch, plain" in printed.out


def test_more_is_allowed_where_rounding_does_more(bench: ModuleType) -> None:
    del bench
    rounds = importlib.import_module("peers_rounds")
    wanted = np.ones((2, 3))
    noise = np.array([[0, 0, 0], [0, 1e-5, 1e-5]])
    off = np.array([[1, 1, 1], [1, 1 + 5e-5, 1 + 5e-5]])
    assert rounds.difference(off, wanted, noise) is None
    assert "step 1 of model 0" in rounds.difference(off[::-1], wanted, noise)


@pytest.mark.parametrize(("gain", "met"), [(1.24, False), (1.26, True)], ids=["missed", "met"])
def test_an_aim_is_judged_by_the_median_of_the_rounds(bench: ModuleType, gain: float, met: bool) -> None:  # noqa: FBT001
    report = importlib.import_module("peers_report")
    found = bench.PeersReport("here", 4)
    found.steps.append(report.StepArm(50, report.PLAIN, 1, 1, [100.0, 200.0, 300.0]))
    found.steps.append(report.StepArm(50, report.EAGER, 1, 1, [gain * 100, gain * 200, 3000.0]))
    judged = {aim.name: aim.met for aim in report.aims(found, "cpu")}
    assert judged["one training to plain PyTorch, batch 50"] is met
    assert judged["one training to plain PyTorch, batch 256"] is None
    assert "not measured" in report.tables(found, report.aims(found, "cpu"))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["--peers", "torchy"], "--peers torchy: no such peer; give some of plain, compiled"),
        (["--python", "nowhere"], "--python nowhere: no program that can be run"),
        (["--quick", "--page"], "--page: the numbers of --quick mean nothing"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_wrong_command_is_one_line(
    bench: ModuleType, capsys: pytest.CaptureFixture[str], line: list[str], words: str
) -> None:
    assert bench.main(line) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {words}")
    assert printed.count("\n") == 1
