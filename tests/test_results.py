"""Results: what is written comes back, every reader agrees, and the validator names what is wrong with a folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_server import forked
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import harness
from harness import results
from harness.errors import UsageError
from harness.results import COLUMNS, TABLES, Column, reading
from harness.results.duplicates import KEYS
from harness.trial import TrialResult

Row = dict[str, Any]
Fault = Callable[[Path], str]

_REAL, _TEXT = st.floats(allow_nan=True, allow_infinity=True), st.text(max_size=8)
_VALUES: dict[pa.DataType, SearchStrategy[Any]] = {
    pa.string(): _TEXT,
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float64(): _REAL,
    pa.bool_(): st.booleans(),
    pa.timestamp("us", tz="UTC"): st.datetimes(timezones=st.just(UTC)),
    pa.list_(pa.string()): st.lists(_TEXT, max_size=3),
    # a frame holds a list with a gap as floats
    pa.list_(pa.int64()): st.lists(st.none() | st.integers(-(2**53), 2**53), max_size=3),
    pa.list_(pa.float64()): st.lists(st.none() | _REAL, max_size=3),
}
some_rows = settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def values_of(column: Column) -> SearchStrategy[Any]:
    return _VALUES[column.type] if column.required else st.none() | _VALUES[column.type]


def rows_of(table: str, **fixed: object) -> SearchStrategy[Row]:
    """Any row that the table's schema allows, but for the fixed values."""
    columns = {column.name: values_of(column) for column in COLUMNS[table]}
    return st.fixed_dictionaries(columns | {name: st.just(value) for name, value in fixed.items()})


def exact(value: object) -> object:
    """Equal for the same value alone: None is not NaN, NaN is NaN, 0.0 is not -0.0."""
    if isinstance(value, list):
        return [exact(item) for item in value]
    return repr(value) if isinstance(value, float) else value


def as_in_a_frame(value: Any) -> object:
    """Equal for values that a frame does not tell apart: a gap among floats is NaN there."""
    if isinstance(value, list | np.ndarray):
        return [as_in_a_frame(item) for item in value]
    return None if pd.isna(value) else value


def each(rows: Iterable[Row], form: Callable[[Any], object]) -> list[Row]:
    return [{name: form(value) for name, value in row.items()} for row in rows]


