"""Text in Markdown is shown as it was typed: markdown-it, an implementation of CommonMark, reads it back."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from harness import markdown

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
# letters, and much of what Markdown reads as something else
TEXT = st.text(st.one_of(st.sampled_from("ab1. -+=_*`|\\$#~<>&[]()!:;\n\t\0\"'/@%"), st.characters(codec="utf-8")))
SHAPES = {"paragraph": "{}", "heading": "## {}", "entry": "- {}"}


def as_typed(text: str) -> str:
    return " ".join(text.split()).replace("\0", "\N{REPLACEMENT CHARACTER}")


def shown(inline: Token) -> str:
    """What a reader sees; nothing in it is anything but text."""
    assert {child.type for child in inline.children} <= {"text"}, [child.type for child in inline.children]
    return "".join(child.content for child in inline.children)


def kinds(tokens: list[Token]) -> list[str]:
    return [token.type for token in tokens]


@pytest.mark.parametrize("shape", SHAPES)
@given(text=TEXT)
@example(text="1. x")
@example(text="12) ")
@example(text="- - -")
@example(text="---")
@example(text="+ x")
@example(text="===")
@example(text="a | b \\| c \\\\")
@example(text="$x^2$ and \\$")
@example(text="<b>&amp;</b> &#36;")
@example(text="__init__ _a_ a_b_c")
@example(text="[x](y) ![x](y) <http://x.y>")
@example(text="x ##")
@example(text="~~x~~")
@example(text="<!-- x")
@example(text="> x <?php")
@example(text="&amp; &#35; &\\#35; &lt;b>")
@example(text="<div")
def test_text_is_shown_as_typed(shape: str, text: str) -> None:
    source = SHAPES[shape].format(markdown.escape(text))
    assert "\n" not in source
    tokens = READER.parse(source)
    expected = kinds(READER.parse(SHAPES[shape].format("x" if as_typed(text) else "")))
    assert kinds(tokens) == expected
    assert "".join(shown(token) for token in tokens if token.type == "inline") == as_typed(text)


@pytest.mark.parametrize("form", [markdown.table, markdown.aligned_table])
@given(cells=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=3))
def test_cells_are_shown_as_typed(form, cells: list[tuple[str, str]]) -> None:
    """No pipe, backslash or line break moves a cell."""
    head, rows = ("first", "second"), [*cells, ("last", "row")]
    tokens = READER.parse(form(head, rows))
    assert (tokens[0].type, tokens[-1].type) == ("table_open", "table_close")
    read = [shown(token) for token in tokens if token.type == "inline"]
    assert read == [*head, *(as_typed(cell) for row in rows for cell in row)]


@given(text=TEXT)
def test_no_dollar_is_left_to_mathematics(text: str) -> None:
    """GitHub reads what CommonMark does not: every dollar follows a backslash that belongs to it."""
    assert "$" not in str(markdown.escape(text)).replace("\\\\", "").replace("\\$", "")


def test_plain_words_stay_as_they_are() -> None:
    for text in (
        "init=zero, lr=0.0001 (95 %)",
        "images_per_s",
        "-0.5",
        "+3.1%",
        "0.93 to 0.95",
        "a - b",
        "3.11",
        "A & B",
        "x >= 1 < 2",
    ):
        assert markdown.escape(text) == text


def test_numbers_are_set_flush_right() -> None:
    source = markdown.table(["arm", "n"], [["a", 3]], right_from=1)
    assert source == "| arm | n |\n| --- | ---: |\n| a | 3 |"


def test_columns_are_of_one_width_in_a_terminal() -> None:
    assert markdown.aligned_table(["a", "n"], [["long", 3]]) == "| a    | n |\n| ---- | - |\n| long | 3 |"


def test_markdown_is_not_escaped_again() -> None:
    once = markdown.escape("a*b")
    assert markdown.escape(once) == once == "a\\*b"
    assert markdown.table(["x"], [[markdown.code("a_b|c")]]).endswith("| `a_b\\|c` |")
    with pytest.raises(ValueError, match="cannot be set as code"):
        markdown.code("a`b")
