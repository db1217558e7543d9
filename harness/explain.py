"""The command ``python -m harness.explain CHOICES``: why a network can or cannot train, from its first few steps."""

import argparse
import math
import sys
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.arguments import Parser, existing_folder, one_line_errors
from harness.compose import load_config
from harness.config import TrialConfig
from harness.errors import DataError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from harness.diagnosis import Diagnosis

_USAGE = "python -m harness.explain [--config-dir DIR] [CHOICE ...] [VALUE ...]"
_ABOUT = """\
Takes the choices and values of python -m harness.run, but no sweep, trains a copy of the network for a few
steps (layers with weights + 2) and says of every layer whether it learns and, if not, why.

  python -m harness.explain init=zero
  python -m harness.explain init=zero model.activation=tanh
  python -m harness.explain model=deep init=delta_orthogonal model.depth=30 model.activation=tanh"""
_CODES = "Exit codes: 0 explained, 1 the network could not be filled, 2 the command was wrong."

_LEGEND = """\
# gradient, and moved   g gradient, not moved (rounded away)   m moved without gradient   . neither"""

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


def explain(config: TrialConfig) -> "Diagnosis":
    """Fill the network of a config and diagnose it.

    Raises:
        UsageError: the config cannot be run here.
        DataError: the data cannot be had.
        ValueError: the initializer refused the network.
    """
    from harness import device, resolution, trial

    config = resolution.resolved(config)
    device.apply_flags(config.device)
    setup = trial.assemble(config, device.resolve(config.device))
    trial.initialise(config, setup)
    return trial.diagnose(config, setup)


def show(out: "Console", config: TrialConfig, diagnosis: "Diagnosis") -> None:
    """Print the maps, the moments, and the diagnoses."""
    out.print(
        f"init={config.labels.init} model={config.labels.model} activation={config.model.activation} "
        f"data={config.data.name} ({config.data.scaling}, {config.data.batches}) "
        f"optimizer={config.optimizer.name} lr={config.optimizer.lr:g} seed={config.seed}",
        markup=False,
    )
    losses = [step.signals.loss for step in diagnosis.steps]
    out.print(
        f"\ngradient and movement of each tensor by step; loss {losses[0]:.6g} at first, {losses[-1]:.6g} at last"
    )
    out.print(_maps(diagnosis))
    out.print(_LEGEND, markup=False)
    out.print(f"\nsecond moments at step 0; of the images {_number(diagnosis.steps[0].signals.input_moment)}")
    out.print(_moments(diagnosis))
    out.print(_MOMENTS_LEGEND, markup=False)
    out.print(_diagnoses(diagnosis))
    out.print(f"network: {diagnosis.network}", markup=False)


def _maps(diagnosis: "Diagnosis") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("tensor", no_wrap=True)
    table.add_column(f"steps 0 to {len(diagnosis.steps) - 1}", no_wrap=True)
    marks = {(True, True): "#", (True, False): "g", (False, True): "m", (False, False): "."}
    for name in diagnosis.steps[0].tensors:
        table.add_row(name, "".join(marks[step.has_gradient(name), name in step.moved] for step in diagnosis.steps))
    return table


def _moments(diagnosis: "Diagnosis") -> "Table":
    from rich import box
    from rich.table import Table

    first = diagnosis.steps[0]
    table = Table(box=box.SIMPLE)
    table.add_column("layer", overflow="fold")
    for title in _MOMENTS:
        table.add_column(title, justify="right", no_wrap=True)
    for layer in diagnosis.layers:
        probe, mean_field = first.tensors[f"{layer}.weight"], diagnosis.mean_field[layer]
        numbers = [probe.output_moment, probe.output_moment_theory, mean_field]
        numbers += [probe.gradient_gain, probe.gradient_gain_theory]
        dead = "-" if probe.dead_share is None else f"{probe.dead_share:.0%}"
        counts = [probe.gradient_rank, probe.distinct_rows, probe.distinct_gradient_rows]
        table.add_row(layer, *map(_number, numbers), dead, *(f"{count}/{first.units[layer]}" for count in counts))
    return table


def _diagnoses(diagnosis: "Diagnosis") -> "Table":
    from rich.table import Table

    table = Table()
    table.add_column("layer")
    table.add_column("diagnosis", overflow="fold")
    table.add_column("why", overflow="fold")
    for layer, finding in diagnosis.layers.items():
        table.add_row(layer, finding.kind, finding.reason)
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
    folders = [] if typed.config_dir is None else [f"hydra.searchpath=[file://{typed.config_dir.absolute()}]"]
    return [*folders, *typed.overrides]


@one_line_errors
def main(arguments: Sequence[str]) -> int:
    """Explain one config; returns the exit code."""
    overrides = _overrides(arguments)
    # torch warns of hooks on modules whose input needs no gradient, which is as meant
    warnings.simplefilter("ignore", UserWarning)
    try:
        config = load_config(overrides)
        diagnosis = explain(config)
    except UsageError:
        raise
    except Exception as error:  # noqa: BLE001 - an initializer of the user may raise anything
        known = isinstance(error, DataError | ValueError)
        text = " ".join(str(error).partition("\nException raised from")[0].split())
        print(f"error: {text if known else f'{type(error).__name__}: {text}'}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    from harness import console

    show(console.console(), config, diagnosis)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
