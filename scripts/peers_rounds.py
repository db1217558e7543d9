"""The rounds of bench_peers.py: each peer in a process of its own, gated by its losses, then timed in turns."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from overhead_arms import CPU, GATE_OVERRIDES, GATE_RTOL
from peer_process import PeerTask, write_task
from peers_processes import PeerError, PeerProcess, Setting
from peers_report import PeersReport, StepArm

import harness
from harness import data, initializers, models

RAW = ("experiment=article", "device=cpu")
GATE_STEPS = 30
"""More than a captured graph has, so that one of many steps is replayed too."""
MOVED_BY, NOISE_DRAWS, NOISE_SLACK = np.float32(2**-21), 2, 10
"""Each weight is moved by eight roundings to measure the effect of rounding, of which so many times is allowed."""
# a round is a multiple of so many steps
CALIBRATION_STEPS = 3


@dataclass(frozen=True)
class PeersWorkload:
    """How much is measured.

    Attributes:
        batches: images of a step, in part steps.
        rounds: of part steps.
        round_s: about how long each peer trains in a round.
        trials: of each way, in a round of part trials.
        trial_steps: of each trial.
        trial_rounds: of part trials.
    """

    batches: tuple[int, ...]
    rounds: int
    round_s: float
    trials: int
    trial_steps: int
    trial_rounds: int


STEP_ARMS = {
    "plain": "PyTorch, plain",
    "compiled": "PyTorch, torch.compile",
    "vmap": "PyTorch, torch.func.vmap",
    "jax": "JAX, jit",
    "jax_vmap": "JAX, jit of vmap",
    "keras": "Keras on TensorFlow",
    "eager": "ours, engine=eager",
    "ours_compiled": "ours, engine=compiled",
    "graph": "ours, engine=graph",
    "graph_fused": "ours, engine=graph, kernel=triton_fused",
    "stacked": "ours, stacked",
    "stacked_fused": "ours, stacked, kernel=triton_fused",
}
"""Peer -> its name in the tables."""
MANY = ("vmap", "jax_vmap", "stacked", "stacked_fused")
CHOOSE_BY_TIMING = ("jax", "jax_vmap", "keras")
ON_GPU_ALONE = ("graph", "graph_fused", "stacked_fused")


def task(batch_size: int, models_count: int, *overrides: str) -> PeerTask:
    """Return the article's batch and R models' initial weights, drawn by seeds 0 to R - 1 as a trial draws them."""
    config = harness.load_config([*RAW, f"train.batch_size={batch_size}", *overrides])
    digits = data.to_device(data.load(config.data), config.data, CPU)
    drawn = []
    for seed in range(models_count):
        network = models.build(config.model)
        initializers.apply(config.init, network, seed=seed, activation=config.model.activation)
        drawn.append([value.detach().numpy() for value in network.parameters()])
    weights = [np.stack(values) for values in zip(*drawn, strict=True)]
    images, labels = digits.train_images[:batch_size].numpy(), digits.train_labels[:batch_size].numpy()
    return PeerTask(images, labels, weights, config.optimizer.lr)


def difference(
    theirs: Sequence[Sequence[float]], wanted: NDArray[np.float64], noise: NDArray[np.float64]
) -> str | None:
    """Return what is wrong with a peer's losses, each (models, steps); None: they agree.

    In most models rounding stays below a tenth of GATE_RTOL over these steps, and a learning rate that is 1 % off shows
    as eight times GATE_RTOL. In some, a relu opens by one order of summation and not by another, so what rounding does
    to each model is measured.

    Args:
        theirs: the peer's.
        wanted: those of plain PyTorch, of at least as many models.
        noise: by how much rounding changes those up to each step, relatively.
    """
    ours = wanted[: len(theirs)]
    allowed = np.maximum(GATE_RTOL, NOISE_SLACK * noise[: len(theirs)])
    # not apart > allowed, which no NaN is
    wrong = ~(np.abs(np.asarray(theirs) / ours - 1) <= allowed)
    if not wrong.any():
        return None
    model, step = np.argwhere(wrong)[0]
    loss = f"loss {theirs[model][step]:.7g}, plain PyTorch {ours[model][step]:.7g}"
    return f"differs at step {step} of model {model}: {loss}, allowed relative difference {allowed[model, step]:.3g}"


def moved(whole: PeerTask, generator: np.random.Generator) -> PeerTask:
    """Return the task with each weight moved up or down by some roundings."""
    signs = [generator.choice(np.array([-1, 1], dtype=np.float32), size=value.shape) for value in whole.weights]
    weights = [value * (1 + MOVED_BY * sign) for value, sign in zip(whole.weights, signs, strict=True)]
    return replace(whole, weights=weights)


def noise_of(plain: PeerProcess, whole: PeerTask, wanted: NDArray[np.float64], where: Setting) -> NDArray[np.float64]:
    """Return by how much rounding changes the losses of plain PyTorch up to each step, relatively: (models, steps)."""
    generator = np.random.default_rng(0)
    draws = [losses_alone(plain, moved(whole, generator), where) for _ in range(NOISE_DRAWS)]
    # once two roundings have come apart they stay so, though a loss may agree by chance
    return np.maximum.accumulate(np.abs(np.asarray(draws) / wanted - 1).max(axis=0), axis=1)


def losses_alone(peer: PeerProcess, whole: PeerTask, where: Setting) -> list[list[float]]:
    """Return the losses of each model of a task, trained by itself: (models, steps)."""
    path, found = str(where.scratch / "model.npz"), []
    for model in range(where.stack):
        write_task(path, only(whole, slice(model, model + 1)))
        peer.ask(load=path)
        found += peer.ask(losses=GATE_STEPS)["losses"]
    return found


def start(arms: Sequence[str], where: Setting, found: PeersReport, open_ones: ExitStack) -> dict[str, PeerProcess]:
    """Start the peers that can be; the others are named in the report."""
    # all import at once
    started = [open_ones.enter_context(PeerProcess(name, where)) for name in arms]
    peers = {}
    for name, peer in zip(arms, started, strict=True):
        peer.greet()
        if peer.missing is not None:
            found.not_measured[STEP_ARMS[name]] = peer.missing
        else:
            peers[name] = peer
            found.versions.update(peer.versions.split(", "))
    return peers


def measure_steps(found: PeersReport, where: Setting, effort: PeersWorkload, arms: Sequence[str]) -> None:
    """Gate and time all peers at each batch size."""
    with ExitStack() as open_ones:
        wanted = [name for name in arms if name not in ON_GPU_ALONE or where.device == "cuda"]
        peers = start(wanted, where, found, open_ones)
        for batch_size in effort.batches:
            say(f"batch {batch_size}: losses of {', '.join(peers)}")
            right = gated(peers, batch_size, where, found)
            rounds_of(right, batch_size, where, effort, found)


def gated(
    peers: Mapping[str, PeerProcess], batch_size: int, where: Setting, found: PeersReport
) -> dict[str, PeerProcess]:
    """Return the peers whose losses are plain PyTorch's; what is wrong with the others goes into the report."""
    gate_task = task(batch_size, where.stack, *GATE_OVERRIDES)
    wanted = np.asarray(losses_alone(peers["plain"], gate_task, where))
    noise = noise_of(peers["plain"], gate_task, wanted, where)
    # a peer that trains one model gets the quietest, where the least is allowed
    order = np.argsort(noise[:, -1], kind="stable")
    gate_task = replace(gate_task, weights=[value[order] for value in gate_task.weights])
    wanted, noise = wanted[order], noise[order]
    right = {}
    for name, found_losses in prepared(peers, gate_task, where, {"losses": GATE_STEPS}):
        if isinstance(found_losses, PeerError):
            failed(name, found_losses, batch_size, found)
        elif fault := difference(found_losses["losses"], wanted, noise):
            found.faults[f"batch {batch_size}: {STEP_ARMS[name]}"] = fault
        else:
            right[name] = peers[name]
    return right


