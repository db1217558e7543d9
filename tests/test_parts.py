"""From a finished trial to its published row: whatever is killed, each row is there once and none is lost."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from made_report import layers
from made_results import Row, curve, reaching, trial
from test_merging import cut_short, kills

import harness
from harness import results
from harness.errors import UsageError
from harness.results import TABLES, notes, parts, recovery, spool, writing

OF_ONE = {"trials": 1, "curves": 11, "layers": 24}
"""How many rows a finished trial has in each table."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return emptied(tmp_path / "place" / "results")


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    results.prepare(folder)
    return folder


def rows_of(trial_id: str, **own: Any) -> tuple[Row, list[Row], list[Row]]:
    steps = [row for step in (0, 100) for row in layers(trial_id, step)]
    return trial(0, trial_id=trial_id, **own), curve(trial_id, reaching(10)), steps


def begin(folder: Path, trial_id: str, owner: str) -> results.Running:
    return results.Running(folder, rows_of(trial_id)[0], owner=owner)


def finish(folder: Path, trial_id: str, owner: str) -> None:
    """A trial from its begin to its place in the spool."""
    begin(folder, trial_id, owner).finish(*rows_of(trial_id))


def note(folder: Path, trial_id: str, **own: Any) -> None:
    """What a trial leaves that was killed."""
    content = json.dumps({**rows_of(trial_id)[0], **own}, default=str)
    writing.note_path(folder, trial_id).write_text(content)


def by_glob(folder: Path, table: str, columns: list[str] | None = None) -> list[list[Row]]:
    """What a reader without this program sees in each file; a torn one raises."""
    paths = sorted((folder / table).glob("*.parquet"))
    return [pq.ParquetFile(path).read(columns=columns).to_pylist() for path in paths]


def published(folder: Path) -> list[Row]:
    return [row for file in by_glob(folder, "trials") for row in file]


def statuses(folder: Path) -> dict[str, str]:
    """Trial -> status, of the published ones; each is there once, whole, in one part."""
    trials = [row for file in by_glob(folder, "trials", ["trial_id", "status"]) for row in file]
    finished = {row["trial_id"] for row in trials if row["status"] == "ok"}
    assert len({row["trial_id"] for row in trials}) == len(trials)
    for table in TABLES:
        files = [Counter(row["trial_id"] for row in file) for file in by_glob(folder, table, ["trial_id"])]
        counts = sum(files, Counter())
        assert sum(map(len, files)) == len(counts), "no trial is in two files"
        assert set(counts.values()) <= {1, OF_ONE[table]}, "no row is there twice"
        assert {trial_id: counts[trial_id] for trial_id in finished} == dict.fromkeys(finished, OF_ONE[table])
    return {row["trial_id"]: row["status"] for row in trials}


def assert_clean(folder: Path) -> None:
    """Nothing is left over, and all is sound."""
    assert [path for name in (".running", ".spool", ".partial") for path in (folder / name).iterdir()] == []
    assert results.problems_in(folder) == []


# kills


# the moments of all kills take a minute
EVERY = pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 11])


@EVERY
def test_kill_at_any_moment_of_a_sweep_loses_and_doubles_nothing(folder: Path, every: int) -> None:
    told = folder.parent.parent / "told"

    def sweep() -> None:
        with results.Publisher(folder, "sweep") as publisher, told.open("w", buffering=1) as out:
            for name in ("a", "b", "c"):
                out.write(f"{name} begins\n")
                running = begin(folder, name, "sweep")
                out.write(f"{name} has begun\n")
                running.finish(*rows_of(name))
                out.write(f"{name} is safe\n")
                publisher.ended(name)

    seen = set()
    for _ in kills(sweep, folder.parent, every=every):
        lines = told.read_text() if told.exists() else ""
        safe, noted, begun = (
            {name for name in "abc" if f"{name} {what}" in lines} for what in ("is safe", "has begun", "begins")
        )
        before = statuses(folder)
        seen.add((len(before), len(list(spool.entries(folder)))))
        recovered = results.prepare(folder)
        after = statuses(folder)
        assert recovered.lines == []
        assert safe <= {name for name, status in after.items() if status == "ok"}
        assert {name: after[name] for name in before} == before
        assert noted <= set(after) <= begun
        assert recovered.trial_ids == [name for name, status in after.items() if status == "killed"]
        assert len(recovered.trial_ids) <= 1
        assert_clean(folder)
        told.unlink(missing_ok=True)
        emptied(folder)
    stages = {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (3, 2), (3, 1), (3, 0)}
    assert len(stages & seen) == len(stages) if every == 1 else len(stages & seen) > 4, "the stages were met"
    assert statuses(folder) == dict.fromkeys("abc", "ok")
    assert_clean(folder)


