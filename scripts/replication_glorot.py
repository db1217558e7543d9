"""Glorot & Bengio 2010: what passes five hidden layers of three activations at two initializations, and what learns."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from replication_claims import Claim, Replication, Tables, Verdict, layer_values, order, rows, spread, within

from harness.markdown import table

STANDARD, NORMALIZED = "torch_default", "glorot_uniform"
NAMES = {STANDARD: "standard", NORMALIZED: "normalized"}
ACTIVATIONS = ("tanh", "softsign", "sigmoid")
HIDDEN = [f"fc{number}.weight" for number in range(1, 6)]
PUBLISHED = {
    ("tanh", STANDARD): "1.76",
    ("tanh", NORMALIZED): "1.64",
    ("softsign", STANDARD): "1.64",
    ("softsign", NORMALIZED): "1.72",
    ("sigmoid", STANDARD): "2.21",
}

FORWARD = "Standard deviation of the pre-activations before training, median over seeds:"
BACKWARD = (
    "Squared norm of the gradient at a layer's input over that at its output, median over seeds. It is what the "
    "weights do to a back-propagated gradient; the slopes of the activation come on top (squared at most 1 for tanh "
    "and softsign, at most 1/16 for sigmoid):"
)


def by_layer(tables: Tables, column: str, activation: str, init: str) -> pd.DataFrame:
    """Return a column before training of the hidden layers, one row a seed, one column a layer."""
    found = layer_values(tables, 0, activation=activation, init=init)
    return found.pivot_table(index="seed", columns="parameter", values=column)[HIDDEN]


def kept_forward(tables: Tables, init: str) -> list[float]:
    """Return the variance of the last hidden layer's pre-activations over that of the second's, tanh, by seed."""
    found = by_layer(tables, "preactivation_std", "tanh", init)
    return list((found[HIDDEN[-1]] / found[HIDDEN[1]]) ** 2)


def kept_backward(tables: Tables, init: str) -> list[float]:
    """Return the product of the gradient's gains through hidden layers 2 to 5, tanh, by seed."""
    return list(by_layer(tables, "gradient_gain", "tanh", init)[HIDDEN[1:]].prod(axis=1))


def flatness(tables: Tables, init: str) -> list[float]:
    """Return the norm of the weight gradient in hidden layer 2 over that in layer 5, tanh, by seed."""
    found = by_layer(tables, "gradient_norm", "tanh", init)
    return list(found[HIDDEN[1]] / found[HIDDEN[-1]])


def accuracies(tables: Tables, activation: str, init: str) -> list[float]:
    """Return the test accuracy after training, by seed."""
    return list(rows(tables.trials, activation=activation, init=init)["test_accuracy_last"])


def _both(values: Callable[[Tables, str], list[float]]) -> Callable[[Tables], Verdict]:
    return lambda tables: order(values(tables, STANDARD), values(tables, NORMALIZED), ("standard", "normalized"))


def judge_flat(tables: Tables) -> Verdict:
    """The standard initialization's weight gradients are of one size within a factor of 1.5 from layer 2 to 5."""
    return within(flatness(tables, STANDARD), 2 / 3, 3 / 2, "standard: gradient norm of layer 2 / layer 5")


def judge_normalized_learns(tables: Tables) -> Verdict:
    """Tanh ends with a higher test accuracy from the normalized initialization."""
    standard, normalized = (accuracies(tables, "tanh", init) for init in (STANDARD, NORMALIZED))
    return order(standard, normalized, ("tanh standard", "tanh normalized"))


def judge_softsign_robust(tables: Tables) -> Verdict:
    """Softsign gains less from the normalized initialization than tanh does, seed by seed."""
    gains = {
        activation: np.subtract(accuracies(tables, activation, NORMALIZED), accuracies(tables, activation, STANDARD))
        for activation in ("softsign", "tanh")
    }
    return order(gains["softsign"], gains["tanh"], ("gain of softsign", "gain of tanh"))


