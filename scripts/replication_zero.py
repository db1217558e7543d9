"""Networks that begin with zeros: ZerO's MNIST example, and residual networks that begin as zero."""

from collections.abc import Sequence

import pandas as pd
from replication_claims import (
    Claim,
    Replication,
    Tables,
    Verdict,
    by_share,
    layer_values,
    order,
    reach,
    rows,
    spread,
    within,
)

from harness.markdown import code, table

RANDOM, IDENTITY, ZERO = "he_normal", "identity", "zero_hadamard"
WIDENED = "l3.weight"
INPUTS = 784
AUTHORS = {RANDOM: ("random", "95.82", "98.21"), IDENTITY: ("partial identity", "95.07", "98.33")}
AUTHORS[ZERO] = ("ZerO", "95.28", "98.39")
ALL_ZERO, HE, FIXUP = "all_zero", "he", "fixup"
BRANCHES = {
    (ALL_ZERO, 0.0): "all weights, and the branches' factors",
    (ALL_ZERO, 1.0): "all weights",
    (HE, 0.0): "the branches' factors",
    (HE, 1.0): "nothing",
    (FIXUP, 0.0): "each branch's last convolution and its factor, and the last layer",
    (FIXUP, 1.0): "each branch's last convolution, and the last layer",
}

ZERO_LEGEND = (
    "Test accuracy in %: published with n = 1 (one seed), here median (smallest to largest; n seeds). Between seeds of "
    "the two deterministic initializations only the order of the images differs:"
)


def rank_at_end(tables: Tables, init: str) -> "pd.Series[float]":
    """Return the rank of what the third layer's weight has moved by after training, by seed."""
    return rows(layer_values(tables, tables.layers["step"].max(), init=init), parameter=WIDENED)["update_rank"]


def accuracy(tables: Tables, init: str) -> list[float]:
    """Return the test accuracy after training, by seed."""
    return list(rows(tables.trials, init=init)["test_accuracy_last"])


def judge_identity_rank(tables: Tables) -> Verdict:
    """The partial identity's update stays within the rank of the input's dimension, at every evaluated step."""
    ranks = rows(layer_values_at_all_steps(tables, IDENTITY), parameter=WIDENED)["update_rank"]
    return within(list(ranks), 0, INPUTS, "partial identity, ranks at all evaluated steps", ".0f")


def layer_values_at_all_steps(tables: Tables, init: str) -> pd.DataFrame:
    """Return the rows of ``layers`` of one initializer."""
    return tables.layers.merge(rows(tables.trials, init=init), on="trial_id")


def judge_zero_rank(tables: Tables) -> Verdict:
    """ZerO's update has a larger rank than the input has dimensions."""
    return within(list(rank_at_end(tables, ZERO)), INPUTS + 1, float("inf"), "ZerO, rank after training", ".0f")


def zero_results(tables: Tables) -> str:
    """Return the table of ZerO's example."""
    lines = []
    for init, (name, epoch, last) in AUTHORS.items():
        here = spread([100 * each for each in accuracy(tables, init)], ".1f")
        lines.append([name, code(f"init={init}"), epoch, here, last, spread(rank_at_end(tables, init), ".0f")])
    head = ["weights", "choice", "published: 1 epoch", "here: 1 epoch"]
    head += ["published: 20 epochs", "here: rank of the third layer's update"]
    return f"{ZERO_LEGEND}\n\n{table(head, lines)}"


def residual(tables: Tables, init: str, scale: float) -> pd.DataFrame:
    """Return the trials of one arm of the residual experiment."""
    return rows(tables.trials, init=f"{init}[branch_scale={scale}]")


def judge_all_zero(tables: Tables) -> Verdict:
    """In a network of zeros nothing but the last bias moves."""
    moved = [set(names) for scale in (0.0, 1.0) for names in residual(tables, ALL_ZERO, scale)["moved"]]
    alone = sum(names == {"fc.bias"} for names in moved)
    return by_share(alone, len(moved), f"only fc.bias moved in {alone} of {len(moved)} runs")


def judge_one_factor(tables: Tables, init: str, scale: float) -> Verdict:
    """With one zero factor a branch, every tensor moves."""
    trials = residual(tables, init, scale)
    whole = sum(len(names) == 0 for names in trials["unmoved"])
    return by_share(whole, len(trials), f"every tensor moved in {whole} of {len(trials)} runs")


def judge_two_factors(tables: Tables) -> Verdict:
    """With two zero factors a branch, no tensor of any branch moves, and every other one does."""
    trials = residual(tables, FIXUP, 0.0)
    branches_alone = [
        len(unmoved) > 0 and all(map(_in_a_branch, unmoved)) and not any(map(_in_a_branch, moved))
        for unmoved, moved in zip(trials["unmoved"], trials["moved"], strict=True)
    ]
    held = sum(branches_alone)
    return by_share(held, len(trials), f"the branches' tensors, and no others, stayed in {held} of {len(trials)} runs")


