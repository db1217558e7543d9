"""A large results folder for the report, through the program's own writer."""

from pathlib import Path

import made_results
from made_results import Row

from harness import results
from harness.results import COLUMNS

LAYERS = [
    f"{layer}.{kind}" for layer in ("conv1", "conv2", "conv3", "conv4", "fc1", "fc2") for kind in ("weight", "bias")
]


def layers(trial_id: str, step: int, *, moved: bool = True) -> list[Row]:
    """The rows of every tensor of a trial at a step."""
    blank = {column.name: made_results.BLANK.get(column.type) for column in COLUMNS["layers"]}
    own = {"trial_id": trial_id, "step": step, "bit_equal": not moved, "movement": "moved"}
    own |= {"update_norm": 0.1 * step * moved, "output_moment": 0.5, "gradient_gain": 0.9 if moved else 0.0}
    return [blank | own | {"parameter": name} for name in LAYERS]


def large(folder: Path, *, arms: int, seeds: int, evaluations: int = 21) -> None:
    """Arms x seeds trials with curves and layers, in one file per table as ``compact`` leaves them."""
    rows: dict[str, list[Row]] = {"trials": [], "curves": [], "layers": []}
    for number in range(arms * seeds):
        arm, seed = divmod(number, seeds)
        own = made_results.trial(number, init=f"made{arm % 50}", lr=0.001 * (1 + arm // 50), seed=seed)
        own |= {"images_per_s_median": 1000.0 + arm, "matmul_share": 0.3, "device": "cpu", "cpu_model": "Chip 9"}
        rows["trials"].append(own)
        first = arm % evaluations + seed % 3
        accuracies = [0.95 if at >= first else 0.1 for at in range(evaluations)]
        rows["curves"] += made_results.curve(own["trial_id"], accuracies, every=5)
        for step in (0, 50, 100):
            rows["layers"] += layers(own["trial_id"], step, moved=arm % 7 > 0)
    write(folder, rows)


def write(folder: Path, rows: dict[str, list[Row]]) -> None:
    """A results folder with one file per table."""
    results.prepare(folder)
    for table, content in rows.items():
        results.write_table(folder, table, "made", content)
