"""Is every function short enough to be read at once? ``make lint`` runs this, because ruff has no rule for it.

Usage: python scripts/check_lengths.py [FOLDER ...]     (default: harness kernels scripts; exit code 0: yes, 1: no)

Counted are the lines from ``def`` to the last one, comments and blank lines included; decorators and the docstring are
not, because they describe the function. A function within a function counts for both.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.arguments import existing_folder, one_line_errors, script_parser

ROOT = Path(__file__).parent.parent
FOLDERS = ("harness", "kernels", "scripts")
MOST_LINES = 30
EXEMPT = {Path("kernels/triton_kernels.py"): "a Triton kernel is one body: what it calls is compiled into it"}
"""File -> the reason why its functions may be longer."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def lines_of(function: Function) -> int:
    """Return how many lines a function has, its decorators and its docstring not counted."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - ((docstring.end_lineno or docstring.lineno) - docstring.lineno + 1)


def too_long(path: Path) -> Iterator[str]:
    """Yield a line for each function of a file that is too long, in the form of a compiler's message."""
    file = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function) and (lines := lines_of(node)) > MOST_LINES:
            yield f"{file}:{node.lineno}: {node.name} has {lines} lines, at most {MOST_LINES} are allowed; split it"


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Check all Python files below the folders; the exit code."""
    parser = script_parser("check_lengths", __doc__)
    parser.add_argument("folders", nargs="*", type=existing_folder, metavar="FOLDER", help=f"default: {FOLDERS}")
    folders = parser.parse_args(arguments).folders or [ROOT / name for name in FOLDERS]
    files = [path for folder in folders for path in sorted(folder.resolve().rglob("*.py"))]
    exempt = {ROOT / path for path in EXEMPT}
    complaints = [line for path in files if path not in exempt for line in too_long(path)]
    print("\n".join(complaints) or f"every function of {len(files)} files has at most {MOST_LINES} lines")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
