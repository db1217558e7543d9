"""The command line of ``python -m harness.compare``."""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.arguments import Parser, one_line_errors
from harness.compare import output
from harness.compare.calibration import Calibration, as_file, calibrate, foreign, read_thresholds
from harness.compare.checks import mixed_versions, shared
from harness.compare.folders import BASELINES, Trials, promote, resolve, trials_of
from harness.compare.gate import compare_trials
from harness.compare.judgement import ERROR, OK, GateResult, Rules
from harness.compare.junit import junit
from harness.compare.measures import KINDS, parse_values, thresholds_with
from harness.errors import UsageError
from harness.paths import typed_path
from harness.results import Place, place_of
from harness.wording import counted, one_line, printable

_USAGE = """\
python -m harness.compare BASE CANDIDATE [options]
       python -m harness.compare --calibrate A1 A2 [A3 ...] [--thresholds FILE] [options]
       python -m harness.compare promote RESULTS [--baselines DIR] [--name NAME] [--force]"""

_ABOUT = """\
Compares two results folders, paired by config and seed: steps to the targets, final test loss and accuracy,
images/s. A change counts if it exceeds its threshold and is separated from noise (Holm over all arms and measures).
A folder may be an address: s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or file:///FOLDER.
BASE may be the name of a promoted baseline. --calibrate measures what two runs of one program differ by."""

_CODES = (
    "Exit codes: 0 ok, 1 regression, 3 inconclusive, 2 error (different hardware, missing arms, unreadable files), "
    "130 Ctrl-C."
)


@one_line_errors
def main(arguments: Sequence[str]) -> int:
    """Do what the command says; the exit code."""
    if arguments[:1] == ["promote"]:
        return _promote(arguments[1:])
    return _compare(arguments)


def _promote_parser() -> Parser:
    parser = Parser(prog="python -m harness.compare promote", description="Keep a results folder as a baseline.")
    parser.add_argument("results", metavar="RESULTS", type=place_of, help="results folder, or its address")
    _add_baselines(parser)
    parser.add_argument("--name", default="main", help="of the baseline (default: main)")
    parser.add_argument("--force", action="store_true", help="replace the baseline of that name")
    return parser


def _promote(arguments: Sequence[str]) -> int:
    given = _promote_parser().parse_args(arguments)
    target = promote(given.results, given.baselines, given.name, force=given.force)
    print(one_line(f"promoted {given.results} to {target}"))
    return OK


def _local(given: str) -> Path:
    place = place_of(given, "--baselines ")
    if not isinstance(place, Path):
        raise UsageError(f"--baselines {given}: baselines are kept on this machine; give a folder")
    return place


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--baselines", metavar="DIR", type=_local, default=BASELINES, help=f"where they are kept (default: {BASELINES})"
    )


