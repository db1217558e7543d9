"""The table that ends a benchmark: figures, what is required of them, and whether it is met."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.markdown import aligned_table


@dataclass(frozen=True)
class BenchmarkFigure:
    """A line of the table; ``met`` is None where nothing is required."""

    name: str
    value: str
    required: str = ""
    met: bool | None = None


def report(figures: Sequence[BenchmarkFigure], *, header: str, quick: bool) -> int:
    """Print what the figures hold for, the table and what was missed.

    Returns:
        the exit code: 0 if every requirement is met, else 1.
    """
    print(f"{header}\n")
    if quick:
        print("--quick: a smoke test, NOT FOR QUOTING\n")
    _show(figures)
    missed = [figure.name for figure in figures if figure.met is False]
    print("\nmissed: " + "; ".join(missed) if missed else "\nevery requirement is met")
    return 1 if missed else 0


def _show(figures: Sequence[BenchmarkFigure]) -> None:
    """One table, in Markdown."""
    met = {True: "yes", False: "NO", None: ""}
    lines = [(figure.name, figure.value, figure.required, met[figure.met]) for figure in figures]
    print(aligned_table(("figure", "value", "required", "met"), lines))
