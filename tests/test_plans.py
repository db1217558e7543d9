"""A stored plan names what a sweep lacks after any end, and the command that runs it."""

import dataclasses
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import made_results
import pyarrow.parquet as pq
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from harness import results
from harness.results import StoredPlan, command, plans, write_plan
from harness.results.writing import RUNNING

TITLES = ["init=zero seed=0", "init=zero seed=1", "init=he seed=0", "init=he seed=1"]


def stored(folder: Path, sweep_id: str = "s1", at: str = "2026-11-01T10:00:00", **own: Any) -> StoredPlan:
    """A plan of four trials, written into the folder."""
    made = StoredPlan(
        sweep_id=sweep_id,
        command="python -m harness.run -m init=zero,he 'seed=range(0,2)'",
        typed_in=str(folder.parent),
        results_dir=folder.name,
        planned_at=at,
        environment={"git_commit": "a" * 40},
        overrides=[[*title.split(), "sweep.workers=2"] for title in TITLES],
        titles=TITLES,
        done_by=[None] * 4,
    )
    made = dataclasses.replace(made, **own)
    if not (folder / "trials").is_dir():
        results.prepare(folder)
    write_plan(folder, made)
    return made


def row(index: int, status: str = "ok", sweep_id: str = "s1") -> made_results.Row:
    return made_results.trial(index, sweep_id=sweep_id, sweep_size=4, sweep_index=index, status=status)


def status(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list[str]]:
    code = command.main(["status", str(folder), *options])
    captured = capsys.readouterr()
    assert captured.err == ""
    return code, captured.out.splitlines()


def test_a_plan_comes_back_as_it_was_written(tmp_path: Path) -> None:
    later = stored(tmp_path / "r", "s2", "2026-11-02T10:00:00", done_by=["x", None, None, "y"])
    first = stored(tmp_path / "r")
    assert plans(tmp_path / "r") == ([first, later], [])
    with pytest.raises(FileExistsError):
        write_plan(tmp_path / "r", first)
    assert list((tmp_path / "r/.partial").iterdir()) == []
    assert results.problems_in(tmp_path / "r") == []


def test_a_plan_that_is_being_written_is_nobodys_left_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, fsync = tmp_path / "r", os.fsync
    results.prepare(folder)

    def late(descriptor: int) -> None:
        fsync(descriptor)
        monkeypatch.setattr(os, "fsync", fsync)
        results.prepare(folder)

    monkeypatch.setattr(os, "fsync", late)
    made = stored(folder)
    assert os.fsync is fsync, "another command came meanwhile"
    assert plans(folder) == ([made], [])


def damaged(folder: Path, how: str) -> None:
    """Put a file that is no plan beside the good one."""
    good = folder / ".plans/s1.parquet"
    bad = good.with_name("bad.parquet")
    table = pq.read_table(good)
    if how == "torn":
        bad.write_bytes(good.read_bytes()[:-40])
    elif how == "other name":
        bad.write_bytes(good.read_bytes())
    elif how == "pipe":
        os.mkfifo(bad)
    elif how == "link":
        bad.symlink_to(good)
    elif how == "foreign":
        pq.write_table(table.replace_schema_metadata(), bad)
    else:
        metadata = {b"initbench.plan": table.schema.metadata[b"initbench.plan"].replace(b'"s1"', b'"bad"')}
        table = table.drop_columns(["title"]) if how == "column missing" else table.slice(1)
        pq.write_table(table.replace_schema_metadata(metadata), bad)


@pytest.mark.parametrize("name", ["größe x=1", "a&b", "it's", "plain", "a{b}", "back\\slash"])
def test_the_printed_command_names_a_moved_folder_as_hydra_reads_it(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path / "r")
    (tmp_path / "r").rename(tmp_path / name)
    _, lines = status(tmp_path / name, capsys)
    typed = shlex.split(lines[-1])
    overrides = OverridesParser.create().parse_overrides(typed[typed.index("-m", 3) + 1 :])
    values = {own.key_or_group: own.value() for own in overrides}
    assert (values["results.dir"], values["sweep.resume"]) == (str(tmp_path / name), True)


@pytest.mark.parametrize("how", ["torn", "other name", "pipe", "link", "foreign", "column missing", "row missing"])
def test_what_is_no_plan_is_named_and_skipped(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    first = stored(folder)
    damaged(folder, how)
    good, (problem,) = plans(folder)
    assert good == [first]
    assert problem.startswith(f"{folder / '.plans/bad.parquet'}: no plan of a sweep (")
    code, lines = status(folder, capsys)
    assert (code, lines[0]) == (1, f"note: {problem}")


@pytest.mark.parametrize(
    "own",
    [{"results_dir": "foo://x"}, {"typed_in": "a\0b"}, {"results_dir": "a\0b"}, {"command": "rm -rf /"}],
    ids=["unknown scheme", "no folder", "no results folder", "another program"],
)
def test_a_plan_of_strange_texts_costs_no_status(
    own: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path / "r", **own)
    _, lines = status(tmp_path / "r", capsys)
    assert "no plan of a sweep (" in lines[0] or "4 missing" in lines[1]
    assert "rm -rf /" not in " ".join(lines)


def test_status_names_what_is_missing_and_what_runs_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    stored(folder)
    made_results.write(folder, [row(1), row(2, "oom"), row(4, "diverged"), row(3, sweep_id="other")])
    assert status(folder, capsys) == (
        1,
        [
            "python -m harness.run -m init=zero,he 'seed=range(0,2)' (2026-11-01 10:00 UTC, sweep s1)",
            "  4 planned: 1 ok, 1 diverged, 1 failed (1 oom), 1 missing",
            "  missing: init=he seed=0",
            f"  to run what is missing or failed, in the folder {tmp_path}:",
            "    python -m harness.run -m init=zero,he 'seed=range(0,2)' sweep.resume=true",
        ],
    )


def test_status_is_content_if_all_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "r"
    stored(folder, done_by=["trial00009", None, None, None])
    made_results.write(folder, [row(9, sweep_id="earlier"), row(2), row(3, "diverged"), row(4)])
    code, lines = status(folder, capsys)
    assert (code, lines[1:]) == (0, ["  4 planned: 3 ok, 1 diverged, 0 failed, 0 missing"])


def test_a_done_trial_whose_row_vanished_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path / "r", done_by=["gone", None, None, None])
    made_results.write(tmp_path / "r", [row(1), row(2), row(3), row(4)])
    assert "  missing: init=zero seed=0" in status(tmp_path / "r", capsys)[1]


