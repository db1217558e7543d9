"""What fails, as a user sees it: one clear line, one row where a trial had begun, an exit code, and a sound folder.

Real processes, real signals, real conditions. Each process that loads torch costs seconds, so tests share them.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from command_processes import Process, started
from command_server import forked
from conftest import QUICK, Command, Configure, run_command, run_python

import harness
from harness import data, initializers, models
from harness.results import TABLES

QUICK_MLP = (*QUICK, "model=mlp", "device.threads=1")
# a second of set-up, then minutes of training unless something ends it
ENDLESS = ("train.eval_every=1000000", "train.window_steps=20")

Done = subprocess.CompletedProcess[str]

RESULTS = "outputs/results"


def lines_of(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def trials_below(folder: Path) -> pd.DataFrame:
    return harness.load(folder / RESULTS).trials


def assert_sound(folder: Path) -> None:
    """``validate`` finds nothing."""
    done = forked("harness.results", "validate", RESULTS, cwd=folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


def assert_refused(done: Done) -> str:
    """The command was wrong: exit code 2 and one line, which is returned; a sweep names the trials it is about."""
    assert done.returncode == 2, done.stdout + done.stderr
    line, *named = done.stderr.splitlines()
    assert all(re.match(r"not run, see the errors: \d+ trials?: \[", own) for own in named), named
    assert re.match(r"error: \S", line), line
    assert "Traceback" not in done.stdout
    return line


MINE = """
import sys
import torch
from harness.initializers import register


@register("raising")
def raising(shape, *, gain, generator):
    raise ZeroDivisionError("no weights\\ntoday")


@register("leaving")
def leaving(shape, *, gain, generator):
    sys.exit("bye")


@register("wrong_shape")
def wrong_shape(shape, *, gain, generator):
    return torch.zeros(3, 2)


@register("not_a_number")
def not_a_number(shape, *, gain, generator):
    return torch.full(shape, torch.nan)


@register("infinite")
def infinite(shape, *, gain, generator):
    return torch.full(shape, -torch.inf)


@register("surrogate")
def surrogate(shape, *, gain, generator):
    raise ValueError("bad \\udcff\\x1b[31m\\0 name")


class SpeechlessError(Exception):
    def __str__(self):
        raise RuntimeError


@register("speechless")
def speechless(shape, *, gain, generator):
    raise SpeechlessError


class OwnError(BaseException):
    pass


@register("base_exception")
def base_exception(shape, *, gain, generator):
    raise OwnError("mine")


@register("generator_exit")
def generator_exit(shape, *, gain, generator):
    raise GeneratorExit


@register("huge_tensor")
def huge_tensor(shape, *, gain, generator):
    return torch.empty(2**50)


@register("huge_list")
def huge_list(shape, *, gain, generator):
    return torch.tensor([0.0] * 2**60)
