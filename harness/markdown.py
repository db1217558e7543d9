"""Markdown for reports, job summaries and tables in a terminal: text in it is shown as it is, whatever it holds."""

import re
from collections.abc import Iterator, Sequence

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\0": "\N{REPLACEMENT CHARACTER}"}
# what begins or ends an entity or a tag; alone between words each is plain text
_HTML = re.compile(r"&(?=#?\w+;)|<(?=[A-Za-z/!?])|(?<=\S)>|\0")
# the dollar begins mathematics on GitHub; within a word, as in images_per_s, an underscore is plain text
_SPECIAL = re.compile(r"[\\`*\[\]|#~$]|_(?![^\W_])|(?<![^\W_])_")
# what begins a list, a rule, a quotation or the underline of a heading
_AT_START = re.compile(r"^(?:(\d{1,9})(?=[.)](?:\s|$))|(?=[-+](?:\s|$))|(?=-[-\s]*$)|(?==+$)|(?=>))")


class Markdown(str):
    """Text that is Markdown already, on one line: :func:`escape` leaves it as it is."""

    __slots__ = ()


def escape(text: object) -> Markdown:
    """Return a text as Markdown that shows it as it was typed, on one line, runs of white space as single spaces.

    It may stand in a paragraph, a heading, an entry of a list or a cell of a table.
    """
    if isinstance(text, Markdown):
        return text
    return Markdown(_AT_START.sub(r"\1\\", _within_a_line(text), count=1))


def _within_a_line(text: object) -> str:
    if isinstance(text, Markdown):
        return text
    typed = " ".join(str(text).split())
    # then tags and entities: one that a backslash has broken up is none any more
    escaped = _SPECIAL.sub(lambda special: f"\\{special[0]}", typed)
    return _HTML.sub(lambda html: _ENTITIES[html[0]], escaped)


def table(head: Sequence[object], rows: Sequence[Sequence[object]], *, right_from: int | None = None) -> str:
    """Return a table; every cell is escaped.

    Args:
        head: titles of the columns.
        rows: as many cells each.
        right_from: columns from this one on are set flush right; None: none is.
    """
    left = len(head) if right_from is None else right_from
    ruler = ["---" if column < left else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in _lines(head, ruler, rows))


def aligned_table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """Return the same table with columns of one width, for a terminal."""
    (titles, _, *cells) = _lines(head, [], rows)
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    ruler = ["-" * width for width in widths]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (titles, ruler, *cells))
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _lines(head: Sequence[object], ruler: list[str], rows: Sequence[Sequence[object]]) -> Iterator[list[str]]:
    yield [_within_a_line(title) for title in head]
    yield ruler
    yield from ([_within_a_line(cell) for cell in row] for row in rows)


def code(text: object) -> Markdown:
    """Return a name set as code; it holds no backtick and is not empty.

    Raises:
        ValueError: it cannot be set as code.
    """
    plain = " ".join(str(text).split())
    if "`" in plain or not plain:
        raise ValueError(f"{text!r} cannot be set as code")
    return Markdown(f"`{plain}`".replace("|", "\\|"))
