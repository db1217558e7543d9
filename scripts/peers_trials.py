"""Part ``trials`` of bench_peers.py: whole commands, this harness by workers against one script after the other."""

import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from overhead_arms import CPU
from peer_process import TRIAL_BATCH
from peers_processes import SCRIPTS, Setting, environment, interpreter
from peers_report import KERAS_LOOP, PLAIN_LOOP, WORKERS, PeersReport, TrialArm
from peers_rounds import RAW, PeersWorkload, say

import harness
from harness import data
from harness.cores import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPS = {PLAIN_LOOP: "plain", KERAS_LOOP: "keras"}


class MissingError(Exception):
    """A script's framework is not there."""


def measure_trials(found: PeersReport, where: Setting, effort: PeersWorkload) -> None:
    """Run the same number of trials each way, in turns."""
    images = where.scratch / "digits.npz"
    write_digits(images)
    ways: dict[str, Callable[[Path], None]] = {WORKERS: partial(sweep, effort=effort, device=where.device)}
    for name, peer in LOOPS.items():
        ways[name] = partial(loop, peer=peer, images=images, where=where, effort=effort)
    arms = {name: TrialArm(name, effort.trials, effort.trial_steps) for name in ways}
    for index in range(effort.trial_rounds):
        for name in list(ways)[:: 1 if index % 2 else -1]:
            if name in found.not_measured:
                continue
            say(f"trials: round {index + 1} of {effort.trial_rounds}: {name}")
            folder = where.scratch / f"trials-{index}-{len(name)}"
            begun_s = time.perf_counter()
            try:
                ways[name](folder)
            except MissingError as error:
                found.not_measured[name] = str(error)
                continue
            arms[name].trials_per_h.append(3600 * effort.trials / (time.perf_counter() - begun_s))
    found.trials += [arm for arm in arms.values() if arm.trials_per_h]


def write_digits(path: Path) -> None:
    """Write the article's images for the scripts, raw pixels."""
    config = harness.load_config(list(RAW))
    digits = data.to_device(data.load(config.data), config.data, CPU)
    train, tests = (digits.train_images, digits.train_labels), (digits.test_images, digits.test_labels)
    np.savez(path, images=train[0].numpy(), labels=train[1].numpy(), test_images=tests[0].numpy(),
             test_labels=tests[1].numpy())  # fmt: skip


def sweep(folder: Path, *, effort: PeersWorkload, device: str) -> None:
    """Run one command that trains all seeds, by as many workers as suit the machine.

    Raises:
        RuntimeError: it failed.
    """
    folder.mkdir()
    seeds = ",".join(str(seed) for seed in range(effort.trials))
    choices = ["experiment=article", f"device={device}", "init=glorot", f"seed={seeds}", "sweep.workers=auto"]
    sizes = [f"train.steps={effort.trial_steps}", f"train.eval_every={effort.trial_steps}", "results.dir=results"]
    line = [sys.executable, "-m", "harness.run", "-m", *choices, f"train.batch_size={TRIAL_BATCH}", *sizes]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the sweep failed: {(done.stderr or done.stdout)[-300:]}")
    learned(harness.load(folder / "results").trials[["train_loss_first", "train_loss_last"]].to_numpy())


def loop(_folder: Path, *, peer: str, images: Path, where: Setting, effort: PeersWorkload) -> None:
    """Run a script for each seed, one after the other, each with all cores.

    Raises:
        MissingError: its framework is not installed.
        RuntimeError: it failed.
    """
    threads = len(usable_cores())
    line = [interpreter(peer, where), str(SCRIPTS / "peer_process.py"), peer, "--threads", str(threads)]
    line += ["--device", where.device, "--trial", str(images), "--steps", str(effort.trial_steps)]
    losses = []
    for seed in range(effort.trials):
        done = subprocess.run([*line, "--seed", str(seed)], cwd=where.scratch, env=environment(threads),
                              capture_output=True, text=True, check=False)  # fmt: skip
        if "ModuleNotFoundError" in done.stderr:
            raise MissingError(f"not installed: {done.stderr.strip().splitlines()[-1].rpartition(' ')[2]}")
        if done.returncode:
            raise RuntimeError(f"{peer}: {done.stderr[-300:]}")
        said = json.loads(done.stdout)
        losses.append((said["loss_first"], said["loss_last"]))
    learned(np.asarray(losses))


def learned(losses: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> None:
    """Hold that every trial lowered its loss: rows of (first, last).

    Raises:
        RuntimeError: one did not.
    """
    if not (losses[:, 1] < losses[:, 0]).all():
        raise RuntimeError(f"a trial did not learn: first and last losses {losses.tolist()}")
