"""Merging a results folder's files, kills in between included, and files of the schema's first version."""

import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from made_results import Row, arms_reaching, curve, reaching, trial, write

import harness
from harness import analysis, results
from harness.errors import UsageError
from harness.results import COLUMNS, TABLES, arrow_schema, merging, reading

NEW = [column.name for column in COLUMNS["trials"] if column.since == 2]


def layers(trials: list[Row]) -> list[Row]:
    names = [column.name for column in COLUMNS["layers"] if column.required]
    blank = dict.fromkeys(names, "x") | {"step": 0, "bit_equal": True}
    return [blank | {"trial_id": row["trial_id"], "parameter": name} for row in trials for name in ("w", "b")]


def fill(folder: Path) -> Path:
    """Four trials, each with files of its own."""
    trials, curves = arms_reaching({"a": [10, 30], "b": [20, None]})
    write(folder, trials, curves, layers(trials))
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "results")


def loaded(folder: Path) -> list[pd.DataFrame]:
    """The tables in the order of their keys, read without a warning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frames = harness.load(folder)
    assert [str(warning.message) for warning in said] == []
    keys = ("trial_id", "step", "parameter")
    return [frame.sort_values([name for name in keys if name in frame], ignore_index=True) for frame in frames]


def assert_same(folder: Path, expected: list[pd.DataFrame]) -> None:
    for found, wanted in zip(loaded(folder), expected, strict=True):
        pd.testing.assert_frame_equal(found, wanted)


def file_counts(folder: Path) -> list[int]:
    return [len(list((folder / table).iterdir())) for table in TABLES]


def test_every_reader_sees_the_same_rows_in_one_file_a_table(folder: Path) -> None:
    before = loaded(folder)
    by_pandas = {table: pd.read_parquet(folder / table) for table in TABLES}
    done = merging.compact(folder)
    assert [(merged.table, merged.files, merged.rows) for merged in done] == [
        ("trials", 4, 4),
        ("curves", 4, 44),
        ("layers", 4, 8),
    ]
    assert file_counts(folder) == [1, 1, 1]
    assert_same(folder, before)
    for table, frame in by_pandas.items():
        pd.testing.assert_frame_equal(pd.read_parquet(folder / table), frame)
    assert results.problems_in(folder) == []
    for table in TABLES:
        (path,) = (folder / table).iterdir()
        found = pq.read_schema(path)
        assert found.equals(arrow_schema(table))
        assert {key: found.metadata[key] for key in arrow_schema(table).metadata} == arrow_schema(table).metadata


def test_merging_again_takes_what_came_since(folder: Path) -> None:
    merging.compact(folder)
    assert [merged.files for merged in merging.compact(folder)] == [0, 0, 0]
    write(folder, [trial(50)], curve("trial00050", reaching(10)))
    before = loaded(folder)
    assert [merged.files for merged in merging.compact(folder)] == [2, 2, 2]
    assert file_counts(folder) == [1, 1, 1]
    assert_same(folder, before)


def test_command_says_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["compact", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "trials: 4 files with 4 rows are one now",
        "curves: 4 files with 44 rows are one now",
        "layers: 4 files with 8 rows are one now",
    ]
    assert results.main(["compact", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{table}: nothing to merge" for table in TABLES]
    assert results.main(["validate", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: trials: 4, all sound\n"


def test_unreadable_file_is_named_and_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torn = folder / "curves" / "torn.parquet"
    torn.write_bytes(b"PAR1 and then nothing")
    assert results.main(["compact", str(folder)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left alone: ")]
    assert line.startswith(f"left alone: {torn}: cannot be read as Parquet")
    assert file_counts(folder) == [1, 2, 1]
    assert torn.exists()


def test_the_only_file_of_a_table_that_cannot_be_read_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    merging.compact(folder)
    (torn,) = (folder / "curves").iterdir()
    torn.write_bytes(torn.read_bytes()[:-100])
    assert results.main(["compact", str(folder)]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left alone: ")]
    assert line.startswith(f"left alone: {torn}: cannot be read as Parquet")


def test_no_results_and_a_second_merging_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["compact", str(folder.parent)]) == 2
    assert "no results there" in capsys.readouterr().err
    (folder / ".merging").mkdir(exist_ok=True)
    with FileLock(folder / ".merging" / ".lock"):
        with pytest.raises(UsageError, match="another process is merging"):
            merging.compact(folder)
        results.prepare(folder)
    assert file_counts(folder) == [4, 4, 4]


def test_running_trial_is_left_alone(folder: Path) -> None:
    """Its recovery looks for its file: a trial that is killed after its row must not get a second one."""
    running = results.Running(folder, {"trial_id": "trial00001"})
    assert [merged.files for merged in merging.compact(folder)] == [3, 3, 3]
    assert (folder / "trials" / "trial00001.parquet").exists()
    del running
    assert results.recover(folder) == []
    assert len(harness.load(folder).trials) == 4


def cut_short(folder: Path, after: int) -> int:
    """Merge in a process that is killed outright before its so-many-th change of the folder; its exit code."""
    code = """
