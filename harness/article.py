"""The article's experiment: what its zero-kernel run printed, and what exact arithmetic says that run must do.

With conv2's kernel and all biases zero and relu between, every gradient but the last bias's is zero. The logits are
then that bias b for every image, and with q the class shares of the fixed batch, b <- b - lr * (softmax(b) - q).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

CLASS_COUNTS = (4, 7, 4, 7, 4, 4, 5, 4, 4, 7)
"""Images of each class among the first 50 of MNIST's training set: the fixed batch."""

PRINTED = {
    "test accuracy before, 1,000 random images": "0.11",
    "train accuracy at step 0": "0.08",
    "train accuracy from then on": "0.14",
    "test accuracy after, first 1,000 images": "0.126",
    "  if class 1, 3 or 9 wins their tie": "",
    "fc2.bias difference, classes 0 2 4 5 7 8": "1.9999e-05",
    "fc2.bias difference, classes 1 3 9": "-3.9998e-05",
    "fc2.bias difference, class 6": "1.4e-11",
    "variables with difference exactly 0": "all others",
    "train loss at step 0": "",
    "train loss after training": "",
    "  its relative error to the closed form": "",
    "largest fc2.bias error to the closed form": "",
}
"""Figure -> what the article printed; empty where it printed nothing. Differences are initial minus final value."""

NOTES = """\
Learning rate: the listing says 1e-4, but the printed differences need 1e-6 (x 1,000 steps = 1e-3).
Tie: classes 1, 3 and 9 have 7 of the 50 images each. Exact arithmetic keeps their logits equal, and
float32 rounding breaks the tie differently at different steps: test accuracy is one of the three."""


@dataclass(frozen=True)
class Trajectory:
    """The exact run of a network in which only the last bias moves.

    Attributes:
        losses: mean cross entropy in nats before each update and after the last, (steps + 1,).
        bias: the last bias after all updates, (classes,).
    """

    losses: list[float]
    bias: list[float]


def trajectory(class_counts: Sequence[int], *, lr: float, steps: int) -> Trajectory:
    """Run the closed form in float64 from a zero bias.

    Args:
        class_counts: images of each class in the fixed batch.
        lr: learning rate of plain gradient descent.
        steps: updates.
    """
    images = sum(class_counts)
    share = [count / images for count in class_counts]
    bias = [0.0] * len(share)
    losses = []
    for _ in range(steps):
        losses.append(_loss(bias, share))
        normaliser = math.fsum(math.exp(b) for b in bias)
        bias = [b - lr * (math.exp(b) / normaliser - q) for b, q in zip(bias, share, strict=True)]
    return Trajectory([*losses, _loss(bias, share)], bias)


def _loss(bias: Sequence[float], share: Sequence[float]) -> float:
    """Mean of log sum exp(b) - b[label] over the batch."""
    log_normaliser = math.log(math.fsum(math.exp(b) for b in bias))
    return log_normaliser - math.fsum(b * q for b, q in zip(bias, share, strict=True))


def applies(trial: Mapping[str, Any]) -> bool:
    """Whether a finished trial is the article's zero-kernel run, at any learning rate and seed."""
    is_article = {
        "init": "zero",
        "model": "article",
        "batches": "fixed",
        "scaling": "raw",
        "batch_size": 50,
        "steps": 1000,
        "optimizer": "sgd",
        "weight_decay": 0,
        "activation": "relu",
        "biases": True,
        "pooling": "max",
        "padding_mode": "zeros",
    }
    return trial["status"] == "ok" and all(trial[key] == value for key, value in is_article.items())


def figures(trial: Mapping[str, Any], train_accuracies: Sequence[float]) -> dict[str, str]:
    """Our value of each figure of :data:`PRINTED`, from a trial's row and the train accuracy at each evaluated step."""
    exact = trajectory(CLASS_COUNTS, lr=trial["lr"], steps=trial["steps"])
    difference = trial["last_bias_difference"]
    loss, exact_loss = trial["train_loss_last"], exact.losses[-1]
    errors = [abs(-ours - theirs) for ours, theirs in zip(difference, exact.bias, strict=True)]
    values = [
        f"{trial['test_accuracy_before']:.3f}",
        f"{train_accuracies[0]:.2f}",
        " ".join(f"{value:.2f}" for value in sorted(set(train_accuracies[1:]))),
        f"{trial['test_accuracy_after']:.3f}",
        " ".join(f"{value:.3f}" for value in trial["tie_accuracies"] or []) or "no tie",
        _range([difference[index] for index in (0, 2, 4, 5, 7, 8)]),
        _range([difference[index] for index in (1, 3, 9)]),
        f"{difference[6]:.1e}",
        str(len(trial["unmoved"])),
        f"{trial['train_loss_first']:.9f}",
        f"{loss:.9f}",
        f"{abs(loss - exact_loss) / exact_loss:.0e}",
        f"{max(errors):.0e}",
    ]
    return dict(zip(PRINTED, values, strict=True))


def _range(values: Sequence[float]) -> str:
    """The common value at the article's five digits, or the smallest and largest where these differ."""
    shown = sorted({f"{value:.4e}" for value in values}, key=float)
    return shown[0] if len(shown) == 1 else f"{shown[0]}..{shown[-1]}"
