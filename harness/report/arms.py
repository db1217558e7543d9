"""The arms of a results folder: what was varied, the values of each, how its trials ended."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from harness.analysis import ArmLabels
from harness.report.model import ArmView, FailureRow, Filter
from harness.report.numbers import one
from harness.results import CHOICES, STATUSES, is_missing, text_of
from harness.wording import few

_MOST_REASON = 160
_STATUS_ORDER = {name: place for place, name in enumerate(STATUSES)}
DETAILED_BEST, DETAILED_LAST = 950, 50
"""Arms in between, by the ranking, have no curves, maps and comparisons: a browser has to hold the page."""


@dataclass(frozen=True)
class Arms:
    """Every arm by its number, which follows the order given to :func:`number`.

    Attributes:
        labels: which arm each trial belongs to, and by which columns arms are told apart.
        names: arm -> its label.
        numbers: label -> arm.
        of_trial: trial_id -> arm.
        trials: the trials, with their arm in the column ``arm``.
        detailed: the arms that figures and comparisons are made of.
    """

    labels: ArmLabels
    names: list[str]
    numbers: dict[str, int]
    of_trial: dict[str, int]
    trials: pd.DataFrame
    detailed: frozenset[int]

    @property
    def by(self) -> list[str]:
        """The columns that tell arms apart."""
        return self.labels.columns


def kept_places(count: int) -> list[int]:
    """Return the places of the best and the last of so many arms, best first; all if there are few enough."""
    if count <= DETAILED_BEST + DETAILED_LAST:
        return list(range(count))
    return [*range(DETAILED_BEST), *range(count - DETAILED_LAST, count)]


def number(trials: pd.DataFrame, labels: ArmLabels, order: Sequence[str]) -> Arms:
    """Number the arms, those named in ``order`` (labels of arms with finished runs, best first) before the others."""
    names = list(dict.fromkeys([*order, *sorted(labels.of_trials.unique())]))
    numbers = {name: index for index, name in enumerate(names)}
    arm = labels.of_trials.map(numbers).astype(int)
    of_trial = dict(zip(trials["trial_id"], arm, strict=True))
    all_fit = len(names) <= DETAILED_BEST + DETAILED_LAST
    detailed = frozenset(kept_places(len(names) if all_fit or not order else len(order)))
    return Arms(labels, names, numbers, of_trial, trials.assign(arm=arm), detailed)


def described(arms: Arms) -> list[ArmView]:
    """For each arm its name, values, trials by status, and the commonest diagnosis of its trials in words."""
    columns = {name: arms.trials[name].tolist() for name in (*arms.by, "status", "diagnosis", "diagnosis_reason")}
    diagnoses = list(zip(columns["diagnosis"], columns["diagnosis_reason"], strict=True))
    places: dict[int, list[int]] = {}
    for place, arm in enumerate(arms.trials["arm"].tolist()):
        places.setdefault(arm, []).append(place)
    return [
        ArmView(
            id=arm,
            name=arms.names[arm],
            values={column: text_of(columns[column][own[0]]) for column in arms.by},
            planned=len(own),
            statuses=dict(Counter(columns["status"][place] for place in own)),
            diagnosis=_diagnosis([diagnoses[place] for place in own]),
        )
        for arm, own in sorted(places.items())
    ]


def _diagnosis(diagnoses: Sequence[tuple[Any, Any]]) -> str:
    """The commonest (diagnosis, reason) on why the arm does not learn, "" if it is fine or was never made."""
    kinds = Counter(kind for kind, _ in diagnoses if isinstance(kind, str))
    kind = _commonest(kinds)
    if kind in ("", "fine"):
        return ""
    reason = _commonest(Counter(text for own, text in diagnoses if own == kind and isinstance(text, str)))
    text = f"{kind}: {reason}" if reason else kind
    return text if len(text) <= _MOST_REASON else f"{text[: _MOST_REASON - 3]}..."


def _commonest(counts: Counter[str]) -> str:
    """Return the commonest name, the first by the alphabet among equals; "" if there is none."""
    return min(counts, key=lambda name: (-counts[name], name), default="")


def filters(arms: Arms, views: Sequence[ArmView]) -> list[Filter]:
    """Each column and its values, numbers in their order; a column with one value is no filter."""
    texts = {column: {view.values[column] for view in views} for column in arms.by}  # noqa: PD011 - no table
    return [Filter(column, sorted(own, key=_in_order)) for column, own in texts.items() if len(own) > 1]


def _in_order(text: str) -> tuple[int, float, str]:
    try:
        return (0, float(text), "")
    except ValueError:
        return (1, 0.0, text)


def constants(arms: Arms) -> list[tuple[str, str]]:
    """The choices that are the same in every trial, and their values."""
    fixed = [column for column in CHOICES if column not in arms.by and column in arms.trials]
    first = arms.trials.iloc[0]
    return [(column, text_of(first[column])) for column in fixed if not is_missing(first[column])]


def failures(arms: Arms) -> list[FailureRow]:
    """Per arm, status and error: how many trials, which seeds, why; the most frequent first."""
    bad = arms.trials[arms.trials["status"] != "ok"]
    keys = ["arm", "status", "error_type", "error_message"]
    rows = [_failure(arms, key, group) for key, group in bad.groupby(keys, dropna=False, sort=True)]
    return sorted(rows, key=lambda row: (-row.n, _STATUS_ORDER.get(row.status, len(_STATUS_ORDER))))


def _failure(arms: Arms, key: Any, group: pd.DataFrame) -> FailureRow:  # noqa: ANN401 - a group's key has the columns' types
    arm, status, *reasons = key
    words = [str(part) for part in reasons if not pd.isna(part)]
    seeds = sorted({one(seed) or 0 for seed in group["seed"]})
    return FailureRow(
        arm=int(arm),
        name=arms.names[int(arm)],
        status=str(status),
        n=len(group),
        seeds=few((f"{seed:g}" for seed in seeds), most=10),
        why=": ".join(words) or "no reason was recorded",
    )
