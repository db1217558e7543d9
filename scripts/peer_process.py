"""A peer of bench_peers.py in a process of its own, which stays alive and does what it is asked, a line at a time.

Usage: PYTHON scripts/peer_process.py NAME --threads T --device cpu|cuda     (bench_peers.py starts it)
       PYTHON scripts/peer_process.py NAME --threads T --device cpu --trial DATA.npz --seed S --steps N

It reads a JSON object from each line of standard input and answers with one:

    {"load": FILE}    take the images, labels, initial weights and learning rate of this file     {}
    {"losses": N}     train N steps, and record each loss                                         {"losses": R x N}
    {"run": N}        train N steps, recording nothing                                            {"seconds": S}
    {"matmul": true}  measure the float32 matmul rate (plain alone)                               {"flops_per_s": F}

With ``--trial`` it is what a user's own script would be: it draws weights, trains on the first 50 images, and prints
the loss and the accuracy on the test images. The process imports numpy and its own framework alone, so it runs in any
environment that has these two.
"""

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

SHAPES = (
    (32, 1, 3, 3), (32,), (32, 32, 3, 3), (32,), (32, 32, 3, 3), (32,), (32, 32, 3, 3), (32,),
    (128, 32 * 14 * 14), (128,), (10, 128), (10,),
)  # fmt: skip
"""Shapes of the article network's tensors in order: filters (K, C, r, s), dense weights (out, in), biases (out,)."""
TRIAL_BATCH, TRIAL_LR = 50, 1e-4


@dataclass(frozen=True)
class PeerTask:
    """What a peer trains.

    Attributes:
        images_NCHW: float32 (N, 1, 28, 28), the batch of every step.
        labels: int64 (N,).
        weights: R models' tensors in the order of :data:`SHAPES`, each (R, ...).
        lr: learning rate of SGD.
    """

    images_NCHW: NDArray[np.float32]  # noqa: N815 - a shape suffix
    labels: NDArray[np.int64]
    weights: list[NDArray[np.float32]]
    lr: float


class Peer(Protocol):
    """A way to train the article's network."""

    def load(self, task: PeerTask) -> None:
        """Begin a training anew."""

    def losses(self, steps: int) -> list[list[float]]:
        """Train and return each model's loss before each step."""

    def run(self, steps: int) -> None:
        """Train, and wait until the device has done it."""


class Script(Peer, Protocol):
    """A peer that can also score its network, so that it can run a whole trial."""

    def accuracy(self, images_NCHW: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Return the share of right answers."""


PEERS = {
    "plain": ("peers_torch", "Plain"),
    "compiled": ("peers_torch", "Compiled"),
    "vmap": ("peers_torch", "Vmap"),
    "jax": ("peers_jax", "Jit"),
    "jax_vmap": ("peers_jax", "Vmap"),
    "keras": ("peers_keras", "Keras"),
    "eager": ("peers_ours", "Single"),
    "ours_compiled": ("peers_ours", "Single"),
    "graph": ("peers_ours", "Single"),
    "graph_fused": ("peers_ours", "Single"),
    "stacked": ("peers_ours", "Stacked"),
    "stacked_fused": ("peers_ours", "Stacked"),
}
"""Name -> module and class; each is made with (name, threads, device)."""


def made(name: str, threads: int, device: str) -> Any:  # noqa: ANN401 - a Peer, and of another framework a Script too
    """Import the peer's framework and make the peer.

    Raises:
        ModuleNotFoundError: its framework is not installed here.
        ValueError: it has no device of this kind.
    """
    module, kind = PEERS[name]
    return getattr(importlib.import_module(module), kind)(name, threads, device)


def read_task(path: str) -> PeerTask:
    """Read what ``bench_peers.py`` wrote."""
    with np.load(path) as file:
        weights = [file[f"weight{index}"] for index in range(len(SHAPES))]
        return PeerTask(file["images"], file["labels"], weights, float(file["lr"]))


def write_task(path: str, task: PeerTask) -> None:
    """Write a task for :func:`read_task`."""
    weights = {f"weight{index}": value for index, value in enumerate(task.weights)}
    np.savez(path, images=task.images_NCHW, labels=task.labels, lr=task.lr, **weights)  # type: ignore[arg-type]


def answer(peer: Any, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - only our own can measure matmul
    """Do what was asked."""
    if "load" in asked:
        peer.load(read_task(asked["load"]))
        return {}
    if "losses" in asked:
        return {"losses": peer.losses(asked["losses"])}
    if "matmul" in asked:
        return {"flops_per_s": peer.matmul_flops_per_s()}
    begun_s = time.perf_counter()
    peer.run(asked["run"])
    return {"seconds": time.perf_counter() - begun_s}


def serve(name: str, threads: int, device: str, answers: TextIO) -> None:
    """Answer line by line until standard input ends."""

    def say(said: dict[str, Any]) -> None:
        answers.write(json.dumps(said) + "\n")
        answers.flush()

    try:
        peer = made(name, threads, device)
    except ModuleNotFoundError as error:
        say({"missing": f"not installed: {error.name}"})
        return
    except ValueError as error:
        say({"missing": str(error)})
        return
    say({"versions": getattr(peer, "versions", "")})
    for line in sys.stdin:
        say(answer(peer, json.loads(line)))


def glorot(seed: int) -> list[NDArray[np.float32]]:
    """Draw the weights of a trial: normal with variance 2 / (fan_in + fan_out), biases zero; each (1, ...)."""
    generator = np.random.default_rng(seed)
    drawn = []
    for shape in SHAPES:
        taps = int(np.prod(shape[2:]))
        std = np.sqrt(2 / ((shape[0] + shape[1]) * taps)) if len(shape) > 1 else 0.0
        drawn.append((std * generator.standard_normal((1, *shape))).astype(np.float32))
    return drawn


def run_trial(peer: Script, path: str, seed: int, steps: int) -> dict[str, float]:
    """Train on the first images, as the article does; loss and test accuracy before and after."""
    with np.load(path) as file:
        images, labels = file["images"][:TRIAL_BATCH], file["labels"][:TRIAL_BATCH]
        tests, test_labels = file["test_images"], file["test_labels"]
    peer.load(PeerTask(images, labels, glorot(seed), TRIAL_LR))
    before = peer.accuracy(tests, test_labels)
    first = peer.losses(1)[0][0]
    peer.run(steps - 2)
    last = peer.losses(1)[0][0]
    after = peer.accuracy(tests, test_labels)
    return {"loss_first": first, "loss_last": last, "accuracy_before": before, "accuracy_after": after}


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve, or run one trial; 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PEERS)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", choices=("cpu", "cuda"), required=True)
    parser.add_argument("--trial", metavar="DATA", help="train once on this file's images, as a script would")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        # before its framework counts the cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.threads])
    # frameworks print to standard output too: the answers get a way of their own
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        if chosen.trial:
            peer = made(chosen.name, chosen.threads, chosen.device)
            answers.write(json.dumps(run_trial(peer, chosen.trial, chosen.seed, chosen.steps)) + "\n")
        else:
            serve(chosen.name, chosen.threads, chosen.device, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
