"""A storm of kill -9: at random moments workers die, and whole sweeps; no row that was there is lost, none is doubled.

A worker that imports torch costs seconds, so in the storm over workers they are forked from one process that has
imported it. The storm over parents is the command line as it is.
"""

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from command_processes import assert_none_is_left, descendants, started, wait_until
from conftest import run_command

import harness
from harness import results
from harness.audience import Audience
from harness.results import TABLES, problems_in
from harness.sweep import plan as planning
from harness.sweep import workers
from harness.sweep.conduct import SweepConductor
from harness.sweep.local import LocalSweep

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc"),
]

WORKER_KILLS, PARENT_KILLS, LOOPS = 136, 16, 2
LONGEST_PAUSE_S = 0.5
SEEDS = 1000
TINY = ("model=mlp", "device=cpu", "device.threads=1", "train.steps=1", "train.eval_every=1", "train.warmup_steps=0")

Statuses = dict[int, str]


def said(printed: str) -> Statuses:
    """What lines said of trials that ended: seed -> status; a line that a kill cut off says nothing."""
    lines = re.findall(r"^\[\d+/\d+\] seed=(\d+): (ok|killed)[ ,].*\n", printed, flags=re.MULTILINE)
    statuses = {int(seed): status for seed, status in lines}
    assert len(statuses) == len(lines), "a trial was told of twice"
    return statuses


def by_glob(folder: Path, table: str) -> pd.DataFrame:
    """A table as a foreign reader sees it."""
    return pd.concat([pd.read_parquet(path) for path in (folder / table).glob("*.parquet")], ignore_index=True)


def assert_each_row_once(folder: Path) -> Statuses:
    """In a sound folder with nothing left over; returns seed -> status."""
    assert problems_in(folder) == []
    for name in (".running", ".partial", ".spool"):
        assert list((folder / name).iterdir()) == []
    loaded = harness.load(folder)
    for table in TABLES:
        keys = [name for name in ("trial_id", "step", "parameter") if name in by_glob(folder, table)]
        rows, same = (frame[keys].sort_values(keys) for frame in (by_glob(folder, table), getattr(loaded, table)))
        assert not rows.duplicated().any()
        assert rows.to_numpy().tolist() == same[keys].to_numpy().tolist()
    assert loaded.trials["seed"].is_unique
    assert set(loaded.trials["trial_id"]) >= set(loaded.curves["trial_id"])
    finished = set(loaded.trials.query("status == 'ok'")["trial_id"])
    assert finished <= set(loaded.curves["trial_id"]) & set(loaded.layers["trial_id"])
    return dict(zip(loaded.trials["seed"].tolist(), loaded.trials["status"].tolist(), strict=True))


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers of the sweeps of this process start at once, because what they import is there already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.trial"])
    monkeypatch.setattr(workers, "_SPAWN", context)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    yield
    multiprocessing.forkserver._forkserver._stop()


class CountingAudience(Audience):
    """Prints as any, and counts the trials that ended well."""

    ended_well = 0

    def ended(self, title: str, row: dict[str, Any]) -> None:
        """Take note of a trial."""
        super().ended(title, row)
        self.ended_well += row["status"] == "ok"


def kill_workers(sweep: LocalSweep, pids: set[int]) -> int:
    """Kill one worker after the other, whatever it does just now, then stop the sweep; returns how many."""
    generator, kills, audience = np.random.default_rng(0), 0, cast("CountingAudience", sweep.audience)
    while kills < WORKER_KILLS:
        if generator.random() < 0.5:
            # on a slow machine no trial would ever end else
            before = audience.ended_well
            wait_until(lambda before=before: audience.ended_well > before, "no trial ended")
        time.sleep(generator.uniform(0, LONGEST_PAUSE_S))
        running = sweep._workers
        processes = [one.process for one in running._workers] if running is not None else []
        living = [process.pid for process in processes if process is not None and process.exitcode is None]
        if living:
            victim = int(generator.choice(living))
            os.kill(victim, signal.SIGKILL)
            pids.add(victim)
            kills += 1
    sweep.interrupt()
    return kills


@pytest.mark.usefixtures("forked_workers")
def test_killed_workers_cost_their_trials_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "results"
    size = 10 * WORKER_KILLS
    plan, composer = planning.plan_from([f"seed=range(0,{size})", "sweep.workers=3", *TINY, f"results.dir={folder}"])
    pids: set[int] = set()
    pool = ThreadPoolExecutor(1)
    counts = []

    def on_interruption(interrupt: object) -> None:
        counts.append(pool.submit(kill_workers, interrupt.__self__, pids))  # type: ignore[attr-defined]

    composed = planning.composed(planning.loader_of(), plan.trials[0].overrides)
    SweepConductor(plan, composer, composed, CountingAudience()).run(lambda *_: nullcontext(), on_interruption)
    assert counts[0].result() == WORKER_KILLS
    printed = capsys.readouterr()
    assert printed.err == ""
    told = said(printed.out)
    assert results.prepare(folder) == ([], []), "no row is left to the next run, only unfinished files"
    assert assert_each_row_once(folder) == told
    assert_none_is_left(pids)
    unbegun = set(range(max(told) + 1)) - set(told)
    assert all(seed >= max(told) - 3 for seed in unbegun), "only the last ones, when it was told to stop"
    killed = sum(status == "killed" for status in told.values())
    assert WORKER_KILLS / 2 < killed <= WORKER_KILLS + 3, "the storm met trials, and each kill cost at most one"
    assert len(told) - killed > WORKER_KILLS / 4, "and many ended between"


def kill_parents(folder: Path, first: int) -> list[str]:
    """Kill one sweep after the other in a folder that another loop uses too; returns what each had printed."""
    generator = np.random.default_rng(first)
    printed = []
    for number in range(first, PARENT_KILLS, LOOPS):
        seeds = f"seed=range({SEEDS * (number + 1)},{SEEDS * (number + 2)})"
        with started(folder, "-m", seeds, *TINY, f"sweep.workers={1 + number % 2}") as process:
            lines: list[str] = []
            reader = threading.Thread(target=lambda stream=process.stdout, lines=lines: lines.extend(stream))
            reader.start()
            if generator.random() < 0.8:
                wait_until(lambda lines=lines: any(line.startswith("[") for line in lines), "no trial ended")
            time.sleep(generator.uniform(0, 1.5))
            own = [process.pid, *descendants(process.pid)]
            kill(process.pid, own, generator.choice(("parent", "all", "worker")))
            assert_none_is_left(own)
            reader.join()
            printed.append("".join(lines))
            # the standard library's resource tracker says what a killed parent left to it
            assert "Traceback" not in process.stderr.read()
    return printed


def kill(parent: int, own: list[int], what: str) -> None:
    """The parent alone, with all that it started, or a moment after one of those."""
    victims = {"parent": [parent], "all": own, "worker": [own[-1], parent]}[what]
    for pid in victims:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def test_killed_sweeps_lose_and_double_no_row(tmp_path: Path) -> None:
    with ThreadPoolExecutor(LOOPS) as pool:
        loops = [pool.submit(kill_parents, tmp_path, first) for first in range(LOOPS)]
        told = [said(text) for loop in loops for text in loop.result()]
    assert len(told) == PARENT_KILLS
    done = run_command("seed=0", *TINY, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    rows = assert_each_row_once(tmp_path / "outputs/results")
    for statuses in told:
        assert statuses.items() <= rows.items(), "what was told is there, and ended as it was told"
    killed = sum(status == "killed" for status in rows.values())
    assert killed > PARENT_KILLS / 4
    assert len(rows) - killed > PARENT_KILLS