def prepared(
    peers: Mapping[str, PeerProcess], whole: PeerTask, where: Setting, asked: Mapping[str, object]
) -> Iterator[tuple[str, dict[str, Any] | PeerError]]:
    """Let each peer load its part of a task and answer a question: yields its name, and the answer or what failed.

    Nothing is timed here, and most of it is compiling. So all do it at once, but for those that choose their kernels by
    timing them.
    """
    paths = {count: str(where.scratch / f"{count}-models.npz") for count in (1, where.stack)}
    for count, path in paths.items():
        write_task(path, only(whole, slice(0, count)))
    together = [name for name in peers if name not in CHOOSE_BY_TIMING]
    for names in (together, *([name] for name in peers if name not in together)):
        for name in names:
            peers[name].send(load=paths[models_of(name, where)])
            peers[name].send(**asked)
        for name in names:
            say(f"waiting for {name}")
            try:
                peers[name].answer()
                yield name, peers[name].answer()
            except PeerError as error:
                yield name, error


def models_of(name: str, where: Setting) -> int:
    """Return how many models a peer trains."""
    return where.stack if name in MANY else 1


def only(whole: PeerTask, chosen: slice) -> PeerTask:
    """Return the task of some of its models."""
    return PeerTask(whole.images_NCHW, whole.labels, [value[chosen] for value in whole.weights], whole.lr)


