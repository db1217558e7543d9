"""The comparison as it is typed: folders, baselines, reports, and one line for what is wrong."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_trials import Row, folder, trial

import harness
from harness import results
from harness.compare import checks
from harness.compare.command import main
from harness.compare.folders import names, promote
from harness.errors import UsageError
from harness.results import arrow_schema

NASTY = 'init="<script>&|`x`]]>\x00\x1b[31m*b*\ud800'
Compare = Callable[..., tuple[int, str, str]]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str]) -> Compare:
    """``compare(*arguments)``: exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def losses(factor: float, seeds: int = 8, **columns: Any) -> list[Row]:
    return [trial(seed, test_loss_last=(1 + seed) * factor * (1 + seed / 1000), **columns) for seed in range(seeds)]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return folder(tmp_path / "base", losses(1.0))


@pytest.fixture
def again(tmp_path: Path) -> Path:
    """The same configs and results as base, measured another time."""
    return folder(tmp_path / "again", losses(1.0))


@pytest.fixture
def worse(tmp_path: Path) -> Path:
    return folder(tmp_path / "worse", losses(1.5))


JUDGED = ("--judge", "test_loss,steps,test_accuracy")


def test_exit_codes_and_the_last_line(compare: Compare, base: Path, again: Path, worse: Path, tmp_path: Path) -> None:
    few = folder(tmp_path / "few", losses(1.0, 3))
    for candidate, code, verdict in ((worse, 1, "regression"), (again, 0, "ok"), (few, 3, "inconclusive")):
        options = ("--allow-missing",) if candidate == few else ()
        exit_code, out, err = compare(base, candidate, *JUDGED, *options)
        assert (exit_code, err) == (code, "")
        assert out.splitlines()[-1].startswith(f"{verdict}: {candidate} against {base}: ")
        assert "judged: steps to 0.5 (1 arm), steps to 0.8 (1 arm), test loss (1 arm), test accuracy (1 arm)\n" in out
    assert compare(worse, base, *JUDGED)[0] == 0
    assert "1 improvement" in compare(worse, base, *JUDGED)[1]


def test_every_report_says_the_same(compare: Compare, base: Path, worse: Path, tmp_path: Path) -> None:
    paths = {name: tmp_path / f"report.{name}" for name in ("markdown", "json", "junit")}
    options = [part for name, path in paths.items() for part in (f"--{name}", path)]
    code, _, _ = compare(base, worse, *JUDGED, *options)
    content = json.loads(paths["json"].read_text())
    assert (code, content["exit_code"], content["verdict"]) == (1, 1, "regression")
    bad = [one for one in content["comparisons"] if one["verdict"] == "regression"]
    assert [one["measure"] for one in bad] == ["test loss"]
    assert paths["markdown"].read_text().startswith("## Comparison: regression\n")
    suite = ET.parse(paths["junit"]).getroot()[0]  # noqa: S314 - our own
    failed = [case.get("name") for case in suite if case.find("failure") is not None]
    skipped = [case.get("name") for case in suite if case.find("skipped") is not None]
    never = ["steps to 0.9", "steps to 0.95"]
    assert (failed, skipped) == (["test loss"], [*never, "images/s"])
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped", "errors")} == {
        "tests": str(len(content["comparisons"])), "failures": "1", "skipped": "3", "errors": "0",
    }  # fmt: skip
    for form, path in (("md", paths["markdown"]), ("json", paths["json"]), ("junit", paths["junit"])):
        assert compare(base, worse, *JUDGED, "--format", form)[1] == path.read_text()


