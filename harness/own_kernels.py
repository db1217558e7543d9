"""Our package ``kernels``, the folder beside ``harness``, whatever other package of this name is installed.

PyPI has a distribution ``kernels`` whose package is called so too. It may come first on ``sys.path``, be imported
already, or have overwritten our files. The rest of ``harness`` asks here for our modules; ``kernel=torch`` needs none.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from harness.bounds import refusal

FOLDER = Path(__file__).parent.parent / "kernels"

# A module with a __path__ is a package: harness.own_kernels.launch is kernels/launch.py under a name that only we use.
# Under it a new process finds the module too, which unpickling in a worker needs.
__path__ = [str(FOLDER)]

_INIT = FOLDER / "__init__.py"
_ONLY_OURS = b"conv2d_stacked"
"""A function that no other package of this name offers, as its file writes it."""


def module(name: str) -> ModuleType:
    """Import a module of our kernels.

    Where ``import kernels`` finds ours, it is the module that everybody gets by this import. Else it is a copy under a
    private name, and ``sys.modules["kernels"]`` stays what it is.

    Args:
        name: without the package, for example ``launch``.

    Raises:
        ImportError: a package that it needs is not installed.
    """
    return importlib.import_module(f"{'kernels' if _is_importable() else __name__}.{name}")


def require(choice: str, otherwise: str) -> None:
    """Refuse a choice of ``kernel=`` if our kernels are not there as they were installed.

    Args:
        choice: what was given.
        otherwise: what needs no kernels of ours, as a command.

    Raises:
        UsageError: whose the package is now, and what to do.
    """
    if _INIT.is_file() and _ONLY_OURS in _INIT.read_bytes():
        return
    problem, fix = f"the package 'kernels' in {FOLDER.parent} is not that of initbench", "reinstall initbench"
    if owners := " and ".join(_other_owners()):
        problem = f"the package 'kernels' in {FOLDER.parent} belongs to the distribution {owners}"
        fix = "uninstall it and reinstall initbench"
    raise refusal("kernel", choice, problem, f"{fix}, or {otherwise}")


def _is_importable() -> bool:
    """Return whether ``import kernels`` gives ours; another package is found, but not run."""
    if "kernels" in sys.modules:
        return _is_ours(getattr(sys.modules["kernels"], "__file__", None))
    spec = importlib.util.find_spec("kernels")
    return spec is not None and _is_ours(spec.origin)


def _is_ours(init: object) -> bool:
    """Return whether this is the file that makes our folder a package, whoever wrote it."""
    return init is not None and Path(str(init)).resolve() == _INIT.resolve()


def _other_owners() -> Iterator[str]:
    """Yield name and version of each other distribution that installed the file which should be ours."""
    for name in sorted(set(importlib.metadata.packages_distributions().get("kernels", ()))):
        distribution = importlib.metadata.distribution(name)
        if name != "initbench" and _is_ours(distribution.locate_file("kernels/__init__.py")):
            yield f"{name} {distribution.version}"
