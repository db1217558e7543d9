"""The page: template, style, script, plotly and the numbers in one file."""

import json
from dataclasses import fields
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from harness.report.model import Report, as_dict
from harness.wording import printable

# nothing may be fetched, whatever a name in the results holds
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_NOT_DRAWN = (
    *("heading", "by", "methods", "left_out", "pictures"),
    *("completeness", "environments", "environment_note", "packages", "constants"),
)
"""Fields of a report that stand in the page as text, and so not in the data of its script."""

_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}


def html(report: Report) -> str:
    """Return the report as one HTML document."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, finalize=_finalized
    )
    template = environment.from_string(_own("page.html.j2"))
    return template.render(
        report=report,
        policy=POLICY,
        css=Markup(_own("report.css")),  # noqa: S704 - our own file
        blob=Markup(blob(as_dict(report, without=_NOT_DRAWN) | as_dict(report.pictures))),  # noqa: S704 - blob escapes
        plotly=Markup(_plotly()),  # noqa: S704 - the package's own file
        script=Markup("".join(map(_own, ("charts.js", "axes.js", "page.js")))),  # noqa: S704 - our own files
    )


def _finalized(value: Any) -> Any:  # noqa: ANN401 - whatever stands in the template
    """A text of the results without control characters; what is markup already is ours."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _short(view: Any) -> dict[str, Any]:  # noqa: ANN401 - any dataclass of the report
    """A view without fields that are as their default: there may be thousands of rows of rankings, several times."""
    defaults = {field.name: field.default for field in fields(view)}
    return {
        name: value for name, value in as_dict(view).items() if value is not defaults[name] and value != defaults[name]
    }


def blob(value: Any) -> str:  # noqa: ANN401 - whatever JSON can hold, and views
    """Return JSON that is safe inside a script element: no name in it can end the element."""
    text = json.dumps(value, default=_short, separators=(",", ":"), allow_nan=False)
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