def read(folder: Path, table: str) -> list[Row]:
    """A table's rows as pyarrow alone has them."""
    return [
        row for path in sorted((folder / table).glob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()
    ]


def different_rows_of(table: str) -> SearchStrategy[list[Row]]:
    """Up to two rows of one trial that a reader does not take for copies of each other."""
    return st.lists(
        rows_of(table, trial_id="one"), max_size=2, unique_by=lambda row: tuple(row[name] for name in KEYS[table])
    )


@pytest.mark.parametrize("table", TABLES)
@given(data=st.data())
@some_rows
def test_any_rows_come_back_from_the_file(table: str, data: st.DataObject) -> None:
    written = data.draw(st.lists(rows_of(table), max_size=3))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results.prepare(folder)
        results.write_table(folder, table, "one", written)
        assert [path.name for path in (folder / table).iterdir()] == ["one.parquet"]
        assert each(read(folder, table), exact) == each(written, exact)


@given(
    trial=rows_of("trials", trial_id="one", status="ok"),
    curves=different_rows_of("curves"),
    layers=different_rows_of("layers"),
)
@some_rows
def test_any_trial_comes_back_through_load(trial: Row, curves: list[Row], layers: list[Row]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results.prepare(folder)
        with results.Publisher(folder, "sweep"):
            results.Running(folder, trial, owner="sweep").finish(trial, curves, layers)
        frames = harness.load(folder)
        (part,) = {path.name for path in folder.rglob("*") if path.is_file()}
        assert re.fullmatch(r"part-[0-9]{8}T[0-9]{6}-sweep-0001\.parquet", part)
    for frame, written in zip(frames, ([trial], curves, layers), strict=True):
        assert each(frame.to_dict("records"), as_in_a_frame) == each(written, as_in_a_frame)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrialResult]:
    """A results folder with one real trial, which no test may change, and what the trial returned."""
    folder = tmp_path_factory.mktemp("real") / "results"
    choices = ["init=zero", "train.steps=4", "train.eval_every=2", "device=cpu", "device.threads=1"]
    return folder, harness.run_trial(harness.load_config([*choices, "data.batches=random", f"results.dir={folder}"]))


@pytest.fixture
def folder(real: tuple[Path, TrialResult], tmp_path: Path) -> Path:
    """A copy of that folder, to plant faults in."""
    return Path(shutil.copytree(real[0], tmp_path / "results"))


@pytest.mark.parametrize("table", TABLES)
def test_footer_describes_every_column(real: tuple[Path, TrialResult], table: str) -> None:
    (path,) = (real[0] / table).glob("*.parquet")
    schema = pq.read_schema(path)
    assert schema.metadata[b"initbench.schema_version"] == str(results.SCHEMA_VERSION).encode()
    assert schema.metadata[b"initbench.table"] == table.encode()
    descriptions = json.loads(schema.metadata[b"initbench.columns"])
    assert list(descriptions) == schema.names
    assert all(len(text) > 5 for text in descriptions.values())
    assert [field.nullable for field in schema] == [not column.required for column in COLUMNS[table]]


@pytest.mark.parametrize("table", TABLES)
def test_every_reader_reads_what_the_trial_returned(real: tuple[Path, TrialResult], table: str) -> None:
    folder, result = real
    returned = {"trials": [result.trial], "curves": result.curves, "layers": result.layers}[table]
    rows = returned if isinstance(returned, list) else returned.to_dict("records")
    assert len(rows) == {"trials": 1, "curves": 3, "layers": 3 * 12}[table]
    readers = {
        "pandas": pd.read_parquet(folder / table).to_dict("records"),
        "duckdb": duckdb.sql(f"from '{folder}/{table}/*.parquet'").to_arrow_table().to_pylist(),
        "polars": pl.read_parquet(folder / table).to_dicts(),
        "polars glob": pl.read_parquet(folder / table / "*.parquet").to_dicts(),
        "harness": getattr(harness.load(folder), table).to_dict("records"),
    }
    for name, read_rows in readers.items():
        assert each(read_rows, as_in_a_frame) == each(rows, as_in_a_frame), name


def test_tables_join_in_sql(real: tuple[Path, TrialResult]) -> None:
    folder, result = real
    rows = duckdb.sql(
        f"""
        select t.init, c.step, c.test_accuracy
        from '{folder}/trials/*.parquet' t join '{folder}/curves/*.parquet' c using (trial_id)
        where t.status = 'ok' order by c.step
        """  # noqa: S608 - our own folder
    ).fetchall()
    assert rows == [
        ("zero", step, accuracy)
        for step, accuracy in zip([0, 2, 4], result.curves["test_accuracy"].tolist(), strict=True)
    ]


def test_frames_keep_whole_numbers_whole_and_times_in_utc(real: tuple[Path, TrialResult]) -> None:
    trials = harness.load(real[0]).trials
    assert trials["diverged_step"].dtype == pd.Int64Dtype(), "null here, and still no float"
    assert trials["seed"].dtype == pd.Int64Dtype()
    assert str(trials["measured_at"].dtype) == "datetime64[us, UTC]"
    assert abs(trials["measured_at"][0] - datetime.now(UTC)) < pd.Timedelta(hours=1)


def test_frames_are_the_readers_to_write_to(real: tuple[Path, TrialResult]) -> None:
    for frame in harness.load(real[0]):
        for name in frame.columns[frame.iloc[0].notna()]:
            if frame[name].dtype != object:
                frame.loc[0, name] = frame[name].iloc[0]


def validate(*arguments: object) -> "subprocess.CompletedProcess[str]":
    done = forked("harness.results", *map(str, arguments), cwd=Path.cwd())
    assert "Traceback" not in done.stdout + done.stderr
    return done


def only_file(folder: Path, table: str) -> Path:
    (path,) = (folder / table).glob("*.parquet")
    return path


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.ParquetFile(path).read()), path)


