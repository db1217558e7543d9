"""The command ``python -m harness.explain CHOICES``: why a network can or cannot train, from its first few steps."""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.arguments import Parser, existing_folder, in_one_line, one_line_errors
from harness.compose import load_config
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.wording import error_text, hydra_quoted

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from harness.cures import Cure
    from harness.diagnosis import Diagnosis
    from harness.metrics import TensorProbe

_USAGE = "python -m harness.explain [--config-dir DIR] [CHOICE ...] [VALUE ...]"
_ABOUT = """\
Takes the choices and values of python -m harness.run, but no sweep, trains a copy of the network for a few
steps (layers with weights + 2) and says of every layer whether it learns and, if not, why.

  python -m harness.explain init=zero
  python -m harness.explain init=zero model.activation=tanh
  python -m harness.explain model=deep init=delta_orthogonal model.depth=30 model.activation=tanh"""
_CODES = "Exit codes: 0 explained, 1 the network could not be filled, 2 the command was wrong, 130 Ctrl-C."

_MOMENTS = (
    "output\nE z2",
    "given\ninput",
    "mean\nfield",
    "grad\nin/out",
    "in/out\ntheory",
    "dead",
    "grad\nrank",
    "rows",
    "grad\nrows",
)
_MOMENTS_LEGEND = """\
given input, theory: expected over random signs of the weights; mean field: from the images alone;
dead: units whose derivative is 0 on every image; rank, rows: of all units, those that differ
"""


@dataclass(frozen=True)
class Explanation:
    """A diagnosis of a config's network, and what is known of this network only.

    Attributes:
        config: resolved.
        diagnosis: see :mod:`harness.diagnosis`.
        probes: parameter name -> what was measured of it at step 0.
        mean_field: layer name -> second moment of its output at step 0 by wide-network theory; empty for a network of
            the user's own.
        images_moment: second moment of the images of step 0.
        units: layer name -> rows of its weight.
        left_as_built: parameters of a network of the user's own that no initializer fills.
    """

    config: TrialConfig
    diagnosis: "Diagnosis"
    probes: dict[str, "TensorProbe"]
    mean_field: dict[str, float]
    images_moment: float
    units: dict[str, int]
    left_as_built: tuple[str, ...] = ()


def explain(config: TrialConfig) -> Explanation:
    """Fill the network of a config and diagnose it.

    Raises:
        UsageError: the config cannot be run here.
        DataError: the data cannot be had.
        ValueError: the initializer refused the network.
    """
    from harness import device, metrics, own_models, resolution, signals, torch_state, trial_setup

    with torch_state.ONE_AT_A_TIME:
        config = resolution.resolved(config)
        with torch_state.set_for(config.device):
            setup = trial_setup.assemble(config, device.resolve(config.device))
            trial_setup.initialise(config, setup)
            seen = signals.record(setup.network, *setup.batch(0))
            probes = metrics.probe(setup.network, dict(setup.network.tensors()), seen)
            return Explanation(
                config,
                trial_setup.diagnose(config, setup),
                {probe.parameter: probe for probe in probes},
                signals.mean_field(setup.network, seen),
                seen.input_moment,
                {name: layer.weight.shape[0] for name, layer in setup.network.parametrised().items()},
                tuple(own_models.columns(setup.network, is_torch=True).get("left_as_built", ())),
            )


