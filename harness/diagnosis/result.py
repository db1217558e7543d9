"""The result of a diagnosis: findings, causes and the steps behind them, as objects, text, a frame and HTML."""

import html
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.diagnosis.causes import Causes, Experiment
from harness.diagnosis.judging import HARMFUL, Finding
from harness.diagnosis.watching import Step
from harness.wording import few

if TYPE_CHECKING:
    import pandas as pd

LEGEND = "# gradient, and moved   g gradient, not moved (rounded away)   m moved without gradient   . neither"
_WIDTH = 100
_MARKS = {(True, True): "#", (True, False): "g", (False, True): "m", (False, False): "."}


@dataclass(frozen=True, repr=False)
class Diagnosis:
    """Why a model will or will not learn.

    Attributes:
        network: the gravest finding, with its cause, for the whole model.
        layers: layer name -> finding.
        causes: which tensors are at fault, found by experiment; empty where nothing is.
        looks: name of each tensor to blame -> what is unusual about it, such as "zero".
        steps: each step that was watched.
        unseen: what could not be looked at, one sentence each.
    """

    network: Finding
    layers: dict[str, Finding]
    causes: Causes
    looks: dict[str, str]
    steps: list[Step]
    unseen: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Say whether nothing keeps the model from learning, so far as the first steps show."""
        return self.network.kind not in HARMFUL

    @property
    def to_blame(self) -> frozenset[str]:
        """Names of the tensors at fault, those of every slot of :attr:`causes`."""
        return self.causes.to_blame

    @property
    def table(self) -> "pd.DataFrame":
        """One row per layer: what was found and what passed at step 0.

        Columns: layer, finding, why, output_rms (root mean square of its output), output_gradient_norm (norm of the
        loss's gradient with respect to that output).
        """
        import pandas as pd

        return pd.DataFrame(list(self._rows()))

    def _rows(self) -> Iterator[dict[str, object]]:
        for name, finding in self.layers.items():
            passed = self.steps[0].passed[name]
            seen = passed.calls > 0
            yield {
                "layer": name,
                "finding": finding.kind,
                "why": finding.reason,
                "output_rms": passed.output_rms if seen else None,
                "output_gradient_norm": passed.gradient_norm if seen else None,
            }

    def map_of(self, tensor: str) -> str:
        """One character per step for a tensor, as :data:`LEGEND` explains."""
        return "".join(_MARKS[step.has_gradient(tensor), step.tensors[tensor].moved] for step in self.steps)

    def experiments(self) -> list[tuple[str, str]]:
        """Say what was changed, and what became of it, for each experiment that shows the cause."""
        return [(self._change(each), self._outcome(each)) for each in self.causes.experiments]

    def _change(self, experiment: Experiment) -> str:
        if experiment.rate != 1:
            return f"learning rate x {experiment.rate:g}"
        by_way: dict[str, list[str]] = {}
        for name in self.causes.how:
            if name in experiment.healed:
                by_way.setdefault(self.causes.how[name], []).append(name)
        return ", ".join(f"{few(names)} {way}" for way, names in by_way.items())

    def _outcome(self, experiment: Experiment) -> str:
        got = f"{experiment.with_gradient} of {self.causes.tensors} tensors get a gradient"
        ill = [name for name in self.causes.ill if name]
        if not ill:
            return f"{got}; the loss is {'cured' if experiment.cured else 'as before'}"
        return f"{got}; {len(experiment.cured)} of {len(ill)} layers cured"

    def __repr__(self) -> str:
        return f"Diagnosis({self.network})"

    def __str__(self) -> str:
        width = max(map(len, self.layers))
        lines = [_wrapped(f"{self.network}", 0), ""]
        lines += [_wrapped(f"{name:<{width}}  {finding}", width + 2) for name, finding in self.layers.items()]
        if self.causes.experiments:
            shown = self.experiments()
            room = max(len(change) for change, _ in shown)
            lines += ["", "redrawn on a copy, and trained for the same steps:"]
            lines += [f"  {change:<{room}}  {outcome}" for change, outcome in shown]
        return "\n".join([*lines, *(f"not seen: {sentence}" for sentence in self.unseen)])

    def print(self) -> None:
        """Print the findings, the experiments, and what could not be seen."""
        print(self)

    def _repr_html_(self) -> str:
        """Show the same in a notebook."""
        rows = [[name, finding.kind, finding.reason] for name, finding in self.layers.items()]
        parts = [f"<p><b>{_escaped(self.network.kind)}</b> {_escaped(self.network.reason)}</p>"]
        parts.append(_html_table(["layer", "finding", "why"], rows))
        if self.causes.experiments:
            parts.append(_html_table(["redrawn on a copy", "what became of it"], self.experiments()))
        parts += [f"<p>Not seen: {_escaped(sentence)}</p>" for sentence in self.unseen]
        return "\n".join(parts)


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    return html.escape(text)


def _html_table(titles: list[str], rows: list[list[str]] | list[tuple[str, str]]) -> str:
    head = "".join(f"<th>{_escaped(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(f"<td>{_escaped(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