def column_of(name: str, values: list[Any], table: str = "trials") -> tuple[int, pa.Field, pa.Array]:
    schema = results.arrow_schema(table)
    return schema.get_field_index(name), schema.field(name), pa.array(values)


def truncated(folder: Path) -> str:
    path = only_file(folder, "trials")
    path.write_bytes(path.read_bytes()[:-100])
    return f"{path}: cannot be read as Parquet"


def stub(folder: Path) -> str:
    path = folder / "layers" / "stub.parquet"
    path.write_bytes(b"PAR1")
    return f"{path}: cannot be read as Parquet"


def foreign(folder: Path) -> str:
    path = folder / "curves" / "foreign.parquet"
    pq.write_table(pa.table({"step": [1, 2]}), path)
    return f"{path}: not a 'curves' file"


def other_table(folder: Path) -> str:
    path = folder / "layers" / "curves.parquet"
    shutil.copy(only_file(folder, "curves"), path)
    return f"{path}: not a 'layers' file"


def newer_version(folder: Path) -> str:
    path = only_file(folder, "trials")
    newer = str(results.SCHEMA_VERSION + 1)
    rewrite(path, lambda t: t.replace_schema_metadata(t.schema.metadata | {b"initbench.schema_version": newer}))
    return f"{path}: schema version {newer}"


def no_version(folder: Path) -> str:
    path = only_file(folder, "trials")
    rewrite(path, lambda t: t.replace_schema_metadata({b"initbench.table": b"trials"}))
    return f"{path}: schema version none"


def missing_column(folder: Path) -> str:
    path = only_file(folder, "curves")
    rewrite(path, lambda t: t.drop_columns(["test_loss"]))
    return f"{path}: columns differ"


def other_type(folder: Path) -> str:
    path = only_file(folder, "curves")
    rewrite(path, lambda t: t.set_column(1, pa.field("step", pa.int32()), t["step"].cast(pa.int32())))
    return f"{path}: columns differ"


def two_trial_rows(folder: Path) -> str:
    path = only_file(folder, "trials")
    shutil.copy(path, path.with_stem("again"))
    return f"trials: rows that are there twice are counted once: again.parquet (as in {path.name})"


def two_trial_rows_that_differ(folder: Path) -> str:
    path = only_file(folder, "trials")
    other = path.with_stem("again")
    shutil.copy(path, other)
    rewrite(other, lambda t: t.set_column(*column_of("status", ["oom"])))
    return f"{other}: holds other rows than {path.name} of the trial {path.stem}; those of {path.name} count"


def two_curve_rows(folder: Path) -> str:
    path = only_file(folder, "curves")
    rewrite(path, lambda t: pa.concat_tables([t, t.slice(1, 1)]))
    return f"curves: rows that are there twice are counted once: {path.name} (in itself)"


def two_curve_rows_that_differ(folder: Path) -> str:
    path = only_file(folder, "curves")
    rewrite(path, lambda t: pa.concat_tables([t, t.slice(1, 1).set_column(*column_of("test_loss", [7.0], "curves"))]))
    return f"{path}: holds a row of the same key twice with other values ({path.stem}); the first counts"


def two_layer_rows(folder: Path) -> str:
    path = only_file(folder, "layers")
    rewrite(path, lambda t: pa.concat_tables([t, t.slice(0, 1)]))
    return f"layers: rows that are there twice are counted once: {path.name} (in itself)"


def no_terminal_row(folder: Path) -> str:
    path = only_file(folder, "trials")
    path.unlink()
    return f"curves: the trial {path.stem} has no terminal row"


def no_curves(folder: Path) -> str:
    path = only_file(folder, "curves")
    path.unlink()
    return f"curves: the trial {path.stem} is ok and has no rows"


def unknown_status(folder: Path) -> str:
    path = only_file(folder, "trials")
    rewrite(path, lambda t: t.set_column(*column_of("status", ["fine"])))
    return f"trials: the trial {path.stem} has the unknown status 'fine'"


