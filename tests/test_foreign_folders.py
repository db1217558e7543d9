"""Results folders from anywhere: nothing in one blocks its use or makes this program touch a file outside of it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from test_merging import bytes_of

import harness
from harness import results
from harness.errors import UsageError
from harness.results import writing

Plant = Callable[[Path, Path], None]
QUICK = ("device=cpu", "device.threads=1", "model=mlp", "train.steps=2", "train.eval_every=2", "train.warmup_steps=1")
NOTE = "20300101T000000-abc"


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with one real trial, which no test may change."""
    folder = tmp_path_factory.mktemp("real") / "results"
    run(folder)
    return folder


def run(folder: Path) -> str:
    """The id of a trial that ran to its end."""
    trial = harness.run_trial(harness.load_config([*QUICK, f"results.dir={folder}"])).trial
    assert trial["status"] == "ok"
    return str(trial["trial_id"])


@pytest.fixture
def folder(real: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(real, tmp_path / "results"))


@pytest.fixture
def outside(folder: Path) -> Path:
    """What must stay as it is: files that a path or a link in the folder leads to."""
    place = folder.with_name("outside")
    place.mkdir()
    (place / "canary").write_text("safe")
    (place / "canary.parquet").write_text("safe")
    (place / f"{NOTE}.json").write_text(note_of(folder))
    return place


def note_of(folder: Path, **changed: object) -> str:
    """The note of a trial that was killed: a real one's row, but for what is given."""
    return json.dumps(results.read(folder, "trials").rows.to_pylist()[0] | {"trial_id": NOTE} | changed, default=str)


def note(content: str | bytes, name: str = NOTE) -> Plant:
    def plant(folder: Path, _outside: Path) -> None:
        (folder / ".running" / f"{name}.json").write_bytes(content.encode() if isinstance(content, str) else content)

    return plant


def changed_note(**changed: object) -> Plant:
    return lambda folder, outside: note(note_of(folder, **changed))(folder, outside)


def lacking_note(folder: Path, outside: Path) -> None:
    content = json.loads(note_of(folder))
    del content["trial_key"]
    note(json.dumps(content))(folder, outside)


def link(place: str, target: str, *, with_note: bool = False) -> Plant:
    def plant(folder: Path, outside: Path) -> None:
        if with_note:
            changed_note()(folder, outside)
        (folder / place).symlink_to(outside / target)

    return plant


def directory(place: str, *, with_note: bool = False) -> Plant:
    def plant(folder: Path, outside: Path) -> None:
        if with_note:
            changed_note()(folder, outside)
        (folder / place).mkdir()
        (folder / place / "content").write_text("not ours")

    return plant


def pipe(place: str) -> Plant:
    return lambda folder, _outside: os.mkfifo(folder / place)


def journal(folder: Path, _outside: Path) -> None:
    """Of an earlier way of merging: files named in it were removed."""
    (folder / ".merging").mkdir()
    replaces = ["../../outside/canary", "../../outside/canary.parquet"]
    content = {"merged": next((folder / "trials").iterdir()).name, "replaces": replaces}
    (folder / ".merging" / "trials.json").write_text(json.dumps(content))


def taken_name(folder: Path, outside: Path) -> None:
    note("{}")(folder, outside)
    (folder / ".running" / f"{NOTE}.json.unreadable").write_text("an earlier one")


def odd_name(name: bytes) -> Plant:
    def plant(folder: Path, _outside: Path) -> None:
        Path(os.fsdecode(os.fsencode(folder / ".running") + b"/" + name)).write_text("{}")

    return plant


