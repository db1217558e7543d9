"""The user's own modules: they are imported so that they register what they hold, and hashed for the key of a trial.

Both ``init.modules`` and ``model.modules`` go through here.
"""

import hashlib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from harness.errors import UsageError
from harness.wording import error_text


def imported(key: str, names: Sequence[str]) -> None:
    """Import the user's modules, from the current folder too, so that they register what they hold.

    Args:
        key: the setting that names them, for messages.
        names: as in an import statement.

    Raises:
        UsageError: a module cannot be imported, or registers what cannot be.
    """
    if not names:
        return
    here = Path.cwd()
    with _importable(str(here)):
        for name in names:
            try:
                importlib.import_module(name)
            except (KeyboardInterrupt, UsageError):
                raise
            except BaseException as error:
                # a script without a __main__ guard leaves by SystemExit, and a module may raise what it likes
                raise _unimportable(key, name, here, error) from error
            finally:
                if Path.cwd() != here:
                    # relative paths mean the folder of the command, wherever a module went
                    os.chdir(here)


def _unimportable(key: str, name: str, folder: Path, error: BaseException) -> UsageError:
    """Say what a module that cannot be imported needs: mending if it was found, else another name or place."""
    is_missing = isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}.")
    fix = f"name a module on the Python path or in {folder}" if is_missing else "mend it"
    if f"{name}.".endswith(".py."):
        fix = f"leave out .py: '{key}=[{name.removesuffix('.py')}]'"
    reason = f"{type(error).__name__}: {error_text(error)}"
    return UsageError(f"{key}: cannot import '{name}' ({reason}); {fix}")


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """Let modules of a folder be imported in the block; the import path of the program stays as it was."""
    if folder in sys.path:
        yield
        return
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(folder)


def sources(key: str, modules: Sequence[str], named: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """Hash the user's own code that a setting rests on.

    Args:
        key: the setting that names the modules, for messages.
        modules: imported already.
        named: what is used of a registry: name -> function.

    Returns:
        module -> SHA-256 of its source, for each of the modules (of a package, all its Python files), and for each
        other module outside this program that a function comes from. In a notebook or a script that is run, the source
        of the function itself stands for its module. What these modules import is not in it.
    """
    hashes = {name: _source_sha256(key, sys.modules[name]) for name in modules}
    for name, function in named.items():
        module = function.__module__
        if module.split(".")[0] == "harness" or module in hashes:
            continue
        if module == "__main__" or getattr(sys.modules.get(module), "__file__", None) is None:
            hashes[f"{module}:{name}"] = _function_sha256(function)
        else:
            hashes[module] = _source_sha256(key, sys.modules[module])
    return hashes


_read: dict[str, tuple[object, str]] = {}
"""Module -> its import (a reload makes another spec), and the hash of what was imported then."""


def _source_sha256(key: str, module: ModuleType) -> str:
    """Read once for each import: what a file holds after a later change is not what runs."""
    name, spec = module.__name__, module.__spec__
    if name not in _read or _read[name][0] is not spec:
        _read[name] = (spec, _files_sha256(key, name, module.__file__))
    return _read[name][1]


def _files_sha256(key: str, name: str, file: str | None) -> str:
    if file is None:
        raise UsageError(f"{key}={name}: it has no file whose source could be recorded; name a module that has")
    path = Path(file)
    paths = sorted(path.parent.rglob("*.py")) if path.name == "__init__.py" else [path]
    digest = hashlib.sha256()
    for source in paths:
        digest.update(f"{source.relative_to(path.parent)}\0".encode() + source.read_bytes() + b"\0")
    return digest.hexdigest()


def _function_sha256(function: Callable[..., Any]) -> str:
    """Hash the source of a function or class, or its compiled code where its interpreter kept no source."""
    try:
        text = inspect.getsource(function)
    except (OSError, TypeError):
        parts = [function] if inspect.isfunction(function) else vars(function).values()
        codes = [getattr(each, "__code__", None) for each in parts]
        text = "".join(
            repr((code.co_code, code.co_names, [c for c in code.co_consts if not isinstance(c, CodeType)]))
            for code in codes
            if code is not None
        )
    return hashlib.sha256(text.encode()).hexdigest()


def check_options(path: str, options: Mapping[str, object], known: Mapping[str, object], owner: str, they: str) -> None:
    """Check options against the defaults of those that exist.

    Args:
        path: the setting that holds them.
        options: name -> value.
        known: name -> default.
        owner: who has the known ones, as in "the chosen initializers have".
        they: the same with a pronoun, as in "they have".

    Raises:
        UsageError: an option that does not exist, or a value that is not of its default's type.
    """
    for name, value in options.items():
        if name not in known:
            allowed = ", ".join(sorted(known)) or "none"
            raise UsageError(f"{path}.{name}: {owner} no such option; {they}: {allowed}")
        if not _is_like(value, known[name]):
            raise UsageError(
                f"{path}.{name}={value} is not allowed; give a value like the default, "
                f"{known[name]} ({type(known[name]).__name__})"
            )


def _is_like(value: object, default: object) -> bool:
    """Whether a value has the type of an option's default; an integer is a number, a truth value is not."""
    if default is None:
        return True
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is type(default)