def _in_a_branch(name: str) -> bool:
    return name.startswith("block")


def residual_results(tables: Tables) -> str:
    """Return the table of the residual networks."""
    lines = []
    for (init, scale), zeros in BRANCHES.items():
        trials = residual(tables, init, scale)
        lines.append([code(f"init={init} init.branch_scale={scale:g}"), zeros, *_residual_row(tables, trials)])
    head = ["choice", "begins as zero", "ended", "test accuracy", "diagnosis", "rank of the first block's updates"]
    return table(head, lines)


def _residual_row(tables: Tables, trials: pd.DataFrame) -> Sequence[str]:
    ended = rows(trials, status="ok")
    last = rows(tables.layers, step=tables.layers["step"].max())
    ranks = last[last["trial_id"].isin(ended["trial_id"]) & last["parameter"].str.startswith("block1_")]
    texts = [spread(group, ".0f") for _, group in ranks.groupby("parameter")["update_rank"]]
    ill = ", ".join(sorted(set(trials["diagnosis"])))
    return [f"{len(ended)} of {len(trials)}", spread(ended["test_accuracy_last"]), ill, ", ".join(texts)]


ZERO_MNIST = Replication(
    experiment="zero_mnist",
    title="ZerO on MNIST",
    paper="Zhao, Schäfer & Anandkumar 2022, ZerO Initialization: Initializing Neural Networks with only Zeros and Ones",
    read="The abstract, and the authors' notebook example_mnist.ipynb with its printed accuracies (seed 1, hidden "
    "width 2,048) and its drawing of figure 3; the paper itself was not, nor any other table of it.",
    settings=[
        ("training", "20 epochs, seed 1", "the first epoch ({steps} updates of {batch_size} images)"),
        ("last layer under ZerO", "partial identity, in the notebook", "zero, as `init=zero_hadamard` always has it"),
        ("numerical rank", "singular values above 1e-4", "above 1e-5 of the longest row of the update"),
    ],
    claims=[
        Claim(
            "From the partial identity the rank of what the third layer learns never exceeds the input's dimension.",
            "theorem 1 and figure 3, as the notebook states them",
            judge_identity_rank,
        ),
        Claim(
            "The Hadamard transform breaks this constraint: the rank exceeds the input's dimension.",
            "figure 3, as the notebook states it",
            judge_zero_rank,
        ),
        Claim(
            "After one epoch random weights are ahead of ZerO.",
            "the notebook: 95.82 against 95.28",
            lambda tables: order(accuracy(tables, ZERO), accuracy(tables, RANDOM), ("ZerO", "random")),
        ),
        Claim(
            "After one epoch ZerO is ahead of the partial identity.",
            "the notebook: 95.28 against 95.07",
            lambda tables: order(accuracy(tables, IDENTITY), accuracy(tables, ZERO), ("partial identity", "ZerO")),
        ),
    ],
    results=zero_results,
    layer_columns=("update_rank",),
)

ZERO_RESIDUAL = Replication(
    experiment="zero_residual",
    title="Residual networks that begin as zero",
    paper="Zhang, Dauphin & Ma 2019 (Fixup); Bachlechner et al. 2021 (ReZero); and the textbook rule that a network of "
    "zeros learns nothing",
    read="The abstracts. The rule on the number of zero factors is arithmetic: the gradient of a factor of a product "
    "is the product of the others.",
    settings=[
        ("networks", "up to 10,000 layers (Fixup), thousands (ReZero)", "{depth} blocks of two convolutions"),
        ("data", "larger images, and texts", "the first 5,000 images of MNIST"),
        ("training", "-", "{steps} updates of {batch_size} images, SGD with lr {lr:g}"),
        ("Fixup", "with scalar biases", "without; each branch's factor is learned, in every arm"),
    ],
    claims=[
        Claim("If all weights are zero, nothing but the last bias ever moves.", "textbooks (relu)", judge_all_zero),
        Claim(
            "Under Fixup, which leaves one factor of each branch zero, every tensor moves, without normalization.",
            "abstract of Fixup",
            lambda tables: judge_one_factor(tables, FIXUP, 1.0),
        ),
        Claim(
            "With each branch gated by a factor of zero, every tensor moves too.",
            "abstract of ReZero",
            lambda tables: judge_one_factor(tables, HE, 0.0),
        ),
        Claim(
            "With both at once the branches never move, and every other tensor does.",
            "arithmetic",
            judge_two_factors,
        ),
        Claim(
            "That shows in no curve of the first steps: also a network with stuck branches reaches 0.8.",
            "our own",
            lambda tables: reach(residual(tables, FIXUP, 0.0), 0.8, "stuck branches", shall=True),
        ),
    ],
    results=residual_results,
    layer_columns=("update_rank",),
)