def test_any_name_makes_sound_reports(compare: Compare, tmp_path: Path) -> None:
    name = NASTY.replace("\ud800", "")
    ours = folder(tmp_path / "ours", losses(1.0, init=name))
    theirs = folder(tmp_path / "theirs", losses(1.5, init=name))
    _, xml, _ = compare(ours, theirs, "--format", "junit")
    arms = {case.get("classname") for case in ET.fromstring(xml).iter("testcase")}  # noqa: S314 - our own
    assert arms == {"init=" + name.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")}
    _, text, _ = compare(ours, theirs, "--format", "md")
    rows = [line for line in text.splitlines() if "test loss" in line and line.startswith("|")]
    assert rows[0].replace("\\|", "").count("|") == 12
    assert "<script>" not in text.replace("\\<", "")
    assert json.loads(compare(ours, theirs, "--format", "json")[1])["exit_code"] == 1


def broken_by(kind: str, path: Path) -> Path:
    """A results folder that cannot be compared."""
    file = next(iter((path / "trials").glob("*.parquet")), None)
    if kind == "empty":
        shutil.rmtree(path / "trials")
        (path / "trials").mkdir()
    elif kind == "no results":
        shutil.rmtree(path / "trials")
    elif file is not None and kind == "truncated":
        file.write_bytes(file.read_bytes()[:200])
    elif file is not None and kind == "foreign":
        pq.write_table(pa.table({"a": [1]}), file)
    elif file is not None:
        schema = arrow_schema("trials")
        newer = schema.with_metadata({**schema.metadata, b"initbench.schema_version": b"99"})
        pq.write_table(newer.empty_table(), file)
    return path


@pytest.mark.parametrize("side", ["base", "candidate"])
@pytest.mark.parametrize(("kind", "words"), [
    ("empty", "no trial in it"),
    ("no results", "no results"),
    ("truncated", "cannot be read as Parquet"),
    ("foreign", "not a 'trials' file of initbench"),
    ("newer", "schema version 99"),
])  # fmt: skip
def test_what_cannot_be_read_is_one_line(compare: Compare, base: Path, kind: str, words: str, side: str) -> None:
    broken = broken_by(kind, folder(base.parent / "broken", losses(1.0)))
    code, out, err = compare(*((broken, base) if side == "base" else (base, broken)))
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert words in line


def test_reports_are_written_of_an_error_too(compare: Compare, base: Path, tmp_path: Path) -> None:
    other = folder(tmp_path / "other", losses(1.0, device_model="Chip 10"))
    code, out, err = compare(
        base, other, "--junit", tmp_path / "j", "--json", tmp_path / "s", "--markdown", tmp_path / "m"
    )
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    (case,) = ET.parse(tmp_path / "j").getroot().iter("testcase")  # noqa: S314 - our own
    (error,) = case
    assert error.tag == "error"
    assert "device_model" in str(error.get("message"))
    assert "device_model" in json.loads((tmp_path / "s").read_text())["errors"][0]
    assert "Comparison: error" in (tmp_path / "m").read_text()


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "FOLDER"),
    (["BASE"], "1 folder given; give BASE and CANDIDATE"),
    (["BASE", "BASE", "BASE"], "3 folders given"),
    (["BASE", "BASE"], "base and base hold the same data (8 trials with the same id: made-"),
    (["--calibrate", "AGAIN", "BASE", "BASE"], "base and base hold the same data"),
    (["BASE", "COPY"], "base and copy hold the same data"),
    (["BASE", "nowhere"], "nowhere: no results there"),
    (["BASE", "FILE"], "file: is a file; give the folder that is the results.dir of a run"),
    (["FILE", "BASE"], "file: is a file; give the folder"),
    (["", "BASE"], "BASE is empty; give a results folder or the name of a baseline"),
    (["BASE", ""], "CANDIDATE is empty; give a results folder"),
    (["promote", "FILE"], "file: is a file; give the folder"),
    (["nowhere", "BASE"], "no baseline in baselines (there: none)"),
    (["../BASE", "BASE"], "no results folder, and no baseline"),
    (["BASE", "BASE", "--alpha", "2"], "--alpha 2: must lie between 0 and 1"),
    (["BASE", "BASE", "--alpha", "x"], "--alpha"),
    (["BASE", "BASE", "--judge", "speed"], "--judge speed: no 'speed'"),
    (["BASE", "BASE", "--threshold", "steps=0"], "--threshold steps=0"),
    (["BASE", "BASE", "--effect", "steps=1"], "--effect belongs to --calibrate"),
    (["BASE", "BASE", "--format", "pdf"], "pdf"),
    (["BASE", "BASE", "--thresholds", "nowhere"], "--thresholds nowhere: cannot be read"),
    (["BASE", "AGAIN", "--json", "no/such/folder"], "--json no/such/folder: cannot write there"),
    (["--calibrate", "BASE"], "--calibrate: one folder given"),
    (["--calibrate", "BASE", "BASE", "--junit", "x"], "writes no junit"),
    (["promote"], "RESULTS"),
    (["promote", "nowhere"], "nowhere: no results there"),
    (["promote", "BASE", "--name", "a/b"], "--name a/b: give letters"),
    (["promote", "BASE", "--name", ".."], "--name ..: give letters"),
])  # fmt: skip
@pytest.mark.usefixtures("again")
def test_a_wrong_command_is_one_line(
    compare: Compare, base: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], words: str
) -> None:
    monkeypatch.chdir(base.parent)
    shutil.copytree(base, "copy")
    Path("file").touch()
    code, _, err = compare(*(part.lower() if part in ("BASE", "AGAIN", "COPY", "FILE") else part for part in arguments))
    (line,) = err.splitlines()
    assert (code, line[:7]) == (2, "error: ")
    assert words in line


