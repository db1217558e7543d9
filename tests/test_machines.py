"""Machines that lack something: each command does what it can, or says in one line what it needs."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK

import harness
from harness.cores import cpu_quota, granted_cores, usable_cores

QUICK_MLP = (*QUICK, "model=mlp", "init=glorot", "device.threads=1")
Done = subprocess.CompletedProcess[str]

LACKING = {
    "temporary folder": "import tempfile\ntempfile._candidate_tempdir_list = lambda: ['/nowhere']",
    "locks": (
        "import errno, fcntl, os\n"
        "def flock(*_):\n"
        "    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))\n"
        "fcntl.flock = flock"
    ),
    "one file system": (
        "import errno, os, pathlib\n"
        "rename = pathlib.Path.rename\n"
        "def renamed(source, target):\n"
        "    if '.running' in str(target):\n"
        "        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))\n"
        "    return rename(source, target)\n"
        "pathlib.Path.rename = renamed"
    ),
    "shared memory": (
        "import errno, multiprocessing.heap as heap, os\n"
        "def arena(*_):\n"
        "    raise OSError(errno.EROFS, os.strerror(errno.EROFS), '/dev/shm/x')\n"
        "heap.Arena.__init__ = arena"
    ),
    "user name": "import os, pwd\nos.environ.pop('HOME', None)\ndef none(_):\n    raise KeyError\npwd.getpwuid = none",
    "triton": "import sys\nsys.modules['triton'] = None",
    "/proc": (
        "import errno, os, pathlib\n"
        "def without(function):\n"
        "    def call(path='.', *more, **options):\n"
        "        if str(path).startswith(('/proc', '/dev/fd')):\n"
        "            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))\n"
        "        return function(path, *more, **options)\n"
        "    return call\n"
        "os.listdir = without(os.listdir)\n"
        "for name in ('open', 'read_text', 'write_text'):\n"
        "    setattr(pathlib.Path, name, without(getattr(pathlib.Path, name)))"
    ),
    "any core": "import os\ndef none(*_):\n    raise OSError(22, 'Invalid argument')\nos.sched_setaffinity = none",
}
"""What a machine lacks -> what Python runs first on it; workers run it too."""


def on_machine(tmp_path: Path, lacks: str, *arguments: str) -> Done:
    """Run a command where something is lacking."""
    (tmp_path / "machine").mkdir(exist_ok=True)
    (tmp_path / "machine/sitecustomize.py").write_text(LACKING[lacks])
    path = os.pathsep.join(filter(None, [str(tmp_path / "machine"), os.environ.get("PYTHONPATH")]))
    # torch leaves its choice of a temporary folder there
    inherited = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**inherited, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive"},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("lacks", "arguments", "said"),
    [
        ("temporary folder", (), "TMPDIR: no folder for temporary files can be written.*; set TMPDIR to a folder"),
        ("temporary folder", ("-m",), "TMPDIR: no folder for temporary files can be written.*; set TMPDIR to a folder"),
        ("locks", (), r"results.dir=outputs/results: cannot lock a file there \(No locks available\); .*"),
        ("locks", ("-m",), r"results.dir=outputs/results: cannot lock a file there \(No locks available\); .*"),
        ("one file system", (), "results.dir=outputs/results: cannot rename .* different file systems; mount .*"),
        pytest.param(
            "any core",
            ("-m", "seed=0,1", "sweep.workers=2"),
            r"OSError: \[Errno 22\] Invalid argument",
            marks=pytest.mark.skipif(len(usable_cores()) < 2 or granted_cores() is not None, reason="pins nothing"),
        ),
        ("shared memory", ("-m",), "-m: the processes of a sweep cannot share memory .*; mount /dev/shm writable, .*"),
    ],
)
def test_what_a_trial_needs_is_said_before_it_trains(
    tmp_path: Path, lacks: str, arguments: tuple[str, ...], said: str
) -> None:
    done = on_machine(tmp_path, lacks, "harness.run", *arguments, *QUICK_MLP)
    assert done.returncode == 2, done.stdout + done.stderr
    first, *more = done.stderr.splitlines()
    assert re.fullmatch(f"error: {said}", first)
    assert all(re.match(r"not run, see the errors: \d trials?: ", line) for line in more)
    assert "Traceback" not in done.stdout
    assert not list(tmp_path.glob("outputs/results/trials/*"))


@pytest.mark.parametrize(
    ("lacks", "arguments"),
    [
        ("temporary folder", ["harness.run", "--cfg", "job"]),
        ("temporary folder", ["harness.run", "--help"]),
        ("user name", ["harness.run", *QUICK_MLP]),
        ("triton", ["harness.run", *QUICK_MLP]),
        ("/proc", ["harness.run", "-m", *QUICK_MLP]),
    ],
)
def test_what_needs_nothing_of_it_works(tmp_path: Path, lacks: str, arguments: list[str]) -> None:
    done = on_machine(tmp_path, lacks, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


@pytest.mark.parametrize("lacks", ["locks", "temporary folder", "user name"])
def test_reading_needs_nothing(tmp_path: Path, lacks: str) -> None:
    """Neither a lock nor a place to write: another's results may lie on a read-only disk."""
    config = harness.load_config([*QUICK_MLP, f"results.dir={tmp_path / 'results'}"])
    assert harness.run_trial(config).ok
    done = on_machine(tmp_path, lacks, "harness.results", "validate", "results")
    assert (done.returncode, done.stdout, done.stderr) == (0, "results: trials: 1, all sound\n", "")


