"""The command as a user types it, from a folder that is not the checkout."""

import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pages
import pandas as pd
import pytest
from conftest import QUICK, Command, run_command, run_python

import harness
from harness import diagnosis, usage
from harness.activations import ACTIVATIONS
from harness.compose import CONF_DIR
from harness.report.command import main as report

README = pages.ROOT / "README.md"
QUIET = ("Traceback", "Warning", "warning")


def test_the_readmes_sweep_gives_parquet_and_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, page = (typed for typed in pages.commands(README) if "outputs/learn" in " ".join(typed))
    done = run_python(*run[3:], "data.train_images=100", "data.test_images=100", *QUICK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not any(word in done.stdout + done.stderr for word in QUIET)
    trials = pd.read_parquet(tmp_path / "outputs/learn/trials")
    assert sorted(zip(trials["init"], trials["seed"], strict=True)) == [
        (init, seed) for init in ("glorot", "he", "zero") for seed in (0, 1, 2)
    ]
    assert set(trials["status"]) == {"ok"}
    assert set(trials["experiment"]) == {"learn"}
    assert len(re.findall(r"^\[\d/9\] init=\w+ seed=\d: ok, loss ", done.stdout, flags=re.MULTILINE)) == 9
    assert not (tmp_path / "multirun").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"], "nothing else is left behind"
    monkeypatch.chdir(tmp_path)
    assert report(page[3:]) == 0
    assert "init=glorot" in (tmp_path / "outputs/learn/report.html").read_text(encoding="utf-8")


def test_globs_and_ranges_sweep(command: Command, tmp_path: Path) -> None:
    done = command("-m", "init=glob(he*)", "seed=range(0,2)", "model=mlp", *QUICK)
    assert done.returncode == 0, done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert sorted(zip(trials["init"], trials["seed"], strict=True)) == [
        (init, seed) for init in ("he", "he_normal", "he_uniform") for seed in (0, 1)
    ]
    assert "[6/6]" in done.stdout


@pytest.mark.slow
def test_every_initializer_runs_in_one_sweep(command: Command, tmp_path: Path) -> None:
    small = ("model=deep", "model.depth=2", "model.width=4", "data.scaling=standardised", "train.batch_size=10")
    done = command("-m", "init=glob(*)", *QUICK, *small)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert set(trials["init"]) == {path.stem for path in (CONF_DIR / "init").glob("*.yaml")}
    assert set(trials["diagnosis"]) <= set(diagnosis.KINDS)
    verdicts = trials.set_index("init")["diagnosis"]
    assert verdicts[["zero", "all_zero", "ones", "constant"]].tolist() == ["dead", "dead", "symmetric", "symmetric"]
    assert verdicts["he"] == "fine"
    why = "zero: dead, the weights of 4 of 4 layers (stem, conv1, conv2, fc) never get a gradient, because of conv2"
    assert why in " ".join(done.stdout.split()), "wrapped at 100 columns"


@pytest.mark.slow
def test_order_of_a_sweep_does_not_matter(tmp_path: Path) -> None:
    outcomes = []
    for index, inits in enumerate(("zero,he,torch_default", "torch_default,zero,he")):
        folder = tmp_path / str(index)
        folder.mkdir()
        done = run_command("-m", f"init={inits}", "data.batches=epochs", *QUICK, cwd=folder)
        assert done.returncode == 0, done.stderr
        frames = harness.load(folder / "outputs/results")
        trials = frames.trials.set_index("init").sort_index()
        curves = frames.curves.merge(frames.trials[["trial_id", "init"]]).sort_values(["init", "step"])
        outcomes.append(
            (
                trials["final_weights_sha256"].to_dict(),
                curves[["init", "step", "train_loss", "test_loss"]].to_numpy().tolist(),
            )
        )
    assert outcomes[0] == outcomes[1]


def test_single_trial_runs_without_m(command: Command, tmp_path: Path) -> None:
    done = command("init=he", "model=mlp", "experiment=article_printed", *QUICK)
    assert done.returncode == 0, done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert trials["lr"].tolist() == [1e-6]
    assert trials["experiment"].tolist() == ["article_printed"]


def test_activation_and_batch_size_sweep(command: Command, tmp_path: Path) -> None:
    done = command("-m", "model=mlp", "model.activation=tanh,relu", "train.batch_size=10,20", *QUICK)
    assert done.returncode == 0, done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert len(set(zip(trials["activation"], trials["batch_size"], strict=True))) == 4


def test_an_initializer_of_the_user_by_one_file(command: Command, tmp_path: Path) -> None:
    """The README's lines, without touching the harness."""
    (block,) = (text for text in pages.blocks(README, "python") if "@register" in text)
    (tmp_path / "mine.py").write_text(block)
    (*_, typed) = (typed for typed in pages.commands(README) if "init.modules=[mine]" in typed)
    done = command(*typed[3:], "model=mlp", *QUICK)
    assert done.returncode == 0, done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert trials["init_weight"].tolist() == ["small_normal"]
    assert "std=0.1" in trials["init"].item()


def test_an_initializer_of_the_user_by_one_yaml(command: Command, tmp_path: Path) -> None:
    (tmp_path / "conf/init").mkdir(parents=True)
    (tmp_path / "conf/init/half_he.yaml").write_text("# half of he\nweight: he_truncated\ngain: 0.5\n")
    (tmp_path / "conf/experiment").mkdir()
    grid = "# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n"
    (tmp_path / "conf/experiment/grid.yaml").write_text(grid)
    done = command(f"--config-dir={tmp_path / 'conf'}", "experiment=grid", "init=half_he", "model=mlp", *QUICK)
    assert done.stdout.startswith("note: hydra.sweeper.params has a sweep, which only runs with -m; this is one trial")
    assert done.returncode == 0, done.stderr
    trials = harness.load(tmp_path / "outputs/results").trials
    assert (trials["init"].tolist(), trials["init_gain"].tolist()) == (["half_he"], [0.5])


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["--cfg", "job"]], ids=" ".join)
def test_help_and_config_answer_without_torch(arguments: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "harness.run", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time")}
    assert "hydra" in imported
    assert not imported & {"torch", "pandas", "pyarrow", "triton"}
    assert list(tmp_path.iterdir()) == []


def test_help_lists_every_choice_and_value_in_100_columns(command: Command) -> None:
    printed = command("--help").stdout
    assert max(map(len, printed.splitlines())) <= 100
    for words in (
        "  zero   ",
        "  torch_default ",
        "  learn ",
        "  mnist5k ",
        "optimizer.lr=",
        "train.steps=1000",
        "seed=0",
    ):
        assert words in printed
    assert "  model.depth=16 " in printed
    assert set(ACTIVATIONS) <= set(re.findall(r"\w+", printed))
    assert "Exit codes: 0 all trials ok, 1 some trial failed" in printed
    described = [line for line in usage.text().splitlines() if re.match(r"  \w+ {3,}", line)]
    assert len(described) >= 20
    assert all(len(line) > 40 for line in described), "each choice has its one line"


def test_help_lists_the_values_that_only_some_choices_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the choices that have them: an optimizer with a setting of its own needs no change to the help."""
    shutil.copytree(CONF_DIR, tmp_path / "conf")
    (tmp_path / "conf/optimizer/rmsprop.yaml").write_text("# RMSprop\nname: rmsprop\nlr: 1e-3\n# decay\nalpha: 0.99\n")
    monkeypatch.setattr(usage, "CONF_DIR", tmp_path / "conf")
    printed = usage.text()
    assert re.search(r"^  with optimizer=rmsprop:\n  optimizer\.alpha=0\.99 +decay$", printed, flags=re.MULTILINE)
    assert "  with model=deep or model=residual:\n  model.depth=16 " in printed


def test_quick_to_answer(tmp_path: Path) -> None:
    """Not a benchmark: three seconds of a core, where importing torch alone would take as long."""
    spent = [_children_cpu_s()]
    for _ in range(2):
        run_python("--help", cwd=tmp_path)
        spent.append(_children_cpu_s())
    assert spent[2] - spent[1] < 3


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_console_script_is_the_same_command(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("initbench")
    done = subprocess.run([script, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{usage.text()}\n"


def test_no_progress_bar_where_nobody_watches(tmp_path: Path) -> None:
    done = run_python("model=mlp", *QUICK, cwd=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_with_rate_and_time_left_on_a_terminal(tmp_path: Path) -> None:
    import pty

    parent, child = pty.openpty()
    command = [sys.executable, "-m", "harness.run", "model=mlp", *QUICK, "train.steps=3000", "train.eval_every=1000"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, cwd=tmp_path, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        seen = b""
        while True:
            try:
                piece = os.read(parent, 65536)
            except OSError:
                break
            if not piece:
                break
            seen += piece
    os.close(parent)
    assert process.returncode == 0
    shown = seen.decode()
    assert re.search(r"[\d,]+ images/s", shown)
    assert re.search(r"\d+/3000", shown)
    assert re.search(r"0:00:\d\d", shown)


@pytest.mark.parametrize("folder", ["~/of mine", "größe/lr=0.1", "it's", "$HOME;a\\b"])
def test_any_folder_can_be_named_and_what_is_printed_of_it_pasted(
    tmp_path: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``~`` is home; the commands that are printed work in a shell and in Python as they stand."""
    quoted = folder.replace("'", "\\'")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()

    def printed_by(done: "subprocess.CompletedProcess[str]") -> str:
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    printed = printed_by(run_command(*QUICK, "model=mlp", "init=glorot", f"results.dir='{quoted}'", cwd=tmp_path))
    expected = tmp_path / folder.replace("~", "home")
    assert f"results: {expected}" in printed
    assert len(list((expected / "trials").iterdir())) == 1
    in_python, in_shell = re.findall(r"read them: (.*)   check them: python (.*)", printed)[0]
    program = f"import harness; print(len({in_python}.trials))"
    script = f'{shlex.quote(sys.executable)} {in_shell}; {shlex.quote(sys.executable)} -c "$1"'
    checked = printed_by(
        subprocess.run(
            ["bash", "-c", script, "-", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    )
    sound, count = checked.splitlines()
    assert sound.endswith(": trials: 1, all sound")
    assert count == "1"
