"""Commands as processes of their own that need not import torch: this one has, and forks for each.

``forked`` is called by the tests. Run as a program, this file is the server: it reads a command a line, forks, and
answers with the exit code. The child has the folder, environment, arguments and standard streams of its command and
ends as Python ends, by an exception, an exit or a signal. What a test asserts of starting up (time, what is imported,
what the interpreter reads before it runs) needs ``python -m`` itself.
"""

import atexit
import functools
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

TIMEOUT_S = 540.0


def forked(module: str, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """``python -m MODULE ARGUMENTS`` in a folder, by the server; where there is no safe fork, by Python."""
    command = [sys.executable, "-m", module, *arguments]
    if sys.platform != "linux":
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    with tempfile.TemporaryDirectory() as folder:
        streams = [Path(folder) / name for name in ("stdout", "stderr")]
        request = {"module": module, "arguments": arguments, "cwd": str(cwd), "environment": dict(os.environ)}
        code = _answer(json.dumps(request | {"streams": [str(stream) for stream in streams]}))
        return subprocess.CompletedProcess(command, code, *(stream.read_text() for stream in streams))


def _answer(request: str) -> int:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    print(request, file=server.stdin, flush=True)
    return int(server.stdout.readline())


@functools.cache
def _server() -> "subprocess.Popen[str]":
    """Start it once for all tests of this process."""
    server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


def _preload() -> None:
    """Import what a trial and the commands that read results import, with no thread and no random number."""
    import importlib

    import torch

    for module in ("hydra", "pandas", "harness.trial", "harness.console", "harness.resolution", "harness.results"):
        importlib.import_module(module)
    for module in ("harness.sweep.plan", "harness.sweep.composer", "harness.sweep.conduct", "harness.results.command"):
        importlib.import_module(module)
    # torch imports its compiler, two seconds, with the first optimizer
    torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    # a collection would write to each object, and so copy each page for each child
    gc.collect()
    gc.freeze()


def _serve() -> dict[str, Any] | None:
    """Fork for each request; returns it in the child, and None at the end of the requests."""
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            return json.loads(line)
        print(_exit_code(child), flush=True)
    return None


def _exit_code(child: int) -> int:
    deadline = time.monotonic() + TIMEOUT_S
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def _become(request: dict[str, Any]) -> None:
    """Turn this process into one that Python started with the request's command."""
    for number, stream in enumerate((os.devnull, *request["streams"])):
        file = os.open(stream, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["cwd"])
    sys.path[0] = request["cwd"]
    sys.argv[:] = [request["module"], *request["arguments"]]


def _run(module: str) -> int:
    """Run the module as ``python -m`` does; returns the exit code."""
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - whatever ends a program is printed
        traceback.print_exc()
        return 1
    return 0


def _end(code: int) -> NoReturn:
    """End as Python does, but leave the memory to the system: freeing torch's objects one by one takes seconds."""
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _preload()
    if (request := _serve()) is not None:
        _become(request)
        _end(_run(request["module"]))
