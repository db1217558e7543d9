"""Files and folders as users type them."""

import os
from pathlib import Path

from harness.errors import UsageError


def typed_path(text: str, name: str = "") -> Path:
    """Return the path that a user typed; ``~`` and ``~USER`` at its beginning stand for a home folder.

    A shell expands ``~`` only where it begins a word of its own, and not in ``results.dir=~/x`` or ``--output=~/x``.

    Args:
        text: what was typed.
        name: what to put before it in an error, such as ``results.dir=``.

    Raises:
        UsageError: the user has no home folder, or there is no such user.
    """
    # not by pathlib, for which ./~x is ~x
    expanded = os.path.expanduser(text)  # noqa: PTH111
    if text.startswith("~") and expanded == text:
        raise UsageError(f"{name}{text}: there is no such home folder; give the whole path, or ./{text}")
    return Path(expanded)