def leave_note(folder: Path, trial_id: str, **changed: object) -> Path:
    """What a trial leaves that is killed: the row of another one, as it was when it began."""
    note = read(folder, "trials")[0] | {"trial_id": trial_id} | changed
    path = folder / ".running" / f"{trial_id}.json"
    path.write_text(json.dumps(note, default=str))
    return path


def stale_note(folder: Path) -> str:
    leave_note(folder, "20300101T000000-abc")
    return "trials: the trial 20300101T000000-abc began and has no row"


def unusable_note(folder: Path) -> str:
    path = leave_note(folder, "20300101T000000-abc", seed=None)
    return f"{path}: it lacks the columns seed; the next run sets it aside"


UNREADABLE = [truncated, stub, foreign, other_table, newer_version, no_version, missing_column, other_type]
TWICE = [two_trial_rows, two_trial_rows_that_differ, two_curve_rows, two_curve_rows_that_differ, two_layer_rows]
INCONSISTENT = [*TWICE, no_terminal_row, no_curves, unknown_status, stale_note, unusable_note]


def test_sound_folder_is_sound(real: tuple[Path, TrialResult]) -> None:
    done = validate("validate", real[0])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{real[0]}: trials: 1, all sound\n"


@pytest.mark.parametrize("fault", [*UNREADABLE, *INCONSISTENT], ids=lambda fault: fault.__name__)
def test_validator_names_each_fault(folder: Path, fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    expected = fault(folder)
    assert results.main(["validate", str(folder)]) == 1
    printed = capsys.readouterr()
    *lines, summary = printed.out.splitlines()
    assert sum(line.startswith(expected) for line in lines) == 1, printed.out
    assert summary.endswith(f", problems: {len(lines)}")
    assert printed.err == ""


def test_the_same_fault_of_many_trials_is_one_line(folder: Path, real: tuple[Path, TrialResult]) -> None:
    """With the count and the first few names."""
    for index in range(5):
        for table in ("trials", "layers"):
            own = [row | {"trial_id": f"t{index}"} for row in read(real[0], table)]
            results.write_table(folder, table, f"t{index}", own)
        results.write_table(
            folder, "curves", f"u{index}", [r | {"trial_id": f"u{index}"} for r in read(real[0], "curves")]
        )
        leave_note(folder, f"n{index}")
    lacking = "have no terminal row in trials (their writer was killed)"
    then = "the next run into this folder records them as killed"
    assert results.problems_in(folder) == [
        f"curves: 5 trials {lacking}: u0, u1, u2 and 2 more",
        "curves: 5 trials are ok and have no rows: t0, t1, t2 and 2 more",
        f"trials: 5 trials began and have no row; {then}: n0, n1, n2 and 2 more",
    ]


@pytest.mark.parametrize("fault", TWICE, ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("categories", [True, False])
def test_load_counts_what_is_there_twice_once(
    real: tuple[Path, TrialResult], folder: Path, fault: Fault, *, categories: bool
) -> None:
    """The first rows count, one line names the file, and the trials of other files are all there."""
    before = harness.load(folder)
    expected = fault(folder)
    for table in TABLES:
        results.write_table(folder, table, "z", [row | {"trial_id": "z"} for row in read(real[0], table)])
    with pytest.warns(UserWarning, match=re.escape(expected)) as caught:
        loaded = reading.load(folder, categories=categories)
    assert len(caught) == 1
    for frame, own in zip(loaded, before, strict=True):
        of_old = frame[frame["trial_id"] != "z"].reset_index(drop=True)
        assert each(of_old.to_dict("records"), as_in_a_frame) == each(own.to_dict("records"), as_in_a_frame)
        assert (frame["trial_id"] == "z").sum() == len(own)


@pytest.mark.parametrize("fault", TWICE, ids=lambda fault: fault.__name__)
def test_copy_has_rows_that_are_there_twice_once_and_a_contradiction_is_not_copied(
    folder: Path, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    before, copy = harness.load(folder), folder.with_name("copy")
    for table in TABLES:
        results.write_table(folder, table, "z", [row | {"trial_id": "z"} for row in read(folder, table)])
    expected = fault_beside(folder, fault)
    differs = "differ" in fault.__name__
    assert results.main(["compact", str(folder), str(copy)]) == differs
    assert expected in capsys.readouterr().out
    assert copy.exists() != differs
    if differs:
        return
    copied = harness.load(copy)
    for frame, own in zip(copied, before, strict=True):
        of_old = frame[frame["trial_id"] != "z"].reset_index(drop=True)
        assert each(of_old.to_dict("records"), as_in_a_frame) == each(own.to_dict("records"), as_in_a_frame)


def fault_beside(folder: Path, fault: Fault) -> str:
    """Plant a fault while the files of the trial z are out of the way."""
    others = [folder / table / "z.parquet" for table in TABLES]
    for path in others:
        path.rename(path.with_suffix(".aside"))
    expected = fault(folder)
    for path in others:
        path.with_suffix(".aside").rename(path)
    return expected


def test_faults_make_the_command_fail(folder: Path) -> None:
    expected = [fault(folder) for fault in (stale_note, foreign, stub, truncated)]
    done = validate("validate", folder)
    assert (done.returncode, done.stderr) == (1, "")
    for words in expected:
        assert sum(line.startswith(words) for line in done.stdout.splitlines()) == 1, done.stdout


def test_a_trial_that_is_running_is_no_fault(folder: Path) -> None:
    results.prepare(folder)
    running = results.Running(folder, read(folder, "trials")[0] | {"trial_id": "now"})
    assert results.problems_in(folder) == []
    running._lock.release()
    assert len(results.problems_in(folder)) == 1, "its process let go of the lock without a row"


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["compact", "--help"], ["validate", "-h"]], ids=str)
def test_help_is_help(arguments: list[str]) -> None:
    done = validate(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m harness.results ")
    assert "Exit codes: 0 all is sound, 1 something is not" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["validate"], "the following arguments are required: DIR"),
        (["check", "."], "argument COMMAND: invalid choice: 'check' (choose from"),
        (["validate", ".", "."], "unrecognized arguments: ."),
        (["compact", "."], "the following arguments are required: DST"),
    ],
    ids=str,
)
def test_wrong_arguments_are_one_line(arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(arguments) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith(f"error: {problem}")
    assert said.endswith("--help shows the options\n")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["nowhere", "empty", "file"])
