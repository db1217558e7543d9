"""Rows of trials with results that a test chooses, and results folders of them through the program's own writer."""

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd

import harness
from harness import TrialConfig, results, rows

Row = dict[str, Any]
HARDWARE = {"device_model": "Chip 9", "cpu_model": "Chip 9"}
_numbers = count()


@lru_cache
def _config(overrides: tuple[str, ...]) -> TrialConfig:
    resolved = ["device=cpu", "device.threads=2", "device.memory_format=channels_last", "engine=eager"]
    return harness.load_config([*resolved, *overrides])


@lru_cache(maxsize=1000)
def _planned(seed: int, overrides: tuple[str, ...]) -> Row:
    return rows.planned(dataclasses.replace(_config(overrides), seed=seed), "")


def trial(seed: int, *overrides: str, **columns: Any) -> Row:
    """The row of a trial that ended well, with other weights than any other's, unless ``columns`` say otherwise."""
    number = next(_numbers)
    row = _planned(seed, overrides) | HARDWARE
    row |= {
        "trial_id": f"made-{number:09d}",
        "status": "ok",
        "steps_to_target": [300, 500, None, None],
        "test_loss_last": 0.5,
        "test_accuracy_last": 0.85,
        "images_per_s_median": 5000.0,
        "final_weights_sha256": hashlib.sha256(str(number).encode()).hexdigest(),
        "torch_version": "2.15.0",
        "git_commit": "a" * 40,
        "git_dirty": False,
    }
    row |= columns
    if row["device"] != "cpu":
        # as the keys of a config for that device would be others
        row |= {key: f"{row[key]}-{row['device']}" for key in ("trial_key", "arm_key")}
    return row


def frame(made: Iterable[Row]) -> pd.DataFrame:
    return pd.DataFrame(list(made))


def folder(path: Path, made: Sequence[Row]) -> Path:
    """A results folder with these trials."""
    results.prepare(path)
    with results.Publisher(path, "made"):
        for row in made:
            evaluated = [
                {"trial_id": row["trial_id"], "step": step, "train_time_s": step / 100} for step in (0, row["steps"])
            ]
            running = results.Running(path, row, owner="made")
            running.finish(row, evaluated if row["status"] in ("ok", "diverged") else [], [])
    return path