"""

BAD_INITIALIZERS = {
    "raising": ("error", "ZeroDivisionError", "no weights today"),
    "leaving": ("error", "SystemExit", "bye"),
    "wrong_shape": ("error", "ValueError", r"initializer 'wrong_shape' returned shape \(3, 2\) for fc1.weight"),
    "not_a_number": ("diverged", "DivergedError", "not finite at step 0; try a smaller optimizer.lr"),
    "infinite": ("diverged", "DivergedError", "not finite at step 0; try a smaller optimizer.lr"),
    "huge_tensor": ("oom", "RuntimeError", "can't allocate memory: you tried to allocate 4503599627370496 bytes"),
    "huge_list": ("oom", "MemoryError", "no message"),
    "surrogate": ("error", "ValueError", r"bad \\udcff\\x1b\[31m\\x00 name"),
    "speechless": ("error", "SpeechlessError", r"no message \(its text raised RuntimeError\)"),
    "base_exception": ("error", "OwnError", "mine"),
    "generator_exit": ("error", "GeneratorExit", "no message"),
}


@pytest.fixture(scope="module")
def bad_sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A sweep over the user's own initializers, each bad one followed by another trial, the last two good."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "mine.py").write_text(MINE)
    (folder / "conf/init").mkdir(parents=True)
    for name in BAD_INITIALIZERS:
        (folder / f"conf/init/{name}.yaml").write_text(f"# mine\nweight: {name}\nmodules: [mine]\n")
    choices = ",".join([*BAD_INITIALIZERS, "glorot", "he"])
    return folder, run_command(f"init={choices}", "-m", "--config-dir", "conf", *QUICK_MLP, cwd=folder)


@pytest.mark.parametrize("name", BAD_INITIALIZERS)
def test_bad_initializer_is_a_row_and_a_line(bad_sweep: tuple[Path, Done], name: str) -> None:
    folder, done = bad_sweep
    status, error_type, words = BAD_INITIALIZERS[name]
    (row,) = trials_below(folder).query("init == @name").to_dict("records")
    assert (row["status"], row["error_type"]) == (status, error_type)
    assert re.search(words, row["error_message"])
    assert row["diverged_step"] == 0 if status == "diverged" else pd.isna(row["diverged_step"])
    (line,) = [line for line in lines_of(done.stdout, "failed: ") if re.search(rf"init={name}\b", line)]
    assert re.search(f"{status} after 0 steps: .*{words}", line)


def test_sweep_goes_on_past_bad_initializers_and_says_so_at_the_end(bad_sweep: tuple[Path, Done]) -> None:
    folder, done = bad_sweep
    assert done.returncode == 1
    assert done.stderr == ""
    assert "Traceback" not in done.stdout
    # one cause for two of them
    assert len(lines_of(done.stdout, "failed: ")) == len(BAD_INITIALIZERS) - 1
    assert lines_of(done.stdout, "failed: 2 trials: diverged after 0 steps: the training loss is not finite")
    trials = trials_below(folder).set_index("init")
    assert len(trials) == len(BAD_INITIALIZERS) + 2
    assert trials.loc[["glorot", "he"], "status"].tolist() == ["ok", "ok"]
    assert_sound(folder)


def losses_of_a_plain_loop(activation: Callable[[torch.Tensor], torch.Tensor], lr: float, steps: int) -> list[float]:
    """``model=mlp`` without the harness's forward pass, loop or optimizer: the loss before each step and at the end."""
    config = harness.load_config(["model=mlp"])
    network = models.build(config.model)
    initializers.apply(config.init, network, seed=0, activation="relu")
    digits = data.load(config.data)
    parameters = list(network.tensors().values())
    losses = []
    for _ in range(steps + 1):
        x = digits.train_images[:50].float().flatten(1)
        for name, weight, bias in zip(("fc1", "fc2", "fc3"), parameters[::2], parameters[1::2], strict=True):
            x = x @ weight.T + bias
            x = x if name == "fc3" else activation(x)
        loss = F.cross_entropy(x, digits.train_labels[:50])
        losses.append(float(loss.detach()))
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_sub_(parameters, [lr * gradient for gradient in gradients])
    return losses


def keep(x: torch.Tensor) -> torch.Tensor:
    return x


ACTIVATIONS = {"identity": keep, "relu": F.relu}
DIVERGING = {
    "inf inside the first window": (("identity", 1e9, 12), 1, [0]),
    "nan inside the first window": (("relu", 1e6, 12), 2, [0]),
    "at the end of a window": (("identity", 1.0, 12), 3, [0]),
    # there the loss overflows float32, in which training takes it, and not float64, in which evaluation does
    "at the start of a window": (("identity", 0.1, 12), 4, [0, 4]),
    "inside the second window": (("identity", 0.01, 12), 5, [0, 4]),
    "after the last step": (("identity", 0.01, 5), 5, [0, 4, 5]),
}


@pytest.mark.parametrize(("choice", "expected", "seen"), DIVERGING.values(), ids=DIVERGING)
def test_diverged_step_is_that_of_a_plain_loop(
    configure: Configure, choice: tuple[str, float, int], expected: int, seen: list[int]
) -> None:
    activation, lr, steps = choice
    grid = (f"train.steps={steps}", "train.eval_every=4", "train.window_steps=4")
    config = configure("model=mlp", f"model.activation={activation}", f"optimizer.lr={lr}", "device.threads=1", *grid)
    result = harness.run_trial(config)
    finite = torch.tensor(losses_of_a_plain_loop(ACTIVATIONS[activation], lr, steps)).isfinite().tolist()
    assert finite.index(False) == expected, "the plain loop's own step"
    assert (result.trial["status"], result.trial["diverged_step"]) == ("diverged", expected)
    assert f"not finite at step {expected};" in result.trial["error_message"]
    assert result.train_losses[:expected].isfinite().all()
    assert not result.train_losses[expected : expected + 1].isfinite().any()
    frames = harness.load(config.results.dir)
    assert frames.curves["step"].tolist() == seen, "the curve up to there is kept"
    assert frames.layers["step"].unique().tolist() == seen