def _parser() -> argparse.ArgumentParser:
    kinds = ", ".join(KINDS)
    parser = Parser(
        prog="python -m harness.compare", usage=_USAGE, description=_ABOUT, epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("folders", metavar="FOLDER", nargs="+", help="results folder; the first may be the name of a baseline")
    add("--calibrate", action="store_true", help="the folders are runs of one program: measure the noise floor")
    add("--thresholds", metavar="FILE", type=typed_path, help="read thresholds from here; with --calibrate, write them")
    add("--threshold", metavar="KIND=VALUE", action="append", default=[], help=f"KIND is one of {kinds}; 5%% is 0.05")
    add("--effect", metavar="KIND=VALUE", action="append", default=[], help="with --calibrate: what shall be seen")
    add("--judge", metavar="KIND[,KIND]", help="judge these only and show the others (default: all)")
    add("--alpha", type=float, default=0.05, help="chance of any false claim (default: 0.05)")
    add("--allow-missing", action="store_true", help="judge what is there although trials of BASE are missing")
    add("--allow-different-hardware", action="store_true", help="judge convergence only")
    _add_baselines(parser)
    add("--format", choices=("text", "md", "json", "junit"), default="text", help="of the output (default: text)")
    for name in ("markdown", "json", "junit"):
        add(f"--{name}", metavar="FILE", type=typed_path, help=f"write {name} there as well")
    return parser


def _compare(arguments: Sequence[str]) -> int:
    given = _parser().parse_args(arguments)
    rules = _rules(given)
    if given.calibrate:
        return _calibrate(given, rules)
    if len(given.folders) != 2:
        raise UsageError(f"{counted(len(given.folders), 'folder')} given; give BASE and CANDIDATE")
    if given.effect:
        raise UsageError("--effect belongs to --calibrate")
    outcome = _outcome(given, rules)
    forms = {"text": output.text, "md": output.markdown, "json": _json_of, "junit": junit}
    _write(given, {name: partial(form, outcome) for name, form in forms.items()}, failed=bool(outcome.errors))
    return outcome.exit_code


def _outcome(given: argparse.Namespace, rules: Rules) -> GateResult:
    """What the gate says; folders that cannot be compared are an outcome too, for the reports to show."""
    names = (given.folders[0], given.folders[1])
    try:
        sides, problems = _read([resolve(names[0], given.baselines), _folder(names[1], "CANDIDATE")], names)
    except UsageError as error:
        return GateResult(names, rules, errors=(str(error),))
    if problems:
        return GateResult(names, rules, errors=tuple(problems))
    outcome = compare_trials(
        sides[0].frame,
        sides[1].frame,
        rules,
        names=names,
        allow_missing=given.allow_missing,
        allow_different_hardware=given.allow_different_hardware,
    )
    more = [*mixed_versions([side.versions for side in sides], names)]
    if outcome.errors:
        return replace(outcome, errors=(*outcome.errors, *more))
    more += foreign(given.thresholds, sides[0].frame) if given.thresholds else []
    return replace(outcome, notes=(*outcome.notes, *more))


def _folder(given: str, name: str) -> Place:
    if not given.strip():
        raise UsageError(f"{name} is empty; give a results folder")
    return place_of(given)


def _read(folders: Sequence[Place], names: Sequence[str]) -> tuple[list[Trials], list[str]]:
    """The trials of each folder, and why they cannot be used; what is odd is said at once."""
    sides = [trials_of(folder) for folder in folders]
    for side in sides:
        for remark in side.remarks:
            print(f"warning: {one_line(remark)}", file=sys.stderr)
    problems = [problem for side in sides for problem in side.problems]
    return sides, problems or list(shared([side.frame for side in sides], names))


def _rules(given: argparse.Namespace) -> Rules:
    if not 0 < given.alpha < 1:
        raise UsageError(f"--alpha {given.alpha:g}: must lie between 0 and 1, e.g. 0.05")
    judged = tuple(KINDS) if given.judge is None else tuple(given.judge.split(","))
    if unknown := [name for name in judged if name not in KINDS]:
        raise UsageError(f"--judge {given.judge}: no {unknown[0]!r}; give some of: {', '.join(KINDS)}")
    kept = read_thresholds(given.thresholds) if given.thresholds and not given.calibrate else thresholds_with({})
    changed = parse_values(given.threshold, "--threshold")
    return Rules(thresholds={**kept, **changed}, alpha=given.alpha, judged=judged)


def _calibrate(given: argparse.Namespace, rules: Rules) -> int:
    if len(given.folders) < 2:
        raise UsageError("--calibrate: one folder given; give at least two runs of the same program")
    if given.threshold or given.format == "junit" or given.junit:
        raise UsageError("--calibrate: takes no --threshold and writes no junit; it measures thresholds")
    effects = parse_values(given.effect, "--effect")
    sides, problems = _read([_folder(folder, "a folder") for folder in given.folders], given.folders)
    frames = [side.frame for side in sides]
    if problems:
        calibration = Calibration((), {}, 0, rules, tuple(problems))
    else:
        calibration = calibrate(frames, given.folders, rules, effects)
    content = as_file(calibration, frames, given.folders)
    forms = {
        "text": partial(output.calibration_text, calibration),
        "md": partial(output.calibration_markdown, calibration),
        "json": partial(_dumped, {**content, "errors": list(calibration.errors)}),
    }
    _write(given, forms, failed=bool(calibration.errors))
    if calibration.errors:
        return ERROR
    if given.thresholds:
        _write_file(given.thresholds, _dumped(content), "--thresholds")
    return OK


def _json_of(outcome: GateResult) -> str:
    return _dumped(output.as_json(outcome))


def _dumped(content: dict[str, Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _write(given: argparse.Namespace, forms: Mapping[str, Callable[[], str]], *, failed: bool) -> None:
    """To the terminal in the format asked for, errors as lines; and into the files."""
    # a machine reads the other formats from standard output, errors included
    print(
        printable(forms[given.format]()), end="", file=sys.stderr if failed and given.format == "text" else sys.stdout
    )
    for name, path in (("md", given.markdown), ("json", given.json), ("junit", given.junit)):
        if path is not None:
            _write_file(path, forms[name](), f"--{'markdown' if name == 'md' else name}")


def _write_file(path: Path, content: str, option: str) -> None:
    try:
        path.write_text(printable(content), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot write there ({error.strerror})") from error
