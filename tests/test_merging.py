"""Copying a results folder into few files, kills in between included, and folders of several schema versions."""

import os
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pytest
from made_results import Row, arms_reaching, curve, reaching, trial, write

import harness
from harness import analysis, results
from harness.errors import UsageError
from harness.results import COLUMNS, TABLES, arrow_schema, locking, merging, publishing, reading, schema


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


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Where the copy goes; not there yet."""
    return tmp_path / "copies" / "one"


def loaded(folder: Path) -> list[pd.DataFrame]:
    """The tables in the order of their keys, read without a warning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        frames = harness.load(folder)
    assert [str(warning.message) for warning in said] == []
    keys = ("trial_id", "step", "parameter")
    return [frame.sort_values([name for name in keys if name in frame], ignore_index=True) for frame in frames]


def assert_same(folder: Path, expected: list[pd.DataFrame]) -> None:
    for frame, wanted in zip(loaded(folder), expected, strict=True):
        pd.testing.assert_frame_equal(frame, wanted)


def file_counts(folder: Path) -> list[int]:
    return [len(list((folder / table).iterdir())) for table in TABLES]


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_reader_sees_the_same_rows_in_one_file_a_table(folder: Path, copy: Path) -> None:
    before, there = loaded(folder), bytes_of(folder)
    done = merging.compact(folder, copy)
    assert [(merged.table, merged.files, merged.rows, merged.parts) for merged in done.tables] == [
        ("trials", 4, 4, 1),
        ("curves", 4, 44, 1),
        ("layers", 4, 8, 1),
    ]
    assert done.left_out == 0
    assert bytes_of(folder) == there, "the source is as it was"
    assert [path.name for path in copy.parent.iterdir()] == ["one"]
    assert sorted(bytes_of(copy)) == sorted(f"{table}/part-00000.parquet" for table in TABLES)
    assert_same(copy, before)
    assert results.problems_in(copy) == []
    for table in TABLES:
        pd.testing.assert_frame_equal(pd.read_parquet(copy / table), pd.read_parquet(folder / table))
        assert pl.read_parquet(copy / table).equals(pl.read_parquet(folder / table))
        (path,) = (copy / table).iterdir()
        own = pq.read_schema(path)
        assert own.equals(arrow_schema(table))
        assert {key: own.metadata[key] for key in arrow_schema(table).metadata} == arrow_schema(table).metadata


def test_copy_of_a_copy_takes_what_came_since(folder: Path, copy: Path) -> None:
    merging.compact(folder, copy)
    write(copy, [trial(50)], curve("trial00050", reaching(10)))
    before = loaded(copy)
    done = merging.compact(copy, copy.with_name("two"))
    assert [merged.files for merged in done.tables] == [2, 2, 2]
    assert file_counts(copy.with_name("two")) == [1, 1, 1]
    assert_same(copy.with_name("two"), before)


