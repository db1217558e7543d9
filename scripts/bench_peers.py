"""The article's network side by side: plain PyTorch, PyTorch compiled, JAX, Keras on TensorFlow, and this harness.

Usage: python scripts/bench_peers.py [--quick] [--only steps|trials] [--batch N ...] [--rounds N] [--stack R]
       [--python PATH] [--json FILE] [--page] [--device cuda]      (about ten minutes on two cores)

Every peer trains the same network from the same weights on the same first images, in float32, by SGD. Each is a process
of its own that stays alive on the same cores with the same number of threads, and is asked for a round at a time; the
order turns from round to round. First its losses over 20 steps are set against those of plain PyTorch; a peer that
differs gets no speed. Part ``steps``: images/s of one training, or of R models together. Part ``trials``: trials an
hour of whole commands: this harness by workers against one script after the other.

JAX and TensorFlow are optional (pip install "initbench[peers]"). They may live in an environment of their own:
--python names its interpreter. What cannot be imported is named as not measured.
Exit code 0: all is right and no aim is missed, 1: some peer's losses are wrong or an aim is missed, 2: a wrong command.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peers_page import PAGE, write_page
from peers_processes import Setting
from peers_report import PeersReport, aims, tables
from peers_rounds import STEP_ARMS, PeersWorkload, measure_steps
from peers_trials import measure_trials

from harness.arguments import file_to_write, one_line_errors, positive, script_parser
from harness.cores import usable_cores
from harness.errors import UsageError
from harness.processor import cpu_model

FULL = PeersWorkload(batches=(50, 256), rounds=7, round_s=0.7, trials=4, trial_steps=300, trial_rounds=2)
QUICK = PeersWorkload(batches=(50,), rounds=2, round_s=0.05, trials=2, trial_steps=4, trial_rounds=1)
PARTS = ("steps", "trials")
EXTRA_STACK = {"cpu": 4, "cuda": 64}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser("bench_peers", __doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test; its numbers mean nothing")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part; may be repeated")
    parser.add_argument("--peers", metavar="A,B", help=f"of part steps: some of {','.join(STEP_ARMS)}; always plain")
    parser.add_argument("--batch", type=positive, action="append", metavar="N", help="images a step (default: 50, 256)")
    parser.add_argument("--rounds", type=positive, metavar="N", help=f"of part steps (default: {FULL.rounds})")
    parser.add_argument("--stack", type=positive, metavar="R", help="models trained together (default: 4; cuda: 64)")
    parser.add_argument("--threads", type=positive, metavar="T", help="of each peer (default: all usable cores)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--patience", type=positive, metavar="S", default=240, help="seconds for one answer; some compile for minutes"
    )
    parser.add_argument("--python", metavar="PATH", default=sys.executable, help="interpreter that has JAX, TensorFlow")
    parser.add_argument("--json", type=file_to_write, metavar="FILE", help="write every round's figures")
    parser.add_argument("--page", action="store_true", help=f"write the tables into {PAGE.parent.name}/{PAGE.name}")
    return parser.parse_args(arguments)


def chosen_arms(text: str | None) -> list[str]:
    """Return the arms of part ``steps`` in their order.

    Raises:
        UsageError: one is not known.
    """
    if text is None:
        return list(STEP_ARMS)
    wanted = text.split(",")
    for name in wanted:
        if name not in STEP_ARMS:
            raise UsageError(f"--peers {name}: no such peer; give some of {', '.join(STEP_ARMS)}")
    return [name for name in STEP_ARMS if name == "plain" or name in wanted]


def workload(options: argparse.Namespace) -> PeersWorkload:
    """Return how much to measure."""
    effort = QUICK if options.quick else FULL
    if options.batch:
        effort = replace(effort, batches=tuple(options.batch))
    return replace(effort, rounds=options.rounds) if options.rounds else effort


def setting(options: argparse.Namespace, scratch: Path) -> Setting:
    """Return where and with what all peers run.

    Raises:
        UsageError: there is no such interpreter, or there are not so many cores.
    """
    if not os.access(options.python, os.X_OK):
        raise UsageError(f"--python {options.python}: no program that can be run; name a Python interpreter")
    cores = usable_cores()
    threads = options.threads or len(cores)
    if threads > len(cores):
        raise UsageError(f"--threads {threads}: {len(cores)} cores can be used; give at most so many")
    stack = options.stack or (2 if options.quick else EXTRA_STACK[options.device])
    return Setting(options.device, threads, options.python, stack, scratch, options.patience)


def header(options: argparse.Namespace, where: Setting, effort: PeersWorkload) -> str:
    """Say what the numbers hold for."""
    note = "; --quick: a smoke test, NOT FOR QUOTING" if options.quick else ""
    return (
        f"{cpu_model() or 'an unknown processor'}, device={where.device}, {where.threads} threads, "
        f"Python {platform.python_version()}, n = {effort.rounds} interleaved rounds{note}"
    )


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code."""
    options = parse(arguments)
    arms, effort, parts = chosen_arms(options.peers), workload(options), options.only or list(PARTS)
    if options.page and options.quick:
        raise UsageError("--page: the numbers of --quick mean nothing; leave one of the two out")
    with tempfile.TemporaryDirectory(prefix="initbench-") as scratch:
        where = setting(options, Path(scratch))
        found = PeersReport(header(options, where, effort), where.stack)
        if "steps" in parts:
            measure_steps(found, where, effort, arms)
        if "trials" in parts:
            measure_trials(found, where, effort)
    judged = aims(found, where.device)
    print(f"{found.header}\n\n{tables(found, judged)}")
    for name, fault in found.faults.items():
        print(f"no speed: {name}: {fault}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(found.as_json(judged), indent=1) + "\n")
    if options.page:
        write_page(found, judged)
    return 1 if found.faults or any(aim.met is False for aim in judged) else 0


if __name__ == "__main__":
    sys.exit(main())
