"""What a person sees: progress on a terminal, a line per trial, the tables at the end (at most 100 columns)."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from harness import article
from harness.results import CHOICES, arm_columns, text_of
from harness.trial_line import loss_text
from harness.wording import one_line

if TYPE_CHECKING:
    from harness.sweep.workers import Glance

_WIDTH = 100
_MOST_ARTICLE_COLUMNS = 4
MOST_ROWS = 40
"""The most trials in the table at the end."""

Row = dict[str, Any]


def console() -> Console:
    """Standard output; outside a terminal 100 columns wide."""
    console = Console(highlight=False, soft_wrap=False)
    width = min(console.width, _WIDTH) if sys.stdout.isatty() else _WIDTH
    return Console(highlight=False, width=width)


@contextmanager
def progress(out: Console, title: str, *, steps: int, batch_size: int) -> Iterator[Any]:
    """A bar with rate and time left while a trial runs; quiet where nobody watches.

    Yields:
        the callback for :func:`harness.trial.run_trial`.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True, disable=not sys.stdout.isatty()) as bar:
        task = bar.add_task(Text(one_line(title)).markup, total=steps, rate="")

        def advance(step: int, seconds: float) -> None:
            rate = f"{step * batch_size / seconds:,.0f} images/s" if seconds else "setting up"
            bar.update(task, completed=step, rate=rate)

        yield advance


@dataclass(frozen=True)
class ShownTrial:
    """A trial with what the tables at the end show of it.

    Attributes:
        row: its row of ``trials``.
        train_accuracies: of its curve, step after step; only the article's experiment shows them.
    """

    row: Row
    train_accuracies: Sequence[float] = ()


def show(out: Console, trials: Sequence[ShownTrial], *, more: int = 0) -> None:
    """The tables of a run: each trial, then the article's figures beside ours where the run has its experiment.

    Args:
        out: where to.
        trials: what to show, at most :data:`MOST_ROWS`.
        more: how many trials are not shown.
    """
    out.print(_trials_table(trials))
    if more:
        out.print(f"({more:,} more trials are in the results)")
    ours = [trial for trial in trials if article.applies(trial.row)]
    if ours:
        out.print(_article_table(ours[:_MOST_ARTICLE_COLUMNS]))
        out.print(article.NOTES)


def _trials_table(trials: Sequence[ShownTrial]) -> Table:
    rows = [trial.row for trial in trials]
    several = arm_columns({name: [row[name] for row in rows] for name in CHOICES}, [row["arm_key"] for row in rows])
    seed = ["seed"] if len({row["seed"] for row in rows}) > 1 else []
    choices = ["init", *seed, *(name for name in several if name != "init")]
    table = Table(title="trials (first value above, last below)", title_justify="left")
    for key in choices:
        table.add_column(key, overflow="fold")
    for title in ("status", "train loss", "train acc", "test acc", "images/s,\nof matmul", "moved", "diagnosis"):
        table.add_column(title, justify="left" if title in ("status", "moved", "diagnosis") else "right")
    for trial in trials:
        chosen = [Text(one_line(text_of(trial.row[key]))) for key in choices]
        table.add_row(
            *chosen, trial.row["status"], *_outcome(trial.row), _moved(trial.row), trial.row["diagnosis"] or "-"
        )
    return table


def explain(out: Console, rows: Iterable[Row]) -> None:
    """Print why an initializer cannot train as it should, once for all trials that say so."""
    lines = [f"{row['init']}: {row['diagnosis']}, {row['diagnosis_reason']}" for row in rows if row["diagnosis_reason"]]
    for line in dict.fromkeys(lines):
        out.print(one_line(line), markup=False)


