"""CPU seconds and memory of a process and of those that it started, as Linux counts them in ``/proc``."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """CPU seconds of a living process, in all its threads, with those of its children that have ended."""
    fields = (Path(f"/proc/{pid}/stat")).read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS_PER_S


def cpu_s_of_all(pid: int) -> float:
    """CPU seconds of a process and of all that it has started."""
    total = cpu_s(pid)
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            with suppress(FileNotFoundError):
                total += cpu_s_of_all(int(child))
    return total


def memory_bytes(pid: int, what: str = "VmRSS") -> int:
    """Memory of a living process; ``VmHWM`` is the most that it held since it became its program."""
    match = re.search(rf"{what}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) * 1024 if match else 0


@dataclass
class Cost:
    """What a command took.

    Attributes:
        seconds: from its start to its end.
        peak_bytes: the most memory that it held.
        printed: its standard output.
    """

    seconds: float
    peak_bytes: int
    printed: str


def cost_of(*arguments: str, folder: Path, allowed: Sequence[int] = (0,)) -> Cost:
    """Run Python with these arguments.

    Raises:
        RuntimeError: it ended with another exit code than those allowed.
    """
    start, peak = time.perf_counter(), 0
    with subprocess.Popen(
        [sys.executable, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        printed: list[str] = []
        assert process.stdout is not None
        reader = threading.Thread(target=printed.extend, args=(process.stdout,))
        reader.start()
        while process.poll() is None:
            with suppress(FileNotFoundError):
                peak = max(peak, memory_bytes(process.pid, "VmHWM"))
            time.sleep(0.02)
        reader.join()
    if process.returncode not in allowed:
        raise RuntimeError(f"{' '.join(arguments)}: exit code {process.returncode}: {''.join(printed)[-500:]}")
    return Cost(time.perf_counter() - start, peak, "".join(printed))


@dataclass
class Sweep:
    """A sweep that runs, with what it printed so far."""

    process: "subprocess.Popen[str]"
    lines: list[str] = field(default_factory=list)

    @property
    def ended(self) -> int:
        """How many trials it said have ended."""
        return sum(line.startswith("[") for line in self.lines)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Look until it is so.

        Raises:
            RuntimeError: the sweep has ended before.
        """
        while not is_so():
            if self.process.poll() is not None:
                raise RuntimeError(f"the sweep ended too early: {''.join(self.lines)[-500:]}")
            time.sleep(0.002)


@contextmanager
def running_sweep(*arguments: str, folder: Path) -> Iterator[Sweep]:
    """Start ``python -m harness.run -m ARGUMENTS``; at the end it is told to stop, and waited for."""
    command = [sys.executable, "-u", "-m", "harness.run", "-m", *arguments]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        sweep = Sweep(process)
        assert process.stdout is not None
        reader = threading.Thread(target=sweep.lines.extend, args=(process.stdout,))
        reader.start()
        try:
            yield sweep
        finally:
            process.terminate()
            process.wait()
            reader.join()
