"""The rounds of bench_peers.py: each peer in a process of its own, gated by its losses, then timed in turns."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray
from overhead_arms import CPU, GATE_OVERRIDES, GATE_RTOL, GATE_STEPS
from peer_process import PEERS, PeerTask, write_task
from peers_report import PeersReport, StepArm

import harness
from harness import data, initializers, models

SCRIPTS = Path(__file__).parent
RAW = ("experiment=article", "device=cpu")
MOVED_BY, NOISE_SLACK = np.float32(2**-21), 10
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


@dataclass(frozen=True)
class Setting:
    """What all peers share.

    Attributes:
        device: cpu or cuda.
        threads: of each peer, on as many cores, in part steps.
        python: interpreter for the peers of other frameworks.
        stack: models that are trained together, where a peer trains many.
        scratch: folder for tasks and logs.
        patience_s: a peer that has not answered after so many seconds is killed and has no speed.
    """

    device: str
    threads: int
    python: str
    stack: int
    scratch: Path
    patience_s: int


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
CHOOSE_BY_TIMING = ("jax", "jax_vmap")
ON_GPU_ALONE = ("graph", "graph_fused", "stacked_fused")


def environment(threads: int) -> dict[str, str]:
    """Return variables by which every framework takes so many threads, none of which waits by spinning."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen={str(threads > 1).lower()}"
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "1"}
    # all peers share the device: none may take most of its memory when it starts
    quiet |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return {**os.environ, **counts, **quiet, "OMP_WAIT_POLICY": "passive", "XLA_FLAGS": flags.strip()}


def interpreter(name: str, where: Setting) -> str:
    """Return which Python runs a peer."""
    return where.python if PEERS[name][0] in ("peers_jax", "peers_keras") else sys.executable


class PeerProcess:
    """A peer that is started; ``missing`` says why it does not answer, and is known once it was greeted."""

    def __init__(self, name: str, where: Setting) -> None:
        self.name, self._log = name, where.scratch / f"{name}.log"
        self._patience_s, self._end = where.patience_s, "ended"
        line = [interpreter(name, where), str(SCRIPTS / "peer_process.py"), name, "--threads", str(where.threads)]
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*line, "--device", where.device], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment(where.threads), cwd=where.scratch,
            )  # fmt: skip
        self.missing: str | None = None
        self.versions = ""

    def greet(self) -> None:
        """Wait until it has imported its framework."""
        said = self._read()
        self.missing = said.get("missing") or said.get("died")
        self.versions = said.get("versions", "")

    def ask(self, **asked: object) -> dict[str, Any]:
        """Ask, and wait for the answer; raises as :meth:`answer` does."""
        self.send(**asked)
        return self.answer()

    def send(self, **asked: object) -> None:
        """Ask, and do not wait."""
        pipe: IO[str] = self._process.stdin  # type: ignore[assignment]
        with suppress(BrokenPipeError):
            pipe.write(json.dumps(asked) + "\n")
            pipe.flush()

    def answer(self) -> dict[str, Any]:
        """Wait for the next answer, as long as the setting allows.

        Raises:
            RuntimeError: the process has died, or was killed because it did not answer; the message says so.
        """
        said = self._read()
        if "died" in said:
            raise RuntimeError(said["died"])
        return said

    def _read(self) -> dict[str, Any]:
        pipe: IO[str] = self._process.stdout  # type: ignore[assignment]
        patience = threading.Timer(self._patience_s, self._give_up)
        patience.start()
        try:
            line = pipe.readline()
        finally:
            patience.cancel()
        if not line:
            last = [text for text in self._log.read_text(errors="replace").splitlines() if text.strip()][-1:]
            return {"died": f"its process {self._end}: {' '.join(last) or 'without a word'}"}
        said: dict[str, Any] = json.loads(line)
        return said

    def _give_up(self) -> None:
        self._end = f"did not answer for {self._patience_s} s (--patience)"
        self._process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            # of a process that has died, what was left to write is lost
            with suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


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
    theirs: Sequence[Sequence[float]], wanted: Sequence[Sequence[float]], noise: NDArray[np.float64]
) -> str | None:
    """Return what is wrong with a peer's losses, each (models, steps); None: they agree.

    Of most models, rounding stays below a hundredth of GATE_RTOL over these steps, and a learning rate that is 1 % off
    shows as eight times as much. Of some, a relu opens by one order of summation and not by another; how much rounding
    does to a model was measured.

    Args:
        theirs: the peer's.
        wanted: those of plain PyTorch, of at least as many models.
        noise: by how much rounding changes those up to each step, relatively.
    """
    ours = np.asarray(wanted[: len(theirs)])
    allowed = np.maximum(GATE_RTOL, NOISE_SLACK * noise[: len(theirs)])
    # not apart > allowed, which no NaN is
    wrong = ~(np.abs(np.asarray(theirs) / ours - 1) <= allowed)
    if not wrong.any():
        return None
    model, step = np.argwhere(wrong)[0]
    loss = f"loss {theirs[model][step]:.7g}, plain PyTorch {ours[model][step]:.7g}"
    return f"differs at step {step} of model {model}: {loss}, allowed relative difference {allowed[model, step]:.3g}"


