"""Repeat published experiments by choices alone, and write docs/replications.md from what they gave.

Usage: python scripts/replications.py [--run FOLDER [EXPERIMENT ...]] [--page]

--run runs the sweep of each named experiment (default: of all) into FOLDER/EXPERIMENT, going on with what is there, and
reduces it to docs/replications/EXPERIMENT.*.parquet. --page writes the page from these files alone. A sweep is what
this runs by itself, in minutes on one core:

    python -m harness.run -m experiment=EXPERIMENT

Exit code: 0 done, 1 a sweep was stopped, 2 a wrong command.
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
from replication_claims import BORNE_OUT, NOT_BORNE_OUT, UNCLEAR, Replication, Tables
from replication_depth import DELTA_ORTHOGONAL, START_TRAINING, TRAINABILITY
from replication_glorot import GLOROT_BENGIO
from replication_zero import ZERO_MNIST, ZERO_RESIDUAL

import harness
from harness.arguments import one_line_errors, script_parser
from harness.errors import UsageError
from harness.markdown import code, table
from harness.paths import typed_path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/replications.md"
FOLDER = ROOT / "docs/replications"
REPLICATIONS = {
    each.experiment: each
    for each in (TRAINABILITY, DELTA_ORTHOGONAL, START_TRAINING, GLOROT_BENGIO, ZERO_MNIST, ZERO_RESIDUAL)
}
TABLES = ("trials", "layers")
KEPT = ["trial_id", "experiment", "init", "init_gain", "seed", "model", "activation", "depth", "width", "stride"]
KEPT += ["data", "batches", "scaling", "optimizer", "lr", "steps", "batch_size", "eval_every", "status", "diagnosis"]
KEPT += ["train_loss_last", "test_accuracy_last", "targets", "steps_to_target", "moved", "unmoved", "cpu_model"]
KEPT += ["threads", "torch_version", "python_version", "git_commit", "git_dirty"]
PARTS_OF_TIME = ["setup_time_s", "init_time_s", "warmup_time_s", "train_time_s", "eval_time_s"]
KEPT += PARTS_OF_TIME
COUNTED = ("ok", "diverged")

HEAD = """\
# Replications

This page answers: which published claims about initial weights are borne out when the experiments are repeated here?

Written by `scripts/replications.py` from the files in `docs/replications`; do not edit. Each section is one published
experiment, repeated by choices alone and cut to minutes on one core. `python -m harness.run -m experiment=NAME` runs
its whole sweep; `python scripts/replications.py --run FOLDER --page` runs all of them and writes this page. All but
`zero_mnist` use the embedded images; that one downloads all of MNIST once.