def show(out: "Console", explanation: Explanation, cures: "Sequence[Cure]") -> None:
    """Print the maps, the moments, the findings, the experiments and the cures."""
    from harness.diagnosis import LEGEND

    diagnosis = explanation.diagnosis
    _show_choices(out, explanation)
    losses = [step.loss for step in diagnosis.steps]
    out.print(
        f"\ngradient and movement of each tensor by step; loss {losses[0]:.6g} at first, {losses[-1]:.6g} at last"
    )
    out.print(_maps(diagnosis))
    out.print(LEGEND, markup=False)
    out.print(f"\nsecond moments at step 0; of the images {_number(explanation.images_moment)}")
    out.print(_moments(explanation))
    out.print(_MOMENTS_LEGEND, markup=False)
    out.print(_table(["layer", "diagnosis", "why"], _findings(diagnosis)))
    out.print(f"network: {diagnosis.network}", markup=False)
    if diagnosis.causes.experiments:
        out.print("\nthe experiments behind it, each on a copy of the network that is trained for a few steps:")
        out.print(_table(["changed", "what became of it"], diagnosis.experiments()))
    if cures:
        out.print(
            "\ncures, each tried by running it; add one to the command, or put it in the place of what it changes:"
        )
        out.print(_table(["choice", "diagnosis"], [(cure.typed, str(cure.finding)) for cure in cures]))


def _show_choices(out: "Console", explanation: Explanation) -> None:
    config = explanation.config
    out.print(
        f"init={config.labels.init} model={config.labels.model} activation={config.model.activation} "
        f"data={config.data.name} ({config.data.scaling}, {config.data.batches}) "
        f"optimizer={config.optimizer.name} lr={config.optimizer.lr:g} seed={config.seed}",
        markup=False,
    )
    for name in explanation.left_as_built:
        out.print(f"left as its constructor made it, because no initializer fills it: {name}", markup=False)


def _findings(diagnosis: "Diagnosis") -> list[tuple[str, str, str]]:
    return [(layer, finding.kind, finding.reason) for layer, finding in diagnosis.layers.items()]


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _maps(diagnosis: "Diagnosis") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("tensor", no_wrap=True)
    table.add_column(f"steps 0 to {len(diagnosis.steps) - 1}", no_wrap=True)
    for name in diagnosis.steps[0].tensors:
        table.add_row(name, diagnosis.map_of(name))
    return table


def _moments(explanation: Explanation) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    table.add_column("layer", overflow="fold")
    for title in _MOMENTS:
        table.add_column(title, justify="right", no_wrap=True)
    for layer, units in explanation.units.items():
        # a weight that layers share goes by the name of one of them
        probe = explanation.probes.get(f"{layer}.weight")
        if probe is None:
            continue
        numbers = [probe.output_moment, probe.output_moment_theory, explanation.mean_field.get(layer)]
        numbers += [probe.gradient_gain, probe.gradient_gain_theory]
        dead = "-" if probe.dead_share is None else f"{probe.dead_share:.0%}"
        counts = [probe.gradient_rank, probe.distinct_rows, probe.distinct_gradient_rows]
        table.add_row(layer, *map(_number, numbers), dead, *(f"{count}/{units}" for count in counts))
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if math.isfinite(value) else str(value)


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The choices and values; ``--config-dir DIR`` becomes the override that Hydra's compose understands."""
    parser = Parser(
        prog="python -m harness.explain",
        usage=_USAGE,
        description=_ABOUT,
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="CHOICE|VALUE", help="init=zero, model.width=64, ...; no sweep")
    parser.add_argument("--config-dir", type=existing_folder, metavar="DIR", help="holds config groups of your own")
    # intermixed: a switch may stand between choices
    typed = parser.parse_intermixed_args(arguments)
    folders = []
    if typed.config_dir is not None:
        place = hydra_quoted(f"file://{typed.config_dir.absolute()}")
        folders = [f"hydra.searchpath=[{place}]"]
    return [*folders, *typed.overrides]


@one_line_errors
def main(arguments: Sequence[str]) -> int:
    """Explain one config; returns the exit code."""
    overrides = _overrides(arguments)
    config = load_config(overrides)
    from harness.cures import cures_of

    try:
        explanation = explain(config)
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - an initializer of the user may raise anything
        text = error_text(error) if isinstance(error, ValueError) else in_one_line(error)
        print(f"error: {text.partition(' Exception raised from')[0]}", file=sys.stderr)
        return 1
    from harness import console

    show(console.console(), explanation, cures_of(explanation.config, explanation.diagnosis, overrides))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