def moved(whole: PeerTask) -> PeerTask:
    """Return the task with each weight moved up or down by some roundings."""
    generator = np.random.default_rng(0)
    signs = [generator.choice(np.array([-1, 1], dtype=np.float32), size=value.shape) for value in whole.weights]
    weights = [value * (1 + MOVED_BY * sign) for value, sign in zip(whole.weights, signs, strict=True)]
    return replace(whole, weights=weights)


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
    wanted = losses_alone(peers["plain"], gate_task, where)
    apart = np.abs(np.asarray(losses_alone(peers["plain"], moved(gate_task), where)) / np.asarray(wanted) - 1)
    # once two roundings have come apart they stay so, though a loss may agree by chance
    noise = np.maximum.accumulate(apart, axis=1)
    right = {}
    for name, found_losses in prepared(peers, gate_task, where, {"losses": GATE_STEPS}):
        theirs = found_losses if isinstance(found_losses, str) else difference(found_losses["losses"], wanted, noise)
        if theirs is None:
            right[name] = peers[name]
        else:
            found.faults[f"batch {batch_size}: {STEP_ARMS[name]}"] = theirs
    return right


def prepared(
    peers: Mapping[str, PeerProcess], whole: PeerTask, where: Setting, asked: Mapping[str, object]
) -> Iterator[tuple[str, dict[str, Any] | str]]:
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
            except RuntimeError as error:
                yield name, str(error)


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
    steps, arms = {}, {}
    # the first call compiles
    warm = dict(prepared(peers, task(batch_size, where.stack), where, {"run": CALIBRATION_STEPS}))
    for name, first in warm.items():
        if isinstance(first, str):
            found.faults[f"batch {batch_size}: {STEP_ARMS[name]}"] = first
            continue
        steps[name] = calibrated(peers[name], effort.round_s)
        arms[name] = StepArm(batch_size, STEP_ARMS[name], models_of(name, where), steps[name])
        found.steps.append(arms[name])
    flops = models.flops_per_image(harness.load_config(list(RAW)).model)[1]
    order = list(arms)
    for index in range(effort.rounds):
        say(f"batch {batch_size}: round {index + 1} of {effort.rounds}")
        matmul = peers["plain"].ask(matmul=True)["flops_per_s"]
        turn = index % len(order)
        for name in (order[turn:] + order[:turn])[:: 1 if index % 2 else -1]:
            seconds = peers[name].ask(run=steps[name])["seconds"]
            rate = arms[name].models * batch_size * steps[name] / seconds
            arms[name].images_per_s.append(rate)
            arms[name].matmul_share.append(rate * flops / matmul)


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