import os, signal, sys
from pathlib import Path
from harness.results import merging
left = int(sys.argv[2])
def counted(change):
    def step(*arguments, **options):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return change(*arguments, **options)
    return step
Path.rename = counted(Path.rename)
Path.unlink = counted(Path.unlink)
merging.compact(Path(sys.argv[1]))
"""
    return subprocess.run([sys.executable, "-c", code, str(folder), str(after)], check=False, timeout=60).returncode


def kill_and_recover(folder: Path, after: int) -> None:
    """Whatever the moment of the kill, the rows are the same before and after the folder's next use."""
    before = loaded(folder)
    assert cut_short(folder, after) == -signal.SIGKILL
    assert_same(folder, before)
    unfinished = merging.unfinished(folder)
    problems = results.problems_in(folder)
    assert problems == [
        f"{table}: a merging was cut short; the next run or `compact` of this folder finishes it"
        for table in unfinished
    ]
    assert bool(unfinished) == (after != 3)
    results.prepare(folder)
    assert results.problems_in(folder) == []
    assert_same(folder, before)
    for table in TABLES:
        assert len(pd.read_parquet(folder / table)) == len(getattr(harness.load(folder), table)), "no row twice"
    merging.compact(folder)
    assert file_counts(folder) == [1, 1, 1]
    assert list((folder / ".partial").iterdir()) == []
    assert_same(folder, before)


@pytest.mark.parametrize("after", [3, 4, 5, 7, 9, 14, 17])
def test_kill_at_any_moment_loses_and_doubles_nothing(folder: Path, after: int) -> None:
    """3: before the first journal; 4: before the merged file has its name; 5 and later: amid the removals."""
    kill_and_recover(folder, after)


def test_kills_reach_every_stage(folder: Path) -> None:
    """Counted to the end, so that the moments above stay inside of it."""
    assert cut_short(folder, 1000) == 0
    assert file_counts(folder) == [1, 1, 1]


def test_reading_while_files_are_merged_sees_every_row_once(folder: Path) -> None:
    trials, curves = arms_reaching({f"init{index}": [10, 20, 30, 40, 50] for index in range(20)})
    write(folder, trials, curves, layers(trials))
    expected, found, stop = loaded(folder), [], threading.Event()

    def look() -> None:
        while not stop.is_set():
            found.append(loaded(folder))

    thread = threading.Thread(target=look)
    thread.start()
    while not found:
        stop.wait(0.01)
    merging.compact(folder)
    count = len(found)
    while len(found) < count + 2:
        stop.wait(0.01)
    stop.set()
    thread.join()
    for frames in found:
        for frame, wanted in zip(frames, expected, strict=True):
            pd.testing.assert_frame_equal(frame, wanted)


def test_disk_that_is_full_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = loaded(folder)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        merging.compact(folder)
    assert_same(folder, before)
    assert list((folder / ".partial").iterdir()) == []


# the first version of the schema


def as_version_1(path: Path) -> None:
    """The file as the first version wrote it."""
    content = pq.ParquetFile(path).read()
    old = arrow_schema(path.parent.name, 1)
    pq.write_table(content.select(old.names).cast(old), path)


def test_files_of_version_1_are_read_with_nulls_beside_those_of_version_2(folder: Path) -> None:
    before = loaded(folder)
    for path in (folder / "trials").iterdir():
        content = pq.ParquetFile(path).read()
        marked = content.set_column(content.schema.get_field_index("sweep_size"), "sweep_size", [[4]])
        pq.write_table(marked.cast(arrow_schema("trials")), path)
    for index in (0, 2):
        for table in TABLES:
            as_version_1(folder / table / f"trial{index:05d}.parquet")
    found = loaded(folder)
    assert found[0]["sweep_size"].isna().tolist() == [True, False, True, False]
    assert found[0][NEW[:3]].isna().all(axis=None)
    pd.testing.assert_frame_equal(found[0].drop(columns=NEW), before[0].drop(columns=NEW))
    pd.testing.assert_frame_equal(found[1], before[1])
    assert results.problems_in(folder) == []
    assert analysis.completeness(found[0]).sweeps["planned"].tolist() == [4]


