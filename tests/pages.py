"""What the pages for people hold: their paragraphs, links, blocks of code, and the commands that they tell to type."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]
_READER = MarkdownIt("commonmark").enable("table")
_COMMANDS = ("python ", "initbench ", "make ")


def named(page: Path) -> str:
    """The page's path in the checkout, by which a test's id names it."""
    return page.relative_to(ROOT).as_posix()


def tokens(page: Path) -> list[Token]:
    """The page's blocks in order, and after each block of text what stands in it."""
    parsed = _READER.parse(page.read_text(encoding="utf-8"))
    return [each for block in parsed for each in (block, *(block.children or ()))]


def first_paragraph(page: Path) -> str:
    """The text below the title."""
    found = tokens(page)
    start = next(index for index, token in enumerate(found) if token.type == "paragraph_open")
    return found[start + 1].content


def headings(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub makes them."""
    found = tokens(page)
    titles = [after.content for token, after in pairwise(found) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def links(page: Path) -> Iterator[str]:
    """Where the page's links and pictures lead, addresses of other sites left out."""
    for token in tokens(page):
        target = str(token.attrGet({"link_open": "href", "image": "src"}.get(token.type, "")) or "")
        if target and not re.match(r"\w+:", target):
            yield target


def blocks(page: Path, language: str) -> list[str]:
    """The text of every fenced block of a language."""
    return [token.content for token in tokens(page) if token.type == "fence" and token.info == language]


def commands(page: Path) -> list[list[str]]:
    """The words of every command that the page tells to type, each once and in order."""
    typed = [line for token in tokens(page) for line in _lines(token)]
    words = [shlex.split(part, comments=True) for line in typed for part in line.split(" && ")]
    return [list(each) for each in dict.fromkeys(map(tuple, words)) if f"{' '.join(each)} ".startswith(_COMMANDS)]


def _lines(token: Token) -> list[str]:
    """The lines of a shell in a block or in a span of code; a console's are those behind its prompt."""
    if token.type == "code_inline":
        return token.content.split("; ") if token.content.startswith(_COMMANDS) else []
    joined = token.content.replace("\\\n", " ").splitlines()
    if token.type == "fence" and token.info == "console":
        return [line[2:] for line in joined if line.startswith("$ ")]
    is_shell = token.type == "code_block" or (token.type == "fence" and token.info in ("sh", "bash"))
    return [line for line in joined if line.strip().startswith(_COMMANDS)] if is_shell else []
