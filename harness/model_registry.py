"""The registry of the user's own networks: functions that return a ``torch.nn.Module``, by name.

It imports no torch, so that composing a config can ask which names are registered.
"""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from harness.errors import UsageError

REGISTRY: dict[str, Callable[..., Any]] = {}
"""Name -> function: what ``model=NAME`` can name beside the choices of ``conf/model``."""

_Function = TypeVar("_Function", bound=Callable[..., Any])
_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def register(name: str) -> Callable[[_Function], _Function]:
    """Register a function, or a class of modules, as the network ``name``.

    The function returns a ``torch.nn.Module`` on the CPU, with float32 parameters, that maps images (N, 1, 28, 28) to
    logits (N, 10). Each of its parameters needs a default and becomes an option that ``model.options`` can set. What
    it draws from the shared generators of Python, NumPy and PyTorch follows from the trial's seed.

    Raises:
        UsageError: another module has registered the name.
    """

    def add(function: _Function) -> _Function:
        if name in REGISTRY and REGISTRY[name].__module__ != function.__module__:
            raise UsageError(f"model={name}: registered by {REGISTRY[name].__module__} already; choose another name")
        REGISTRY[name] = function
        return function

    return add


def options_of(name: str) -> dict[str, Any]:
    """Return the options of a registered network with their defaults.

    Raises:
        UsageError: a parameter has no default.
    """
    # asked of the network that is used, so that another of its module cannot be in the way
    parameters = inspect.signature(REGISTRY[name]).parameters.values()
    for parameter in parameters:
        if parameter.kind not in _BY_KEYWORD or parameter.default is inspect.Parameter.empty:
            problem = f"parameter '{parameter}' of its function has no default"
            raise UsageError(f"model={name}: {problem}; give it one, which makes it an option")
    return {parameter.name: parameter.default for parameter in parameters}
