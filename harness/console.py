"""What a person sees: progress on a terminal, a line per trial, the tables at the end (at most 100 columns)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from harness import article
from harness.results import CHOICES, arm_columns, text_of
from harness.trial import TrialResult

_WIDTH = 100
_MOST_ROWS = 40

Row = dict[str, Any]


def console() -> Console:
    """Standard output; outside a terminal 100 columns wide."""
    console = Console(highlight=False, soft_wrap=False)
    width = min(console.width, _WIDTH) if console.is_terminal else _WIDTH
    return Console(highlight=False, width=width)


@contextmanager
def progress(out: Console, title: str, *, steps: int, batch_size: int) -> Iterator[Any]:
    """A bar with rate and time left while a trial runs; quiet where nobody watches.

    Yields:
        the callback for :func:`harness.trial.run_trial`.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")]
    with Progress(*columns, TimeRemainingColumn(), console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(Text(title).markup, total=steps, rate="")

        def advance(step: int, seconds: float) -> None:
            rate = f"{step * batch_size / seconds:,.0f} images/s" if seconds else "setting up"
            bar.update(task, completed=step, rate=rate)

        yield advance


def trial_line(title: str, row: Row) -> str:
    """One line about a finished trial, for terminals and logs alike."""
    if row["status"] != "ok":
        return f"{title}: {row['status']} after {row['steps_done'] or 0} steps: {row['error_message']}"
    loss = f"loss {_loss(row['train_loss_first'])} -> {_loss(row['train_loss_last'])}"
    accuracy = f"test acc {row['test_accuracy_before']:.3f} -> {row['test_accuracy_after']:.3f}"
    return f"{title}: ok, {loss}, {accuracy}, {row['images_per_s_median']:,.0f} images/s"


def show(out: Console, results: Sequence[TrialResult]) -> None:
    """The tables of a run: every trial, then the article's figures beside ours where the run has its experiment."""
    out.print(_trials_table(results))
    if len(results) > _MOST_ROWS:
        out.print(f"({len(results) - _MOST_ROWS} more trials are in the results)")
    for line in _diagnosis_lines([result.trial for result in results]):
        out.print(line, markup=False)
    ours = [result for result in results if article.applies(result.trial)]
    if ours:
        out.print(_article_table(ours))
        out.print(article.NOTES)


def _trials_table(results: Sequence[TrialResult]) -> Table:
    rows = [result.trial for result in results]
    several = arm_columns({name: [row[name] for row in rows] for name in CHOICES}, [row["arm_key"] for row in rows])
    seed = ["seed"] if len({row["seed"] for row in rows}) > 1 else []
    choices = ["init", *seed, *(name for name in several if name != "init")]
    table = Table(title="trials (first value above, last below)", title_justify="left")
    for key in choices:
        table.add_column(key, overflow="fold")
    for title in ("status", "train loss", "train acc", "test acc", "images/s,\nof matmul", "moved", "diagnosis"):
        table.add_column(title, justify="left" if title in ("status", "moved", "diagnosis") else "right")
    for row, result in zip(rows[:_MOST_ROWS], results, strict=False):
        chosen = [Text(text_of(row[key])) for key in choices]
        table.add_row(*chosen, row["status"], *_outcome(row), _moved(result), row["diagnosis"] or "-")
    return table


def _diagnosis_lines(rows: Sequence[Row]) -> list[str]:
    """Why an initializer cannot train as it should, once for all trials it says so of."""
    lines = [f"{row['init']}: {row['diagnosis']}, {row['diagnosis_reason']}" for row in rows if row["diagnosis_reason"]]
    return list(dict.fromkeys(lines))


def _outcome(row: Row) -> list[str]:
    def change(first: float | None, last: float | None, form: str) -> str:
        return "-" if first is None or last is None else f"{first:{form}}\n{last:{form}}"

    rate, share = row["images_per_s_median"], row["matmul_share"]
    return [
        "-"
        if row["train_loss_first"] is None
        else f"{_loss(row['train_loss_first'])}\n{_loss(row['train_loss_last'])}",
        change(row["train_accuracy_first"], row["train_accuracy_last"], ".2f"),
        change(row["test_accuracy_before"], row["test_accuracy_after"], ".3f"),
        "-" if rate is None or share is None else f"{rate:,.0f}\n{share:.0%}",
    ]


def _loss(value: float) -> str:
    return f"{value:.6f}" if value < 100 else f"{value:.4g}"


def _moved(result: TrialResult) -> str:
    """Which parameters changed at all."""
    moved = [name for name, difference in result.differences.items() if bool(difference.any())]
    if len(moved) == 1:
        return f"only {moved[0]}"
    return f"{len(moved)} of {len(result.differences)}" if result.differences else "-"


def _article_table(results: Sequence[TrialResult]) -> Table:
    table = Table(title="the zero kernel: the article's printed run and ours", title_justify="left")
    table.add_column("figure")
    table.add_column("printed", justify="right")
    for result in results:
        table.add_column(f"lr {result.trial['lr']:g} seed {result.trial['seed']}", justify="right")
    columns = [article.figures(result.trial, result.curves["train_accuracy"].tolist()) for result in results]
    for figure, printed in article.PRINTED.items():
        table.add_row(figure, printed, *(column[figure] for column in columns))
    return table
