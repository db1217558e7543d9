"""Results in object stores and behind addresses, against an S3 server on loopback."""

import json
import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import made_trials
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import run_command
from made_report import layers
from made_results import Row, curve, reaching, trial
from moto.server import ThreadedMotoServer
from omegaconf import DictConfig
from pyarrow import fs

import harness
from harness import resolution, results, rows
from harness.audience import Audience
from harness.compare import command as compare
from harness.config import SweepPlace
from harness.errors import UsageError
from harness.report import command as report
from harness.results import RemotePlace, parts, place_of, places, reading, stores, unpublished
from harness.sweep.composer import Composer
from harness.sweep.conduct import SweepConductor
from harness.sweep.local import Company, LocalSweep
from harness.sweep.plan import Plan, composed, plan_from
from harness.sweep.stacks import StackPlanner
from harness.sweep.worker import TrialTask
from harness.sweep.workers import Death, Ended

BUCKET = "bench"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server with one bucket, in the variables that every program for S3 follows."""
    own = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    own.start()
    host, port = own.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION"):
            patch.delenv(name, raising=False)
        patch.setenv("AWS_ACCESS_KEY_ID", "made")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "up")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        store = fs.S3FileSystem(endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True)
        store.create_dir(BUCKET)
        places._connected.cache_clear()
        yield f"{host}:{port}"
    places._connected.cache_clear()
    own.stop()


@pytest.fixture
def remote(server: str, request: pytest.FixtureRequest) -> RemotePlace:
    """A folder of the test's own, with nothing in it."""
    assert server
    place = place_of(f"s3://{BUCKET}/{re.sub('[^a-z0-9]+', '-', request.node.name.lower())}")
    assert isinstance(place, RemotePlace)
    return place


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> results.Place:
    """A prepared results folder, on this machine and in a store."""
    own: results.Place = tmp_path / "results" if request.param == "folder" else request.getfixturevalue("remote")
    assert results.prepare(own) == ([], [])
    return own


def finish(place: results.Place, row: Row, owner: str = "sweep") -> Row:
    """A trial that ends well, and is not published yet."""
    trial_id = row["trial_id"]
    running = results.Running(place, row, owner=owner)
    running.finish(row, curve(trial_id, reaching(10)), layers(trial_id, 0))
    return row


def ids(place: results.Place) -> list[str]:
    """The trials that ``load`` sees, without a warning; each has its details."""
    loaded = results.load_quietly(place)
    assert loaded.lines == []
    frames = loaded.frames
    assert frames.curves.groupby("trial_id").size().eq(11).all()
    assert frames.layers.groupby("trial_id").size().eq(12).all()
    assert set(frames.curves["trial_id"]) == set(frames.layers["trial_id"]) == set(frames.trials["trial_id"])
    return sorted(frames.trials["trial_id"])


def names(place: RemotePlace) -> list[str]:
    return [own.path.removeprefix(f"{place.path}/") for own in place.objects()]


# from end to end