def judge_sigmoid_last(tables: Tables) -> Verdict:
    """Sigmoid ends below tanh and softsign, all from the standard initialization."""
    others = [*accuracies(tables, "tanh", STANDARD), *accuracies(tables, "softsign", STANDARD)]
    return order(accuracies(tables, "sigmoid", STANDARD), others, ("sigmoid", "tanh and softsign"))


def judge_sigmoid_saturates(tables: Tables) -> Verdict:
    """The mean pre-activation of sigmoid's last hidden layer falls in training, towards the activation's 0."""
    last = tables.layers["step"].max()
    means = [
        rows(layer_values(tables, step, activation="sigmoid", init=STANDARD), parameter=HIDDEN[-1])[
            "preactivation_mean"
        ]
        for step in (last, 0)
    ]
    return order(list(means[0]), list(means[1]), (f"after {last} steps", "before"))


def results(tables: Tables) -> str:
    """Return the tables of the section."""
    forward = [_layer_row(tables, "preactivation_std", *arm) for arm in _arms()]
    backward = [_layer_row(tables, "gradient_gain", *arm) for arm in _arms()]
    head = ["activation", "initialization", *(f"layer {number}" for number in range(1, 6))]
    learned = [
        [activation, NAMES[init], PUBLISHED.get((activation, init), "-"), _error(tables, activation, init)]
        for activation, init in _arms()
    ]
    parts = (
        FORWARD,
        table(head, forward, right_from=2),
        BACKWARD,
        table(head, backward, right_from=2),
        "Test error in %, published (MNIST, five layers) and here:",
        table(["activation", "initialization", "published", "here: median (smallest to largest; n)"], learned),
    )
    return "\n\n".join(parts)


def _arms() -> list[tuple[str, str]]:
    return [(activation, init) for activation in ACTIVATIONS for init in (STANDARD, NORMALIZED)]


def _layer_row(tables: Tables, column: str, activation: str, init: str) -> list[str]:
    medians = by_layer(tables, column, activation, init).median()
    return [activation, NAMES[init], *(f"{median:.3f}" for median in medians)]


def _error(tables: Tables, activation: str, init: str) -> str:
    return spread([100 * (1 - accuracy) for accuracy in accuracies(tables, activation, init)], ".1f")


GLOROT_BENGIO = Replication(
    experiment="glorot_bengio",
    title="Five layers of tanh, softsign and sigmoid",
    paper="Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks",
    read="Summaries by others, which repeat its Table 1, its equations and what its figures show; the paper was not.",
    settings=[
        ("units of a hidden layer", "1,000", "{width}"),
        ("training images", "MNIST and three other sets", "the first 5,000 of MNIST"),
        ("updates", "5 million of 10 images", "{steps:,} of {batch_size} images"),
        ("learning rate", "tuned for each model", "{lr:g}"),
        ("layers are looked at on", "300 test images", "the first {batch_size} training images"),
    ],
    claims=[
        Claim(
            "With the standard initialization the activations' variance shrinks from layer to layer; with the "
            "normalized one it is kept better (tanh).",
            "section 4.2, figure 6",
            _both(kept_forward),
        ),
        Claim(
            "With the standard initialization back-propagated gradients shrink towards the input; with the normalized "
            "one they are kept (tanh).",
            "section 4.2, figure 7",
            _both(kept_backward),
        ),
        Claim(
            "Even so, the gradients of the weights are of one size in all layers with the standard initialization.",
            "section 4.2, equation 14, figure 8",
            judge_flat,
        ),
        Claim("Tanh learns better from the normalized initialization.", "table 1", judge_normalized_learns),
        Claim(
            "Softsign is more robust to the initialization: it gains less from the normalized one.",
            "section 5, table 1",
            judge_softsign_robust,
        ),
        Claim("Sigmoid learns worst.", "table 1", judge_sigmoid_last),
        Claim(
            "The activations of sigmoid's last hidden layer are pushed towards 0 early in training.",
            "section 3, figure 2",
            judge_sigmoid_saturates,
        ),
    ],
    results=results,
    layer_columns=("preactivation_mean", "preactivation_std", "gradient_gain", "gradient_norm"),
)
