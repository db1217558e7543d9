"""The command ``python -m harness.results``: check a results folder, or merge its files."""

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.results import merging
from harness.results.checking import problems_in
from harness.results.reading import read

_USAGE = "usage: python -m harness.results validate|compact DIR"
_HELP = f"""{_USAGE}

validate  check the results folder DIR: a line for each fault
compact   merge the files of each table in DIR into one, which loads quickly; no row is lost, whatever ends the process

Exit codes: 0 all is sound, 1 something is not (a line says what), 2 a wrong command."""


def main(arguments: Sequence[str]) -> int:
    """``validate DIR`` or ``compact DIR``: 0 if all is sound, 1 with a line per problem, 2 if the command is wrong."""
    if {"-h", "--help"} & set(arguments):
        print(_HELP)
        return 0
    match arguments:
        case ["validate", folder]:
            command = _validate
        case ["compact", folder]:
            command = _compact
        case _:
            print(_USAGE, file=sys.stderr)
            return 2
    try:
        return command(Path(folder))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _validate(folder: Path) -> int:
    lines = problems_in(folder)
    for line in lines:
        print(line)
    count = len(read(folder, "trials", ["trial_id"]).rows)
    print(f"{folder}: trials: {count:,}, {f'problems: {len(lines)}' if lines else 'all sound'}")
    return 1 if lines else 0


def _compact(folder: Path) -> int:
    problems, remarks = [], []
    for merged in merging.compact(folder):
        problems += merged.problems
        remarks += merged.remarks
        done = f"{merged.files:,} files with {merged.rows:,} rows are one now" if merged.files else "nothing to merge"
        print(f"{merged.table}: {done}")
    for line in problems:
        print(f"left alone: {line}")
    for line in remarks:
        print(line)
    return 1 if problems else 0
