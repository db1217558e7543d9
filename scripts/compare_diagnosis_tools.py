"""Compare harness.diagnose with torchmortem and training-doctor on networks with planted faults.

Usage: python scripts/compare_diagnosis_tools.py [--steps N ...] [--format text|md] [--each]
       (about eight minutes on one core; exit code 0: compared, 2: a tool is not installed)

The networks are those of planted_networks.py; every tool gets its own copy of each network and the same batches. Both
other tools watch plain SGD with learning rate 0.01 for each number of --steps: 30 is a first look; 250 is enough for
the slowest of their default detectors, which wants 200 losses. No validation loss is logged, so nothing can say that a
network overfits. They are scored twice: from warnings on, and for critical findings alone. Notes never count.

  flagged      networks with a fault for which the tool has a finding of that level
  named        such a finding names a layer at fault: the module path of a tensor to blame
  alone        such findings name no other layer that has parameters
  worst        the tool's own ranking of layers puts layers at fault, and no other, in the worst place
  ordinary     false alarms: flagged networks without a fault, drawn as people draw them
  odd-looking  false alarms: flagged networks without a fault that were made to look suspicious

Where every layer is at fault, any name is right, and where none is (no initial values help), none. The three columns
about names therefore leave such networks out.
"""

import contextlib
import copy
import ctypes
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from diagnosis_tools import (
    FAULTS,
    LEARNING_RATE,
    OURS,
    TOOLS,
    Batches,
    Level,
    ToolReport,
    layer_of,
    layers_of,
    require_tools,
    take_steps,
    versions,
    watch,
)

from harness.arguments import one_line_errors, positive, script_parser
from harness.markdown import aligned_table, table
from harness.processor import cpu_model

if TYPE_CHECKING:
    from planted_networks import Planted

STEPS = (30, 250)
BATCHES, BATCH_SIZE = 10, 20
HEAD = ("tool", "steps", "findings", "flagged", "named", "alone", "worst", "ordinary", "odd-looking")
_ORDINARY = "ordinary: "
BEGIN = "<!-- written by: python scripts/compare_diagnosis_tools.py --format md -->"
END = "<!-- end of what the script wrote -->"
_OWN_STEPS = "its own"


@dataclass(frozen=True)
class Score:
    """What a report is worth: the columns of the table, for one network."""

    flagged: bool
    named: bool
    alone: bool
    worst: bool


@dataclass(frozen=True)
class Watched:
    """One network as one tool saw it.

    Attributes:
        planted: the network and its fault.
        layers: module paths that hold parameters.
        report: what the tool said.
    """

    planted: "Planted"
    layers: frozenset[str]
    report: ToolReport

    @property
    def blamed(self) -> frozenset[str]:
        """The layers at fault."""
        return frozenset(map(layer_of, self.planted.to_blame))

    @property
    def faulty(self) -> bool:
        """Whether the network has a fault."""
        return self.planted.kind in FAULTS

    @property
    def ordinary(self) -> bool:
        """Whether the network is an ordinary draw."""
        return self.planted.name.startswith(_ORDINARY)

    def score(self, least: Level) -> Score:
        """Score the report by its findings of at least a level."""
        return score(self.report, blamed=self.blamed, layers=self.layers, least=least)


Runs = dict[tuple[str, str], list[Watched]]
"""Tool and steps -> every network, in order."""


def score(report: ToolReport, *, blamed: frozenset[str], layers: frozenset[str], least: Level) -> Score:
    """Score a report by its findings of at least a level; the rules stand at the top of this file."""
    counted = [finding for finding in report.findings if finding.level >= least]
    mentioned = frozenset[str]().union(*(finding.layers for finding in counted)) & layers
    named = bool(mentioned & blamed)
    return Score(
        flagged=bool(counted),
        named=named,
        alone=named and mentioned <= blamed,
        worst=bool(report.worst) and report.worst <= blamed,
    )


def batches() -> Batches:
    """Return the digits that the networks are shown."""
    from planted_modules import batch

    inputs, classes = batch(BATCHES * BATCH_SIZE)
    parts = [slice(start, start + BATCH_SIZE) for start in range(0, len(inputs), BATCH_SIZE)]
    return [(inputs[part], classes[part]) for part in parts]


def run(networks: "Sequence[Planted]", shown: Batches, steps: Sequence[int]) -> Runs:
    """Show every network to every tool.

    Raises:
        RuntimeError: a network cannot be trained even without a tool.
    """
    runs: Runs = {}
    for planted in networks:
        torch.manual_seed(0)
        network = planted.build()
        # an error here is ours; one that comes later is the tool's
        take_steps(copy.deepcopy(network), shown, 1)
        for name, tool in TOOLS.items():
            for count in (0,) if name == OURS else steps:
                report = watch(tool, copy.deepcopy(network), shown, count)
                key = (name, str(count) if count else _OWN_STEPS)
                runs.setdefault(key, []).append(Watched(planted, layers_of(network), report))
    return runs


