"""What became of a trial, in one line."""

from collections.abc import Mapping
from typing import Any

Row = Mapping[str, Any]

LINE_COLUMNS = ("status", "steps_done", "error_type", "error_message", "train_loss_first", "train_loss_last",
                "test_accuracy_first", "test_accuracy_last", "images_per_s_median", "stacked_trials")  # fmt: skip
"""The columns of ``trials`` that the line shows."""


def trial_line(title: str, row: Row) -> str:
    """One line about a trial that has ended, for terminals and logs alike."""
    if row["status"] != "ok":
        return f"{title}: {ending(row)}"
    loss = f"loss {loss_text(row['train_loss_first'])} -> {loss_text(row['train_loss_last'])}"
    accuracy = f"test acc {row['test_accuracy_first']:.3f} -> {row['test_accuracy_last']:.3f}"
    sharing = row["stacked_trials"]
    share = f" (its share of {sharing:.0f} trials)" if sharing and sharing > 1 else ""
    return f"{title}: ok, {loss}, {accuracy}, {row['images_per_s_median']:,.0f} images/s{share}"


def ending(row: Row) -> str:
    """How a trial ended that did not end as planned; an error is named, for its message alone may be a number."""
    kind = f"{row['error_type']}: " if row["status"] == "error" else ""
    return f"{row['status']} after {row['steps_done'] or 0} steps: {kind}{row['error_message']}"


def loss_text(value: float) -> str:
    """A loss, in as many digits as tell two of them apart."""
    return f"{value:.6f}" if value < 100 else f"{value:.4g}"
