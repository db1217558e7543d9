"""Resuming runs what a folder lacks and says what differs between what is there and what comes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_trials
import pytest

import harness
from harness import TrialConfig
from harness.resolution import resolved
from harness.sweep import resume
from harness.sweep.local import Company
from harness.sweep.plan import plan_from

SETTINGS = ["device=cpu", "device.threads=2", "device.memory_format=channels_last", "engine=eager"]
NOW = {
    "git_commit": "a" * 40,
    "git_dirty": False,
    "python_version": "3.11",
    "platform": "Linux",
    "gpu_driver": None,
    "device_model": "Chip 9",
    "cpu_model": "Chip 9",
    "simultaneous_trials": 1,
    "memory_kept": True,
    "threads": 2,
    "package_versions": json.dumps({"torch": "2.15.0", "numpy": "2.1"}),
}
Made = Callable[..., Path]


def configs(*seeds: int) -> list[TrialConfig]:
    base = harness.load_config(SETTINGS)
    return [dataclasses.replace(base, seed=seed) for seed in seeds]


def row(seed: int, status: str = "ok", **columns: Any) -> made_trials.Row:
    return made_trials.trial(seed, **{**NOW, "status": status, **columns})


def resumed(folder: Path, *seeds: int, **now: Any) -> resume.Resumed:
    return resume.resumed(configs(*seeds), folder, {**NOW, **now})


def test_what_is_done_is_left_out_and_what_failed_is_tried_again(tmp_path: Path) -> None:
    made = [row(0), row(1, "diverged"), row(2, "oom"), row(3, "killed"), row(3), row(4, "crashed"), row(9)]
    folder = made_trials.folder(tmp_path / "r", made)
    done = resumed(folder, 0, 1, 2, 3, 4, 5)
    assert done.to_run == [3, 5, 6]
    ids = [each["trial_id"] for each in made]
    assert done.done_by == [ids[0], ids[1], None, ids[4], None, None]
    assert done.lines == ["6 planned: 3 done, 2 failed before, 3 to run"]


def test_a_repeated_trial_needs_as_many_rows(tmp_path: Path) -> None:
    folder = made_trials.folder(tmp_path / "r", [row(0), row(0), row(0, "error"), row(1), row(1)])
    done = resumed(folder, 0, 0, 0, 0, 1)
    assert (done.to_run, len(set(done.done_by) - {None})) == ([3, 4], 3)
    assert done.lines == ["5 planned: 3 done, 1 failed before, 2 to run"]


def test_trials_that_cannot_be_run_are_counted(tmp_path: Path) -> None:
    plan, composer = plan_from(["init=he,zero", "model=mlp", "device=cpu", f"results.dir={tmp_path / 'r'}"])
    left = resume.left_to_run(plan, composer, Company(1, None), in_jobs=False)
    assert left.lines == ["2 planned: 0 done, 0 failed before, 1 to run, 1 that cannot be run"]


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_folder_has_nothing(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001
    folder = made_trials.folder(tmp_path / "r", []) if exists else tmp_path / "nowhere"
    assert resumed(folder, 0, 1) == resume.Resumed(
        [1, 2], [None, None], ["2 planned: 0 done, 0 failed before, 2 to run"]
    )


def test_each_difference_is_said_once(tmp_path: Path) -> None:
    older = json.dumps({"torch": "2.14.0", "numpy": "2.1", "triton": "3.6"})
    made = [row(seed, git_commit="b" * 40, package_versions=older, simultaneous_trials=4) for seed in range(3)]
    folder = made_trials.folder(tmp_path / "r", [*made, row(3)])
    assert resumed(folder, *range(5)).lines == [
        "5 planned: 4 done, 0 failed before, 1 to run",
        f"note: git_commit differs: done trials have {'b' * 40} (3), the coming ones {'a' * 40}",
        "note: simultaneous_trials differs: done trials have 4 (3), the coming ones 1",
        "note: packages differ between done trials and the coming ones: torch 2.14.0 -> 2.15.0, triton 3.6 -> none",
    ]
    assert len(resumed(folder, *range(4)).lines) == 1, "nothing comes, so nothing differs from it"


def test_another_number_of_threads_is_said_and_how_to_go_on(tmp_path: Path) -> None:
    folder = made_trials.folder(tmp_path / "r", [row(seed) for seed in range(3)])
    one = [dataclasses.replace(own, device=dataclasses.replace(own.device, threads=1)) for own in configs(0, 1, 2, 3)]
    done = resume.resumed(one, folder, {**NOW, "threads": 1})
    assert done.to_run == [1, 2, 3, 4]
    (_, line) = done.lines
    assert line.startswith("note: 3 of the first 4 are done with 2 threads, which is another result: workers share")
    assert line.endswith("add device.threads=2 to go on from them")


def test_a_gpu_of_other_machines_is_taken_for_granted() -> None:
    """The command that hands jobs to a cluster is typed where there is none."""
    plan, composer = plan_from(["seed=0,1", "device=cuda", "device.threads=2"])
    left = resume.left_to_run(plan, composer, Company(1, None), in_jobs=True)
    assert left.lines == ["2 planned: 0 done, 0 failed before, 2 to run"]
    assert left.environment["threads"] == 2
    assert not {"platform", "cpu_model", "device_model"} & set(left.environment), "theirs are not known"
    config = composer.config(plan.trials[0].overrides)
    there, here = (
        dataclasses.replace(config, device=dataclasses.replace(config.device, name=name)) for name in ("cuda", "cpu")
    )
    assert resolved(there, elsewhere=True).trial_key != resolved(here, elsewhere=True).trial_key
    assert resolved(here, elsewhere=True) == resolved(here)


def test_the_columns_of_now_are_those_of_a_row() -> None:
    (config,) = configs(0)
    now = resume.columns_now(config, simultaneous_trials=3)
    assert set(NOW) <= set(now)
    assert (now["threads"], now["simultaneous_trials"]) == (2, 3)