def _outcome(row: Row) -> list[str]:
    def change(first: float | None, last: float | None, form: str) -> str:
        return "-" if first is None or last is None else f"{first:{form}}\n{last:{form}}"

    rate, share = row["images_per_s_median"], row["matmul_share"]
    return [
        "-"
        if row["train_loss_first"] is None
        else f"{loss_text(row['train_loss_first'])}\n{loss_text(row['train_loss_last'])}",
        change(row["train_accuracy_first"], row["train_accuracy_last"], ".2f"),
        change(row["test_accuracy_first"], row["test_accuracy_last"], ".3f"),
        "-" if rate is None or share is None else f"{rate:,.0f}{_sharing(row)}\n{share:.0%}",
    ]


def _sharing(row: Row) -> str:
    """Part of a launch that a stacked trial's rate is; "" for a trial alone."""
    return f"\n(1/{row['stacked_trials']:.0f})" if (row["stacked_trials"] or 1) > 1 else ""


def _moved(row: Row) -> str:
    """Which parameters changed at all."""
    moved, unmoved = row["moved"], row["unmoved"]
    if moved is None or unmoved is None:
        return "-"
    return f"only {moved[0]}" if len(moved) == 1 else f"{len(moved)} of {len(moved) + len(unmoved)}"


def _article_table(trials: Sequence[ShownTrial]) -> Table:
    table = Table(title="the zero kernel: the article's printed run and ours", title_justify="left")
    table.add_column("figure")
    table.add_column("printed", justify="right")
    for trial in trials:
        table.add_column(f"lr {trial.row['lr']:g} seed {trial.row['seed']}", justify="right")
    columns = [article.figures(trial.row, list(trial.train_accuracies)) for trial in trials]
    for figure, printed in article.PRINTED.items():
        table.add_row(figure, printed, *(column[figure] for column in columns))
    return table


class LiveTable:
    """What a sweep is doing: how many trials are planned, done and failed, what runs now, and the time left.

    On a terminal a table that stays at the bottom; elsewhere nothing moves, and each trial that ends is a line.

    Args:
        out: where to.
        planned: how many trials the sweep has.
        done_before: how many of them need not be run.
    """

    def __init__(self, out: Console, planned: int, done_before: int) -> None:
        self._out, self._planned, self._done_before = out, planned, done_before
        self._ended = self._failed = 0
        self._begun_s = time.monotonic()
        self._running: Sequence[Glance] = ()
        is_watched = sys.stdout.isatty()
        self._live = Live(get_renderable=self._table, console=out, transient=True, refresh_per_second=2)
        self._is_live = is_watched

    def __enter__(self) -> Self:
        if self._is_live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_live:
            self._live.stop()

    def look(self, running: "Sequence[Glance]") -> None:
        """Show what runs just now."""
        self._running = running

    def ended(self, line: str, *, ok: bool) -> None:
        """Count a trial that has ended, and print its line."""
        self._ended += 1
        self._failed += not ok
        self.say(line)

    def say(self, line: str) -> None:
        """Print a line above the table."""
        if self._is_live:
            self._out.print(Text(line), soft_wrap=True)
        else:
            print(line, flush=True)

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 1, 0, 0))
        table.add_row(Text(self.summary()))
        for glance in self._running:
            table.add_row(Text(f"  {one_line(running_line(glance))}", overflow="ellipsis", no_wrap=True))
        return table

    def summary(self) -> str:
        """Return the numbers in one line."""
        ok, left = self._ended - self._failed, self._planned - self._done_before - self._ended
        parts = [f"{self._planned:,} planned", f"{ok + self._done_before:,} done", f"{self._failed:,} failed"]
        if self._ended and left > 0:
            seconds = (time.monotonic() - self._begun_s) / self._ended * left
            parts.append(f"about {timedelta(seconds=round(seconds))} left")
        return ", ".join(parts)


def running_line(glance: "Glance") -> str:
    """Return what a worker is doing: the step of how many, and the rate of all trials in hand."""
    train = glance.task.config.train
    if not glance.step:
        return f"{glance.task.title}: setting up"
    images = glance.step * train.batch_size * glance.task.size
    rate = images / glance.seconds if glance.seconds else 0.0
    return f"{glance.task.title}: step {glance.step:,} of {train.steps:,}, {rate:,.0f} images/s"
