"""Numbers and names in a sentence."""

import re
from collections.abc import Iterable

_CONTROLS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def counted(count: int, noun: str) -> str:
    """Such as: 1 arm; 1,000 arms."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def few(names: Iterable[str], most: int = 3) -> str:
    """The first few, and how many more there are."""
    every = list(names)
    more = f" and {len(every) - most:,} more" if len(every) > most else ""
    return ", ".join(every[:most]) + more


def one_line(text: str) -> str:
    """The text with every line break and every character that cannot be printed written as an escape."""
    return "".join(character if character.isprintable() else _escape(character) for character in text)


def printable(text: str) -> str:
    """The text with every control character written as an escape, so that none reaches a terminal.

    Line breaks and tabs stay. Marks that reorder a line, and halves of surrogate pairs, which no file can hold, are
    written as escapes too.
    """
    return _CONTROLS.sub(lambda found: _escape(found[0]), text)


def hydra_quoted(value: str) -> str:
    """A text in the quotes of Hydra's grammar of overrides, in which a backslash is one unless a quote follows it."""
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + end[2].replace("'", "\\'"), value) + "'"


def error_text(error: BaseException) -> str:
    """Return what an error says of itself, in one line; some say nothing, and some fail when they are asked."""
    try:
        said = str(error)
    except BaseException as failed:  # noqa: BLE001 - the class may be the user's own
        return f"no message (its text raised {type(failed).__name__})"
    return one_line(" ".join(filter(None, map(str.strip, said.splitlines())))) or "no message"


def _escape(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()
