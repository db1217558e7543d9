"""Conditions of speed in words."""

from typing import Any

from harness.results import text_of

_SWITCH = {"True": "on", "False": "off"}


def condition(name: str, value: Any) -> str:  # noqa: ANN401 - whatever a column holds
    """Return a column with its value, such as ``threads 2`` or ``tf32 off``."""
    text = text_of(value)
    return f"{name} {_SWITCH.get(text, text)}"
