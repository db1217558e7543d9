"""The settings of each arm: the choices that are columns, and what stands in the config alone.

Reading the configs of many trials costs time and memory, so it is done only where the columns leave something open:
where an option in brackets is part of the name of an initializer or of a model, as in ``normal[options.std=0.1]``, or
where two arms have equal columns.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.grouping import ArmLabels
from harness.config import INCIDENTAL
from harness.results import CHOICES, COLUMNS, EXECUTION, Place, load_quietly

_IN_COLUMNS = frozenset(column.source for column in COLUMNS["trials"] if column.source)
# the label of the model names what a user changed in the layers
_NOT_NAMED = frozenset({"model.layers"})
# what a label names that stands in the config's leaves too; the layers of a model stay in its label
_IN_LEAVES = {"init": re.compile(r"(\[).*$"), "model": re.compile(r"(\[|,)options[.=].*$")}


@dataclass(frozen=True)
class Settings:
    """What tells arms apart.

    Attributes:
        table: one row for each ``arm_key``, which is its index; a column for each setting that varies: choices by the
            name of their column, others by their path in the config, such as ``init.options.std``.
        numeric: the columns that hold numbers and may be an axis; how a trial is executed is none.
    """

    table: pd.DataFrame
    numeric: list[str]


def needs_configs(trials: pd.DataFrame, labels: ArmLabels) -> bool:
    """Whether some arms differ in an option that only their configs tell as a number.

    Args:
        trials: table.
        labels: of :func:`harness.analysis.label_arms` for these trials.
    """
    bracketed = (
        pattern.search(str(label)) for column, pattern in _IN_LEAVES.items() for label in trials[column].unique()
    )
    return any(bracketed) or "arm_key" in labels.columns


def read_configs(folder: str | Place, trials: pd.DataFrame) -> "pd.Series[str]":
    """Return the config of one trial of each arm, as JSON, by ``arm_key``.

    Args:
        folder: the results that the trials are of.
        trials: table, which may lack the column ``config``.
    """
    one_each = trials.drop_duplicates("arm_key").set_index("arm_key")
    if "config" in one_each:
        return one_each["config"]
    read = load_quietly(folder, columns={"trials": ["trial_id", "config"]}).frames.trials
    texts = read.drop_duplicates("trial_id").set_index("trial_id")["config"]
    return one_each["trial_id"].map(texts).dropna()


def one_of_each_arm(trials: pd.DataFrame, configs: "pd.Series[str] | None") -> pd.DataFrame:
    """Return the first trial of each arm, by ``arm_key``, with its config in the column ``config`` if it is known.

    Args:
        trials: table.
        configs: of :func:`read_configs`, or None.
    """
    one_each = trials.drop_duplicates("arm_key").set_index("arm_key")
    return one_each if configs is None else one_each.assign(config=configs.reindex(one_each.index))


def settings_of(trials: pd.DataFrame, configs: "pd.Series[str] | None" = None) -> Settings:
    """Collect the settings that vary among the arms of these trials.

    Args:
        trials: table.
        configs: of :func:`read_configs`; None: the columns tell everything.
    """
    one_each = one_of_each_arm(trials, configs)
    columns: dict[str, Any] = {name: one_each[name] for name in CHOICES if name in one_each}
    if configs is not None:
        texts = configs.reindex(one_each.index)
        columns |= {name: _shortened(one_each[name], texts, pattern) for name, pattern in _IN_LEAVES.items()}
        columns |= _beside_columns(texts)
    varying = {name: values for name, values in columns.items() if len(values.astype(object).unique()) > 1}
    numeric = [name for name, values in varying.items() if name not in EXECUTION and _is_numeric(values)]
    return Settings(pd.DataFrame(varying, index=one_each.index), numeric)


def _shortened(labels: "pd.Series[Any]", configs: "pd.Series[str]", pattern: re.Pattern[str]) -> "pd.Series[Any]":
    """Labels without what their config says of each option by itself; whole where the config is not known."""
    short = [
        pattern.sub(lambda cut: "" if cut[1] == "[" else "]", str(label)) if isinstance(config, str) else label
        for label, config in zip(labels, configs, strict=True)
    ]
    return pd.Series(short, labels.index, dtype=object)


def _is_numeric(values: "pd.Series[Any]") -> bool:
    """Whether every value that is there is a number; a truth value is none."""
    there = values.dropna()
    if pd.api.types.is_bool_dtype(there.dtype):
        return False
    return pd.api.types.is_numeric_dtype(there.dtype) or all(_is_number(value) for value in there)


def _is_number(value: Any) -> bool:  # noqa: ANN401 - whatever a config holds
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _beside_columns(configs: "pd.Series[str]") -> dict[str, "pd.Series[Any]"]:
    """Path -> the value of each arm, for settings without a column that determine results; lists as text."""
    rows = [dict(_leaves(parsed(text))) for text in configs]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: pd.Series([row.get(name) for row in rows], configs.index, dtype=object) for name in names}


def parsed(text: object) -> dict[str, Any]:
    """Return the config; {} where it is no JSON object, as in results of another origin."""
    try:
        config = json.loads(text) if isinstance(text, str) else {}
    except json.JSONDecodeError:
        return {}
    return config if isinstance(config, dict) else {}


def _leaves(tree: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        name = f"{path}{key}"
        if name in INCIDENTAL or name in _IN_COLUMNS or name in _NOT_NAMED or name == "seed":
            continue
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, json.dumps(value) if isinstance(value, list) else value
