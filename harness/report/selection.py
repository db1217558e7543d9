"""Which trials a report is on: those of a folder that can be read, narrowed by ``--where``."""

from collections.abc import Sequence

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
        # a value may hold commas itself, as init=zero[bias=ones,gain=2] does
        wanted = [values] if (texts == values).any() else values.split(",")
        unknown = [value for value in wanted if not (texts == value).any()]
        if unknown:
            there = ", ".join(sorted(texts.unique())[:_MOST_NAMED])
            raise UsageError(f"--where {given}: no trial has {column}={unknown[0]}; there is: {there}")
        trials = trials[texts.loc[trials.index].isin(wanted)]
    if trials.empty:
        raise UsageError(f"--where {' --where '.join(where)}: no trial has all of these; give fewer conditions")
    rest = [frame[frame["trial_id"].isin(trials["trial_id"])] for frame in (frames.curves, frames.layers)]
    return Frames(trials, *rest)