@pytest.mark.parametrize("command", [["harness.run"], ["harness.run", "-m"], ["harness.explain"]])
def test_a_folder_that_was_removed_under_the_command(tmp_path: Path, command: list[str]) -> None:
    place = tmp_path / "gone"
    place.mkdir()
    script = f'cd {place} && rmdir {place} && exec "$@"'
    done = subprocess.run(
        ["bash", "-c", script, "bash", sys.executable, "-m", *command, *QUICK_MLP],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    said = "error: the current folder does not exist any more; change to one that does\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


CGROUPS: dict[str, tuple[str, dict[str, str], float]] = {
    "no limit": ("0::/user", {"cpu.max": "max 100000\n", "user/cpu.max": "max 100000\n"}, math.inf),
    "container": ("0::/", {"cpu.max": "200000 100000\n"}, 2),
    "half a core": ("0::/", {"cpu.max": "50000 100000"}, 0.5),
    "group above is tighter": ("0::/a/b", {"a/cpu.max": "150000 100000", "a/b/cpu.max": "400000 100000"}, 1.5),
    "path of the machine": ("0::/docker/abc", {"cpu.max": "300000 100000"}, 3),
    "version 1": ("4:cpu,cpuacct:/x", {"cpu/x/cpu.cfs_quota_us": "250000", "cpu/x/cpu.cfs_period_us": "100000"}, 2.5),
    "version 1, no limit": ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, math.inf),
    "both": ("1:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "70000", "cpu/cpu.cfs_period_us": "10000"}, 7),
    "torn": ("0::/\nx", {"cpu.max": ""}, math.inf),
    "period of nothing": ("0::/", {"cpu.max": "100000 0"}, math.inf),
    "nothing": ("", {}, math.inf),
}


@pytest.mark.parametrize(("own", "files", "cores"), CGROUPS.values(), ids=CGROUPS)
def test_a_container_grants_so_many_cores(tmp_path: Path, own: str, files: dict[str, str], cores: float) -> None:
    for name, content in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(content)
    (tmp_path / "own").write_text(own)
    assert cpu_quota(tmp_path / "groups", tmp_path / "own") == cores
    assert cpu_quota(tmp_path / "groups", tmp_path / "no such file") == math.inf


@pytest.mark.parametrize(("quota", "threads"), [(math.inf, 4), (2.5, 2), (0.2, 1), (64, 4)])
def test_a_trial_takes_no_more_threads_than_the_container_grants(
    monkeypatch: pytest.MonkeyPatch, quota: float, threads: int
) -> None:
    from harness import cores, device

    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 4)
    assert len(cores.usable_cores()) == threads
    assert device.threads(harness.load_config().device) == threads
    assert device.threads(harness.load_config(["device.threads=6"]).device) == 6, "what was asked for"