A claim is a sentence of the paper in our words. It is *borne out* if the values of all seeds say so, *not borne out* if
they all say the opposite; else it *cannot be told*. An order counts only if the values of the two arms do not overlap.
Three to five seeds of a cut experiment neither prove nor refute a paper: a claim that is not borne out may need its
full size. Each section says what was read of the paper and what differs; no figure is quoted that was not read.
"""


def run(names: Sequence[str], folder: Path) -> int:
    """Run the sweeps and reduce them; returns 1 if one was stopped, else 0."""
    for name in names:
        into = folder / name
        sweep = ["-m", "harness.run", "-m", f"experiment={name}", f"results.dir={into}", "sweep.resume=true"]
        code_of_sweep = subprocess.run([sys.executable, *sweep], check=False).returncode
        # 1: some runs diverged, which their rows say
        if code_of_sweep not in (0, 1):
            return 1
        condense(REPLICATIONS[name], into)
    return 0


def condense(replication: Replication, results: Path) -> None:
    """Write the rows that the page needs, in a fixed order.

    Raises:
        UsageError: a trial ended otherwise than trained or diverged, or there is none.
    """
    frames = harness.load(results)
    trials = frames.trials[frames.trials["experiment"] == replication.experiment]
    failed = trials[~trials["status"].isin(COUNTED)]
    if trials.empty or len(failed):
        raise UsageError(f"{results}: {len(trials)} trials, {len(failed)} of them failed; run the sweep again")
    trials = trials.sort_values("sweep_index").reset_index(drop=True)
    order = {trial: place for place, trial in enumerate(trials["trial_id"])}
    layers = frames.layers[frames.layers["parameter"].str.endswith(".weight")]
    kept = {
        "trials": trials[KEPT],
        "layers": layers[["trial_id", "step", "parameter", *replication.layer_columns]],
    }
    FOLDER.mkdir(exist_ok=True)
    for name, frame in kept.items():
        own = frame[frame["trial_id"].isin(order)]
        ordered = own.sort_values("trial_id", key=lambda ids: ids.map(order), kind="stable").reset_index(drop=True)
        ordered.to_parquet(FOLDER / f"{replication.experiment}.{name}.parquet", compression="zstd", index=False)


def read(name: str) -> Tables:
    """Read the reduced rows of one experiment.

    Raises:
        UsageError: it was not run yet.
    """
    paths = [FOLDER / f"{name}.{kind}.parquet" for kind in TABLES]
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise UsageError(f"{missing[0]}: not there; run python scripts/replications.py --run FOLDER {name}")
    return Tables(*(pd.read_parquet(path) for path in paths))


def page() -> str:
    """Return the whole page."""
    sections, overview = [], []
    for name, replication in REPLICATIONS.items():
        tables = read(name)
        judged = [(claim, claim.judge(tables)) for claim in replication.claims]
        words = [verdict.word for _, verdict in judged]
        counts = [words.count(word) for word in (BORNE_OUT, NOT_BORNE_OUT, UNCLEAR)]
        overview.append([replication.title, code(f"experiment={name}"), *counts])
        claims = [[claim.text, claim.place, verdict.word, verdict.numbers] for claim, verdict in judged]
        sections.append("\n".join(_section(replication, tables, claims)))
    head = ["", "choice", BORNE_OUT, NOT_BORNE_OUT, UNCLEAR]
    return "\n".join([HEAD, table(head, overview, right_from=2), *sections]) + "\n"


def _section(replication: Replication, tables: Tables, claims: Sequence[Sequence[str]]) -> Iterator[str]:
    last = {name: value for name, value in tables.trials.iloc[-1].items() if isinstance(name, str)}
    settings = [[what, theirs, ours.format(**last)] for what, theirs, ours in replication.settings]
    yield f"\n## {replication.title}\n"
    yield f"{replication.paper}. What was read: {replication.read}\n"
    yield _provenance(tables.trials) + "\n"
    yield table(["claim", "where", "verdict", "measured: median (smallest to largest; n values)"], claims) + "\n"
    yield replication.results(tables) + "\n"
    yield "Settings that differ:\n"
    yield table(["setting", "in the paper, as far as read", "here"], settings)


def _provenance(trials: pd.DataFrame) -> str:
    one = trials.iloc[0]
    minutes = trials[PARTS_OF_TIME].sum().sum() / 60
    diverged = int((trials["status"] == "diverged").sum())
    commits = " and ".join(sorted({str(commit)[:10] for commit in trials["git_commit"]}))
    changed = " with uncommitted changes" if trials["git_dirty"].any() else ""
    return (
        f"`python -m harness.run -m experiment={one['experiment']}`: {len(trials)} trials, {trials['seed'].nunique()} "
        f"seeds an arm, {diverged} diverged; {minutes:.1f} minutes on one core of {one['cpu_model']}, shared "
        f"with other work; torch {one['torch_version']}, Python {one['python_version']}, commit {commits}{changed}."
    )


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the page, or both; returns the exit code."""
    parser = script_parser("replications", __doc__)
    parser.add_argument("--run", metavar="FOLDER", type=typed_path, help="run the sweeps into FOLDER")
    parser.add_argument("--page", action="store_true", help="write docs/replications.md")
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=", ".join(REPLICATIONS))
    options = parser.parse_args(arguments)
    unknown = [name for name in options.experiments if name not in REPLICATIONS]
    if unknown:
        parser.error(f"EXPERIMENT={unknown[0]}: unknown; choose one of: {', '.join(REPLICATIONS)}")
    if options.run is None and not options.page:
        parser.error("nothing to do; give --run FOLDER, --page, or both")
    if options.run is not None and run(options.experiments or list(REPLICATIONS), options.run):
        return 1
    if options.page:
        PAGE.write_text(page(), encoding="utf-8")
        print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
