"""The verdicts of a ranking: what can be said of an arm, in one word for programs and in words for readers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Verdict = Literal[
    "better",
    "worse",
    "not separated",
    "n too small to tell",
    "one run in effect",
    "never",
    "no finished run",
    "planned for fewer steps",
    "reference",
    "only arm",
]
"""What the column ``verdict`` of a ranking holds."""

Tone = Literal["best", "worse", "never", "bad", "unclear"]
"""How a page colours a verdict."""


@dataclass(frozen=True)
class Wording:
    """How a verdict is shown.

    Attributes:
        tone: how a page colours it.
        text: in words; ``{n}`` and ``{budget}`` stand for the number of runs and how long they were followed.
        of_first: the same of the arm that the others are compared with, where the data chose it.
    """

    tone: Tone
    text: str
    of_first: str


VERDICTS: dict[Verdict, Wording] = {
    "better": Wording("best", "better", "better than every other"),
    "worse": Wording("worse", "worse", "worse"),
    "not separated": Wording("unclear", "not separated", "first; not separated"),
    "n too small to tell": Wording("unclear", "n too small to tell", "first; n too small to tell"),
    "one run in effect": Wording("unclear", "one run in effect", "first; one run in effect"),
    "never": Wording("never", "never in {n} of {n} within {budget}", "never in {n} of {n} within {budget}"),
    "no finished run": Wording("bad", "no finished run", "no finished run"),
    "planned for fewer steps": Wording("bad", "planned for fewer steps", "planned for fewer steps"),
    "reference": Wording("unclear", "reference", "reference"),
    "only arm": Wording("unclear", "only arm", "only arm"),
}
"""Verdict -> how it is shown."""


def said(row: Mapping[str, Any], budget: str, *, first: bool = False) -> str:
    """Return the verdict of a ranking's row in words, such as ``never in 6 of 6 within 100 steps``.

    Args:
        row: with the columns ``verdict`` and ``n``.
        budget: how long runs were followed, in words.
        first: whether it is the arm that the others are compared with.
    """
    wording = VERDICTS[row["verdict"]]
    return (wording.of_first if first else wording.text).format(n=row["n"], budget=budget)
