"""What all commands share: whatever is wrong with the arguments is one line on standard error, and exit code 2."""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec

from harness.errors import UsageError

WRONG_COMMAND = 2
"""The exit code."""

_Arguments = ParamSpec("_Arguments")


class Parser(argparse.ArgumentParser):
    """A parser that raises a :class:`UsageError` of one line, where argparse prints its usage and ends the process.

    ``prog`` is the command as it is typed, e.g. ``python -m harness.report``: the line says where the help is.
    """

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments.

        Raises:
            UsageError: always.
        """
        raise refusal(self.prog, message)


def script_parser(name: str, description: str | None) -> Parser:
    """Return a parser for ``scripts/NAME.py`` whose help is the script's docstring, as it is set there."""
    return Parser(
        prog=f"python scripts/{name}.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def refusal(prog: str, message: str) -> UsageError:
    """Return the error that says what is wrong with a command's arguments and which command shows the options."""
    return UsageError(f"{message}; {prog} --help shows the options")


def one_line_errors(command: Callable[_Arguments, int]) -> Callable[_Arguments, int]:
    """Decorate a ``main`` so that a :class:`UsageError` becomes one line on standard error and exit code 2."""

    @functools.wraps(command)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
            return WRONG_COMMAND

    return guarded


def positive(text: str) -> int:
    """Return the whole number of at least 1 that an argument is; for ``type=`` of ``add_argument``.

    Raises:
        argparse.ArgumentTypeError: it is no such number.
    """
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number of at least 1")
    return number


def existing_folder(text: str) -> Path:
    """Return the folder that an argument names; for ``type=`` of ``add_argument``.

    Raises:
        argparse.ArgumentTypeError: there is no such folder.
    """
    if not text.strip() or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text or 'an empty name'}: no such folder; name one that exists")
    return Path(text)


def file_to_write(text: str) -> Path:
    """Return the file that an argument names; for ``type=`` of ``add_argument``, so that no work is lost at the end.

    Raises:
        argparse.ArgumentTypeError: it is a folder, or the folder that it would lie in does not exist.
    """
    path = Path(text)
    if not text.strip() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text or 'an empty name'}: is no file name; name a file to write")
    if not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.resolve().parent}; make it first")
    return path
