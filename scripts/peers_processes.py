"""The processes of bench_peers.py: each peer in one of its own, which is asked and answers."""

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

from peer_process import PEERS

from harness.errors import UsageError

SCRIPTS = Path(__file__).parent


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


class PeerError(UsageError):
    """A peer's process has died."""


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
            PeerError: the process has died, or was killed because it did not answer; the message says so.
        """
        said = self._read()
        if "died" in said:
            raise PeerError(said["died"])
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