def rounds_of(
    peers: Mapping[str, PeerProcess], batch_size: int, where: Setting, effort: PeersWorkload, found: PeersReport
) -> None:
    """Time the peers in turns, with the matmul rate measured before each round."""
    warm = prepared(peers, task(batch_size, where.stack), where, {"run": CALIBRATION_STEPS})
    arms = dict(arms_of(warm, peers, batch_size, where, effort, found))
    flops = models.flops_per_image(harness.load_config(list(RAW)).model)[1]
    order = list(arms)
    for index in range(effort.rounds):
        say(f"batch {batch_size}: round {index + 1} of {effort.rounds}")
        matmul = peers["plain"].ask(matmul=True)["flops_per_s"]
        turn = index % len(order)
        for name in (order[turn:] + order[:turn])[:: 1 if index % 2 else -1]:
            arm = arms[name]
            try:
                seconds = peers[name].ask(run=arm.steps)["seconds"]
            except PeerError as error:
                failed(name, error, batch_size, found)
                found.steps.remove(arm)
                order.remove(name)
                continue
            rate = arm.models * batch_size * arm.steps / seconds
            arm.images_per_s.append(rate)
            arm.matmul_share.append(rate * flops / matmul)


def arms_of(  # noqa: PLR0917 - what a batch size is measured with
    warm: Iterator[tuple[str, dict[str, Any] | PeerError]], peers: Mapping[str, PeerProcess], batch_size: int,
    where: Setting, effort: PeersWorkload, found: PeersReport,
) -> Iterator[tuple[str, StepArm]]:  # fmt: skip
    """Find how many steps each peer takes in a round, once all are ready; yields its name and its arm of the report."""
    for name, first in list(warm):
        try:
            if isinstance(first, PeerError):
                raise first
            steps = calibrated(peers[name], effort.round_s)
        except PeerError as error:
            failed(name, error, batch_size, found)
            continue
        arm = StepArm(batch_size, STEP_ARMS[name], models_of(name, where), steps)
        found.steps.append(arm)
        yield name, arm


def failed(name: str, error: PeerError, batch_size: int, found: PeersReport) -> None:
    """Note that a peer has no speed.

    Raises:
        PeerError: it is the one that all others are compared with.
    """
    if name == "plain":
        raise error
    found.faults[f"batch {batch_size}: {STEP_ARMS[name]}"] = str(error)


def calibrated(peer: PeerProcess, round_s: float) -> int:
    """Return how many steps a peer takes in about so many seconds."""
    seconds = float(peer.ask(run=CALIBRATION_STEPS)["seconds"])
    steps = max(1, round(round_s * CALIBRATION_STEPS / seconds))
    # an engine that records windows records one of this length
    peer.ask(run=steps)
    return steps


def say(text: str) -> None:
    """Show what is being measured."""
    if sys.stderr.isatty():
        print(f"\033[K{text}", end="\r", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
