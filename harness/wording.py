"""Numbers and names in a sentence."""

from collections.abc import Iterable


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
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in text
    )
