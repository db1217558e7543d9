"""Results made up for tests of analysis: rows that the schema allows, as frames or written by the project's writer."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness import results
from harness.results import CHOICES, COLUMNS, Frames, arrow_schema, to_frame

Row = dict[str, Any]
BLANK = {pa.string(): "x", pa.int64(): 1, pa.float64(): 1.0, pa.bool_(): True}
KEYS = ("arm_key", "trial_key")
START = datetime(2026, 1, 1, tzinfo=UTC)


def trial(index: int, **own: object) -> Row:
    """A row of trials that ended well after 100 steps, with what is given in it."""
    row = {column.name: BLANK.get(column.type) if column.required else None for column in COLUMNS["trials"]}
    row |= {"trial_id": f"trial{index:05d}", "measured_at": START + timedelta(index)}
    row |= {"status": "ok", "seed": index, "steps": 100, "train_time_s": 10.0, "targets": [0.5, 0.9]}
    row |= {"batches": "epochs", "initial_weights_sha256": f"a{index}", "final_weights_sha256": f"b{index}"}
    row |= own
    # as in the program, where all choices and nothing else make an arm
    arm = hashlib.sha256(repr([row[name] for name in CHOICES]).encode()).hexdigest()[:16]
    return {"arm_key": arm, "trial_key": f"{arm}-{row['seed']}"} | {k: v for k, v in row.items() if k not in KEYS} | own


def curve(trial_id: str, accuracies: Sequence[float | None], every: int = 10) -> list[Row]:
    """An evaluation each ``every`` steps, a second of training apart."""
    names = ("train_loss", "train_accuracy", "test_loss")
    return [
        {"trial_id": trial_id, "step": every * i, "train_time_s": float(i), "test_accuracy": value}
        | dict.fromkeys(names, 1.0)
        for i, value in enumerate(accuracies)
    ]


def reaching(step: int | None, steps: int = 100) -> list[float | None]:
    """Accuracies that reach 0.95 at a step that is a multiple of ten; None: never."""
    return [0.95 if step is not None and at >= step else 0.1 for at in range(0, steps + 1, 10)]


def arms_reaching(arms: dict[str, Sequence[int | None]], **own: object) -> tuple[list[Row], list[Row]]:
    """Rows of trials and curves: init -> the step at which each of its seeds reaches the targets."""
    trials: list[Row] = []
    curves: list[Row] = []
    for name, times in arms.items():
        for seed, step in enumerate(times):
            trials.append(trial(len(trials), init=name, seed=seed, **own))
            curves += curve(trials[-1]["trial_id"], reaching(step))
    return trials, curves


def frames(trials: Sequence[Row], curves: Sequence[Row] = (), layers: Sequence[Row] = ()) -> Frames:
    """The rows as :func:`harness.load` gives them."""
    rows = {"trials": trials, "curves": curves, "layers": layers}
    return Frames(
        **{name: to_frame(pa.Table.from_pylist(list(own), schema=arrow_schema(name))) for name, own in rows.items()}
    )


def write(folder: Path, trials: Sequence[Row], curves: Sequence[Row] = (), layers: Sequence[Row] = ()) -> None:
    """A results folder with one file per trial and table."""
    results.prepare(folder)
    for row in trials:
        trial_id = row["trial_id"]
        for table, rows in (("curves", curves), ("layers", layers)):
            results.write_table(folder, table, trial_id, [point for point in rows if point["trial_id"] == trial_id])
        results.write_table(folder, "trials", trial_id, [row])
