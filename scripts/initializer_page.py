"""Write docs/initializers.md: every initializer's formula, source and use, and its measured result.

Usage: python scripts/initializer_page.py [RESULTS]

With a results folder its trials are condensed into docs/initializers.parquet first; without one the page is written
from that file. The trials are those of these two sweeps:

    python -m harness.run -m experiment=initializers init='glob(*)' seed='range(0,10)' device=cpu
    python -m harness.run -m experiment=initializers init='glob(*)' seed='range(0,10)' device=cpu \
        data.scaling=raw optimizer.lr=1e-4
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

import harness
from harness.arguments import existing_folder, one_line_errors, script_parser
from harness.compose import CONF_DIR
from harness.errors import UsageError
from harness.markdown import code, table

DOCS = Path(__file__).parent.parent / "docs"
KEPT = ["init", "seed", "scaling", "lr", "status", "train_loss_first", "train_loss_last"]
KEPT += ["test_accuracy_last", "model", "activation", "data", "batches", "optimizer", "steps", "batch_size"]
KEPT += ["cpu_model", "threads", "torch_version", "python_version", "git_commit"]
LEARNED = 0.5

HEAD = """\
# Initializers

This page answers: which initializers are there, what does each do, who proposed it, and how far did it learn?

Written by `scripts/initializer_page.py` from `docs/initializers.parquet` and the files in `conf/init`; do not edit.
Any of these names goes behind `init=`. In the formulas fan_in and fan_out are in and out features of a dense layer,
channels times taps of a convolution; biases are zero unless said otherwise.
"""


def described() -> pd.DataFrame:
    """Name -> formula, source and use, from the comments of its file."""
    rows = {}
    for path in sorted((CONF_DIR / "init").glob("*.yaml")):
        comments = [line[2:].partition(": ") for line in path.read_text().splitlines() if line.startswith("# ")]
        rows[path.stem] = {key: text for key, separator, text in comments if separator}
    return pd.DataFrame.from_dict(rows, orient="index")[["formula", "source", "use"]]


def condense(folder: Path) -> pd.DataFrame:
    """The columns of the trials that the page needs, in a fixed order."""
    trials = harness.load(folder).trials
    chosen = trials[trials["experiment"] == "initializers"]
    if chosen.empty:
        raise UsageError(f"{folder}: no trials of experiment=initializers there; run the sweeps of --help first")
    return chosen[KEPT].sort_values(["scaling", "init", "seed"]).reset_index(drop=True)


def spread(values: pd.Series, form: str) -> str:
    """Median and quartiles."""
    low, middle, high = values.quantile([0.25, 0.5, 0.75])
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def result_row(name: str, trials: pd.DataFrame) -> list[str]:
    """One initializer's line."""
    ended = trials[trials["status"] == "ok"]
    learned = int((ended["test_accuracy_last"] >= LEARNED).sum())
    if ended.empty:
        return [name, "-", "-", "-", f"0 of {len(trials)}"]
    return [
        name,
        spread(ended["train_loss_first"], ".3g"),
        spread(ended["train_loss_last"], ".3g"),
        spread(ended["test_accuracy_last"], ".3f"),
        f"{learned} of {len(trials)}",
    ]


def results(trials: pd.DataFrame) -> Iterator[str]:
    """A table for each input scaling, best median first."""
    for scaling, group in sorted(trials.groupby("scaling"), reverse=True):
        one = group.iloc[0]
        seeds, failed = group["seed"].nunique(), int((group["status"] != "ok").sum())
        yield f"\n## Measured: {scaling} pixels, lr {one['lr']:g}\n"
        yield (
            f"model={one['model']}, {one['activation']}, {one['data']}, {one['batches']}, {one['optimizer']}, "
            f"{one['steps']} steps of {one['batch_size']} images; n = {seeds} seeds; {one['cpu_model']}, "
            f"{one['threads']} threads, torch {one['torch_version']}, Python {one['python_version']}. "
            f"{failed} of {len(group)} trials failed. Median (quartiles) over seeds; test accuracy on all "
            "1,000 embedded test images (its own sampling error is up to 0.016); learned: at least "
            f"{LEARNED:.0%}. `python -m harness.explain init=NAME` says why one of them does not.\n"
        )
        order = group.groupby("init")["test_accuracy_last"].median().sort_values(ascending=False).index
        rows = [result_row(name, group[group["init"] == name]) for name in order]
        yield table(["init", "train loss before", "after", "test accuracy after", "learned"], rows) + "\n"


def page(trials: pd.DataFrame) -> str:
    """The whole page."""
    definitions = described()
    rows = [[code(name), *row] for name, row in zip(definitions.index, definitions.to_numpy(), strict=True)]
    seeds = trials["seed"].nunique()
    foot = (
        f"\nOne learning rate per scaling and {seeds} seeds rank nothing finely: better initializers start steeper, "
        "and another rate may turn the order. Deterministic initializers vary by the order of the images alone. "
        "fixup, skipinit and rezero are made for residual networks; on this one they are what their formulas leave.\n"
    )
    return "".join([HEAD, "\n", table(["init", "formula", "source", "use it"], rows), "\n", *results(trials), foot])


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Condense if a folder is given, then write the page; returns the exit code."""
    parser = script_parser("initializer_page", __doc__)
    parser.add_argument("results", nargs="?", type=existing_folder, metavar="RESULTS", help="holds the two sweeps")
    folder = parser.parse_args(arguments).results
    source = DOCS / "initializers.parquet"
    if folder is not None:
        DOCS.mkdir(exist_ok=True)
        condense(folder).to_parquet(source, compression="zstd", index=False)
    (DOCS / "initializers.md").write_text(page(pd.read_parquet(source)))
    print(f"wrote {DOCS / 'initializers.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