def test_a_sweep_into_a_store_is_read_by_every_command(
    remote: RemotePlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ["device=cpu", "device.threads=1", "train.steps=2", "train.eval_every=2", "train.warmup_steps=1"]
    done = run_command("-m", "init=zero,glorot", *quick, f"results.dir={remote}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"results: {remote}\n" in done.stdout
    assert list(tmp_path.iterdir()) == [], "nothing is made here"
    frames = harness.load(str(remote))
    assert (sorted(frames.trials["init"]), len(frames.curves), len(frames.layers)) == (["glorot", "zero"], 4, 48)
    assert not [name for name in names(remote) if name.startswith(".spool")]
    assert results.check(remote) == (2, [], [])
    command = [sys.executable, "-m", "harness.report", str(remote)]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert printed.stdout == "report.html\n"
    assert remote.name in (tmp_path / "report.html").read_text()
    other = made_trials.folder(tmp_path / "other", [made_trials.trial(seed) for seed in range(2)])
    assert compare.main([str(remote), str(other)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {remote} and {other} ")


def test_a_comparison_and_a_baseline_of_stores(remote: RemotePlace, tmp_path: Path) -> None:
    base, candidate = remote / "base", remote / "candidate"
    for folder in (base, candidate):
        made_trials.folder(folder, [made_trials.trial(seed) for seed in range(4)])
    both = [f"s3://{folder.path}" for folder in (base, candidate)]
    assert compare.main([*both, "--json", str(tmp_path / "out.json")]) == 3
    assert json.loads((tmp_path / "out.json").read_text())["errors"] == []
    baselines = ["--baselines", str(tmp_path / "kept")]
    assert compare.main(["promote", both[0], *baselines]) == 0
    assert compare.main(["main", both[1], *baselines]) == 3
    assert len(harness.load(tmp_path / "kept" / "main").trials) == 4


def test_copies_into_and_out_of_a_store_hold_the_same(
    remote: RemotePlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also the trials that are not published yet."""
    results.prepare(remote)
    with results.Publisher(remote, "first"):
        for index in range(3):
            finish(remote, trial(index), "first")
    finish(remote, trial(3), "second")
    before = harness.load(remote)
    copies = [f"s3://{BUCKET}/copies/one", str(tmp_path / "two"), f"s3://{BUCKET}/copies/three"]
    for source, target in zip([str(remote), *copies], copies, strict=False):
        assert results.main(["compact", source, target]) == 0
        for frame, own in zip(harness.load(target), before, strict=True):
            pd.testing.assert_frame_equal(frame, own)
        assert results.main(["validate", target]) == 0
    first = place_of(copies[0])
    assert isinstance(first, RemotePlace)
    assert names(first) == [f"{table}/part-00000.parquet" for table in sorted(results.TABLES)]
    assert capsys.readouterr().out.startswith(f"trials: 2 files, 4 rows -> {copies[0]}/trials (1 file)\n")
    for target, problem in {copies[0]: "exists already", f"{remote}/in": "lies within"}.items():
        assert results.main(["compact", str(remote), target]) == 2
        assert f"error: {target}: {problem}" in capsys.readouterr().err


def test_a_copy_whose_last_object_fails_leaves_nothing(
    remote: RemotePlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_trials.folder(tmp_path / "source", [made_trials.trial(0)])
    put = RemotePlace.put

    def failing(own: RemotePlace, content: bytes) -> None:
        if own.parent.name == "trials":
            assert names(remote) == ["curves/part-00000.parquet", "layers/part-00000.parquet"], "trials come last"
            raise UsageError("full")
        put(own, content)

    monkeypatch.setattr(RemotePlace, "put", failing)
    with pytest.raises(UsageError, match="full"):
        results.compact(tmp_path / "source", remote)
    assert names(remote) == []


# trials that are not published yet


def test_finished_trials_are_read_once_before_and_after_they_are_published(place: results.Place) -> None:
    rows = [finish(place, trial(index)) for index in range(3)]
    expected = [row["trial_id"] for row in rows]
    assert ids(place) == expected
    assert results.check(place).problems == []
    (note,) = results.check(place).notes
    assert note.startswith(".spool: 3 finished trials of sweep, which other programs do not see yet; ")
    with results.Publisher(place, "sweep") as publisher:
        publisher.publish()
        finish(place, trial(3))
        assert ids(place) == [*expected, "trial00003"]
    assert ids(place) == [*expected, "trial00003"]
    assert results.check(place) == (4, [], [])


def test_trials_that_are_published_and_still_spooled_count_once(
    place: results.Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a moment in every publication."""
    for index in range(3):
        finish(place, trial(index))
    for owner in (parts.Spooled, stores.StoredSpool):
        monkeypatch.setattr(owner, "_remove", lambda *_: None)
    with results.Publisher(place, "sweep"):
        pass
    assert len(results.files(place, "trials")) == 1
    assert unpublished.unpublished(place).trials == 3
    assert ids(place) == ["trial00000", "trial00001", "trial00002"]
    columns = {table: ["trial_id"] for table in results.TABLES}
    frames = reading.load(place, columns=columns, categories=True)
    assert [len(frame) for frame in frames] == [3, 33, 36]
    assert results.problems_in(place) == []


@pytest.mark.parametrize("moment", ["spool listed", "spool read", "trials listed"])
def test_a_publication_between_any_two_steps_of_reading_loses_and_doubles_nothing(
    place: results.Place, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = {
        "spool listed": (unpublished, "_content"),
        "spool read": (reading, "files"),
        "trials listed": (reading, "_read_listed"),
    }[moment]
    step, done = getattr(module, name), threading.Lock()

    def late(*arguments: object) -> object:
        found = step(*arguments) if moment == "trials listed" else None
        if done.acquire(blocking=False):
            with results.Publisher(place, "sweep"):
                pass
            finish(place, trial(9))
        return step(*arguments) if found is None else found

    for index in range(3):
        finish(place, trial(index))
    monkeypatch.setattr(module, name, late)
    seen = ids(place)
    assert done.locked()
    assert seen == ["trial00000", "trial00001", "trial00002"]
    assert ids(place) == [*seen, "trial00009"]


@pytest.mark.parametrize("noted", [True, False])
def test_a_trial_that_had_to_be_killed_has_its_row(place: results.Place, noted: bool) -> None:  # noqa: FBT001
    """In a folder if its note says that it had begun; in a store, where there are no notes, always."""
    config = harness.load_config(["device=cpu", f"results.dir={place}"])
    task = TrialTask("t", config, SweepPlace("s", 2, 1, 1), "[1/2]", "sweep")
    if noted:
        results.Running(place, rows.planned(resolution.presumed(config), "t", task.place), owner="sweep")
    if isinstance(place, Path):
        (place / ".partial/spool-t-0123abcd.arrow").write_text("half of its row")
    stacks = StackPlanner(config)
    sweep = LocalSweep("s", "sweep", 2, str(place), None, Company(1, None), stacks, Audience())  # type: ignore[arg-type]
    with results.Publisher(place, "sweep"):
        row = sweep._row_of_the_dead(Ended(task, death=Death("killed", "InterruptedError", "had to be killed")), task)
    assert (row is not None) is (noted or isinstance(place, RemotePlace))
    if isinstance(place, Path) and row:
        assert list((place / ".partial").iterdir()) == []
    seen = harness.load(place).trials
    assert list(zip(seen["trial_id"], seen["status"], strict=True)) == ([("t", "killed")] if row else [])


def test_readers_during_a_sweep_see_every_finished_trial_once(place: results.Place) -> None:
    finished: list[str] = []
    expected = [f"trial{index:05d}" for index in range(24)]

    def sweep() -> None:
        with results.Publisher(place, "sweep") as publisher:
            for index in range(24):
                finished.append(finish(place, trial(index))["trial_id"])
                if index % 4 == 3:
                    publisher.publish()

    writer = threading.Thread(target=sweep)
    writer.start()
    reads = 0
    while writer.is_alive():
        before = list(finished)
        seen = ids(place) if before else []
        assert set(before) <= set(seen)
        assert len(set(seen)) == len(seen)
        assert results.problems_in(place) == [] if before else True
        reads += 1
    writer.join()
    assert reads > 1
    assert ids(place) == expected


FOREIGN: dict[str, tuple[str, bytes | None, str]] = {
    "torn": (".spool/other/torn.arrow", None, "rows of 'layers' are missing"),
    "no Arrow": (".spool/other/text.arrow", b"hello", "it cannot be read as Arrow streams (another kind of file)"),
    "empty": (".spool/other/empty.arrow", b"", "it cannot be read as Arrow streams (another kind of file)"),
    "another name": (".spool/other/renamed.arrow", b"whole", "its trial_id is not its file's name"),
    "again": (".spool/other/trial00000.arrow", b"whole", "holds the trial of "),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_trial_in_the_spool_is_named_once_and_passed_over(place: results.Place, kind: str) -> None:
    name, content, problem = FOREIGN[kind]
    finish(place, trial(0), "another")
    entry = place / ".spool" / "another" / "trial00000.arrow"
    whole = entry.read_bytes()
    if content in (None, b"whole"):
        content = whole if content else whole[: whole.rindex(b"initbench.rows") - 200]
    target = place / ".spool" / "other" / name.rsplit("/", 1)[-1]
    if isinstance(target, RemotePlace):
        target.put(content)
    else:
        target.parent.mkdir()
        target.write_bytes(content)
    loaded = results.load_quietly(place)
    (line,) = loaded.lines
    assert line.startswith(f"{target}: ")
    assert kind == "torn" or problem in line
    assert (len(loaded.frames.trials), results.problems_in(place)) == (1, [line])
    with pytest.raises(results.UnsoundError) as error:
        results.compact(place, f"{place}-copy" if isinstance(place, Path) else place.parent / "never")
    assert error.value.problems == [line]


# writing into a store


ORDER = ["put sweep.json", "put layers.parquet", "put curves.parquet", "put trials.parquet"]
ORDER += ["remove sweep.arrow", "remove sweep.arrow", "remove sweep.json"]


def failing_after(steps: list[str], most: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Take down what is done to a store, and let what comes after so many steps fail."""

    def counted(real: Callable[..., None]) -> Callable[..., None]:
        def step(own: RemotePlace, *content: object) -> None:
            if len(steps) == most:
                raise UsageError("no network")
            steps.append(f"{real.__name__} {own.parent.name}{own.suffix}")
            real(own, *content)

        return step

    return counted


@pytest.mark.parametrize("most", range(len(ORDER)))
def test_whatever_a_failure_left_of_a_publication_the_next_try_completes_it(remote: RemotePlace, most: int) -> None:
    """The manifest comes first and trials last; no trial is lost or doubled, not even meanwhile."""
    expected = [finish(remote, trial(index))["trial_id"] for index in (0, 1)]
    publisher, steps = stores.StoredSpool(remote, "sweep", []), []
    with pytest.MonkeyPatch.context() as patch:
        counted = failing_after(steps, most)
        patch.setattr(RemotePlace, "put", counted(RemotePlace.put))
        patch.setattr(RemotePlace, "remove", counted(RemotePlace.remove))
        with pytest.raises(UsageError, match="no network"):
            publisher.publish()
    assert steps == ORDER[:most]
    assert ids(remote) == expected
    publisher.publish()
    assert unpublished.unpublished(remote).trials == 0
    assert ids(remote) == expected
    assert results.problems_in(remote) == []
    assert [len(results.files(remote, table)) for table in results.TABLES] == [1, 1, 1]
    assert [name for name in names(remote) if name.startswith(".spool")] == []


def test_a_trial_is_recorded_although_the_network_fails_for_a_moment(
    remote: RemotePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, failures = RemotePlace.put, 3

    def failing(own: RemotePlace, content: bytes) -> None:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise UsageError("no network")
        put(own, content)

    slept: list[float] = []
    monkeypatch.setattr(RemotePlace, "put", failing)
    monkeypatch.setattr(time, "sleep", slept.append)
    finish(remote, trial(0))
    assert len(slept) == 3
    assert ids(remote) == ["trial00000"]


def test_a_dead_trial_gets_its_row_in_a_store_and_one_that_ended_keeps_its_own(remote: RemotePlace) -> None:
    results.prepare(remote)
    end = {"status": "crashed", "error_type": "SIGSEGV", "error_message": "it died"}
    with results.Publisher(remote, "sweep") as publisher:
        row = results.record_death(remote, "trial00000", "sweep", **end, row=trial(0))
        assert (row["status"], row["error_type"]) == ("crashed", "SIGSEGV")
        finish(remote, trial(1))
        assert results.record_death(remote, "trial00001", "sweep", **end, row=trial(1))["status"] == "ok", "spooled"
        publisher.publish()
        assert results.record_death(remote, "trial00001", "sweep", **end, row=trial(1))["status"] == "ok", "published"
        with pytest.raises(LookupError):
            results.record_death(remote, "trial00002", "sweep", **end)
    trials = harness.load(remote).trials
    assert trials.set_index("trial_id")["status"].to_dict() == {"trial00000": "crashed", "trial00001": "ok"}


def test_what_a_killed_run_left_in_a_store_is_named_and_stays(remote: RemotePlace) -> None:
    """Nothing tells whether it lives."""
    finish(remote, trial(0), "killed")
    assert results.prepare(remote) == ([], [])
    assert names(remote) == [".spool/killed/trial00000.arrow"]
    (note,) = results.check(remote).notes
    assert f"`python -m harness.results compact {remote} DST` copies them into parts" in note


def test_foreign_readers_read_the_parts_in_a_store(remote: RemotePlace, server: str) -> None:
    results.prepare(remote)
    with results.Publisher(remote, "sweep"):
        for index in range(3):
            finish(remote, trial(index))
    store = fs.S3FileSystem(endpoint_override=server, scheme="http")
    for table, length in {"trials": 3, "curves": 33, "layers": 36}.items():
        content = pq.read_table(f"{remote.path}/{table}", filesystem=store)
        assert len(content) == length
        assert content.schema.equals(results.arrow_schema(table))
    assert sorted(remote.folders()) == [".spool", "curves", "layers", "trials"]
    assert (remote / ".spool").folders() == [], "not even the mark of the owner's folder"


# addresses


USES: dict[str, Callable[[str], int]] = {
    "validate": lambda address: results.main(["validate", address]),
    "compact from": lambda address: results.main(["compact", address, "copy"]),
    "compact to": lambda address: results.main(["compact", "source", address]),
    "report": lambda address: report.main([address]),
    "compare": lambda address: compare.main([address, address]),
    "promote": lambda address: compare.main(["promote", address]),
    "calibrate": lambda address: compare.main(["--calibrate", address, address]),
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that one stands in, with one results folder in it."""
    made_trials.folder(tmp_path / "source", [made_trials.trial(0)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def assert_refused(here: Path, error: str, expected: str) -> None:
    assert error.startswith(f"error: {expected}")
    assert error.count("\n") == 1
    assert [path.name for path in here.iterdir()] == ["source"], "nothing is made"


@pytest.mark.parametrize("use", USES)
def test_every_command_refuses_an_unknown_scheme(use: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert USES[use]("s4://bucket/x") == 2
    expected = "s4://bucket/x: the scheme s4:// is unknown; give a folder, file:///FOLDER, s3://BUCKET/FOLDER or gs://"
    assert_refused(here, capsys.readouterr().err, expected)


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("HTTPS://host/x", "the scheme https:// is unknown"),
        ("s3:/bucket/x", "an address needs two slashes"),
        ("s3://", "is no address of a folder; give s3://BUCKET/FOLDER"),
        ("s3://bucket/../x", "is no address of a folder"),
        ("s3://bucket/x?color=red", "the option color=red is unknown or empty; options are: anonymous, endpoint_"),
        ("file://x/y", "has no absolute path; give file:///FOLDER"),
    ],
    ids=str,
)
def test_an_address_that_is_none_is_refused(
    address: str, problem: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results.main(["compact", "source", address]) == 2
    assert_refused(here, capsys.readouterr().err, f"{address}: {problem}")


@pytest.mark.parametrize("address", ["s4://bucket/x", "s3:/bucket/x"])
def test_a_run_into_an_address_that_is_none_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = harness.load_config(["device=cpu", f"results.dir={address}"])
    with pytest.raises(UsageError, match=re.escape(f"results.dir={address}: ")):
        harness.run_trial(config)
    with pytest.raises(UsageError, match=re.escape(f"results.dir={address}: ")):
        SweepConductor(*planned_sweep(address), Audience()).run(lambda *_: nullcontext(), lambda _: None)
    assert list(tmp_path.iterdir()) == []


def planned_sweep(address: str) -> tuple[Plan, Composer, DictConfig]:
    overrides = ["seed=0,1", "device=cpu", f"results.dir={address}"]
    plan, composer = plan_from(overrides)
    return plan, composer, composed(composer.loader, overrides)


def test_credentials_in_an_address_are_refused_and_never_shown() -> None:
    """The address stands in every row."""
    with pytest.raises(UsageError, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as error:
        place_of("s3://AKIA:hidden@bucket/x", "results.dir=")
    assert str(error.value).startswith("results.dir=s3://...: the address holds credentials")
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("a/b", "a/b"),
        ("C:/results", "C:/results"),
        ("run:/1", "run:/1"),
        ("file:///a/b%20c?d", "/a/b c?d"),
        ("FILE://localhost/a", "/a"),
    ],
)
def test_local_places(given: str, path: str) -> None:
    assert place_of(given) == Path(path)
    assert place_of(Path("x")) == Path("x")


def test_an_address_comes_back_as_it_was_given(server: str) -> None:
    """With its options, so that a command that is shown can be typed; a file's has none."""
    address = f"s3://{BUCKET}/a/b?scheme=http&endpoint_override={server}"
    place = place_of(address)
    assert (str(place), str(place / "trials"), place.name) == (address, f"s3://{BUCKET}/a/b/trials", "b")
    assert place_of(place) is place
    assert not place.exists()


def test_a_file_address_is_a_folder(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/one%20two"
    made_trials.folder(place_of(address), [made_trials.trial(0)])
    assert len(harness.load(address).trials) == len(harness.load(tmp_path / "one two").trials) == 1
    assert results.main(["validate", address]) == 0
    assert report.main([address, "--format", "md"]) == 0


# stores that fail


def one_line_error(use: Callable[[], object], problem: str, *, within_s: float) -> str:
    start = time.monotonic()
    with pytest.raises(UsageError, match=problem) as error:
        use()
    assert time.monotonic() - start < within_s
    assert str(error.value).isprintable()
    return str(error.value)


def test_a_bucket_that_is_not_there(server: str, tmp_path: Path) -> None:
    assert server
    made_trials.folder(tmp_path / "x", [made_trials.trial(0)])
    for use in (harness.load, results.prepare, lambda own: results.compact(tmp_path / "x", own)):
        one_line_error(
            lambda use=use: use("s3://nowhere/x"), "s3://nowhere/x: there is no such bucket; make it", within_s=5
        )
    said = one_line_error(lambda: results.prepare("s3://nowhere/x"), "nowhere", within_s=5)
    assert said.startswith("results.dir=s3://nowhere/x: ")
    one_line_error(lambda: harness.load(f"s3://{BUCKET}/nothing"), "no results there", within_s=5)


def test_a_store_that_does_not_answer(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server
    address = "{}://bucket/x?scheme=http&endpoint_override=127.0.0.1:1&anonymous=true"
    monkeypatch.setattr(places, "_RETRY_S", 0.5)
    for scheme, uses, within_s in (("s3", (harness.load, results.prepare), 15), ("gs", (harness.load,), 15)):
        for use in uses:
            one_line_error(
                lambda use=use, scheme=scheme: use(address.format(scheme)), "cannot be reached", within_s=within_s
            )


def test_wrong_credentials(remote: RemotePlace, server: str) -> None:
    finish(remote, trial(0))
    for count in (b"0", b"inf"):
        url, headers = f"http://{server}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, count, headers)).close()
        if count == b"0":
            for use in (harness.load, results.prepare):
                one_line_error(lambda use=use: use(remote), "credentials are missing or wrong; set AWS_ACC", within_s=5)
    assert ids(remote) == ["trial00000"]


def test_a_store_that_fails_while_files_are_read_is_no_unreadable_file(
    remote: RemotePlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else part of the results would be taken for all of them."""
    made_trials.folder(remote, [made_trials.trial(0)])
    said = "When reading object: AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 28, Timeout"

    def cut(*_arguments: object, **_options: object) -> None:
        raise OSError(said)

    monkeypatch.setattr(pq, "ParquetFile", cut)
    one_line_error(lambda: harness.load(remote), "cannot be reached", within_s=5)


def test_a_truncated_object_is_named_and_the_rest_is_read(remote: RemotePlace) -> None:
    made_trials.folder(remote, [made_trials.trial(0), made_trials.trial(1)])
    broken = results.files(remote, "trials")[0].parent / "broken.parquet"
    broken.put(b"PAR1 and then nothing")
    with pytest.warns(UserWarning, match=f"{broken}: cannot be read as Parquet"):
        assert len(harness.load(remote).trials) == 2
