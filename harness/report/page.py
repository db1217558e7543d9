"""The page: template, style, script, plotly and the numbers in one file."""

import json
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

# nothing may be fetched, whatever a name in the results holds
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_DRAWN = (
    *("arms", "filters", "statuses", "default_target", "top", "clocks", "curves", "heat", "heat_range"),
    *("signals", "throughput"),
)
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def html(report: dict[str, Any]) -> str:
    """The report as one HTML document."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(_own("page.html.j2"))
    return template.render(
        report=report | {"conclusion": report["ranking"][report["default_target"]]["conclusion"]},
        policy=POLICY,
        css=Markup(_own("report.css")),  # noqa: S704 - our own file
        blob=Markup(blob({name: report[name] for name in _DRAWN} | {"clocks": _short(report["clocks"])})),  # noqa: S704 - blob escapes
        plotly=Markup(_plotly()),  # noqa: S704 - the package's own file
        script=Markup(_own("charts.js") + _own("page.js")),  # noqa: S704 - our own files
    )


def _short(clocks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The clocks without what a row of a ranking lacks: there may be thousands of rows, several times."""
    empty = {"few": False, "why": ""}

    def short(row: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if value is not None and empty.get(name) != value}

    return [
        clock | {"ranking": [entry | {"rows": [short(row) for row in entry["rows"]]} for entry in clock["ranking"]]}
        for clock in clocks
    ]


def blob(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """JSON that is safe inside a script element: no name in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _own(name: str) -> str:
    return (files("harness.report") / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The smallest bundle that the installed package has; it must not end the script element either."""
    folder = files("plotly") / "package_data"
    bundles = [
        entry for entry in folder.iterdir() if entry.name.startswith("plotly") and entry.name.endswith(".min.js")
    ]
    texts = [entry.read_text(encoding="utf-8") for entry in bundles]
    return min(texts, key=len).replace("</script", "<\\/script")