def test_merged_files_are_of_the_present_version(folder: Path) -> None:
    for path in (folder / "trials").iterdir():
        as_version_1(path)
    before = loaded(folder)
    merging.compact(folder)
    assert_same(folder, before)
    (path,) = (folder / "trials").iterdir()
    assert pq.read_schema(path).names == arrow_schema("trials").names


def test_version_1_with_a_column_of_version_2_is_no_version_1(folder: Path) -> None:
    path = folder / "trials" / "trial00000.parquet"
    content = pq.ParquetFile(path).read()
    pq.write_table(content.replace_schema_metadata(arrow_schema("trials", 1).metadata), path)
    with pytest.warns(UserWarning, match="columns differ from schema version 1"):
        assert len(harness.load(folder).trials) == 3


def test_one_folder_with_every_kind_of_fault_reads_the_rest(folder: Path) -> None:
    """A line each: truncated, foreign, newer; and a file of the first version is no fault."""
    paths = [folder / "trials" / f"trial{index:05d}.parquet" for index in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[:-50])
    pq.write_table(pq.ParquetFile(paths[1]).read().replace_schema_metadata({}), paths[1])
    newer = arrow_schema("trials").metadata | {b"initbench.schema_version": b"3"}
    pq.write_table(pq.ParquetFile(paths[2]).read().replace_schema_metadata(newer), paths[2])
    as_version_1(paths[3])
    with pytest.warns(UserWarning, match=re.escape(f"{folder}")) as caught:
        frames = harness.load(folder)
    assert frames.trials["trial_id"].tolist() == ["trial00003"]
    lines = [str(warning.message) for warning in caught]
    assert [line.startswith(f"{path}: ") for line, path in zip(lines, paths[:3], strict=True)] == [True] * 3
    assert "schema version 3, this program reads 1, 2" in lines[2]
    assert all("\n" not in line for line in lines)


def test_columns_and_categories_are_those_asked_for(folder: Path) -> None:
    frames = reading.load(folder, columns={"trials": ["trial_id", "lr"], "curves": ["step", "trial_id"]})
    assert [list(frame) for frame in frames[:2]] == [["trial_id", "lr"], ["step", "trial_id"]]
    assert (len(frames.curves), len(frames.layers), len(frames.layers.columns)) == (44, 0, len(COLUMNS["layers"]))
    whole = reading.load(folder, categories=True)
    assert isinstance(whole.curves["trial_id"].dtype, pd.CategoricalDtype)
    assert isinstance(whole.layers["parameter"].dtype, pd.CategoricalDtype)
    plain = harness.load(folder).layers
    texts = {"trial_id": plain["trial_id"].dtype, "parameter": plain["parameter"].dtype}
    pd.testing.assert_frame_equal(whole.layers.astype(texts), plain)


# what a command writes of itself


def test_trials_of_a_command_share_its_id_and_know_its_size(tmp_path: Path) -> None:
    """One that is refused is missing; from Python there is no command."""
    quick = ["device=cpu", "device.threads=1", "train.steps=2", "train.eval_every=2", f"results.dir={tmp_path}"]
    command = [sys.executable, "-m", "harness.run", "-m", "init=zero", "seed=0,1,-1", *quick]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    alone = harness.run_trial(harness.load_config(["init=zero", *quick])).trial
    assert (alone["sweep_id"], alone["sweep_size"]) == (None, None)
    trials = harness.load(tmp_path).trials.sort_values("measured_at", ignore_index=True)
    assert trials["sweep_size"].fillna(0).tolist() == [3, 3, 0]
    assert trials["sweep_id"].nunique(dropna=False) == 2
    assert trials["sweep_id"].isna().tolist() == [False, False, True]
    assert analysis.completeness(trials).sweeps["missing"].tolist() == [1, 0]
    assert trials["trial_key"][0] == trials["trial_key"][2], "how it was started is no part of the key"
