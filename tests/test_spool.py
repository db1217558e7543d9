"""The spool: what a trial leaves when it ends comes back whole, and nothing else is taken for it."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_report import layers
from made_results import curve, reaching, trial
from test_results import each, exact, rows_of, some_rows

from harness.results import TABLES, arrow_schema, schema, spool
from harness.results.writing import arrow_rows

Tables = dict[str, pa.Table]


def tables_of(trial_id: str = "one", **own: object) -> Tables:
    """A trial with rows in every table."""
    rows = {"trials": [trial(0, trial_id=trial_id, **own)], "curves": curve(trial_id, reaching(10))}
    rows["layers"] = layers(trial_id, 0)
    return {table: arrow_rows(table, rows[table]) for table in TABLES}


def written(tables: Tables) -> bytes:
    file = io.BytesIO()
    spool.write_entry(file, tables)
    return file.getvalue()


def entry(folder: Path, content: bytes, name: str = "one") -> Path:
    path = folder / f"{name}{spool.ENTRY}"
    path.write_bytes(content)
    return path


@given(
    trial=rows_of("trials", trial_id="one"),
    curves=st.lists(rows_of("curves", trial_id="one"), max_size=2),
    layers=st.lists(rows_of("layers", trial_id="one"), max_size=2),
)
@some_rows
def test_any_trial_comes_back_from_its_entry(trial: dict, curves: list[dict], layers: list[dict]) -> None:
    rows = {"trials": [trial], "curves": curves, "layers": layers}
    back = spool.read_entry(io.BytesIO(written({table: arrow_rows(table, rows[table]) for table in TABLES})))
    for table in TABLES:
        assert each(back[table].to_pylist(), exact) == each(rows[table], exact)
        assert back[table].schema.equals(arrow_schema(table), check_metadata=True)


def test_no_cut_entry_is_taken_for_a_whole_one() -> None:
    """Wherever it is cut; at the very end there are eight bytes that mark the end of a stream and hold nothing."""
    whole = written(tables_of())
    for length in [*range(0, len(whole) - 8, 97), *range(len(whole) - 200, len(whole) - 8)]:
        with pytest.raises(spool.UnusableEntryError):
            spool.read_entry(io.BytesIO(whole[:length]))


def test_no_changed_byte_raises_anything_else() -> None:
    """A byte changed anywhere gives other values or one clear error, and never another exception."""
    whole = written(tables_of())
    reasons = []
    for at in range(0, len(whole), 13):
        changed = bytearray(whole)
        changed[at] ^= 0xFF
        try:
            spool.read_entry(io.BytesIO(bytes(changed)))
        except spool.UnusableEntryError as error:
            reasons.append(str(error))
    assert len(reasons) > 100
    assert all(reason and "\n" not in reason for reason in reasons)


def two_trials() -> bytes:
    one, two = tables_of(), tables_of("two")
    return written({table: pa.concat_tables([one[table], two[table]]) for table in TABLES})


def others_curves() -> bytes:
    return written(tables_of() | {"curves": tables_of("two")["curves"]})


def more_after_it() -> bytes:
    return written(tables_of()) + b"\xff"


def other_columns() -> bytes:
    tables = tables_of()
    return written(tables | {"curves": tables["curves"].drop_columns(["test_loss"])})


def other_table() -> bytes:
    file = io.BytesIO()
    pa_table = pa.table({"trial_id": ["one"]})
    with pa.ipc.new_stream(file, pa_table.schema) as stream:
        stream.write_table(pa_table)
    return file.getvalue()


FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (bytes, "another kind of file"),
    "zeros": (lambda: bytes(1000), "another kind of file"),
    "two trials": (two_trials, "exactly one trial"),
    "no trial": (lambda: written({table: arrow_rows(table, []) for table in TABLES}), "exactly one trial"),
    "another trial's curves": (others_curves, "rows of several trials"),
    "more after it": (more_after_it, "goes on after the last table"),
    "other columns": (other_columns, "columns of 'curves' differ"),
    "another table": (other_table, "no table 'trials'"),
}


@pytest.mark.parametrize(("content", "words"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_trial_is_refused_with_a_reason(content: Callable[[], bytes], words: str) -> None:
    with pytest.raises(spool.UnusableEntryError, match=words):
        spool.read_entry(io.BytesIO(content()))


def test_earlier_versions_are_completed_and_later_ones_are_told_apart(
    evolve: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = schema.SCHEMA_VERSION
    old = written(tables_of())
    evolve()
    assert spool.read_entry(io.BytesIO(old))["trials"]["later"].to_pylist() == [None]
    newer = written(tables_of())
    monkeypatch.setattr(schema, "SCHEMA_VERSION", now)
    with pytest.raises(spool.NewerEntryError, match=f"schema version {now + 1}, this program reads up to {now}"):
        spool.read_entry(io.BytesIO(newer))


def test_file_is_loaded_under_its_own_name_alone(tmp_path: Path) -> None:
    whole = written(tables_of())
    assert spool.load_entry(entry(tmp_path, whole))["trials"]["trial_id"].to_pylist() == ["one"]
    with pytest.raises(spool.UnusableEntryError, match="not its file's name"):
        spool.load_entry(entry(tmp_path, whole, "two"))
    with pytest.raises(FileNotFoundError):
        spool.load_entry(tmp_path / "three.arrow")


def test_links_pipes_folders_and_huge_files_are_not_read(tmp_path: Path) -> None:
    good = entry(tmp_path, written(tables_of()))
    (tmp_path / "link.arrow").symlink_to(good)
    (tmp_path / "folder.arrow").mkdir()
    os.mkfifo(tmp_path / "pipe.arrow")
    with (tmp_path / "huge.arrow").open("wb") as file:
        file.truncate(1 << 40)
    for name, words in {"link": "opened", "folder": "regular", "pipe": "regular", "huge": "bytes"}.items():
        with pytest.raises(spool.UnusableEntryError, match=words):
            spool.load_entry(tmp_path / f"{name}.arrow")


def test_listing_passes_over_what_is_no_owners_folder(tmp_path: Path) -> None:
    assert list(spool.entries(tmp_path)) == []
    for owner in ("b", "a", ".hidden", "with space"):
        (tmp_path / spool.SPOOL / owner).mkdir(parents=True)
        entry(tmp_path / spool.SPOOL / owner, b"", "one")
    (tmp_path / spool.SPOOL / "link").symlink_to(tmp_path / spool.SPOOL / "a")
    (tmp_path / spool.SPOOL / "file").touch()
    assert spool.owners(tmp_path) == ["a", "b"]
    assert list(spool.entries(tmp_path)) == [spool.entry_path(tmp_path, owner, "one") for owner in ("a", "b")]


@pytest.mark.parametrize("owner", ["", ".", "..", "../outside", "/outside", "a/b", "a" * 101, "line\nbreak"])
def test_owner_whose_name_leads_elsewhere_is_refused(tmp_path: Path, owner: str) -> None:
    with pytest.raises(ValueError, match="is no name; give up to 100 letters"):
        spool.owner_folder(tmp_path, owner)