def leave(folder: Path) -> None:
    """What a sweep leaves that was killed amid a part, with a trial that was running and one that had just ended."""
    for name in ("a", "b"):
        finish(folder, name, "dead")
    with pytest.raises(OSError, match="full"), failing_at(3), results.Publisher(folder, "dead"):
        pass
    finish(folder, "c", "dead")
    note(folder, "b", owner="dead")
    note(folder, "d", owner="dead")
    finish(folder, "e", "e")


@contextmanager
def failing_at(count: int, error: int = 28) -> Iterator[list[int]]:
    """A disk that is full from its so-many-th flush on."""
    flushes: list[int] = []
    fsync = os.fsync

    def full(descriptor: int) -> None:
        flushes.append(descriptor)
        if len(flushes) >= count:
            raise OSError(error, "disk full")
        fsync(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        yield flushes


LEFT = {"a": "ok", "b": "ok", "c": "ok", "d": "killed", "e": "ok"}


@EVERY
def test_kill_at_any_moment_of_a_recovery_loses_and_doubles_nothing(folder: Path, every: int) -> None:
    """Also if the recovery of a recovery is killed."""
    leave(folder)
    for after in kills(lambda: results.recover(folder), folder.parent, every=every):
        statuses(folder)
        cut_short(lambda: results.prepare(folder), folder.parent, after // 2 + 5)
        statuses(folder)
        assert results.prepare(folder).lines == []
        assert statuses(folder) == LEFT
        assert_clean(folder)
        leave(emptied(folder))
    assert statuses(folder) == LEFT


def test_worker_killed_at_any_moment_has_one_row_and_its_parent_knows_which(folder: Path) -> None:
    with results.Publisher(folder, "sweep") as publisher:
        numbers = iter(range(1000))
        names: list[str] = []

        def worker() -> None:
            finish(folder, names[-1], "sweep")

        def begun() -> str:
            names.append(f"t{next(numbers):03d}")
            return names[-1]

        begun()
        seen = set()
        for after in kills(worker, folder.parent, steps=15):
            assert results.recover(folder) == ([], []), "its owner lives, and knows more"
            row = record(folder, names[-1], row=rows_of(names[-1])[0])
            assert row["status"] in ("ok", "crashed")
            seen.add(row["status"])
            if after % 3 == 0:
                publisher.ended(names[-1])
            begun()
        publisher.publish()
        expected = statuses(folder)
        assert set(expected) == set(names)
        assert seen == {"ok", "crashed"}
    assert statuses(folder) == expected
    results.prepare(folder)
    assert_clean(folder)


def record(folder: Path, trial_id: str, owner: str = "sweep", **own: Any) -> Row:
    words = {"status": "crashed", "error_type": "SIGSEGV", "error_message": "the process ended by signal 11"}
    return results.record_death(folder, trial_id, owner, **words, **own)


def test_kill_at_any_moment_of_recording_a_death_gives_one_row(folder: Path) -> None:
    def parent() -> None:
        with results.Publisher(folder, "sweep"):
            record(folder, "d")

    note(folder, "d", owner="sweep")
    seen = set()
    for _ in kills(parent, folder.parent):
        statuses(folder)
        results.prepare(folder)
        (status,) = statuses(folder).values()
        seen.add(status)
        assert_clean(folder)
        note(emptied(folder), "d", owner="sweep")
    assert seen == {"crashed", "killed"}
    assert statuses(folder) == {"d": "crashed"}


# deaths


def test_death_is_recorded_from_the_note(folder: Path) -> None:
    note(folder, "d", owner="sweep")
    with results.Publisher(folder, "sweep"):
        row = record(folder, "d", row=rows_of("d", seed=99)[0])
    words = ("status", "error_type", "error_message", "seed")
    for there in (row, *published(folder)):
        assert [there[name] for name in words] == ["crashed", "SIGSEGV", "the process ended by signal 11", 0]
    assert_clean(folder)


@pytest.mark.parametrize("content", [None, "half of a no"], ids=["no note", "unusable note"])
def test_death_before_the_note_is_recorded_from_the_plan(folder: Path, content: str | None) -> None:
    if content is not None:
        writing.note_path(folder, "d").write_text(content)
    with results.Publisher(folder, "sweep"):
        assert record(folder, "d", row=rows_of("d", seed=99)[0])["seed"] == 99
    assert statuses(folder) == {"d": "crashed"}


@pytest.mark.parametrize("in_part", [False, True])
def test_death_after_the_end_leaves_the_trials_own_row(folder: Path, *, in_part: bool) -> None:
    with results.Publisher(folder, "sweep") as publisher:
        for name in ("c", "d"):
            finish(folder, name, "sweep")
        if in_part:
            publisher.publish()
        assert record(folder, "d", row=rows_of("d")[0])["status"] == "ok"
    assert statuses(folder) == {"c": "ok", "d": "ok"}


def test_death_without_a_trace_is_an_error(folder: Path) -> None:
    with results.Publisher(folder, "sweep"), pytest.raises(LookupError, match="no trace of the trial d"):
        record(folder, "d")


def test_lock_that_a_trials_own_child_holds_does_not_hide_its_death(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "_DEAD_WAIT_S", 0.1)
    note(folder, "d", owner="sweep")
    with FileLock(writing.lock_path(folder, "d")), results.Publisher(folder, "sweep"):
        assert record(folder, "d")["status"] == "crashed"
    assert statuses(folder) == {"d": "crashed"}


# publishing


def test_owner_has_one_publisher(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "WAIT_S", 0.05)
    with results.Publisher(folder, "sweep"):
        with pytest.raises(UsageError, match="another process publishes the trials of sweep"):
            results.Publisher(folder, "sweep").__enter__()
        with results.Publisher(folder, "other"):
            finish(folder, "a", "other")
        assert statuses(folder) == {"a": "ok"}


def test_trials_are_published_one_by_one_at_first_and_all_at_the_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not more often than every two seconds."""
    now = [100.0]
    monkeypatch.setattr(parts.time, "monotonic", lambda: now[0])
    with results.Publisher(folder, "sweep") as publisher:
        for name, seconds, there in [("a", 0.0, 1), ("b", 1.9, 1), ("c", 0.0, 1), ("d", 0.2, 4), ("e", 1.0, 4)]:
            now[0] += seconds
            finish(folder, name, "sweep")
            publisher.ended(name)
            assert len(statuses(folder)) == there
    assert len(statuses(folder)) == 5
    names = [path.stem[-10:] for path in sorted((folder / "trials").iterdir())]
    assert names == ["sweep-0001", "sweep-0002", "sweep-0003"]
    assert_clean(folder)


def test_a_hundred_thousand_trials_are_at_most_a_thousand_files() -> None:
    trials = files = 0
    while trials < 100_000:
        trials += parts.enough_for_a_part(trials)
        files += 1
    assert 500 < files <= 1000
    assert parts.enough_for_a_part(0) == 1


def test_parts_are_bounded_in_trials_and_bytes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "_MOST_TRIALS", 3)
    for index in range(8):
        finish(folder, f"t{index}", "sweep")
    with results.Publisher(folder, "sweep"):
        pass
    assert sorted(len(parts.ids_of(path) or ()) for path in (folder / "trials").iterdir()) == [2, 3, 3]
    monkeypatch.setattr(spool, "_MOST_BYTES", 1)
    for index in range(2):
        finish(folder, f"u{index}", "other")
    with results.Publisher(folder, "other"):
        pass
    assert len(list((folder / "trials").iterdir())) == 5
    assert len(statuses(folder)) == 10


def test_a_lone_trial_has_files_of_its_name(folder: Path) -> None:
    begin(folder, "lone", "lone").finish(*rows_of("lone"))
    with results.Publisher(folder, "lone") as publisher:
        publisher.ended("lone")
    assert [path.name for table in TABLES for path in (folder / table).iterdir()] == ["lone.parquet"] * 3
    assert_clean(folder)


def test_full_disk_keeps_the_trials_and_the_next_try_goes_on(folder: Path) -> None:
    """Whichever of its flushes fails."""
    failures = 0
    for count in range(1, 100):
        emptied(folder)
        with results.Publisher(folder, "sweep") as publisher:
            for name in ("a", "b"):
                finish(folder, name, "sweep")
            with failing_at(count) as flushes:
                try:
                    publisher.publish()
                except OSError:
                    failures += 1
            statuses(folder)
            if len(flushes) < count:
                break
            finish(folder, "c", "sweep")
            publisher.ended("c")
        assert statuses(folder) == dict.fromkeys("abc", "ok")
        assert_clean(folder)
    assert failures > 8


def test_full_disk_while_spooling_leaves_the_note_for_the_next_run(folder: Path) -> None:
    running = begin(folder, "a", "sweep")
    with failing_at(1), pytest.raises(OSError, match="disk full"):
        running.finish(*rows_of("a"))
    running._lock.release()
    assert results.prepare(folder).trial_ids == ["a"]
    assert_clean(folder)


def test_ctrl_c_while_a_part_is_written_waits_for_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finish(folder, "a", "sweep")
    write = parts.write_part

    def interrupted(*arguments: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        write(*arguments, **options)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with results.Publisher(folder, "sweep") as publisher:
            monkeypatch.setattr(parts, "write_part", interrupted)
            with pytest.raises(KeyboardInterrupt):
                publisher.publish()
            assert statuses(folder) == {"a": "ok"}
            assert list(spool.entries(folder)) == []
    finally:
        signal.signal(signal.SIGINT, before)


def test_reader_by_glob_never_sees_a_row_twice_nor_a_trial_without_its_details(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "_PAUSE_S", 0.0)
    done, looks = threading.Event(), []

    def look() -> None:
        while not done.is_set():
            # trials first, because the details of what is there were there before
            seen = [
                [
                    trial_id
                    for path in (folder / table).glob("*.parquet")
                    for trial_id in sorted(parts.ids_of(path) or ())
                ]
                for table in TABLES
            ]
            looks.append(seen)

    reader = threading.Thread(target=look)
    reader.start()
    with results.Publisher(folder, "sweep") as publisher:
        for index in range(60):
            finish(folder, f"t{index:03d}", "sweep")
            publisher.ended(f"t{index:03d}")
    done.set()
    reader.join()
    assert len(looks) > 20
    for trials, *details in looks:
        assert len(set(trials)) == len(trials)
        assert all(len(set(own)) == len(own) and set(trials) <= set(own) for own in details)
    assert len(statuses(folder)) == 60


SWEEP = """
import sys
from pathlib import Path
from made_results import curve, reaching, trial
from made_report import layers
from harness import results
folder, owner = Path(sys.argv[1]), sys.argv[2]
results.prepare(folder)
with results.Publisher(folder, owner) as publisher:
    for index in range(25):
        name = f"{owner}-{index:02d}"
        steps = [row for step in (0, 100) for row in layers(name, step)]
        running = results.Running(folder, trial(0, trial_id=name), owner=owner)
        running.finish(trial(0, trial_id=name), curve(name, reaching(10)), steps)
        publisher.ended(name)
        if index % 5 == 0:
            results.prepare(folder)
"""


def test_several_sweeps_and_recoveries_share_a_folder(folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SWEEP, str(folder)]
    running = [subprocess.Popen([*command, owner], env=environment) for owner in ("x", "y", "z")]
    assert [process.wait(120) for process in running] == [0] * 3
    assert statuses(folder) == {f"{owner}-{index:02d}": "ok" for owner in "xyz" for index in range(25)}
    assert_clean(folder)


# recovery


def test_trial_of_a_living_owner_is_left_to_it(folder: Path) -> None:
    """Its process has died, and the owner is about to say of what."""
    note(folder, "d", owner="sweep")
    with results.Publisher(folder, "sweep"):
        finish(folder, "a", "sweep")
        assert results.prepare(folder) == ([], [])
        assert statuses(folder) == {}
        assert len(list(spool.entries(folder))) == 1
    assert statuses(folder) == {"a": "ok"}
    assert results.prepare(folder) == (["d"], [])
    assert statuses(folder) == {"a": "ok", "d": "killed"}


def test_many_killed_trials_are_one_part(folder: Path) -> None:
    for index in range(10):
        note(folder, f"d{index}", owner="dead")
    assert len(results.prepare(folder).trial_ids) == 10
    assert len(list((folder / "trials").iterdir())) == 1
    assert set(statuses(folder).values()) == {"killed"}


def test_copy_of_a_folder_in_use_has_each_row_once(folder: Path) -> None:
    """What was in the spool when that was copied is in a part by the time the tables are, one of them before it."""
    copy = folder.with_name("copy")
    note(folder, "a", owner="sweep")
    for name in ("a", "b"):
        row, *details = rows_of(name)
        writing.spool_trial(folder, "sweep", dict(zip(TABLES, ([row], *details), strict=True)), holder="sweep")
    shutil.copytree(folder, copy)
    with results.Publisher(folder, "sweep"):
        pass
    for table in ("trials", "layers"):
        shutil.copytree(folder / table, copy / table, dirs_exist_ok=True)
    writing.write_table(copy, "trials", "d", [trial(0, trial_id="d", status="oom")])
    note(copy, "d", owner="sweep")
    assert results.prepare(copy) == ([], [])
    assert statuses(copy) == {"a": "ok", "b": "ok", "d": "oom"}
    assert_clean(copy)


def test_what_a_later_program_spooled_is_left_to_it(
    folder: Path, evolve: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from harness.results import schema

    now = schema.SCHEMA_VERSION
    evolve()
    finish(folder, "a", "dead")
    monkeypatch.setattr(schema, "SCHEMA_VERSION", now)
    path = spool.entry_path(folder, "dead", "a")
    # it was killed before it had removed its note, and is no trial without a row
    note(folder, "a", owner="dead")
    for _ in range(2):
        (line,) = results.prepare(folder).lines
        assert line.startswith(f"{path}: it has schema version {now + 1}")
        assert path.exists()
    assert statuses(folder) == {}
    monkeypatch.setattr(schema, "SCHEMA_VERSION", now + 1)
    assert results.prepare(folder) == ([], [])
    assert len(published(folder)) == 1
    assert harness.load(folder).trials["trial_id"].tolist() == ["a"]


def test_folder_of_an_owner_that_is_removed_meanwhile_is_made_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that outlived its sweep ends while the next run cleans up."""
    make = writing.make_owner_folder
    calls = []

    def removed(place: Path, owner: str) -> None:
        make(place, owner)
        calls.append(owner)
        if len(calls) < 3:
            spool.owner_folder(place, owner).rmdir()

    monkeypatch.setattr(writing, "make_owner_folder", removed)
    finish(folder, "a", "dead")
    assert len(calls) == 3
    results.prepare(folder)
    assert statuses(folder) == {"a": "ok"}


def test_notes_say_who_records_the_end(folder: Path) -> None:
    running = begin(folder, "a", "sweep")
    assert notes.owner_of(writing.note_path(folder, "a")) == "sweep"
    running._lock.release()
    lone = results.Running(folder, rows_of("b")[0])
    assert notes.owner_of(writing.note_path(folder, "b")) is None
    lone._lock.release()