NOTES: dict[str, Plant] = {
    "nothing": note(""),
    "half": note('{"trial_id": "half", "see'),
    "empty object": note("{}"),
    "list": note("[1]"),
    "deep": note("[" * 100_000),
    "no UTF-8": note(b"\xff\xfe{}"),
    "huge": note(" " * (1 << 21)),
    "column missing": lacking_note,
    "column null": changed_note(seed=None),
    "text for a number": changed_note(seed="seven"),
    "object for a list": changed_note(targets={"a": 1}),
    "number too large": changed_note(steps=10**20),
    "other trial": changed_note(trial_id="20300101T000000-abd"),
    "trial outside": changed_note(trial_id="../../outside/canary"),
    "long name": lambda folder, outside: note(note_of(folder, trial_id="a" * 240), "a" * 240)(folder, outside),
    "line break in the name": odd_name(b"a\nb.json"),
    "name that is no text": odd_name(b"\xff.json"),
    "link to a note outside": link(f".running/{NOTE}.json", f"{NOTE}.json"),
    "link to nothing": link(f".running/{NOTE}.json", "nothing"),
    "folder": directory(f".running/{NOTE}.json"),
    "pipe": pipe(f".running/{NOTE}.json"),
    "name taken": taken_name,
}
OTHERS: dict[str, Plant] = {
    "note with only a suffix": odd_name(b".json"),
    "lock links outside": link(f".running/{NOTE}.lock", "canary", with_note=True),
    "lock without a note links outside": link(".running/other.lock", "canary"),
    "lock is a folder": directory(f".running/{NOTE}.lock", with_note=True),
    "lock is a pipe": pipe(".running/other.lock"),
    "partial file links outside": link(f".partial/trials-{NOTE}-0123abcd.parquet", "canary", with_note=True),
    "partial file is a folder": directory(f".partial/trials-{NOTE}-0123abcd.parquet", with_note=True),
    "probe in the spool links outside": link(".spool/.probe-0123abcd", ""),
    "unfinished entry links outside": link(f".partial/spool-{NOTE}-0123abcd.arrow", "canary"),
    "probe links outside": link(".partial/probe-0123abcd", "canary"),
    "probe in a table links outside": link("trials/.probe-0123abcd", ""),
    "probe in a table holds a file": directory("trials/.probe-0123abcd"),
    "row links outside": link(f"trials/{NOTE}.parquet", "canary", with_note=True),
    "row links to nothing": link(f"trials/{NOTE}.parquet", "nothing.parquet", with_note=True),
    "row is a folder": directory(f"trials/{NOTE}.parquet", with_note=True),
    "curves are a pipe": pipe("curves/pipe.parquet"),
    "journal of an earlier merging": journal,
    "file that nobody knows": lambda folder, _outside: (folder / ".partial" / "notes.txt").write_text("x") and None,
}


def spooled(name: str = NOTE, trial_id: str = NOTE, owner: str = "dead") -> Plant:
    """A finished trial that nobody has published, under the name of its file."""

    def plant(folder: Path, _outside: Path) -> None:
        row = results.read(folder, "trials").rows.to_pylist()[0] | {"trial_id": trial_id}
        (folder / ".spool" / owner).mkdir(exist_ok=True)
        rows = {"trials": [row], "curves": [], "layers": []}
        writing.spool_trial(folder, owner, rows, holder=owner)
        path = folder / ".spool" / owner / f"{trial_id}.arrow"
        path.rename(path.with_name(f"{name}.arrow"))

    return plant