def test_a_later_plan_of_the_same_trials_replaces_an_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "r"
    stored(folder)
    stored(folder, "s3", "2026-11-03T10:00:00", overrides=[["seed=5"]] * 4)
    again = [[*title.split(), "sweep.resume=true"] for title in TITLES]
    stored(folder, "s2", "2026-11-02T10:00:00", overrides=again)
    lines = status(folder, capsys)[1]
    assert [line.rpartition(" ")[2] for line in lines if "UTC" in line] == ["s2)", "s3)"]


def test_status_names_ten_and_with_all_every_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    titles = [f"seed={seed}" for seed in range(12)]
    stored(tmp_path / "r", titles=titles, overrides=[[title] for title in titles], done_by=[None] * 12)
    assert f"  missing: {', '.join(titles[:10])} and 2 more" in status(tmp_path / "r", capsys)[1]
    assert f"  missing: {', '.join(titles)}" in status(tmp_path / "r", capsys, "--all")[1]


def test_a_copy_resumes_into_itself_and_is_quoted_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stored(tmp_path / "r", command="python -m harness.run -m 'seed=1,2'; rm -rf $HOME")
    (tmp_path / "r").rename(tmp_path / "elsewhere else")
    line = status(tmp_path / "elsewhere else", capsys)[1][-1].strip()
    expected = ["python", "-m", "harness.run", "-m", "seed=1,2;", "rm", "-rf", "$HOME", "sweep.resume=true"]
    assert shlex.split(line) == [*expected, f"results.dir={tmp_path / 'elsewhere else'}"]
    assert ";'" in line


def test_trials_that_run_now_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process holds the note of a trial; once it is killed, the trial is missing."""
    folder = tmp_path / "r"
    stored(folder)
    code = (
        "import sys, time; from pathlib import Path; import made_results; from harness.results import Running\n"
        "row = made_results.trial(3, sweep_id='s1', sweep_size=4, sweep_index=3, status='error')\n"
        "kept = Running(Path(sys.argv[1]), row); print('held', flush=True); time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        lines = status(folder, capsys)[1]
        process.kill()
    assert "  4 planned: 0 ok, 0 diverged, 0 failed, 1 running, 3 missing" in lines
    assert "  running now: init=he seed=0" in lines
    assert lines[-1] == "  its process is running: what is missing is still to come"
    assert "  4 planned: 0 ok, 0 diverged, 0 failed, 4 missing" in status(folder, capsys)[1]
    assert list((folder / RUNNING).glob("*.json")), "status changes nothing"


@pytest.mark.parametrize("owner", ["s1", "s1-00007"], ids=["command", "job"])
def test_a_sweep_whose_command_or_job_lives_is_not_to_be_resumed(
    owner: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored(tmp_path / "r")
    with results.alive(tmp_path / "r", owner):
        assert status(tmp_path / "r", capsys)[1][-1] == "  its process is running: what is missing is still to come"
    assert status(tmp_path / "r", capsys)[1][-1].endswith("sweep.resume=true")


def test_a_folder_without_plans_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.prepare(tmp_path / "r")
    assert status(tmp_path / "r", capsys) == (0, [f"{tmp_path / 'r'}: no plan of a sweep is stored there"])
    assert command.main(["status", str(tmp_path / "nowhere")]) == 2


def test_the_report_names_what_is_missing(tmp_path: Path) -> None:
    from harness import analysis
    from harness.report.content import content

    stored(tmp_path / "r")
    trials, curves = made_results.arms_reaching({"zero": [10, 20], "he": [10]}, sweep_id="s1", sweep_size=4)
    trials = [own | {"sweep_index": index} for index, own in enumerate(trials, 1)]
    made_results.write(tmp_path / "r", trials, curves)
    notes = content(results.load(tmp_path / "r"), tmp_path / "r", []).completeness.notes
    assert notes[0] == "1 command planned 4 trials: 3 recorded, 3 ok, 1 missing."
    assert notes[1].startswith(
        f"1 trial missing: init=he seed=1; to run what is missing or failed, in the folder {tmp_path}"
    )
    assert notes[1].endswith("python -m harness.run -m init=zero,he 'seed=range(0,2)' sweep.resume=true")
    assert analysis.completeness(results.load(tmp_path / "r").trials).sweeps["missing"].tolist() == [1]


def test_ten_thousand_trials_take_no_time(tmp_path: Path) -> None:
    titles = [f"init=zero seed={seed}" for seed in range(10_000)]
    overrides = [title.split() for title in titles]
    began = time.process_time()
    stored(tmp_path / "r", titles=titles, overrides=overrides, done_by=[None] * 10_000)
    (own,) = results.progress(tmp_path / "r").plans
    assert len(own.missing) == 10_000
    assert time.process_time() - began < 2
    assert (tmp_path / "r/.plans/s1.parquet").stat().st_size < 300_000