def test_calibration_writes_what_the_gate_reads(compare: Compare, tmp_path: Path) -> None:
    def speeds(name: str, factor: float) -> Path:
        rates = (trial(seed, images_per_s_median=5000 * factor * (1 + seed % 3 / 10)) for seed in range(10))
        return folder(tmp_path / name, list(rates))

    first, second, third = speeds("A1", 1.0), speeds("A2", 0.92), speeds("A3", 1.05)
    kept = tmp_path / "thresholds.json"
    code, out, err = compare("--calibrate", first, second, third, "--thresholds", kept, "--effect", "images_per_s=50%")
    assert (code, err) == (0, "")
    content = json.loads(kept.read_text())
    assert content["thresholds"]["images_per_s"] == 0.15, "the folders that differ most: 1.05 / 0.92, rounded up"
    assert content["thresholds"]["steps"] == 0.1
    assert content["folders"] == [str(path) for path in (first, second, third)]
    (row,) = [line for line in out.splitlines() if "images/s" in line]
    assert row.split()[2:7] == ["10", "14.1%", "15.0%", "15.0%", "50.0%"]
    judged = ("--judge", "images_per_s")
    assert compare(first, second, *judged)[0] == 1
    assert compare(first, second, *judged, "--thresholds", kept)[0] == 0
    assert "other hardware" not in compare(first, second, *judged, "--thresholds", kept)[1]
    content["hardware"]["threads"] = ["64"]
    kept.write_text(json.dumps(content))
    assert (
        f"the thresholds in {kept} were measured on other hardware" in compare(first, second, "--thresholds", kept)[1]
    )
    assert compare(first, second, *judged, "--thresholds", kept, "--threshold", "images_per_s=5%")[0] == 1


def test_speed_is_not_calibrated_on_a_machine_without_a_name(compare: Compare, tmp_path: Path) -> None:
    folders = [folder(tmp_path / name, losses(1.0, cpu_model=None)) for name in ("A1", "A2")]
    kept = tmp_path / "thresholds.json"
    code, out, err = compare("--calibrate", *folders, "--thresholds", kept)
    assert (code, out, kept.exists()) == (2, "", False)
    assert "of cpu_model" in err
    assert "--judge steps,test_loss,test_accuracy" in err
    assert compare("--calibrate", *folders, "--thresholds", kept, "--judge", "steps,test_loss,test_accuracy")[0] == 0


def test_every_report_says_that_the_machine_has_no_name(compare: Compare, tmp_path: Path) -> None:
    base, candidate = (folder(tmp_path / name, losses(1.0, cpu_model=None)) for name in ("base", "candidate"))
    line = f"unknown hardware for device=cpu: of cpu_model, {base} has none, {candidate} none"
    judged = ("--judge", "test_accuracy,images_per_s")
    for form in ("text", "md", "json", "junit"):
        code, out, _ = compare(base, candidate, *judged, "--format", form)
        assert (code, "unknown hardware for device=cpu" in out) == (3, True), form
    assert json.loads(compare(base, candidate, *judged, "--format", "json")[1])["unknown_hardware"] == [line]
    assert compare(base, candidate, *judged, "--allow-different-hardware")[0] == 0


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "other"}',
    '{"format": "initbench thresholds 1", "thresholds": {"speed": 1}}',
    '{"format": "initbench thresholds 1", "thresholds": {"steps": -1}}',
    '{"format": "initbench thresholds 1", "thresholds": {"steps": "x"}}',
])  # fmt: skip
def test_a_file_of_no_thresholds_is_refused(
    compare: Compare, base: Path, again: Path, tmp_path: Path, content: str
) -> None:
    kept = tmp_path / "thresholds.json"
    kept.write_text(content)
    code, _, err = compare(base, again, "--thresholds", kept)
    assert code == 2
    assert "no thresholds of --calibrate" in err
    assert err.count("\n") == 1


