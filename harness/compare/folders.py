"""Results folders and promoted baselines as tables of trials; what cannot be read in full is refused, line by line."""

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.compare.pairs import COLUMNS
from harness.errors import UsageError
from harness.results import (
    COUNTED,
    SPEED,
    Place,
    RemotePlace,
    copy_into,
    passed_over_line,
    place_of,
    problems_in,
    published,
    read,
    require_results,
    to_frame,
)

if TYPE_CHECKING:
    import pandas as pd

BASELINES = Path("baselines")
"""Where baselines are kept unless told, relative to the folder the command is typed in."""

PROVENANCE = "baseline.json"
"""The file in a baseline that says where it comes from."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Trials(NamedTuple):
    """The trials of a results folder.

    Attributes:
        frame: in the columns that a comparison needs, each once.
        problems: a line for each file that cannot be used.
        remarks: what else is odd about the files.
        versions: their schema versions, and how many have each.
    """

    frame: "pd.DataFrame"
    problems: list[str]
    remarks: list[str]
    versions: Counter[int]


def trials_of(folder: str | Place) -> Trials:
    """Read them.

    Raises:
        UsageError: it is no results folder, or it holds no trial.
    """
    place = require_results(folder)
    try:
        content = read(place, "trials", COLUMNS)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from error
    if not content.problems and len(content.rows) == 0:
        raise UsageError(f"{folder}: no trial in it; give the results.dir of a run that has ended")
    problems = [f"{problem}; remove the file, or measure its trial again" for problem in content.problems]
    remarks = [f"{place}: {line}" for line in passed_over_line(place)] + content.remarks
    return Trials(to_frame(content.rows), problems, remarks, content.versions)


def resolve(given: str, baselines: Path) -> Place:
    """A results folder, or the folder of the baseline of that name.

    Raises:
        UsageError: it is neither.
    """
    if not given.strip():
        raise UsageError("BASE is empty; give a results folder or the name of a baseline")
    place = place_of(given)
    if isinstance(place, RemotePlace):
        return place
    try:
        exists = place.exists()
    except OSError as error:
        raise UsageError(f"{given}: cannot be read ({error.strerror}); give a results folder or a baseline") from error
    if (place / "trials").is_dir():
        return place
    if _NAME.fullmatch(given) and (baselines / given / "trials").is_dir():
        return baselines / given
    if exists:
        require_results(place)
    known = ", ".join(names(baselines)) or "none"
    raise UsageError(f"{given}: no results folder, and no baseline in {baselines} (there: {known})")


def names(baselines: Path) -> list[str]:
    """The promoted ones."""
    return sorted(path.parent.name for path in baselines.glob(f"[!.]*/{PROVENANCE}"))


def promote(results: Place, baselines: Path, name: str, *, force: bool) -> Path:
    """Keep a copy of a results folder as a baseline: there in full, or not at all.

    Args:
        results: the folder.
        baselines: where baselines are kept: a folder of this machine.
        name: of the baseline.
        force: replace one of that name.

    Returns:
        the folder of the baseline.

    Raises:
        UsageError: the name is none, it is taken, or the results cannot serve as a baseline.
    """
    target = _target(baselines, name)
    _require_free(target, force=force)
    trials = _sound(results)
    try:
        with published(target, replace=force) as draft:
            # again, now that nobody else can write it, and one that was killed amid its replacement is back
            _require_free(target, force=force)
            _copy(results, draft)
            (draft / PROVENANCE).write_text(json.dumps(provenance(trials, results, name), indent=2) + "\n")
    except OSError as error:
        raise UsageError(f"--baselines {baselines}: cannot write there ({error.strerror})") from error
    return target


def _sound(results: Place) -> "pd.DataFrame":
    """The trials of a folder that can serve as a baseline: all its tables are as the program wrote them."""
    trials = trials_of(results).frame
    if problems := problems_in(results):
        check = f"python -m harness.results validate {shlex.quote(str(results))}"
        more = f" (and {len(problems) - 1} more: {check})" if problems[1:] else ""
        raise UsageError(f"{results}: not promoted, for it is not sound: {problems[0]}{more}")
    if not trials["status"].isin(COUNTED).any():
        raise UsageError(f"{results}: every trial in it failed; promote results to compare with")
    return trials


def _target(baselines: Path, name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise UsageError(f"--name {name}: give letters, digits, dots, dashes and underscores, a letter or digit first")
    return baselines / name


def _require_free(target: Path, *, force: bool) -> None:
    if target.exists() and not (target / PROVENANCE).is_file():
        raise UsageError(f"{target}: exists and is no baseline; give another --name")
    if target.exists() and not force:
        raise UsageError(f"{target}: is promoted already; give another --name, or --force to replace it")


def _copy(results: Place, draft: Path) -> None:
    """Copy the tables, in few files."""
    try:
        copy_into(results, draft)
    except FileNotFoundError as error:
        raise UsageError(f"{results}: {error.filename} is gone; wait until nothing changes the folder") from error


def provenance(trials: "pd.DataFrame", results: Place, name: str) -> dict[str, Any]:
    """Where a baseline comes from: date, commits, versions, hardware, and how many trials."""
    columns = ("git_commit", "git_dirty", "torch_version", *SPEED)
    return {
        "name": name,
        "promoted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "source": str(results),
        "measured_from": str(trials["measured_at"].min()),
        "measured_to": str(trials["measured_at"].max()),
        "trials": len(trials),
        "statuses": {str(key): int(count) for key, count in trials["status"].value_counts().items()},
        **{column: _distinct(trials[column].dropna().unique().tolist()) for column in columns},
    }


def _distinct(values: Sequence[Any]) -> list[Any]:
    return sorted((value.item() if hasattr(value, "item") else value for value in values), key=str)