def test_memory_error_of_the_gpu_is_out_of_memory(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """The type torch raises for CUDA; it can be raised without one."""

    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(initializers, "apply", exhausted)
    assert harness.run_trial(configure("model=mlp")).trial["status"] == "oom"


def test_timeout_is_a_row_and_the_sweep_goes_on(command: Command, tmp_path: Path) -> None:
    done = command("-m", *QUICK_MLP, "train.max_seconds=1e-9,null")
    assert done.returncode == 1
    assert done.stderr == ""
    trials = trials_below(tmp_path).sort_values("trial_id")
    assert sorted(trials["status"]) == ["ok", "timeout"]
    stopped = trials.set_index("status").loc["timeout"]
    assert (stopped["steps_done"], stopped["error_type"]) == (2, "TimeBudgetError")
    (line,) = lines_of(done.stdout, "failed: ")
    assert line.endswith("timeout after 2 steps: train.max_seconds=1e-09 reached after 2 steps")
    assert_sound(tmp_path)


WRONG = {
    "unknown choice": (["init=glorto"], "init/glorto", "all_zero constant data_dependent"),
    "unknown choice in a sweep": (["-m", "init=zero,glorto"], "init/glorto", "torch_default"),
    "unknown device": (["device=gpu"], "device/gpu", "auto cpu cuda"),
    "empty choice": (["init="], "'init/'", "torch_default"),
    "choice taken away": (["~init"], "init: no choice", "init=NAME"),
    "two choices": (["init=[zero,glorot]"], "init: no choice, or more than one", "init=NAME"),
    "sweep without -m": (["init=zero,glorot"], "init=zero,glorot", "--multirun"),
    "sweep of nothing": (["-m", "seed=range(0,0)"], "sweep is empty", "range"),
    "glob of nothing": (["-m", "init=glob(x*)"], "sweep is empty", "no choice matches"),
    "unknown group": (["ini=zero"], "'ini'", "+ini=zero"),
    "unknown key": (["train.stpes=3"], "train.stpes", "+train.stpes"),
    "unknown key added": (["+train.stpes=3"], "stpes", "--cfg job"),
    "word for a number": (["train.steps=many"], "train.steps: Value 'many'", "Integer"),
    "fraction for a whole number": (["seed=1.5"], "seed: Value '1.5'", "Integer"),
    "null": (["seed=null"], "seed: Incompatible value 'None'", "int"),
    "word for a switch": (["device.tf32=maybe"], "device.tf32: Value 'maybe'", "bool"),
    "number for a list": (["model.layers=3"], "model.layers", "list"),
    "unknown key of a layer": (["model.layers=[{type: conv, foo: 3}]"], "'foo'", "LayerConfig"),
    "no steps": (["train.steps=0"], "train.steps=0", "at least 1"),
    "negative seed": (["seed=-1"], "seed=-1", "a whole number from 0 to 9,223,372,036,854,775,807"),
    "negative rate": (["optimizer.lr=-1"], "optimizer.lr=-1.0", "above 0"),
    "rate that is no number": (["optimizer.lr=nan"], "optimizer.lr=nan", "a finite number"),
    "batch larger than the data": (
        ["train.batch_size=5001"],
        "train.batch_size=5001",
        "only 5,000 training images; give at most 5,000 or set data.batches=random",
    ),
    "target above 1": (["train.targets=[2]"], "train.targets=[2.0]", "up to 1"),
    "no folder": (["results.dir="], "results.dir=", "a folder's name"),
    "letter to be quoted": (["results.dir=größe"], "the character ö must be quoted", "\"results.dir='größe'\""),
    "home to be quoted": (["results.dir=~/x"], "the character ~ must be quoted", "\"results.dir='~/x'\""),
    "quote to be quoted": (["results.dir=it's"], "the character ' must be quoted", "\"results.dir='it\\'s'\""),
    "equals sign to be quoted": (["results.dir=out/lr=0.1"], "lr=0.1: cannot be read", "\"results.dir='out/lr=0.1'\""),
    "home of nobody": (["results.dir='~nobody-at-all/x'"], "~nobody-at-all/x: there is no such home", "the whole path"),
    "unknown word of a value": (["data.batches=shuffled"], "data.batches=shuffled", "fixed, random, epochs"),
    "unclosed bracket": (["train.steps=[1"], "train.steps=[1", "input"),
    "nothing after the comma": (["init=zero,"], "init=zero,", "expecting"),
    "no equals sign": (["train.steps"], "train.steps", "missing EQUAL"),
    "no key": (["=3"], "override", "string"),
    "interpolation of nothing": (["seed=${nope}"], "seed: Interpolation key 'nope'", "--cfg job"),
    "unknown switch": (["--bogus"], "--bogus", "--help"),
    "two modes": (["--run", "--multirun"], "--run", "--multirun"),
    "no such --config-dir": (["--config-dir=/nope"], "/nope", "not found"),
}


# one of each kind by an interpreter of its own
BY_PYTHON = ("unknown choice", "sweep of nothing", "unknown key", "negative rate", "letter to be quoted", "two modes")


@pytest.mark.parametrize("case", WRONG)
def test_wrong_value_is_one_line_and_leaves_nothing(tmp_path: Path, case: str) -> None:
    arguments, given, allowed = WRONG[case]
    done = (run_python if case in BY_PYTHON else run_command)(*arguments, cwd=tmp_path)
    line = assert_refused(done)
    assert given in line
    assert allowed in line
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


# what only torch or the user's own modules can tell, as experiments of the user's
WRONG_EXPERIMENTS = {
    "initializer": ("init: {weight: glorto}", "unknown initializer 'glorto'; registered are: constant, "),
    "layer": ("init: {layers: {conv9: zeros}}", "init names the layer 'conv9'; this model's layers are: conv1, conv2"),
    "nowhere": ("init: {modules: [nowhere]}", "init.modules: cannot import 'nowhere' (ModuleNotFoundError: "),
    "broken": ("init: {modules: [broken]}", "init.modules: cannot import 'broken' (SyntaxError: "),
    "leaving": ("init: {modules: [leaving]}", "init.modules: cannot import 'leaving' (SystemExit: 0); mend it"),
    "own": ("init: {modules: [own]}", "init.modules: cannot import 'own' (OwnError: not today); mend it"),
    "outputs": (
        "model: {layers: [{type: dense, name: a, out: 5}]}",
        "model.layers: the last layer gives (5,)",
    ),
    "type": ("model: {layers: [{type: nrom}]}", "model.layers[0]: type 'nrom' is unknown; choose one of: conv, dense"),
    "activation": ("model: {activation: rleu}", "model.activation=rleu; choose one of: relu, "),
    "kernel": ("kernel: {name: cudnn}", "kernel.name=cudnn: no such choice; give one of: torch"),
}


def test_every_wrong_point_of_a_sweep_is_one_line_and_leaves_nothing(command: Command, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("def (:\n")
    (tmp_path / "leaving.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "own.py").write_text("class OwnError(BaseException): pass\nraise OwnError('not today')\n")
    (tmp_path / "conf/experiment").mkdir(parents=True)
    for name, (text, _) in WRONG_EXPERIMENTS.items():
        (tmp_path / f"conf/experiment/{name}.yaml").write_text(f"# @package _global_\n# wrong\n{text}\n")
    done = command("-m", "--config-dir=conf", f"experiment={','.join(WRONG_EXPERIMENTS)}", *QUICK)
    assert (done.returncode, done.stdout) == (
        2,
        f"planned: {len(WRONG_EXPERIMENTS)} trials, one at a time, into outputs/results\n",
    )
    *lines, at_the_end = done.stderr.splitlines()
    assert len(lines) == len(WRONG_EXPERIMENTS), lines
    assert at_the_end.startswith(
        f"not run, see the errors: {len(WRONG_EXPERIMENTS)} trials: [1/{len(WRONG_EXPERIMENTS)}] experiment="
    )
    for line, (_, words) in zip(lines, WRONG_EXPERIMENTS.values(), strict=True):
        assert line.startswith(f"error: {words}")
    assert not (tmp_path / "outputs").exists()


def test_right_points_of_a_partly_wrong_sweep_run(command: Command, tmp_path: Path) -> None:
    """Typed with the choices on both sides of -m, and with an interpolation."""
    done = command(*QUICK_MLP, "-m", "train.steps=2,0,4", "seed=0,1", "train.eval_every=${train.steps}")
    assert assert_refused(done).startswith("error: train.steps=0: out of range"), "once, though two points have it"
    trials = trials_below(tmp_path)
    assert sorted(zip(trials["steps"], trials["seed"], strict=True)) == [(2, 0), (2, 1), (4, 0), (4, 1)]
    assert set(trials["status"]) == {"ok"}
    assert_sound(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_cuda_without_a_gpu_is_a_wrong_command(command: Command, tmp_path: Path) -> None:
    done = command("-m", "init=zero,glorot", "device=cuda")
    line = assert_refused(done)
    assert "device=cuda" in line
    assert "use device=cpu" in line
    assert done.stdout == "planned: 2 trials, one at a time, into outputs/results\n"
    assert list(tmp_path.iterdir()) == [], "nothing half-written"


def test_a_folder_that_vanishes_under_a_single_trial_is_no_wrong_command(command: Command, tmp_path: Path) -> None:
    """Its row is lost, which exit code 1 and a line say."""
    (tmp_path / "vandal.py").write_text(
        "import shutil, torch\n"
        "from harness.initializers import register\n"
        '@register("vandal")\n'
        "def vandal(shape, *, generator):\n"
        "    shutil.rmtree('outputs', ignore_errors=True)\n"
        "    return torch.zeros(shape)\n"
    )
    done = command(*QUICK_MLP, "init.modules=[vandal]", "init.weight=vandal")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert re.match(r"error: \[1/1\] init=\S+ seed=0 could not be recorded: FileNotFoundError: ", line)


def test_unwritable_results_folder_is_a_wrong_command(command: Command, tmp_path: Path) -> None:
    """Below a file, and where the kernel itself refuses; permissions do not stop root."""
    (tmp_path / "file").write_text("mine")
    places = ("file/results", "file", "/proc/nope")
    for place in places:
        done = command("-m", f"results.dir={place}", "seed=0,1", *QUICK_MLP)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert re.fullmatch(rf"error: results.dir={place}: cannot write there \(.+\); give a folder .*", line)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def wait_for(process: Process, is_there: Callable[[], bool]) -> None:
    """Look until it is there."""
    deadline = time.monotonic() + 60
    while not is_there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def files(folder: Path, pattern: str) -> list[Path]:
    return sorted((folder / RESULTS).glob(pattern))


def recorded(folder: Path) -> set[str]:
    """The trials that have a row, published or not."""
    spooled = {path.stem for path in files(folder, ".spool/*/*.arrow")}
    paths = files(folder, "trials/*.parquet")
    return spooled.union(*(pq.ParquetFile(path).read(columns=["trial_id"])["trial_id"].to_pylist() for path in paths))


def wait_for_second_trial(folder: Path, process: Process) -> None:
    """The first trial's row and the second one's note are there."""
    wait_for(process, lambda: bool(files(folder, "trials/*.parquet")))
    first = recorded(folder)
    wait_for(process, lambda: any(path.stem not in first for path in files(folder, ".running/*.json")))


INTERRUPTED = "interrupted: finished trials are safe, those in hand are recorded as killed\n"


@pytest.mark.parametrize(
    ("number", "wait_s", "times"),
    [(signal.SIGINT, 1.0, 1), (signal.SIGTERM, 0.0, 1), (signal.SIGINT, 0.5, 8)],
    ids=["Ctrl-C", "SIGTERM", "impatient Ctrl-C"],
)
def test_interrupted_sweep_keeps_its_finished_trials(
    tmp_path: Path, number: signal.Signals, wait_s: float, times: int
) -> None:
    choices = ("-m", "train.steps=6,1000000,7", *QUICK_MLP[:1], *QUICK_MLP[3:], *ENDLESS)
    with started(tmp_path, *choices) as process:
        wait_for_second_trial(tmp_path, process)
        time.sleep(wait_s)
        for _ in range(times):
            process.send_signal(number)
            time.sleep(0.004)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    said, not_run, _ = stderr.splitlines(keepends=True)
    assert (said, not_run) == (INTERRUPTED, "without a row: 1 trial: [3/3] train.steps=7\n")
    assert "Traceback" not in stdout
    assert len(lines_of(stdout, "[1/3] train.steps=6: ok")) == 1
    trials = trials_below(tmp_path).set_index("steps")
    assert trials["status"].to_dict() == {6: "ok", 1000000: "killed"}, "the third has not begun"
    killed = trials.loc[1000000]
    # its own last words, or those of its parent where it was given no time for any
    how = {"interrupted (Ctrl-C or a termination signal)", "interrupted; its process had to be killed"}
    assert killed["error_message"] in (how if times > 1 else {min(how)})
    assert pd.isna(killed["steps_done"]) or killed["steps_done"] < 1000000
    assert files(tmp_path, ".running/*") == files(tmp_path, ".partial/*") == []
    assert_sound(tmp_path)


def test_interruption_while_rows_are_written_waits_for_them(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness import results
    from harness.results import parts, publishing, writing

    config = configure("model=mlp")
    write = publishing.publish_file
    targets: list[Path] = []

    def interrupted(partial: Path, target: Path, content: Any) -> None:
        # the note is no row
        if target.parent.name != ".running":
            targets.append(target)
            signal.raise_signal(signal.SIGINT)
        write(partial, target, content)

    for module in (writing, parts):
        monkeypatch.setattr(module, "publish_file", interrupted)
    # a shell that starts the tests in the background lets them ignore it
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            harness.run_trial(config)
    finally:
        signal.signal(signal.SIGINT, before)
    assert harness.load(config.results.dir).trials["status"].tolist() == ["ok"]
    assert [path.suffix for path in targets] == [".arrow", ".json", *[".parquet"] * 3]
    assert results.problems_in(Path(config.results.dir)) == []


def answers_signals(pid: int) -> bool:
    """Whether the command has taken SIGTERM over: from then on it says what it does."""
    caught = re.search(r"SigCgt:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (signal.SIGTERM - 1) & 1)


def loads_torch(pid: int) -> bool:
    return "libtorch" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc for the moment")
@pytest.mark.parametrize("moment", [answers_signals, loads_torch], ids=lambda moment: moment.__name__)
def test_ctrl_c_before_the_first_trial_is_one_line(tmp_path: Path, moment: Callable[[int], bool]) -> None:
    with started(tmp_path, *QUICK_MLP, *ENDLESS, "train.steps=1000000") as process:
        wait_for(process, lambda: moment(process.pid))
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    # Python ends by the signal itself if it interrupted an exec(), as in making a dataclass, though it was caught
    assert process.returncode in (1, -signal.SIGINT)
    assert (stdout, stderr) == ("", INTERRUPTED)
    assert list(tmp_path.iterdir()) == []


def unfinished(folder: Path) -> set[str]:
    """Trials that have a whole note and no row."""
    begun = {path.stem for path in files(folder, ".running/*.json") if path.read_text().endswith("}")}
    return begun - recorded(folder)


def noted(stdout: str) -> set[str]:
    """Trials that a run says it found killed."""
    trial_ids = re.findall(r"^note: the trial (\S+) of an earlier run was killed outright", stdout, flags=re.MULTILINE)
    assert len(trial_ids) == len(set(trial_ids))
    return set(trial_ids)


def wait_for_new(folder: Path, process: Process, pattern: str) -> None:
    before = set(files(folder, pattern))
    wait_for(process, lambda: bool(set(files(folder, pattern)) - before))


# what has to appear, then how many seconds may pass; never of the owner recovered-*, because recovery writes there too
_PART = "layers/part-????????T??????-[!r]*"
MOMENTS = [(".running/2*.json", 0.01), (".partial/spool-2*", 0.0), (".spool/[!r]*/2*.arrow", 0.0)]
MOMENTS += [(".spool/[!r]*/*.json", 0.0), (".partial/curves-[!r]*", 0.0), (".partial/layers-[!r]*", 0.0), (_PART, 0.0)]
MOMENTS += [(_PART, wait_s) for wait_s in np.random.default_rng(0).uniform(0, 1, 2)]


def kill_at(folder: Path, pattern: str, wait_s: float) -> str:
    """Kill -9 all processes of a sweep of trials of a quarter of a second; returns its standard output."""
    with started(folder, "-m", "seed=range(0,15)", *QUICK_MLP) as process:
        wait_for_new(folder, process, pattern)
        time.sleep(wait_s)
        os.killpg(process.pid, signal.SIGKILL)
        stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (-signal.SIGKILL, "")
    return stdout


@pytest.mark.slow
def test_kill_9_at_any_moment_costs_the_trial_in_hand_and_no_more(tmp_path: Path) -> None:
    killed: set[str] = set()
    rows: set[str] = set()
    left: set[str] = set()
    lines = 0
    for moment in MOMENTS:
        stdout = kill_at(tmp_path, *moment)
        for table in TABLES:
            for path in files(tmp_path, f"{table}/*.parquet"):
                pq.ParquetFile(path).read()
        assert noted(stdout) == left, "the run says what the one before left"
        lines += len(lines_of(stdout, "["))
        before, rows = rows, recorded(tmp_path)
        assert rows >= before | left
        left = unfinished(tmp_path)
        assert len(left) <= 1
        killed |= left
    done = run_command("seed=7", *QUICK_MLP, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert noted(done.stdout) == left
    assert_sound(tmp_path)
    trials = trials_below(tmp_path)
    assert trials["trial_id"].is_unique
    assert rows | left < set(trials["trial_id"])
    assert set(trials.query("status == 'killed'")["trial_id"]) == killed
    assert killed, "the first kill met a trial in its set-up"
    finished = (trials["status"] == "ok").sum()
    assert lines + 1 <= finished <= lines + 1 + len(MOMENTS), "a row comes before its line"


LIMITED = """
import os, resource, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
os.execv(sys.executable, [sys.executable, "-m", "harness.run", *sys.argv[2:]])
"""


@pytest.mark.parametrize(("limit_bytes", "status"), [(8_000, "killed"), (28_000, "ok")], ids=["spool", "publish"])
def test_full_disk_is_one_line_a_trial_and_leaves_a_folder_to_go_on_with(
    command: Command, tmp_path: Path, limit_bytes: int, status: str
) -> None:
    """By a limit on the size of a file, which the note of a trial never reaches; a trial that is spooled is safe."""
    arguments = [sys.executable, "-c", LIMITED, str(limit_bytes), "-m", "seed=0,1", *QUICK_MLP]
    full = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert full.returncode == 1
    if status == "killed":
        assert full.stderr.splitlines()[:2] == [
            f"error: [{index}/2] seed={index - 1} could not be recorded: OSError: [Errno 27] File too large"
            for index in (1, 2)
        ]
    else:
        (line,) = full.stderr.splitlines()
        assert line.startswith("error: results.dir=outputs/results: cannot be published (File too large); the next run")
    assert "Traceback" not in full.stdout
    assert files(tmp_path, "trials/*") == files(tmp_path, ".partial/*") == []
    left, safe = unfinished(tmp_path), recorded(tmp_path)
    assert (len(left) >= 1, len(safe) >= 1) == (status == "killed", status == "ok")
    done = command("seed=2", *QUICK_MLP)
    assert (done.returncode, done.stderr) == (0, "")
    assert noted(done.stdout) == left
    trials = trials_below(tmp_path).set_index("trial_id")
    assert set(trials.query("status == 'killed'").index) == left
    assert (trials["status"] == "ok").sum() == 1 + len(safe)
    assert trials.loc[sorted(left | safe), "status"].eq(status).all()
    assert_sound(tmp_path)


@pytest.mark.parametrize("value", ["train.steps=100000000000000000000", "device.threads=99999999999"])
def test_number_too_large_to_record_leaves_nothing_behind(command: Command, tmp_path: Path, value: str) -> None:
    done = command(value, "device=cpu", "model=mlp")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {value}: too large; give a number up to ")
    assert list(tmp_path.iterdir()) == []


def test_note_that_can_be_no_row_does_not_poison_the_folder(command: Command, tmp_path: Path) -> None:
    notes = tmp_path / "outputs/results/.running"
    notes.mkdir(parents=True)
    (notes / "20300101T000000-abc.json").write_text('{"trial_id": "x", "steps": 100000000000000000000}')
    assert command("device=cpu", "model=mlp", "train.steps=2").returncode == 0
    assert_sound(tmp_path)


def test_network_without_biases_runs_to_the_end(command: Command, tmp_path: Path) -> None:
    done = command("-m", "init=zero,glorot", "model.bias=false", "device=cpu", "train.steps=2", "device.threads=1")
    assert done.returncode == 0, done.stderr
    assert harness.load(tmp_path / "outputs/results").trials["last_bias_difference"].isna().all()