def in_spool(content: str | bytes, name: str = f"{NOTE}.arrow") -> Plant:
    def plant(folder: Path, _outside: Path) -> None:
        (folder / ".spool/dead").mkdir(exist_ok=True)
        (folder / ".spool/dead" / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return plant


def below_dead(plant: Plant) -> Plant:
    """In the folder of an owner that has died."""

    def planted(folder: Path, outside: Path) -> None:
        (folder / ".spool/dead").mkdir()
        plant(folder, outside)

    return planted


def cut_entry(folder: Path, outside: Path) -> None:
    spooled()(folder, outside)
    path = folder / f".spool/dead/{NOTE}.arrow"
    path.write_bytes(path.read_bytes()[:-200])


def sparse_entry(folder: Path, _outside: Path) -> None:
    (folder / ".spool/dead").mkdir()
    with (folder / f".spool/dead/{NOTE}.arrow").open("wb") as file:
        file.truncate(1 << 40)


def manifest(**own: object) -> Plant:
    plan = {table: [NOTE] for table in results.TABLES} | own
    return in_spool(json.dumps(plan), "part-1.json")


SPOOLED: dict[str, Plant] = {
    "nothing": in_spool(""),
    "text": in_spool("no trial"),
    "cut": cut_entry,
    "huge": sparse_entry,
    "other trial": spooled(trial_id="20300101T000000-abd"),
    "folder": below_dead(directory(f".spool/dead/{NOTE}.arrow")),
    "pipe": below_dead(pipe(f".spool/dead/{NOTE}.arrow")),
    "link outside": below_dead(link(f".spool/dead/{NOTE}.arrow", "canary")),
    "link to nothing": below_dead(link(f".spool/dead/{NOTE}.arrow", "nothing")),
    "line break in the name": in_spool("", "a\nb.arrow"),
    "owner is a link": link(".spool/dead", ""),
    "owner is a file": lambda folder, _outside: (folder / ".spool/dead").write_text("x") and None,
    "owner is a pipe": pipe(".spool/dead"),
    "owner of no name of ours": directory(".spool/a b"),
    "manifest is half": in_spool('{"trials": ["', "part-1.json"),
    "manifest is a list": in_spool("[]", "part-1.json"),
    "manifest of two tables": in_spool('{"trials": [], "curves": []}', "part-1.json"),
    "manifest names what lies outside": manifest(trials=["../../../outside/canary"]),
    "manifest names numbers": manifest(layers=[1]),
    "manifest is a pipe": below_dead(pipe(".spool/dead/part-1.json")),
    "manifest links outside": below_dead(link(".spool/dead/part-1.json", f"{NOTE}.json")),
    "manifest is huge": in_spool(" " * (1 << 21), "part-1.json"),
}


def both(*plants: Plant) -> Plant:
    def plant(folder: Path, outside: Path) -> None:
        for own in plants:
            own(folder, outside)

    return plant


def part_in_the_way(plant: Plant) -> Plant:
    """A manifest and its spooled trial, and something else under the name of the part."""
    return both(spooled(), manifest(), plant)


FINISHED: dict[str, Plant] = {
    "spooled": spooled(),
    "with a manifest": both(spooled(), manifest()),
    "part is a link outside": part_in_the_way(link("trials/part-1.parquet", "canary")),
    "part links to nothing": part_in_the_way(link("curves/part-1.parquet", "nothing.parquet")),
    "part is a folder": part_in_the_way(directory("layers/part-1.parquet")),
    "part is a pipe": part_in_the_way(pipe("trials/part-1.parquet")),
    "part is torn": part_in_the_way(lambda f, _o: (f / "trials/part-1.parquet").write_text("PAR1") and None),
    "part of other trials": part_in_the_way(
        lambda f, _o: shutil.copy(next((f / "trials").iterdir()), f / "trials/part-1.parquet") and None
    ),
    "note of it too": both(spooled(), changed_note()),
    "file that nobody knows": both(spooled(), in_spool("x", "notes.txt")),
}


def validate(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints; it changes nothing and raises nothing."""
    before = listing(folder)
    assert results.main(["validate", str(folder)]) in (0, 1)
    assert listing(folder) == before
    printed = capsys.readouterr()
    assert printed.err == ""
    printed.out.encode()
    return printed.out


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def assert_usable(folder: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> results.Recovered:
    """Everything works, also twice, and what lies outside is as it was."""
    canary = bytes_of(outside)
    validate(folder, capsys)
    assert len(harness.load(folder).trials) >= 1
    recovered = results.prepare(folder)
    assert all("\n" not in line and line.isprintable() for line in recovered.lines)
    trial_id = run(folder)
    assert trial_id in set(harness.load(folder).trials["trial_id"])
    validate(folder, capsys)
    assert bytes_of(outside) == canary
    return recovered


@pytest.mark.parametrize("plant", NOTES.values(), ids=NOTES)
def test_note_that_cannot_be_used_is_named_set_aside_and_in_nobodys_way(
    folder: Path, outside: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, outside)
    (first,) = [line for line in validate(folder, capsys).splitlines() if line.endswith("the next run sets it aside")]
    assert str(folder / ".running") in first
    recovered = assert_usable(folder, outside, capsys)
    assert recovered.trial_ids == []
    (line,) = recovered.lines
    assert line.split("; set aside as ")[0] == first.removesuffix("; the next run sets it aside")
    assert list((folder / ".running").glob("*.json")) == []
    assert len(list((folder / ".running").glob("*.unreadable"))) == (2 if plant is taken_name else 1)
    assert results.prepare(folder) == ([], []), "named once"
    assert len(results.read(folder, "trials").rows) == 2
    assert results.problems_in(folder) == []
    assert len(results.check(folder).notes) == 1


LITTER = {
    "trials/._part.parquet": b"\0\5\x16\7",
    "trials/.part.parquet": None,
    "curves/_metadata.parquet": b"x",
    "layers/~$part.parquet": b"x",
    "trials/empty.parquet": b"",
    "trials/.DS_Store": b"x",
    "trials/desktop.ini": b"x",
    "trials/part.parquet.crdownload": b"x",
    "trials/part.parquet~": b"x",
    ".spool/desktop.ini": b"x",
    ".spool/Thumbs.db": b"x",
    ".spool/.DS_Store": b"x",
    ".running/._note.json": b"x",
    ".plans/._plan.parquet": b"x",
}
"""What archives, synchronisations and systems leave; None: the bytes of a part of ours."""


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_litter_is_no_fault_and_said_once(folder: Path, outside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder that was zipped on a Mac, synchronised or shared holds files that are plainly none of ours."""
    part = next((folder / "trials").iterdir()).read_bytes()
    (folder / ".plans").mkdir(exist_ok=True)
    for name, content in LITTER.items():
        (folder / name).write_bytes(part if content is None else content)
    before = bytes_of(folder)
    said = "passed over 5 hidden or empty files: "
    checked = results.check(folder)
    assert checked.problems == []
    (note,) = checked.notes
    assert note.startswith(said)
    with pytest.warns(UserWarning, match=said) as warned:
        assert len(harness.load(folder).trials) == 1
    assert len(warned) == 1
    assert bytes_of(folder) == before
    assert_usable(folder, outside, capsys)
    assert all((folder / name).exists() for name in LITTER)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("plant", OTHERS.values(), ids=OTHERS)
def test_whatever_else_lies_there_leads_nowhere(
    folder: Path, outside: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, outside)
    assert_usable(folder, outside, capsys)
    for path in folder.rglob("content"):
        assert path.read_text() == "not ours"


@pytest.mark.parametrize("name", [".running", ".partial", ".spool"])
def test_bookkeeping_that_lies_elsewhere_is_refused(
    folder: Path, outside: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    canary = bytes_of(outside)
    (folder / name).rmdir()
    (folder / name).symlink_to(outside)
    assert f"{folder / name}: is a link, which no run follows; remove the link\n" in validate(folder, capsys)
    for use in (lambda: results.prepare(folder), lambda: run(folder)):
        with pytest.raises(UsageError, match=rf"results\.dir={folder}: {name} is a link") as error:
            use()
        assert "\n" not in str(error.value)
    assert results.recover(folder) == ([], [])
    assert len(harness.load(folder).trials) == 1
    assert bytes_of(outside) == canary


@pytest.mark.parametrize("name", results.TABLES)
def test_table_that_is_a_link_is_read_and_never_written_to(
    folder: Path, outside: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).rename(outside / name)
    (folder / name).symlink_to(outside / name)
    (outside / name / ".probe-0123abcd").write_text("a file of somebody else's")
    before = bytes_of(outside)
    assert "is a link, which no run follows" in validate(folder, capsys)
    with pytest.raises(UsageError, match=rf"results\.dir={folder}: {name} is a link"):
        run(folder)
    assert len(harness.load(folder).trials) == 1
    assert bytes_of(outside) == before


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("plant", SPOOLED.values(), ids=SPOOLED)
def test_what_is_no_trial_in_the_spool_is_named_and_set_aside(
    folder: Path, outside: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, outside)
    recovered = assert_usable(folder, outside, capsys)
    assert recovered.trial_ids == []
    (line,) = recovered.lines
    assert line.startswith(str(folder / ".spool"))
    assert "; set aside as " in line
    assert len(list((folder / ".spool").rglob("*.unreadable"))) == 1
    assert results.prepare(folder) == ([], []), "named once"
    assert len(results.read(folder, "trials").rows) == 2
    for path in folder.rglob("content"):
        assert path.read_text() == "not ours"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("plant", FINISHED.values(), ids=FINISHED)
def test_finished_trial_is_published_whatever_lies_beside_it(
    folder: Path, outside: Path, plant: Plant, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(folder, outside)
    assert_usable(folder, outside, capsys)
    rows = harness.load(folder).trials["trial_id"].tolist()
    assert rows.count(NOTE) == 1
    assert len(rows) == 3
    assert not (folder / f".running/{NOTE}.json").exists()
    assert [path.name for path in (folder / ".spool").rglob("*.arrow")] == []
    assert results.prepare(folder) == ([], [])


@pytest.mark.parametrize(("init", "shown"), [("zero", "zero"), ("\ud800", r"\ud800")])
def test_usable_note_is_a_row(
    folder: Path, outside: Path, init: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The notes above are unusable by what was changed in them alone; a text that no file can hold is escaped."""
    changed_note(init=init)(folder, outside)
    assert assert_usable(folder, outside, capsys) == ([NOTE], [])
    row = harness.load(folder).trials.set_index("trial_id").loc[NOTE]
    assert (row["status"], row["init"]) == ("killed", shown)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "plant",
    [*NOTES.values(), *OTHERS.values(), *SPOOLED.values(), *FINISHED.values()],
    ids=[*NOTES, *OTHERS, *SPOOLED, *FINISHED],
)
def test_copy_of_a_foreign_folder_touches_nothing_else(folder: Path, outside: Path, plant: Plant) -> None:
    plant(folder, outside)
    before, copy = (listing(folder), bytes_of(outside)), folder.with_name("copy")
    told = ("cannot be read as Parquet", ".arrow: ")
    unreadable = any(words in problem for problem in results.problems_in(folder) for words in told)
    assert results.main(["compact", str(folder), str(copy)]) == unreadable
    assert (listing(folder), bytes_of(outside)) == before
    assert copy.exists() != unreadable
