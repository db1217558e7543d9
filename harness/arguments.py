"""What all commands share: whatever is wrong with a command is one line on standard error, and exit code 2."""

import argparse
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, ParamSpec

from harness import output
from harness.errors import DataError, UsageError
from harness.paths import typed_path
from harness.wording import error_text

WRONG_COMMAND, INTERRUPTED = 2, 130
"""The exit codes of a command that is wrong, and of one that was ended by Ctrl-C."""

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
    """Decorate a ``main`` so that what a user or a machine does wrong is one line on standard error, and no traceback.

    A :class:`UsageError` gives exit code 2. So does a file that cannot be read or written, and output that could not be
    written to its end; a reader that has left (``| head``) is no error. Ctrl-C gives 130, as in a shell.
    """

    @functools.wraps(command)
    def guarded(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> int:
        with output.forgiving():
            try:
                code = _guarded(lambda: command(*args, **kwargs))
            except SystemExit as end:
                # argparse's --help
                if output.lost():
                    end.code = WRONG_COMMAND
                raise
            return WRONG_COMMAND if output.lost() else code

    return guarded


def _guarded(command: Callable[[], int]) -> int:
    try:
        return command()
    except (UsageError, OSError) as error:
        print(f"error: {in_one_line(error)}", file=sys.stderr)
        return WRONG_COMMAND
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def in_one_line(error: BaseException) -> str:
    """Say what is wrong, for a user: the text of an error that was raised for one, else its kind and text."""
    if isinstance(error, UsageError | DataError):
        return error_text(error)
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):
        return "TMPDIR: no folder for temporary files can be written, and PyTorch needs one; set TMPDIR to a folder"
    if isinstance(error, FileNotFoundError) and _is_nowhere():
        return "the current folder does not exist any more; change to one that does"
    return f"{type(error).__name__}: {error_text(error)}"


def _is_nowhere() -> bool:
    """Return whether the folder that the command was typed in has been removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


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
    path = _path(text)
    if not text.strip() or not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text or 'an empty name'}: no such folder; name one that exists")
    return path


def file_to_write(text: str) -> Path:
    """Return the file that an argument names; for ``type=`` of ``add_argument``, so that no work is lost at the end.

    Raises:
        argparse.ArgumentTypeError: it is a folder, or the folder that it would lie in does not exist.
    """
    path = _path(text)
    if not text.strip() or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text or 'an empty name'}: is no file name; name a file to write")
    if not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no folder {path.resolve().parent}; make it first")
    return path


def _path(text: str) -> Path:
    try:
        return typed_path(text)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
