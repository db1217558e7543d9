"""How deep a network may be: delta-orthogonal CNNs, relu networks that reach 20 %, and the map of trainability."""

import pandas as pd
from replication_claims import (
    FEWEST_RUNS,
    UNCLEAR,
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
    steps_to,
    within,
)

from harness.analysis.mean_field import NONLINEARITIES, correlation_depth, gradient_depth
from harness.markdown import code, table

DELTA, FLATTENED, GAUSSIAN, SMALL = "delta_orthogonal", "orthogonal", "lecun_normal", "torch_default"
SHALLOW, DEEP = 8, 48
SPREADS = {DELTA: "1", FLATTENED: "1", GAUSSIAN: "1", SMALL: "1/3"}

HE = ("he_normal", "he_uniform")
SMALLER = {"glorot_normal": "1/n", "lecun_normal": "1/n", "torch_default": "1/(3n)"}
DEEPEST = 30
TWENTY = 0.2
START_LEGEND = (
    "Steps to 20 % test accuracy: mean over the runs that reach it (how many do). A network is as wide as deep: the "
    "shallow ones are narrow, and some of them fail from every initialization. That was seen in the first run, when "
    "the third claim asked for the depth up to which all depths reach 20 %; now it asks for the largest that does:"
)

BIAS_VARIANCE = 0.05
ORDERED, CRITICAL, CHAOTIC = 0.7, 1.325, 2.0
RELU_CRITICAL = 1.414
BOTTOM = 32


def cnn_accuracy(tables: Tables, init: str, depth: int = DEEP) -> list[float]:
    """Return the test accuracy after training of the CNNs of one depth, by seed."""
    return list(rows(tables.trials, init=init, depth=depth)["test_accuracy_last"])


def judge_isometry(tables: Tables) -> Verdict:
    """Each delta-orthogonal convolution keeps the norm of the gradient to a thousandth."""
    found = layer_values(tables, 0, init=DELTA, depth=DEEP)
    gains = found[found["parameter"].str.fullmatch(r"conv\d+\.weight")]["gradient_gain"]
    return within(list(gains), 0.999, 1.001, "gradient's gain of single convolutions", ".4f")


def cnn_results(tables: Tables) -> str:
    """Return the table of the deep CNNs."""
    lines = [
        [code(f"init={init}"), variance, *(spread(cnn_accuracy(tables, init, depth)) for depth in (SHALLOW, DEEP))]
        for init, variance in SPREADS.items()
    ]
    head = ["choice", "variance x fan_in", f"test accuracy, depth {SHALLOW}", f"depth {DEEP}"]
    return table(head, lines)


def deepest_started(tables: Tables, init: str) -> list[float]:
    """Return, by seed, the largest depth that reaches 20 %; 0 if none does."""
    trials = rows(tables.trials, init=init)
    reached = trials["depth"].where(steps_to(trials, TWENTY).notna(), 0)
    return list(reached.groupby(trials["seed"]).max().astype(float))


def judge_deepest(tables: Tables) -> Verdict:
    """Both kinds of he start at larger depths than all initializations of smaller variance."""
    smaller = [depth for init in SMALLER for depth in deepest_started(tables, init)]
    he = [depth for init in HE for depth in deepest_started(tables, init)]
    return order(smaller, he, ("smaller variances: largest depth", "he"), ".0f")


def length_kept(tables: Tables, init: str) -> list[float]:
    """Return the last hidden layer's mean square before training over the first's, by seed, for the deepest."""
    found = layer_values(tables, 0, init=init, depth=DEEPEST)
    moments = found.pivot_table(index="seed", columns="parameter", values="output_moment")
    return list(moments[f"fc{DEEPEST}.weight"] / moments["fc1.weight"])


def judge_he_length(tables: Tables) -> Verdict:
    """Under he the length neither vanishes nor explodes, within a factor of ten over the whole depth."""
    return within([each for init in HE for each in length_kept(tables, init)], 0.1, 10, "he: last over first", ".3g")


def judge_smaller_length(tables: Tables) -> Verdict:
    """Under smaller variances the length shrinks to less than a thousandth."""
    shrunk = [each for init in SMALLER for each in length_kept(tables, init)]
    return within(shrunk, 0, 1e-3, "smaller variances: last over first", ".3g")


def start_results(tables: Tables) -> str:
    """Return the table of the steps to 20 %."""
    depths = sorted(tables.trials["depth"].unique())
    variances = dict.fromkeys(HE, "2/n") | SMALLER
    lines = [
        [code(f"init={init}"), variance, *(_steps(rows(tables.trials, init=init, depth=depth)) for depth in depths)]
        for init, variance in variances.items()
    ]
    head = ["choice", "variance", *(f"depth {depth}" for depth in depths)]
    return f"{START_LEGEND}\n\n{table(head, lines)}"


