"""Which trials a report is on: those of a folder that can be read, narrowed by ``--where``."""

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation

from harness.errors import UsageError
from harness.results import CHOICES, Frames, Place, arrow_schema, load_quietly, require_results, text_of

_CHOICES = (*CHOICES, "arm_key", "seed", "status")
_MOST_NAMED = 20
# of the layers, the largest table, only what the figures are made of
_LAYERS = (
    *("trial_id", "parameter", "step", "weight_norm", "update_norm", "bit_equal"),
    *("output_moment", "output_moment_theory", "gradient_gain", "gradient_gain_theory"),
)


def read(folder: Place) -> tuple[Frames, list[str]]:
    """The frames of a folder, and what is wrong with its files, a line each.

    Raises:
        UsageError: there is nothing to report.
    """
    require_results(folder)
    trials = [name for name in arrow_schema("trials").names if name != "config"]
    columns = {"trials": trials, "curves": arrow_schema("curves").names, "layers": _LAYERS}
    frames, lines, versions = load_quietly(folder, columns=columns, categories=True)
    problems = [" ".join(line.split()) for line in lines]
    if frames.trials.empty:
        unread = f" ({len(problems)} of its files cannot be read: {problems[0]})" if problems else ""
        raise UsageError(f"{folder}: no readable trial in it{unread}; give the results.dir of a run that has ended")
    if len(versions) > 1:
        counts = ", ".join(f"{count} of version {version}" for version, count in sorted(versions.items()))
        problems.append(f"{folder}: mixed schema versions in trials ({counts}); columns that a version lacks are empty")
    return frames, problems


def narrowed(frames: Frames, where: Sequence[str]) -> Frames:
    """The trials that have one of the values in every ``COLUMN=VALUE,VALUE``, and what belongs to them.

    Raises:
        UsageError: an unknown column or value, or nothing is left.
    """
    if not where:
        return frames
    trials = frames.trials
    for given in where:
        column, _, values = given.partition("=")
        if column not in _CHOICES:
            raise UsageError(
                f"--where {given}: no such choice; give COLUMN=VALUE,VALUE, COLUMN of: {', '.join(_CHOICES)}"
            )
        texts = frames.trials[column].map(text_of)
        wanted = _wanted(f"--where {given}", column, values, sorted(texts.unique()))
        trials = trials[texts.loc[trials.index].isin(wanted)]
    if trials.empty:
        raise UsageError(f"--where {' --where '.join(where)}: no trial has all of these; give fewer conditions")
    rest = [frame[frame["trial_id"].isin(trials["trial_id"])] for frame in (frames.curves, frames.layers)]
    return Frames(trials, *rest)


def _wanted(given: str, column: str, values: str, there: Sequence[str]) -> list[str]:
    """The values that are asked for, as they are written in the column.

    A value may hold commas itself, as ``init=zero[bias=ones,gain=2]`` does. So a comma separates only where what stands
    on each side of it is a value.
    """
    every = {_canonical(text): text for text in there} | {text: text for text in there}
    found = _split(values, every)
    if found is None:
        known = {text for end in _ends(values) if (text := _known(values[:end], every))}
        rest = values.removeprefix(max(known, key=len, default="")).removeprefix(",")
        unknown = (rest if known else values).partition(",")[0]
        raise UsageError(f"{given}: no trial has {column}={unknown}; there is: {', '.join(there[:_MOST_NAMED])}")
    return found


def _split(values: str, every: Mapping[str | Decimal, str]) -> list[str] | None:
    """The values that some text is, with commas between them; None if it is none."""
    for end in _ends(values):
        text = _known(values[:end], every)
        if text is not None and end == len(values):
            return [text]
        if text is not None and (rest := _split(values[end + 1 :], every)) is not None:
            return [text, *rest]
    return None


def _ends(values: str) -> list[int]:
    """Where the first of several values may end, the longest first, because one value may begin another."""
    return [len(values), *reversed([place for place, each in enumerate(values) if each == ","])]


def _known(text: str, every: Mapping[str | Decimal, str]) -> str | None:
    return every.get(text, every.get(_canonical(text)))


def _canonical(text: str) -> str | Decimal:
    """A number as such, so that 1e-4 is 0.0001; other texts as they are, truth values in lower case as Hydra's."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text.lower() if text.lower() in ("true", "false") else text
    return number if number.is_finite() else text
