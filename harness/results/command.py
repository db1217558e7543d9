"""The command ``python -m harness.results``: check a results folder, or copy it into few large files."""

import sys
from collections.abc import Sequence
from pathlib import Path

from harness.errors import UsageError
from harness.results import merging
from harness.results.checking import check
from harness.wording import counted

_USAGE = """usage: python -m harness.results validate DIR
       python -m harness.results compact SRC DST"""
_HELP = f"""{_USAGE}

validate  check the results folder DIR and print a line for each fault; nothing is changed
compact   copy the results folder SRC into the new folder DST, with few large files instead of many small ones;
          SRC is not changed, and DST appears when it is complete

Exit codes: 0 all is sound, 1 something is not (a line says what), 2 a wrong command."""


def main(arguments: Sequence[str]) -> int:
    """Run the command: return 0 if all is sound, 1 with a line for each problem, 2 if the command is wrong."""
    if {"-h", "--help"} & set(arguments):
        print(_HELP)
        return 0
    try:
        match arguments:
            case ["validate", folder]:
                return _validate(Path(folder))
            case ["compact", source, target]:
                return _compact(Path(source), Path(target))
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(_USAGE, file=sys.stderr)
    return 2


def _validate(folder: Path) -> int:
    checked = check(folder)
    for line in checked.problems:
        print(line)
    for line in checked.notes:
        print(f"note: {line}")
    faults = len(checked.problems)
    print(f"{folder}: trials: {checked.trials:,}, {f'problems: {faults}' if faults else 'all sound'}")
    return 1 if faults else 0


def _compact(source: Path, target: Path) -> int:
    try:
        done = merging.compact(source, target)
    except merging.UnsoundError as error:
        for line in error.problems:
            print(line)
        print(f"error: {error}", file=sys.stderr)
        return 1
    for merged in done.tables:
        read, parts = counted(merged.files, "file"), counted(merged.parts, "file")
        print(f"{merged.table}: {read}, {counted(merged.rows, 'row')} -> {target / merged.table} ({parts})")
    for merged in done.tables:
        for line in merged.remarks:
            print(line)
    if done.left_out:
        print(f"left out: {counted(done.left_out, 'trial')} without a row in trials yet (running, or killed)")
    return 0
