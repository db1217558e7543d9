"""The command as a process of its own with its workers: started, watched in ``/proc``, and gone without a trace."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Process = subprocess.Popen[str]

WAIT_S = 90.0

STUBBORN = """
import time
from harness.initializers import register


@register("stubborn")
def stubborn(shape, *, gain, generator):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""
"""A user's module with an initializer that nothing but a kill ends."""


@contextmanager
def started(folder: Path, *arguments: str) -> Iterator[Process]:
    """The command with a process group of its own, so that a signal can be sent to all of it as a terminal does."""
    command = [sys.executable, "-m", "harness.run", *arguments]
    # unbuffered, so that a kill loses no line
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_WAIT_POLICY": "passive"}
    with subprocess.Popen(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until(is_so: Callable[[], object], what: str) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def descendants(pid: int) -> dict[int, str]:
    """Living processes that this one started, and that those started: pid -> command line."""
    parents, commands = {}, {}
    for path in Path("/proc").iterdir():
        with suppress(OSError):
            if path.name.isdigit() and (fields := _status(path))[0] != "Z":
                parents[int(path.name)] = int(fields[1])
                commands[int(path.name)] = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    children, todo = {}, [pid]
    while todo:
        parent = todo.pop()
        own = [child for child, of in parents.items() if of == parent]
        children |= {child: commands[child] for child in own}
        todo += own
    return children


def workers_of(pid: int) -> list[int]:
    """The workers among them; the other is the standard library's resource tracker."""
    return [child for child, command in descendants(pid).items() if "spawn_main" in command]


def is_alive(pid: int) -> bool:
    """Whether it runs; a process that has ended and is not waited for does not."""
    try:
        return _status(Path(f"/proc/{pid}"))[0] != "Z"
    except OSError:
        return False


def _status(path: Path) -> list[str]:
    """State and parent, from behind the name, which may hold anything."""
    return (path / "stat").read_text().rpartition(")")[2].split()


def assert_none_is_left(pids: Iterator[int] | list[int]) -> None:
    """All of them end within moments."""
    pids = list(pids)
    wait_until(lambda: not any(map(is_alive, pids)), f"orphans among {pids}")