def _steps(trials: pd.DataFrame) -> str:
    steps = steps_to(trials, TWENTY)
    reached = f"{steps.notna().sum()} of {len(steps)}"
    return f"{steps.mean():.0f} ({reached})" if steps.notna().any() else f"never ({reached})"


def scale(activation: str, gain: float) -> float:
    """Return six times theory's depth: of correlations, or of gradients where relu's correlations have none."""
    known = NONLINEARITIES[activation], gain**2, BIAS_VARIANCE
    depths = correlation_depth(*known), gradient_depth(*known)
    return 6 * min(depths)


def cells(tables: Tables) -> pd.DataFrame:
    """Return one row for each activation, gain and depth: how many runs reach 20 %, and theory's six depths."""
    trials = tables.trials.assign(reached=steps_to(tables.trials, TWENTY).notna())
    grouped = trials.groupby(["activation", "init_gain", "depth"])["reached"].agg(["sum", "size"]).reset_index()
    bounds = [scale(activation, gain) for activation, gain in grouped[["activation", "init_gain"]].to_numpy()]
    return grouped.assign(bound=bounds)


def judge_map(tables: Tables, *, within_bound: bool) -> Verdict:
    """All runs on one side of the bound do as theory says: train within it, do not train beyond it."""
    found = cells(tables)
    chosen = found[(found["depth"] <= found["bound"]) == within_bound]
    whole = chosen["sum"] == (chosen["size"] if within_bound else 0)
    against = chosen["sum"] == (0 if within_bound else chosen["size"])
    what = "train with every seed" if within_bound else "train with no seed"
    numbers = f"{whole.sum()} of {len(chosen)} cells {what}; against it with every seed: {against.sum()}"
    if chosen.empty or chosen["size"].min() < FEWEST_RUNS:
        return Verdict(UNCLEAR, numbers)
    trained, runs = int(chosen["sum"].sum()), int(chosen["size"].sum())
    return by_share(trained if within_bound else runs - trained, runs, numbers)


def judge_gradients(tables: Tables, gain: float, low: float, high: float) -> Verdict:
    """The weight gradient of the second layer over that of the deepest, tanh, lies within bounds."""
    found = layer_values(tables, 0, activation="tanh", init_gain=gain, depth=BOTTOM)
    norms = found.pivot_table(index="seed", columns="parameter", values="gradient_norm")
    ratios = norms["fc2.weight"] / norms[f"fc{BOTTOM}.weight"]
    return within(list(ratios), low, high, f"layer 2 over layer {BOTTOM}, init.gain={gain:g}", ".3g")


def judge_critical(tables: Tables) -> Verdict:
    """The deepest networks at the critical variances reach 20 %."""
    tanh = rows(tables.trials, activation="tanh", init_gain=CRITICAL, depth=BOTTOM)
    relu = rows(tables.trials, activation="relu", init_gain=RELU_CRITICAL, depth=BOTTOM)
    return reach(pd.concat([tanh, relu]), TWENTY, f"depth {BOTTOM} at criticality", shall=True)


def map_results(tables: Tables) -> str:
    """Return the two maps."""
    parts = []
    for activation, group in cells(tables).groupby("activation"):
        gains = sorted(group["init_gain"].unique())
        lines = [
            [
                f"depth {depth}",
                *(_cell(rows(tables.trials, activation=activation, depth=depth, init_gain=gain)) for gain in gains),
            ]
            for depth in sorted(group["depth"].unique())
        ]
        bounds = [f"{scale(str(activation), gain):,.0f}" for gain in gains]
        head = [activation, *(f"{gain:g} ({gain**2:.2f})" for gain in gains)]
        parts.append(table(head, [["theory: 6 x depth scale", *bounds], *lines], right_from=1))
    return (
        "Median test accuracy after training (runs that reach 20 %), by depth and `init.gain` (in brackets its square, "
        "sigma_w^2):\n\n" + "\n\n".join(parts)
    )


def _cell(trials: pd.DataFrame) -> str:
    reached = steps_to(trials, TWENTY).notna().sum()
    return f"{trials['test_accuracy_last'].median():.2f} ({reached} of {len(trials)})"