def test_what_is_not_a_results_folder_is_a_wrong_command(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    done = validate("validate", tmp_path / name)
    assert (done.returncode, done.stdout) == (2, "")
    words = "is a file; give the folder" if name == "file" else "no results there"
    assert done.stderr.startswith(f"error: {tmp_path / name}: {words}")
    assert done.stderr.count("\n") == 1
    with pytest.raises(UsageError, match=words):
        harness.load(tmp_path / name)


@pytest.mark.parametrize("fault", UNREADABLE, ids=lambda fault: fault.__name__)
def test_load_names_an_unreadable_file_and_reads_the_rest(
    real: tuple[Path, TrialResult], folder: Path, fault: Fault
) -> None:
    expected = fault(folder)
    for table in TABLES:
        results.write_table(folder, table, "other", [row | {"trial_id": "other"} for row in read(real[0], table)])
    with pytest.warns(UserWarning, match=re.escape(expected)) as caught:
        frames = harness.load(folder)
    assert len(caught) == 1
    for frame, rows in zip(frames, (1, 3, 36), strict=True):
        assert (frame["trial_id"] == "other").sum() == rows
        assert set(frame["trial_id"]) <= set(frames.trials["trial_id"]), "no details of a trial without its row"


BEGIN = """
import json, sys
from pathlib import Path
from harness import results
running = results.Running(Path(sys.argv[1]), json.loads(sys.argv[2]))
print("begun", flush=True)
sys.stdin.read()
"""


def begin(folder: Path, row: Row) -> "subprocess.Popen[str]":
    """A process in the middle of a trial; it stays there."""
    command = [sys.executable, "-c", BEGIN, str(folder), json.dumps(row, default=str)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def end(process: "subprocess.Popen[str]") -> None:
    """Kill -9."""
    process.kill()
    process.communicate()


@pytest.fixture
def planned(real: tuple[Path, TrialResult]) -> Row:
    """The row of a trial that has begun, as its note holds it."""
    choices = {column.name for column in COLUMNS["trials"] if column.required} | {"init", "seed"}
    return {name: value if name in choices else None for name, value in real[1].trial.items()} | {"trial_id": "begun"}


def test_killed_trial_gets_its_one_row_and_a_living_one_is_left_alone(folder: Path, planned: Row) -> None:
    process = begin(folder, planned)
    try:
        assert results.recover(folder) == ([], []), "it lives"
        assert len(read(folder, "trials")) == 1
    finally:
        end(process)
    assert results.recover(folder) == (["begun"], [])
    (row,) = [row for row in read(folder, "trials") if row["trial_id"] == "begun"]
    assert (row["status"], row["error_type"]) == ("killed", "Killed")
    assert row["measured_at"] > planned["measured_at"]
    changed = ("status", "error_type", "error_message", "measured_at")
    assert {name: row[name] for name in row if name not in changed} == {
        name: planned[name] for name in planned if name not in changed
    }
    assert results.recover(folder) == ([], []), "once"
    assert len(read(folder, "trials")) == 2
    assert list((folder / ".running").iterdir()) == []
    assert results.problems_in(folder) == []


def test_recovery_by_many_processes_at_once_gives_one_row_each(folder: Path, planned: Row) -> None:
    for index in range(20):
        (folder / ".running" / f"{index}.json").write_text(json.dumps(planned | {"trial_id": str(index)}, default=str))
    script = "import sys; from pathlib import Path; from harness import results; results.prepare(Path(sys.argv[1]))"
    processes = [subprocess.Popen([sys.executable, "-c", script, str(folder)]) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    assert list((folder / ".running").iterdir()) == list((folder / ".partial").iterdir()) == []
    assert sorted(row["trial_id"] for row in read(folder, "trials") if row["status"] == "killed") == sorted(
        map(str, range(20))
    )
    assert results.problems_in(folder) == []


@pytest.mark.parametrize("kind", ["note", "trials", "curves", "layers"])
def test_killed_writer_leaves_a_partial_file_that_the_next_run_removes(folder: Path, planned: Row, kind: str) -> None:
    """Not while its writer lives; what it had written whole belongs to its killed row."""
    process = begin(folder, planned)
    torn = folder / ".partial" / f"{kind}-begun-0123abcd.parquet"
    torn.write_bytes(b"half of it")
    if kind != "curves":
        rows = [row | {"trial_id": "begun"} for row in read(folder, "curves")]
        results.write_table(folder, "curves", "begun", rows)
    assert results.prepare(folder) == ([], [])
    assert torn.exists(), "its writer lives"
    end(process)
    assert results.prepare(folder) == (["begun"], [])
    assert not torn.exists()
    assert results.problems_in(folder) == []
    frames = harness.load(folder)
    assert frames.trials.set_index("trial_id").loc["begun", "status"] == "killed"
    assert (frames.curves["trial_id"] == "begun").sum() == (0 if kind == "curves" else 3)


def test_trial_killed_before_its_note_has_not_begun(folder: Path) -> None:
    """Its lock and half of its note go."""
    (folder / ".running" / "half.lock").touch()
    (folder / ".partial" / "note-half-0123abcd.json").write_text('{"trial_id": "half", "see')
    assert results.prepare(folder) == ([], [])
    assert list((folder / ".running").iterdir()) == list((folder / ".partial").iterdir()) == []
    assert len(read(folder, "trials")) == 1


def test_trial_killed_after_its_row_keeps_it(folder: Path, planned: Row) -> None:
    """Between writing the row and taking the note away."""
    end(begin(folder, planned | {"trial_id": only_file(folder, "trials").stem}))
    assert results.recover(folder) == ([], [])
    assert [row["status"] for row in read(folder, "trials")] == ["ok"]
    assert results.problems_in(folder) == []


def test_rows_are_flushed_with_their_folders_and_the_trial_is_last(
    folder: Path, planned: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps the names that were flushed, and a trial in ``trials`` has all its details."""
    steps: list[str] = []
    rename, fsync, unlink = Path.rename, os.fsync, Path.unlink

    def renamed(path: Path, target: Path) -> Path:
        steps.append(f"rename to {target.parent.name}")
        return rename(path, target)

    def flushed(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        steps.append(f"flush {place.name if place.is_dir() else 'file'}")
        fsync(descriptor)

    def unlinked(path: Path, *, missing_ok: bool = False) -> None:
        if path.exists():
            steps.append(f"remove {path.suffix}")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "rename", renamed)
    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "unlink", unlinked)
    with results.Publisher(folder, "sweep"):
        results.Running(folder, planned, owner="sweep").finish(planned | {"status": "ok"}, [], [])

    def published(*names: str) -> list[str]:
        return [step for name in names for step in ("flush file", f"rename to {name}", f"flush {name}")]

    note, spooled = ["remove .json", "remove .lock"], ["remove .arrow", "flush sweep", "remove .json", "remove .lock"]
    own = ["flush .spool", *published(".running", "sweep"), *note]
    assert steps == [*own, *published("sweep", "layers", "curves", "trials"), *spooled]


@pytest.mark.parametrize("table", TABLES)
def test_file_that_is_there_is_not_overwritten(folder: Path, table: str) -> None:
    path = only_file(folder, table)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        results.write_table(folder, table, path.stem, read(folder, table))
    assert path.read_bytes() == before
    assert list((folder / ".partial").iterdir()) == []


@pytest.mark.parametrize("step", ["lock", "fsync", "rename", "mkdir"])
def test_folder_where_a_trial_could_not_be_recorded_is_refused_before_the_training(
    folder: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_arguments: object, **_options: object) -> None:
        if step == "lock":
            raise NotImplementedError
        raise OSError(18, "Invalid cross-device link")

    owner, name = {
        "lock": (FileLock, "acquire"),
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
        "mkdir": (Path, "mkdir"),
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refused)
        with pytest.raises(UsageError, match=re.escape(f"results.dir={folder}: cannot ")) as error:
            results.prepare(folder)
    assert "\n" not in str(error.value)
    assert results.prepare(folder) == ([], [])
    assert list((folder / ".running").iterdir()) == list((folder / ".partial").iterdir()) == []


def test_probes_of_killed_processes_are_removed_and_those_of_living_ones_are_not(folder: Path) -> None:
    dead, living = "probe-00000000", "probe-11111111"
    places = [folder / ".partial" / "{}", *(folder / table / ".{}" for table in TABLES)]
    for owner in (dead, living):
        for place in places:
            Path(str(place).format(owner)).mkdir()
        (folder / ".running" / f"{owner}.lock").touch()
    with FileLock(folder / ".running" / f"{living}.lock"):
        results.prepare(folder)
        assert [Path(str(place).format(dead)).exists() for place in places] == [False] * 4
        assert [Path(str(place).format(living)).exists() for place in places] == [True] * 4
        for reader in (pd.read_parquet, pl.read_parquet):
            assert len(reader(folder / "trials")) == 1, "readers pass over a probe"
    results.prepare(folder)
    assert [Path(str(place).format(living)).exists() for place in places] == [False] * 4


def test_file_that_cannot_be_written_whole_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        results.write_table(folder, "curves", "full", read(folder, "curves"))
    assert not (folder / "curves" / "full.parquet").exists()
    assert list((folder / ".partial").iterdir()) == [], "nor does it fill the disk"


def test_the_page_of_results_lists_every_status_with_its_meaning() -> None:
    text = (Path(__file__).parent.parent / "docs/results.md").read_text(encoding="utf-8")
    rows = re.search(r"\| `status` \| meaning \|\n\|---\|---\|\n((?:\|.*\|\n)+)", text)
    assert rows is not None
    listed = dict(re.findall(r"\| `(\w+)` \| (.*) \|", rows[1]))
    assert listed == {name: status.meaning for name, status in results.STATUSES.items()}