def lines(runs: Runs) -> Iterator[tuple[str, ...]]:
    """Yield the rows of the table: one per tool, number of steps and level."""
    for (name, steps), watched in runs.items():
        if name == OURS:
            # it has one level: a fault or none
            yield (name, steps, "all", *counts(watched, Level.CRITICAL))
        else:
            yield (name, steps, "warning or critical", *counts(watched, Level.WARNING))
            yield (name, steps, "critical", *counts(watched, Level.CRITICAL))


def counts(watched: Sequence[Watched], least: Level) -> Iterator[str]:
    """Yield the counts of one row, each as a share of the networks that it is about."""
    faulty = [one for one in watched if one.faulty]
    local = [one for one in faulty if one.blamed and one.blamed < one.layers]
    yield share([one.score(least).flagged for one in faulty])
    yield share([one.score(least).named for one in local])
    yield share([one.score(least).alone for one in local])
    yield share([one.score(least).worst for one in local])
    for ordinary in (True, False):
        yield share([one.score(least).flagged for one in watched if not one.faulty and one.ordinary == ordinary])


def share(hits: Sequence[bool]) -> str:
    """Return how many of them are true."""
    return f"{sum(hits)} of {len(hits)}"


def each(runs: Runs) -> Iterator[str]:
    """Yield the listing of every network: its fault, and all that each tool found."""
    for index, planted in enumerate(next(iter(runs.values()))):
        fault = planted.planted
        yield f"\n{fault.name}: {fault.kind}; {fault.fault or 'no fault'}; to blame: {_list(planted.blamed)}"
        for (name, steps), watched in runs.items():
            report = watched[index].report
            said = [f"{found.level.name.lower()} {found.title} [{_list(found.layers)}]" for found in report.findings]
            yield f"  {name}, {steps} steps: {report.failure or '; '.join(said) or 'nothing'}"


def _list(layers: frozenset[str]) -> str:
    return ", ".join(sorted(layers)) or "none"


def failures(runs: Runs) -> Iterator[str]:
    """Yield a line for each network that a tool could not watch; it counts as not flagged."""
    for (name, steps), watched in runs.items():
        for one in watched:
            if one.report.failure:
                yield f"{name}, {steps} steps, could not watch {one.planted.name}: {one.report.failure}"


@contextlib.contextmanager
def messages_to_stderr() -> Iterator[None]:
    """Send what C libraries print to standard error, so that standard output holds the table alone.

    MKL prints a message wherever torchmortem takes singular values of NaN.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        # C libraries hold back what they print until their buffer is full
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)


def header(networks: "Sequence[Planted]") -> str:
    """Return the line that says what the numbers hold for."""
    faulty = sum(planted.kind in FAULTS for planted in networks)
    return (
        f"{versions()}, torch {torch.__version__}, Python {platform.python_version()}; "
        f"{cpu_model() or 'an unknown processor'}; plain SGD, learning rate {LEARNING_RATE:g}, "
        f"{BATCHES} batches of {BATCH_SIZE} digits in turn; "
        f"n = {faulty} networks with a fault, {len(networks) - faulty} healthy, one seed each"
    )


def show(networks: "Sequence[Planted]", runs: Runs, *, markdown: bool) -> None:
    """Print the header, the table and what could not be watched."""
    rows = list(lines(runs))
    if not markdown:
        print(f"{header(networks)}\n\n{aligned_table(HEAD, rows)}")
    else:
        print(f"{BEGIN}\n{header(networks)}.\n\n{table(HEAD, rows, right_from=3)}")
    failed = "\n".join(failures(runs))
    if failed:
        print(f"\n{failed}")
    if markdown:
        print(END)


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare the tools and print the table."""
    parser = script_parser("compare_diagnosis_tools", __doc__)
    parser.add_argument("--steps", type=positive, nargs="+", default=STEPS, metavar="N", help="default: 30 250")
    parser.add_argument("--format", choices=("text", "md"), default="text", help="md: the block for the docs")
    parser.add_argument("--each", action="store_true", help="also list every network with all findings")
    options = parser.parse_args(arguments)
    require_tools()
    from planted_networks import PLANTED

    with messages_to_stderr():
        runs = run(PLANTED, batches(), options.steps)
    show(PLANTED, runs, markdown=options.format == "md")
    if options.each:
        print("\n".join(each(runs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