def test_calibration_of_folders_that_differ_is_an_error(compare: Compare, base: Path, tmp_path: Path) -> None:
    fewer = folder(tmp_path / "fewer", losses(1.0, 5))
    code, out, err = compare("--calibrate", base, fewer, "--thresholds", tmp_path / "t.json")
    assert (code, out) == (2, "")
    assert "lacks 3 trials" in err
    assert not (tmp_path / "t.json").exists()


def test_a_promoted_baseline_is_a_name_for_base(compare: Compare, base: Path, worse: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert compare("promote", base, "--baselines", kept, "--name", "july")[0] == 0
    assert names(kept) == ["july"]
    assert results.problems_in(kept / "july") == results.problems_in(base)
    provenance = json.loads((kept / "july" / "baseline.json").read_text())
    assert provenance["git_commit"] == ["a" * 40]
    assert (provenance["device_model"], provenance["threads"], provenance["trials"]) == (["Chip 9"], [2], 8)
    assert provenance["promoted_at"].endswith("+00:00")
    pd.testing.assert_frame_equal(results.load(kept / "july").trials, results.load(base).trials)
    shutil.rmtree(base)
    assert compare("july", worse, *JUDGED, "--baselines", kept)[0] == 1


def test_promoting_replaces_only_when_told_to(
    compare: Compare, base: Path, again: Path, worse: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    assert compare("promote", base, "--baselines", kept)[0] == 0
    code, _, err = compare("promote", worse, "--baselines", kept)
    assert code == 2
    assert "--force" in err
    assert compare("main", again, "--baselines", kept)[0] == 0
    assert compare("promote", worse, "--baselines", kept, "--force")[0] == 0
    assert compare("main", worse, "--baselines", kept)[0] == 2, "it is this very data"
    assert [path.name for path in kept.iterdir()] == ["main"]


def test_a_promotion_that_fails_leaves_what_was_there(
    base: Path, worse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    promote(base, kept, "main", force=False)
    before = sorted(path.name for path in (kept / "main" / "trials").iterdir())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for broken in ("os.fsync", "pathlib.Path.write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(broken, full)
            with pytest.raises(UsageError, match="No space left"):
                promote(worse, kept, "main", force=True)
    assert sorted(path.name for path in (kept / "main" / "trials").iterdir()) == before
    assert [path.name for path in kept.iterdir()] == ["main"]


@pytest.mark.parametrize(("why", "words"), [
    ("failed", "every trial in it failed"),
    ("foreign folder", "exists and is no baseline"),
    ("truncated trials", "cannot be read as Parquet"),
    ("truncated curves", "cannot be read as Parquet"),
    ("unreadable layers", "cannot be read as Parquet"),
    ("no curves", "8 trials are ok and have no rows"),
    ("one curve lost", "is ok and has no rows"),
])  # fmt: skip
def test_what_cannot_serve_as_a_baseline_is_refused(base: Path, tmp_path: Path, why: str, words: str) -> None:
    kept = tmp_path / "kept"
    match why.split():
        case ["failed"]:
            shutil.rmtree(base)
            folder(base, losses(1.0, status="error"))
        case ["foreign", _]:
            (kept / "main").mkdir(parents=True)
        case ["truncated" | "unreadable" as how, table]:
            file = min((base / table).iterdir())
            file.write_bytes(file.read_bytes()[:-100] if how == "truncated" else b"PAR1")
        case ["no", table]:
            shutil.rmtree(base / table)
        case _:
            file = min((base / "curves").iterdir())
            # a made trial has two rows
            pq.write_table(pq.ParquetFile(file).read().slice(2), file)
    with pytest.raises(UsageError, match=words) as error:
        promote(base, kept, "main", force=True)
    assert "\n" not in str(error.value)
    assert names(kept) == []


def test_a_copied_file_counts_once_and_is_said(compare: Compare, base: Path, worse: Path) -> None:
    before = compare(base, worse, *JUDGED)
    file = min((worse / "trials").iterdir())
    shutil.copy(file, file.with_stem("copy"))
    code, out, err = compare(base, worse, *JUDGED)
    assert (code, out) == before[:2]
    where = f"{file.name} (as in copy.parquet)" if file.stem > "copy" else f"copy.parquet (as in {file.name})"
    assert err == f"warning: trials: rows that are there twice are counted once: {where}\n"


def test_mixed_schema_versions_are_said_and_what_they_hide(
    compare: Compare, base: Path, again: Path, evolve: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "mixed schema versions" not in compare(base, again, *JUDGED)[1]
    old = evolve() - 1
    monkeypatch.setattr(checks, "COLUMNS", (*checks.COLUMNS, "later"))
    rows = [row | {"later": "new"} for row in read_trials(again)]
    shutil.rmtree(again / "trials")
    results.prepare(again)
    for row in rows:
        results.write_table(again, "trials", row["trial_id"], [row])
    code, out, _ = compare(base, again, *JUDGED)
    (line,) = [line for line in out.splitlines() if "mixed schema versions" in line]
    versions = f"{base} is of version {old}, {again} is of version {old + 1}"
    hidden = f"version {old} does not record later, so that nobody can say whether these differ."
    assert (code, line) == (0, f"note: mixed schema versions: {versions}; {hidden}")


def read_trials(path: Path) -> list[Row]:
    """The rows of trials of a folder."""
    return [row for file in sorted((path / "trials").iterdir()) for row in pq.ParquetFile(file).read().to_pylist()]


def real_runs(results_dir: Path, lr: float, seeds: int = 7) -> Path:
    """Some seeds of a small network on MNIST."""
    quick = ["device=cpu", "device.threads=1", "model=mlp", "experiment=learn", "train.steps=16", "train.eval_every=16"]
    for seed in range(seeds):
        line = [*quick, f"seed={seed}", f"optimizer.lr={lr}", "train.targets=[0.5,0.99]", f"results.dir={results_dir}"]
        assert harness.run_trial(harness.load_config(line)).trial["status"] == "ok"
    return results_dir


def without_torch(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """The command, which must not have imported torch when it ends."""
    command = [sys.executable, "-c", _WITHOUT_TORCH, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_real_runs_repeat_and_a_changed_program_is_worse(tmp_path: Path) -> None:
    """MNIST twice, and once by an optimizer that takes a fiftieth of the rate it is told to take."""
    judged = ("--judge", "steps,test_loss,test_accuracy")
    one, two = real_runs(tmp_path / "one", 0.05), real_runs(tmp_path / "two", 0.05, seeds=2)
    done = without_torch(one, two, *judged, "--allow-missing")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "other weights" not in done.stdout
    told = results.load(one).trials.set_index("seed")
    slow = [
        {**row, "trial_key": told.loc[row["seed"], "trial_key"], "config": told.loc[row["seed"], "config"]}
        for path in (real_runs(tmp_path / "slow", 0.001) / "trials").glob("*.parquet")
        for row in pq.read_table(path).to_pylist()
    ]
    done = without_torch(one, folder(tmp_path / "broken", slow), *judged)
    assert (done.returncode, done.stderr) == (1, ""), done.stdout
    assert "7 of 7 trials ended with other weights" in done.stdout
    assert "so the program changed and this is no noise" in done.stdout


_WITHOUT_TORCH = """
import sys
from harness.compare import checks
from harness.compare.command import main
code = main(sys.argv[1:])
assert not {"torch", "triton"} & set(sys.modules), "torch was imported"
sys.exit(code)
"""


def test_as_a_module_it_prints_its_help(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "harness.compare", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exit codes: 0 ok, 1 regression, 3 inconclusive, 2 error" in done.stdout
    assert "promote RESULTS" in done.stdout


def test_a_bug_is_an_error_and_no_regression() -> None:
    """Python itself would exit with 1."""
    code = (
        "import runpy, sys, harness.compare.command as command; command.resolve = None; "
        "sys.argv[1:] = ['a', 'b']; runpy.run_module('harness.compare', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "TypeError" in done.stderr