def test_command_says_what_it_did(folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["compact", str(folder), str(copy)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"trials: 4 files, 4 rows -> {copy}/trials (1 file)",
        f"curves: 4 files, 44 rows -> {copy}/curves (1 file)",
        f"layers: 4 files, 8 rows -> {copy}/layers (1 file)",
    ]
    assert results.main(["validate", str(copy)]) == 0
    assert capsys.readouterr().out == f"{copy}: trials: 4, all sound\n"
    assert results.main(["compact", str(folder), str(copy)]) == 2
    assert capsys.readouterr().err == f"error: {copy}: exists already; give DST a new name\n"


def test_folder_without_a_trial_has_a_copy_with_every_column(tmp_path: Path, copy: Path) -> None:
    results.prepare(tmp_path / "empty")
    merging.compact(tmp_path / "empty", copy)
    for table in TABLES:
        assert list(pd.read_parquet(copy / table)) == arrow_schema(table).names
    assert results.problems_in(copy) == []


@pytest.mark.parametrize("table", TABLES)
def test_unreadable_file_is_named_and_there_is_no_copy(
    folder: Path, copy: Path, table: str, capsys: pytest.CaptureFixture[str]
) -> None:
    torn = folder / table / "torn.parquet"
    torn.write_bytes(b"PAR1 and then nothing")
    assert results.main(["compact", str(folder), str(copy)]) == 1
    printed = capsys.readouterr()
    (line,) = printed.out.splitlines()
    assert line.startswith(f"{torn}: cannot be read as Parquet")
    assert printed.err == (
        f"error: {folder}: no copy was made, because 1 file cannot be copied; repair or remove what is named, or "
        "measure its trials again\n"
    )
    assert list(copy.parent.iterdir()) == []


def taken(folder: Path, _copy: Path) -> Path:
    return fill(folder.with_name("other"))


def within(folder: Path, _copy: Path) -> Path:
    return folder / "trials" / "merged"


def within_by_a_link(folder: Path, copy: Path) -> Path:
    copy.parent.mkdir()
    (copy.parent / "link").symlink_to(folder)
    return copy.parent / "link" / "merged"


def itself(folder: Path, _copy: Path) -> Path:
    return folder


def a_file(_folder: Path, copy: Path) -> Path:
    copy.parent.mkdir()
    copy.touch()
    return copy


def below_a_file(folder: Path, copy: Path) -> Path:
    return a_file(folder, copy) / "deeper"


def a_link(folder: Path, copy: Path) -> Path:
    copy.parent.mkdir()
    folder.with_name("empty").mkdir()
    copy.symlink_to(folder.with_name("empty"))
    return copy


PLACES = {
    taken: "exists already",
    within: "lies within",
    within_by_a_link: "lies within",
    itself: "exists already",
    a_file: "exists already",
    below_a_file: "cannot write there",
    a_link: "exists already",
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
def test_place_that_is_not_free_is_refused_in_one_line(
    folder: Path, copy: Path, place: Callable[[Path, Path], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    target = place(folder, copy)
    before = bytes_of(folder.parent)
    assert results.main(["compact", str(folder), str(target)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {target}: {PLACES[place]}")
    assert printed.err.count("\n") == 1
    assert bytes_of(folder.parent) == before


def test_empty_folder_is_free_and_no_results_are_refused(
    folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy.mkdir(parents=True)
    assert results.main(["compact", str(folder), str(copy)]) == 0
    assert file_counts(copy) == [1, 1, 1]
    capsys.readouterr()
    assert results.main(["compact", str(folder.parent), str(copy)]) == 2
    assert "no results there" in capsys.readouterr().err


def test_second_process_is_refused_while_one_writes_the_same_folder(folder: Path, copy: Path) -> None:
    with publishing.published(copy) as draft:
        with pytest.raises(UsageError, match="another process is writing this folder"):
            merging.compact(folder, copy)
        assert draft.is_dir(), "it lives, so what it wrote is no left-over"
        merging.compact(folder, copy.with_name("two"))
    assert sorted(path.name for path in copy.parent.iterdir()) == ["one", "two"]


def test_trials_that_run_meanwhile_are_left_out_and_counted(
    folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their details come before their terminal row."""
    before = loaded(folder)
    for index in (90, 91):
        results.write_table(folder, "curves", f"trial{index:05d}", curve(f"trial{index:05d}", reaching(10)))
    results.write_table(folder, "layers", "trial00091", layers([trial(91)]))
    assert results.main(["compact", str(folder), str(copy)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "left out: 2 trials without a row in trials yet (running, or killed)"
    )
    assert_same(copy, before)
    assert results.problems_in(copy) == []


def test_a_trial_that_ends_during_the_copy_is_left_out_whole(
    folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has rows in every table by the time curves are listed, and none in the list of trials."""
    before, listed = loaded(folder), merging.files

    def later(source: Path, table: str) -> list[Path]:
        if table == "curves":
            write(source, [trial(90)], curve("trial00090", reaching(10)))
        return listed(source, table)

    monkeypatch.setattr(merging, "files", later)
    assert merging.compact(folder, copy).left_out == 1
    assert_same(copy, before)
    assert len(loaded(folder)[0]) == 5


def test_files_and_row_groups_are_bounded_and_no_trial_is_in_two_files(
    folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = loaded(folder)
    for name, value in {"_FILES_AT_ONCE": 1, "_GROUP_ROWS": 5, "_PART_ROWS": 12}.items():
        monkeypatch.setattr(merging, name, value)
    done = merging.compact(folder, copy)
    assert [merged.parts for merged in done.tables] == [1, 2, 1]
    parts = [pq.ParquetFile(path) for path in sorted((copy / "curves").iterdir())]
    ids = [set(part.read(columns=["trial_id"])["trial_id"].to_pylist()) for part in parts]
    assert [len(own) for own in ids] == [2, 2]
    assert ids[0] & ids[1] == set()
    groups = [part.metadata.row_group(index).num_rows for part in parts for index in range(part.num_row_groups)]
    assert max(groups) == 5
    assert sum(groups) == 44
    assert_same(copy, before)
    merging.compact(copy, copy.with_name("two"))
    assert_same(copy.with_name("two"), before)


def test_row_groups_are_bounded_in_bytes(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_GROUP_BYTES", 600)
    merging.compact(folder, copy)
    curves = pq.ParquetFile(copy / "curves" / "part-00000.parquet")
    assert 4 <= curves.num_row_groups < 44
    assert curves.metadata.num_rows == 44


PEAK = """
import re, sys
from pathlib import Path
from typing import Any
from harness import results
results.compact(Path(sys.argv[1]), Path(sys.argv[2]))
print(re.search("VmHWM: *\t *([0-9]+)", Path("/proc/self/status").read_text())[1])
"""


def peak_bytes(folder: Path, trials: int) -> int:
    """The most memory that copying so many trials takes, each of which has a file of its own."""
    results.prepare(folder)
    for index in range(trials):
        one = results.writing.arrow_rows("trials", [trial(index, config="x" * 2_000)])
        pq.write_table(one, folder / "trials" / f"{index}.parquet", write_statistics=False, use_dictionary=False)
    command = [sys.executable, "-c", PEAK, str(folder), str(folder.with_name(f"{folder.name}-copy"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return int(done.stdout) * 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory from /proc")
def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    """A file of one row takes 0.14 MB while it is held, so 1,500 more would take 210 MB."""
    few, many = peak_bytes(tmp_path / "few", 500), peak_bytes(tmp_path / "many", 2_000)
    assert many - few < 30e6


# kills


class Killer:
    """Kill this process, which a test forked, before its so-many-th change of the disk."""

    EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")

    def __init__(self, place: Path, after: int) -> None:
        self._place, self._left = str(place), after
        sys.addaudithook(self._heard)
        os.fsync, pq.ParquetWriter.write_table = self._counted(os.fsync), self._counted(pq.ParquetWriter.write_table)

    def _heard(self, event: str, arguments: tuple[object, ...]) -> None:
        if event in self.EVENTS and str(arguments[0]).startswith(self._place):
            self._count()

    def _counted(self, change: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object, **options: object) -> object:
            self._count()
            return change(*arguments, **options)

        return step

    def _count(self) -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


def cut_short(work: Callable[[], object], place: Path, after: int) -> bool:
    """Whether the work, in a process of its own, was killed outright before that change of what lies in a place."""
    with warnings.catch_warnings():
        # that Python warns of threads is right; this child uses none of them
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        signal.alarm(60)
        try:
            Killer(place, after)
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGKILL
    return os.WIFSIGNALED(status)


def kills(work: Callable[[], object], place: Path, *, steps: int = 25, every: int = 1) -> Iterator[int]:
    """Kill the work at each of its steps, of which there are more than ``steps``, until it comes to its end."""
    for after in range(0, 1000, every):
        if not cut_short(work, place, after):
            assert after > steps, "the kills reach every stage"
            return
        yield after


def glob_rows(folder: Path) -> list[int]:
    """How many rows of each table a reader by glob sees."""
    return [pl.scan_parquet(folder / table / "*.parquet").select(pl.len()).collect().item() for table in TABLES]


def kill_everywhere(folder: Path, copy: Path) -> None:
    """Whatever the moment of the kill, the source is as it was and the copy is whole or not there."""
    before, there = loaded(folder), bytes_of(folder)
    copy.parent.mkdir(exist_ok=True)
    seen = set()
    for _ in kills(lambda: merging.compact(folder, copy), copy.parent):
        assert bytes_of(folder) == there
        seen.add(copy.exists())
        if copy.exists():
            assert sorted(bytes_of(copy)) == sorted(f"{table}/part-00000.parquet" for table in TABLES)
            assert glob_rows(copy) == [4, 44, 8]
            assert_same(copy, before)
            shutil.rmtree(copy)
        merging.compact(folder, copy)
        assert [path.name for path in copy.parent.iterdir()] == [copy.name], "left-overs are gone"
        assert_same(copy, before)
        shutil.rmtree(copy)
    assert seen == {False, True}


def test_kill_at_any_moment_leaves_a_whole_copy_or_none(folder: Path, copy: Path) -> None:
    kill_everywhere(folder, copy)


def replace_by(folder: Path, target: Path) -> None:
    """Put a copy of a folder in the place of another."""
    with publishing.published(target, replace=True) as draft:
        for table in TABLES:
            shutil.copytree(folder / table, draft / table)


def assert_whole(copy: Path, *, frames: dict[int, list[pd.DataFrame]]) -> None:
    """It is one of these, which the number of trials tells apart."""
    assert copy.exists()
    assert_same(copy, frames[len(loaded(copy)[0])])


def test_kill_at_any_moment_of_a_replacement_leaves_the_old_or_the_new(folder: Path, copy: Path) -> None:
    """For an instant it is neither; the next process to write there puts the old one back before all else."""
    other = folder.with_name("other")
    trials, curves = arms_reaching({"c": [10, 30, 50]})
    write(other, trials, curves)
    old, new = loaded(folder), loaded(other)
    seen = set()
    replace_by(folder, copy)
    for _ in kills(lambda: replace_by(other, copy), copy.parent):
        seen.add(copy.exists() and len(loaded(copy)[0]))
        # it takes a free place alone, and here the old one is back
        with pytest.raises(OSError, match="not empty"), publishing.published(copy):
            assert_whole(copy, frames={4: old, 3: new})
        assert [path.name for path in copy.parent.iterdir()] == [copy.name], "left-overs are gone"
        replace_by(folder, copy)
    assert seen == {4, False, 3}
    assert_same(copy, new)


@pytest.mark.parametrize("moments", [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3)], ids=str)
def test_reading_while_a_folder_is_replaced_sees_the_old_or_the_new(
    folder: Path, copy: Path, moments: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between listing a table's files and reading them; both have files of the same names, never to be mixed."""
    other = folder.with_name("other")
    trials, curves = arms_reaching({"c": [10, 30, 50, 70]})
    write(other, [row | {"lr": 7.0} for row in trials], curves, layers(trials))
    replace_by(folder, copy)
    expected = [loaded(folder), loaded(other)]
    calls, list_files = 0, reading.files

    def late(place: Path, table: str) -> list[Path]:
        nonlocal calls
        listed, calls = list_files(place, table), calls + 1
        if calls in moments:
            replace_by(other if moments.index(calls) == 0 else folder, copy)
        return listed

    monkeypatch.setattr(reading, "files", late)
    frames = loaded(copy)
    for frame, wanted in zip(frames, expected[int(frames[0]["lr"].eq(7.0).any())], strict=True):
        pd.testing.assert_frame_equal(frame, wanted)
    assert calls > 3, "it read again"


def test_folder_whose_files_vanish_for_good_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "files", lambda *_: [folder / "trials" / "gone.parquet"])
    with pytest.raises(UsageError, match="its files vanish while they are read"):
        reading.read(folder, "trials")


def test_links_among_left_overs_are_removed_and_not_followed(folder: Path, copy: Path) -> None:
    precious = folder.with_name("precious")
    precious.mkdir()
    (precious / "canary").write_text("safe")
    copy.parent.mkdir()
    for name in (".one.0123abcd.draft", ".one.0123abcd.old"):
        (copy.parent / name).symlink_to(precious)
    (copy.parent / ".one.lock").symlink_to(precious / "canary")
    (copy.parent / ".one.notes.draft").mkdir()
    merging.compact(folder, copy)
    assert (precious / "canary").read_text() == "safe"
    assert sorted(path.name for path in copy.parent.iterdir()) == [".one.notes.draft", "one"], "not of ours"


def test_lock_whose_file_was_removed_keeps_nobody_out_and_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last holder removes the file between our opening and our locking it."""
    path, acquire = tmp_path / "a.lock", locking.FileLock.acquire
    removed = []

    def late(lock: locking.FileLock) -> object:
        taken = acquire(lock)
        if not removed:
            removed.append(path.unlink())
        return taken

    monkeypatch.setattr(locking.FileLock, "acquire", late)
    with locking.locked(path):
        assert path.exists()
        assert locking.is_held(path)
    assert not path.exists()


def test_disk_that_is_full_costs_nothing(folder: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = bytes_of(folder)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left on device"):
        merging.compact(folder, copy)
    assert bytes_of(folder) == before
    assert list(copy.parent.iterdir()) == []


@pytest.mark.parametrize("target", [".", "loop/copy", "x" * 300])
def test_a_place_that_cannot_hold_a_copy_is_one_line(
    folder: Path, target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work" if target == "." else tmp_path)
    assert results.main(["compact", str(folder), target]) in (0, 2)
    printed, said = capsys.readouterr()
    assert "Traceback" not in said
    assert (said.startswith("error: ") and said.count("\n") == 1) or (target == "." and "-> " in printed)


def test_folders_beside_the_copy_that_only_look_like_left_overs_stay(folder: Path, copy: Path) -> None:
    own = copy.with_name(f".{copy.name}.holidays.draft")
    own.mkdir(parents=True)
    (own / "photo").touch()
    merging.compact(folder, copy)
    assert (own / "photo").exists()


# several versions of the schema


PAGE = Path(__file__).parent.parent / "docs/results.md"


@pytest.fixture(params=["older first", "newer first"])
def two_versions(request: pytest.FixtureRequest, tmp_path: Path, evolve: Callable[[], int]) -> Path:
    """Two trials of one version and two of the next, the files of which come in either order by name."""
    older, newer = ((0, 1), (10, 11)) if request.param == "older first" else ((10, 11), (0, 1))
    folder = tmp_path / "results"
    for own in (older, newer):
        trials = [trial(index) for index in own]
        if own is newer:
            evolve()
            trials = [row | {"later": "new"} for row in trials]
        write(folder, trials, [row for given in trials for row in curve(given["trial_id"], reaching(10))])
    return folder


def test_the_pages_lines_for_other_readers_read_every_row_and_column_of_two_versions(two_versions: Path) -> None:
    (block,) = (text for text in PAGE.read_text().split("```python\n") if "union_by_name" in text)
    names: dict[str, Any] = {}
    exec(block.split("```")[0].replace("outputs/results", str(two_versions)), names)  # noqa: S102 - the page's lines
    read = {name: names[name] for name in ("by_pandas", "by_duckdb")} | {"by_polars": names["by_polars"].to_pandas()}
    for name, frame in read.items():
        assert sorted(frame["trial_id"]) == sorted(f"trial{index:05d}" for index in (0, 1, 10, 11)), name
        assert list(frame["later"].dropna()) == ["new", "new"], name
        assert set(frame) == set(arrow_schema("trials", schema.SCHEMA_VERSION).names), name


def test_older_files_are_read_with_nulls_beside_newer_ones(two_versions: Path) -> None:
    frames = loaded(two_versions)
    assert frames[0]["later"].isna().sum() == 2
    assert frames[0]["later"].dropna().tolist() == ["new", "new"]
    assert [len(frame) for frame in frames] == [4, 44, 0]
    assert len(reading.load(two_versions, columns={"trials": ["trial_id", "later"]}).trials) == 4


def test_validate_says_that_versions_are_mixed_and_what_to_do(
    two_versions: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No fault: what this program reads of the folder is right."""
    now = schema.SCHEMA_VERSION
    line = (
        f"note: files of several schema versions: {now - 1} (6 files), {now} (6 files); other programs may refuse to "
        f"read them together: `python -m harness.results compact {two_versions} DST` writes a copy in version {now}"
    )
    assert results.main(["validate", str(two_versions)]) == 0
    assert capsys.readouterr().out.splitlines() == [line, f"{two_versions}: trials: 4, all sound"]
    before = loaded(two_versions)
    merging.compact(two_versions, copy)
    assert_same(copy, before)
    assert results.check(copy).notes == []
    for table in TABLES:
        (path,) = (copy / table).iterdir()
        assert pq.read_schema(path).equals(arrow_schema(table, now))
    assert pd.read_parquet(copy / "trials")["later"].isna().sum() == 2


def test_older_version_with_a_column_of_the_next_is_not_that_version(two_versions: Path) -> None:
    now = schema.SCHEMA_VERSION
    path = next(path for path in (two_versions / "trials").iterdir() if "later" in pq.read_schema(path).names)
    content = pq.ParquetFile(path).read()
    pq.write_table(content.replace_schema_metadata(arrow_schema("trials", now - 1).metadata), path)
    with pytest.warns(UserWarning, match=f"columns differ from schema version {now - 1}"):
        assert len(harness.load(two_versions).trials) == 3


def test_versions_before_the_oldest_are_refused(two_versions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = schema.SCHEMA_VERSION
    monkeypatch.setattr(schema, "OLDEST_VERSION", now)
    with pytest.warns(UserWarning, match=f"schema version {now - 1}, this program reads {now}$"):
        assert len(harness.load(two_versions).trials) == 2


def test_one_folder_with_every_kind_of_fault_reads_the_rest(folder: Path) -> None:
    """A line each: truncated, foreign, newer."""
    paths = [folder / "trials" / f"trial{index:05d}.parquet" for index in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[:-50])
    pq.write_table(pq.ParquetFile(paths[1]).read().replace_schema_metadata({}), paths[1])
    newer = str(schema.SCHEMA_VERSION + 1)
    metadata = arrow_schema("trials").metadata | {b"initbench.schema_version": newer.encode()}
    pq.write_table(pq.ParquetFile(paths[2]).read().replace_schema_metadata(metadata), paths[2])
    with pytest.warns(UserWarning, match=re.escape(f"{folder}")) as caught:
        frames = harness.load(folder)
    assert frames.trials["trial_id"].tolist() == ["trial00003"]
    lines = [str(warning.message) for warning in caught]
    assert [line.startswith(f"{path}: ") for line, path in zip(lines, paths[:3], strict=True)] == [True] * 3
    assert f"schema version {newer}, this program reads " in lines[2]
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