DELTA_ORTHOGONAL = Replication(
    experiment="delta_orthogonal",
    title="Deep vanilla CNNs from delta-orthogonal kernels",
    paper="Xiao et al. 2018, Dynamical Isometry and a Mean Field Theory of CNNs: How to Train 10,000-Layer Vanilla "
    "Convolutional Neural Networks",
    read="The abstract and the beginning of the introduction; its figures were not, so that no number of it is quoted.",
    settings=[
        ("layers", "ten thousand or more", "up to {depth}, each of {width} channels"),
        ("images", "-", "the first 5,000 of MNIST; the first convolution has stride {stride}"),
        ("training", "-", "{steps} updates of {batch_size} images, SGD with lr {lr:g}"),
        ("borders", "-", "padded with zeros"),
    ],
    claims=[
        Claim(
            "Very deep vanilla CNNs can be trained from a suitable initialization alone (here: test accuracy 0.5).",
            "abstract",
            lambda tables: reach(rows(tables.trials, init=DELTA, depth=DEEP), 0.5, "delta-orthogonal", shall=True),
        ),
        Claim("The convolutions keep the norm.", "abstract", judge_isometry),
        Claim(
            "Networks are trainable precisely when signals travel all the way through them: with a third of the "
            "critical variance the deep network does not train (here: to 20 %).",
            "introduction",
            lambda tables: reach(rows(tables.trials, init=SMALL, depth=DEEP), TWENTY, "a third", shall=False),
        ),
        Claim(
            "Delta-orthogonal kernels train better than Gaussian ones of the same variance.",
            "abstract (efficient training)",
            lambda tables: order(cnn_accuracy(tables, GAUSSIAN), cnn_accuracy(tables, DELTA), ("Gaussian", "delta")),
        ),
        Claim(
            "The convolution itself has to be orthogonal: an orthogonal matrix that is merely reshaped into a kernel "
            "does worse.",
            "abstract",
            lambda tables: order(cnn_accuracy(tables, FLATTENED), cnn_accuracy(tables, DELTA), ("reshaped", "delta")),
        ),
    ],
    results=cnn_results,
    layer_columns=("gradient_gain",),
)

START_TRAINING = Replication(
    experiment="start_training",
    title="The depth at which relu networks still reach 20 %",
    paper="Hanin & Rolnick 2018, How to Start Training: The Effect of Initialization and Architecture",
    read="The abstract, and a summary that repeats what figure 1 shows; its curves were not, so that no number is "
    "quoted.",
    settings=[
        ("training images", "MNIST", "the first 5,000 of MNIST"),
        (
            "measure",
            "epochs to 20 % test accuracy",
            "steps of {batch_size} images, at most {steps}, looked at every {eval_every}",
        ),
        ("runs", "5", "3"),
        ("deepest", "-", "{depth} layers"),
        ("training", "-", "SGD with lr {lr:g}"),
    ],
    claims=[
        Claim(
            "With variance 2/fan_in the length of the activations neither explodes nor vanishes.",
            "abstract, figure 1(a)",
            judge_he_length,
        ),
        Claim(
            "With a smaller variance it decreases dramatically with depth.",
            "figure 1(a)",
            judge_smaller_length,
        ),
        Claim(
            "With variance 2/fan_in much deeper networks start to train: they reach 20 % on MNIST.",
            "abstract, figure 1(b)",
            judge_deepest,
        ),
    ],
    results=start_results,
    layer_columns=("output_moment",),
)

TRAINABILITY = Replication(
    experiment="trainability",
    title="Which depths train: the map of depth against weight variance",
    paper="Schoenholz et al. 2017, Deep Information Propagation",
    read="The abstract, and a review that states 6 xi_c as the trainable depth; its figures were not. The theory is "
    "computed by `harness/analysis/mean_field.py`; the paper treats bounded activations, and relu is added here.",
    settings=[
        ("deepest", "-", "{depth} layers of {width} units"),
        ("training images", "MNIST (as others repeat it)", "the first 5,000 of MNIST"),
        ("training", "-", "{steps} updates of {batch_size} images, SGD with lr {lr:g}"),
        ("what counts as trained", "-", "test accuracy 0.2 within these updates"),
    ],
    claims=[
        Claim(
            "Networks train where information travels through them: up to 6 depth scales.",
            "abstract; 6 xi_c from a review",
            lambda tables: judge_map(tables, within_bound=True),
        ),
        Claim(
            "Precisely there: beyond 6 depth scales they do not.",
            "abstract; 6 xi_c from a review",
            lambda tables: judge_map(tables, within_bound=False),
        ),
        Claim("At the critical variance the deepest networks train.", "abstract", judge_critical),
        Claim(
            "Gradients vanish in the ordered phase.",
            "abstract",
            lambda tables: judge_gradients(tables, ORDERED, 0, 0.1),
        ),
        Claim(
            "Gradients explode in the chaotic phase.",
            "abstract",
            lambda tables: judge_gradients(tables, CHAOTIC, 10, float("inf")),
        ),
    ],
    results=map_results,
    layer_columns=("gradient_norm",),
)
