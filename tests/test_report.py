"""The report from a folder: its numbers, its text forms, what it does with files that cannot be used."""

import html
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_report
import made_results
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import harness
from harness import analysis, results
from harness.analysis import arm_times, grouping
from harness.report import model
from harness.report.command import main
from harness.report.content import content
from harness.report.page import blob
from harness.report.selection import read
from harness.results import COLUMNS, SPEED, STATUSES, arrow_schema

Report = Callable[..., tuple[int, str, str]]
TIMES = {"slow": [80, 90, 70, 80, 90, 70], "quick": [20, 10, 30, 20, 10, 30], "stuck": [None] * 6}


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str]) -> Report:
    """``report(*arguments)``: exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three arms of six seeds: quick at 20 steps on average, slow at 80, stuck never."""
    path = tmp_path / "made"
    trials, curves = made_results.arms_reaching(TIMES, device="cpu", cpu_model="Chip 9", images_per_s_median=1000.0)
    layers = [row for trial in trials for row in made_report.layers(trial["trial_id"], 100)]
    made_results.write(path, trials, curves, layers)
    return path


def read_json(report: Report, path: Path) -> dict[str, Any]:
    code, out, _ = report(path, "--format", "json")
    assert code == 0
    contents: dict[str, Any] = json.loads(out)
    return contents


def test_json_holds_the_ranking_of_every_target(report: Report, folder: Path) -> None:
    contents = read_json(report, folder)
    assert [entry["value"] for entry in contents["ranking"]] == [0.5, 0.9]
    rows = {row["name"]: row for row in contents["ranking"][1]["rows"]}
    assert list(rows) == ["init=quick", "init=slow", "init=stuck"]
    assert [row["time"]["estimate"] for row in rows.values()] == [20, 80, 100]
    assert [row["reached"] for row in rows.values()] == [6, 6, 0]
    assert rows["init=slow"]["difference"]["estimate"] == 60
    assert rows["init=slow"]["difference"]["low"] < 60 < rows["init=slow"]["difference"]["high"]
    # fully separated, 6 against 6: 2 / C(12, 6), three pairs of arms
    assert rows["init=slow"]["p"] == pytest.approx(3 * 2 / 924, rel=1e-3)
    assert rows["init=slow"]["verdict"] == "worse"
    assert rows["init=quick"]["verdict"] == "better than every other"
    assert rows["init=stuck"]["verdict"] == "never in 6 of 6 within 100 steps"


def test_the_numbers_are_those_of_the_analysis(report: Report, folder: Path) -> None:
    frames = analysis.read(folder)
    (_, entry) = read_json(report, folder)["ranking"]
    table = analysis.ranking(frames, target=0.9).table
    assert [row["time"]["low"] for row in entry["rows"][:2]] == pytest.approx(table["rmst_low"][:2].tolist(), rel=1e-3)
    assert [row["share_low"] for row in entry["rows"]] == pytest.approx(table["success_low"].tolist(), rel=1e-3)


def test_the_conclusion_says_who_wins_and_how_sure(report: Report, folder: Path) -> None:
    (_, entry) = read_json(report, folder)["ranking"]
    assert entry["conclusion"].startswith(
        "init=quick is first to test accuracy 0.9: 6 of 6 runs get there within 100 steps, after 20 steps on average"
    )
    assert "separated from 2 of the 2 other arms" in entry["conclusion"]
    assert "Never there: init=stuck." in entry["conclusion"]
    assert "First at the other targets: init=quick at 0.5." in entry["conclusion"]


@pytest.mark.parametrize(
    ("times", "words"),
    [
        ([30, 40, 50] * 2, "It is separated from the other arm (adjusted p at most 0.05)."),
        ([20, 10, 40] * 2, "It is not separated from init=b, which does not mean equal."),
    ],
    ids=["separated", "not separated"],
)
def test_of_two_arms_the_other_is_named_as_one(report: Report, tmp_path: Path, times: list[int], words: str) -> None:
    made_results.write(tmp_path / "r", *made_results.arms_reaching({"a": [10, 20, 15] * 2, "b": times}))
    (_, entry) = read_json(report, tmp_path / "r")["ranking"]
    assert words in entry["conclusion"]
    assert not any("one of 1 comparison" in note for note in entry["notes"])


def test_a_file_given_for_a_folder_is_said_to_be_one(report: Report) -> None:
    code, _, said = report(__file__)
    assert code == 2
    assert said.startswith(f"error: {__file__}: is a file; give the folder")


def test_arms_that_are_as_soon_share_the_first_place(report: Report, tmp_path: Path) -> None:
    made_results.write(tmp_path / "r", *made_results.arms_reaching({"a": [10, 20], "b": [20, 10], "c": [30, 40]}))
    (_, entry) = read_json(report, tmp_path / "r")["ranking"]
    assert [row["rank"] for row in entry["rows"]] == [1, 1, 3]
    assert "init=b is as soon." in entry["conclusion"]


def test_an_arm_that_arrives_at_the_last_step_is_sooner_than_one_that_never_does(
    report: Report, tmp_path: Path
) -> None:
    made_results.write(tmp_path / "r", *made_results.arms_reaching({"late": [100, 100], "stuck": [None, None]}))
    entry = read_json(report, tmp_path / "r")["ranking"][0]
    assert "as soon" not in entry["conclusion"]
    assert "Never there: init=stuck." in entry["conclusion"]


def test_curves_with_values_that_are_not_finite(tmp_path: Path) -> None:
    """A diverged arm has accuracies where its losses are no numbers, and another arm has none at all."""
    trials, curves = made_results.arms_reaching({"a": [10, 20], "b": [20, 10]})
    for row in curves:
        row["train_loss"] = None if row["step"] > 50 or row["trial_id"] == trials[0]["trial_id"] else 2.0
    made_results.write(tmp_path / "r", trials, curves)
    frames, _ = read(tmp_path / "r")
    first = content(frames, tmp_path / "r", []).pictures.curves[0]
    assert first.step == list(range(0, 101, 10))
    assert first.bands["train_loss"][1] == [2.0] * 6 + [None] * 5
    assert first.bands["test_accuracy"][1][-1] == 0.95
    assert first.n == [2] * 11


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_few_runs_claim_nothing(report: Report, tmp_path: Path, seeds: int) -> None:
    trials, curves = made_results.arms_reaching({name: times[:seeds] for name, times in TIMES.items()})
    made_results.write(tmp_path / "few", trials, curves)
    (_, entry) = read_json(report, tmp_path / "few")["ranking"]
    assert "no difference can be claimed" in entry["conclusion"]
    assert not {"better than every other", "worse", "better"} & {row["verdict"] for row in entry["rows"]}


def test_markdown_has_all_parts_and_escapes_names(report: Report, tmp_path: Path) -> None:
    trials, curves = made_results.arms_reaching({"a|b<script>`x`": [10], "other": [20]})
    made_results.write(tmp_path / "r", trials, curves)
    code, out, err = report(tmp_path / "r", "--format", "md")
    assert (code, err) == (0, "")
    for part in ("## Time to test accuracy 0.5", "## Throughput", "## Completeness", "## Environment"):
        assert part in out
    assert "<script>" not in out
    rows = [line for line in out.splitlines() if "a\\|b&lt;script&gt;\\`x\\`" in line and line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in rows} == {11}


def test_the_page_is_one_file_without_network(report: Report, folder: Path) -> None:
    code, out, err = report(folder)
    page = folder / "report.html"
    assert (code, out, err) == (0, f"{page}\n", "")
    text = page.read_text()
    assert "default-src 'none'" in html.unescape(text)
    markup = text[: text.index('<script type="application/json"')]
    assert [part for part in ("src=", "@import", "url(", "http:", "https:") if part in markup] == []
    assert "<script src" not in text
    assert text.count("plotly.js v") == 1


def test_a_name_cannot_end_the_script_element() -> None:
    text = blob({"name": "</script><script>alert(1)</script>&amp;"})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"name": "</script><script>alert(1)</script>&amp;"}


def test_output_names_the_file_for_every_format(report: Report, folder: Path, tmp_path: Path) -> None:
    for form in ("html", "md", "json"):
        path = tmp_path / f"out.{form}"
        assert report(folder, "--format", form, "--output", path) == (0, f"{path}\n", "")
        assert path.stat().st_size > 1000
    code, _, err = report(folder, "--output", tmp_path / "none" / "out.html")
    assert code == 2
    assert err.startswith("error: --output")
    assert err.count("\n") == 1


def test_nothing_to_report(report: Report, tmp_path: Path) -> None:
    empty, other = tmp_path / "empty", tmp_path / "other"
    results.prepare(empty)
    other.mkdir()
    unreadable = tmp_path / "unreadable"
    results.prepare(unreadable)
    (unreadable / "trials" / "a.parquet").write_bytes(b"PAR1")
    for path in (tmp_path / "missing", other, empty, unreadable):
        code, out, err = report(path)
        assert (code, out) == (2, ""), path
        assert err.startswith(f"error: {path}: ")
        assert err.count("\n") == 1


def test_without_a_folder_it_is_the_one_that_runs_write_to(
    report: Report, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = folder.parent / harness.load_config([]).results.dir
    there.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(there)
    monkeypatch.chdir(folder.parent)
    code, out, _ = report()
    assert (code, out) == (0, "outputs/results/report.html\n")


@pytest.mark.parametrize("arguments", [["--format", "pdf"], ["--colour"], ["a", "b"]], ids=str)
def test_wrong_commands_are_one_line(report: Report, arguments: list[str]) -> None:
    code, out, err = report(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")


def spoil(folder: Path, evolve: Callable[[], int]) -> None:
    """A truncated, a foreign and a too new file, and one of the next version, beside the good ones."""
    trials = folder / "trials"
    good = sorted(trials.glob("*.parquet"))
    (trials / "y-truncated.parquet").write_bytes(good[0].read_bytes()[:-40])
    pd.DataFrame({"a": [1]}).to_parquet(trials / "y-foreign.parquet")
    newer = arrow_schema("trials")
    newer = newer.with_metadata({**newer.metadata, b"initbench.schema_version": b"99"})
    pq.write_table(pa.Table.from_pylist([], schema=newer), trials / "y-newer.parquet")
    old = evolve() - 1
    row = made_results.trial(99, init="quick", later="new")
    pq.write_table(pa.Table.from_pylist([row], schema=arrow_schema("trials", old + 1)), trials / "z-next.parquet")


def test_files_that_cannot_be_used_are_named_and_the_rest_reported(
    report: Report, folder: Path, evolve: Callable[[], int]
) -> None:
    spoil(folder, evolve)
    code, out, err = report(folder, "--format", "json")
    lines = err.splitlines()
    assert code == 0
    assert all(line.startswith("warning: ") for line in lines)
    for name in ("y-truncated.parquet", "y-foreign.parquet", "y-newer.parquet", "mixed schema versions"):
        assert sum(name in line for line in lines) == 1, name
    contents = json.loads(out)
    assert [f"warning: {line}" for line in contents["completeness"]["problems"]] == lines
    assert sum(arm["planned"] for arm in contents["arms"]) == 19
    assert "y-foreign.parquet" in report(folder, "--format", "md")[1].replace("\\", "")


def test_failures_and_missing_trials_are_listed(report: Report, tmp_path: Path) -> None:
    trials, curves = made_results.arms_reaching({"good": [10, 20], "bad": [10, 20]}, sweep_id="s", sweep_size=6)
    trials[3] |= {"status": "oom", "error_type": "OutOfMemoryError", "error_message": "no room <b>"}
    made_results.write(tmp_path / "r", trials, curves)
    completeness = read_json(report, tmp_path / "r")["completeness"]
    assert completeness["notes"] == ["1 command planned 6 trials: 4 recorded, 3 ok, 2 missing."]
    assert completeness["statuses"] == {"ok": 3, "oom": 1}
    (row,) = completeness["failures"]
    assert (row["name"], row["status"], row["n"], row["seeds"]) == ("init=bad", "oom", 1, "1")
    assert row["why"] == "OutOfMemoryError: no room <b>"


def test_a_folder_of_failures_alone_is_reported(report: Report, tmp_path: Path) -> None:
    trials = [made_results.trial(0, status="error", error_type="E", error_message="m", measured_at=made_results.START)]
    made_results.write(tmp_path / "r", trials)
    contents = read_json(report, tmp_path / "r")
    assert contents["ranking"][0]["conclusion"] == "No run was finished, so nothing can be said of test accuracy 0.5."
    assert report(tmp_path / "r")[0] == 0


def test_torch_is_never_imported(folder: Path) -> None:
    code = (
        "import sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, *_):\n"
        "        assert name.split('.')[0] not in ('torch', 'triton'), name\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from harness.report.command import main; sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(folder)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_ten_thousand_trials_are_a_page_that_opens(report: Report, tmp_path: Path) -> None:
    """Under 60 s on one core and under 20 MB."""
    made_report.large(tmp_path / "large", arms=1000, seeds=10)
    start = time.process_time()
    assert report(tmp_path / "large")[0] == 0
    assert time.process_time() - start < 60
    assert (tmp_path / "large" / "report.html").stat().st_size < 20e6


def built(tmp_path: Path, layers: list[made_results.Row], **own: object) -> model.Report:
    """The report of one arm with two seeds."""
    trials, curves = made_results.arms_reaching({"a": [10, 20]}, device="cpu", **own)
    made_results.write(tmp_path / "r", trials, curves, layers)
    frames, _ = read(tmp_path / "r")
    return content(frames, tmp_path / "r", [])


def test_the_map_counts_bit_equal_apart_from_strength(tmp_path: Path) -> None:
    """Strength is the median where the tensor moved; a trial where it did not is no weak movement."""
    moved, still = (made_report.layers(f"trial0000{at}", 1, moved=at == 0) for at in (0, 1))
    for row in still:
        row["bit_equal"] = not row["parameter"].startswith("fc2") or row["parameter"] == "fc2.weight"
        row["update_norm"] = 0.0 if row["bit_equal"] else 10.0
    # conv1.weight moved in neither
    moved[0] |= {"bit_equal": True, "update_norm": 0.0}
    drawn = built(tmp_path, [*moved, *still]).pictures.heat[0]
    cells = dict(zip(drawn.parameters, zip(drawn.strength, drawn.equal, strict=True), strict=True))
    assert (drawn.n, drawn.steps) == (2, [1])
    assert cells["conv1.weight"] == ([None], [2])
    assert cells["conv2.weight"] == ([-1], [1])
    assert cells["fc2.bias"] == ([pytest.approx(0.703, abs=1e-3)], [0])


def test_signals_are_medians_before_and_after_training(tmp_path: Path) -> None:
    layers = [
        row | {"output_moment": 1.0 + seed + step, "output_moment_theory": 7.0, "gradient_gain_theory": None}
        for seed in (0, 1)
        for step in (0, 10)
        for row in made_report.layers(f"trial0000{seed}", step)
    ]
    signals = built(tmp_path, layers).pictures.signals[0]
    assert signals.first.layers == ["conv1", "conv2", "conv3", "conv4", "fc1", "fc2"]
    assert signals.first.moment == [1.5] * 6
    assert signals.last.moment == [11.5] * 6
    assert signals.last.moment_theory == [7] * 6
    assert signals.last.gain_theory == [None] * 6


def test_throughput_has_quartiles_by_device_and_kernel(tmp_path: Path) -> None:
    trials, curves = made_results.arms_reaching({"a": [10] * 5, "b": [10] * 5}, device="cpu", device_model="Chip 9")
    for at, row in enumerate(trials):
        fast = row["init"] == "b"
        row |= {"kernel": "direct" if fast else "torch", "images_per_s_median": 100.0 * (at % 5) + 1000.0 * fast}
        row |= {"matmul_share": 0.1 * (at % 5), "matmul_flops_per_s": 2e9}
    made_results.write(tmp_path / "r", trials, curves)
    frames, _ = read(tmp_path / "r")
    speed = content(frames, tmp_path / "r", []).throughput
    assert {group.label: group.images for group in speed.groups} == {
        "cpu direct": [1100, 1200, 1300],
        "cpu torch": [100, 200, 300],
    }
    assert [group.share for group in speed.groups] == [[0.1, 0.2, 0.3]] * 2
    assert [row.hardware for row in speed.table] == ["Chip 9"] * 2
    assert [row.matmul for row in speed.table] == ["2"] * 2


def test_the_first_says_from_how_many_it_is_separated(report: Report, tmp_path: Path) -> None:
    """Neither all nor none: first, and better than some of them."""
    times = TIMES | {"nearly": [20, 20, 30, 20, 10, 30]}
    made_results.write(tmp_path / "r", *made_results.arms_reaching(times))
    (_, entry) = read_json(report, tmp_path / "r")["ranking"]
    verdicts = {row["name"]: row["verdict"] for row in entry["rows"]}
    assert verdicts["init=quick"] == "first; separated from 2 of 3"
    assert verdicts["init=nearly"] == "not separated"


def test_seconds_are_ranked_within_one_device_and_kernel(report: Report, tmp_path: Path) -> None:
    """The same steps take twice the time on the other device: each has its own ranking, budget and reference."""
    trials, curves = [], []
    for device, pace in (("Chip 9", 1.0), ("Card 3", 0.5)):
        more, drawn = made_results.arms_reaching(TIMES, device_model=device, kernel="torch", train_time_s=10 * pace)
        for row in [*more, *drawn]:
            row["trial_id"] += device
        for row in drawn:
            row["train_time_s"] *= pace
        trials, curves = trials + more, curves + drawn
    made_results.write(tmp_path / "r", trials, curves)
    parts = read_json(report, tmp_path / "r")["ranking_by_time"]
    assert [part["where"] for part in parts] == ["Card 3, kernel torch", "Chip 9, kernel torch"]
    times = [[row["time"]["estimate"] for row in part["ranking"][1]["rows"]] for part in parts]
    assert times == [[1, 4, 5], [2, 8, 10]]
    for part in parts:
        rows = {row["name"]: row for row in part["ranking"][1]["rows"]}
        assert (rows["init=quick"]["n"], rows["init=stuck"]["reached"]) == (6, 0)
        assert (
            rows["init=slow"]["time"]["low"] < rows["init=slow"]["time"]["estimate"] < rows["init=slow"]["time"]["high"]
        )
    out = report(tmp_path / "r", "--format", "md")[1]
    assert out.count("mean seconds (95 %)") == 2
    assert "## Seconds to test accuracy 0.9: Card 3, kernel torch" in out


def test_unequal_speed_is_said_of_seconds_and_not_of_steps(report: Report, tmp_path: Path) -> None:
    trials, curves = made_results.arms_reaching({"a": [10] * 3, "b": [20] * 3})
    for row in trials:
        row["images_per_s_median"] = 1000.0 if row["init"] == "a" else 1500.0
    made_results.write(tmp_path / "r", trials, curves)
    contents = read_json(report, tmp_path / "r")
    caution = "Caution: the median images/s of the arms go from 1,000 (init=a) to 1,500 (init=b)."
    assert caution in contents["ranking_by_time"][0]["ranking"][0]["conclusion"]
    assert "Caution" not in contents["ranking"][0]["conclusion"]


def test_log_rank_is_that_of_the_analysis_but_claims_no_more_than_n_can(report: Report, folder: Path) -> None:
    """Six against six: the normal approximation gives less than 2 / C(12, 6); three pairs of arms by Holm."""
    (_, entry) = read_json(report, folder)["ranking"]
    p_values = {row["name"]: row["p_logrank"] for row in entry["rows"]}
    slow, quick = ([float(time) for time in TIMES[name]] for name in ("slow", "quick"))
    assert analysis.logrank(slow, quick, 100) < 2 / 924
    assert p_values == {
        "init=quick": None,
        "init=slow": pytest.approx(3 * 2 / 924, rel=1e-3),
        "init=stuck": pytest.approx(3 * 2 / 924, rel=1e-3),
    }


def test_log_rank_of_close_arms_is_not_raised(report: Report, tmp_path: Path) -> None:
    arms = {"a": [10, 20, 30, 40, 50, 60], "b": [20, 30, 40, 50, 60, 90]}
    made_results.write(tmp_path / "r", *made_results.arms_reaching(arms))
    (_, entry) = read_json(report, tmp_path / "r")["ranking"]
    expected = analysis.logrank(*(list(map(float, times)) for times in arms.values()), 100)
    assert entry["rows"][1]["p_logrank"] == pytest.approx(expected, rel=1e-3)


def test_log_rank_of_too_few_runs_is_not_given(report: Report, tmp_path: Path) -> None:
    made_results.write(tmp_path / "r", *made_results.arms_reaching({"a": [10] * 3, "b": [None] * 3}))
    (_, entry) = read_json(report, tmp_path / "r")["ranking"]
    assert [(row["p_logrank"], row["few"]) for row in entry["rows"]] == [(None, False), (None, True)]
    assert "| n too small |" in report(tmp_path / "r", "--format", "md")[1]


def test_profiles_are_shares_of_targets_and_seeds(tmp_path: Path) -> None:
    """Each of a and b is soonest with one seed, at both targets, and within twice the time with the other."""
    trials, curves = made_results.arms_reaching({"a": [10, 40], "b": [20, 20], "c": [None, None]})
    made_results.write(tmp_path / "r", trials, curves)
    frames, _ = read(tmp_path / "r")
    made = content(frames, tmp_path / "r", [])
    (steps, seconds) = (clock.profile for clock in made.clocks)
    at = {factor: place for place, factor in enumerate(steps.factors)}
    shares = {arm.name: [steps.shares[arm.id][at[factor]] for factor in (1, 2)] for arm in made.arms}
    assert shares == {"init=a": [0.5, 1], "init=b": [0.5, 1], "init=c": [0, 0]}
    assert seconds == steps


def test_where_reports_on_a_part(report: Report, folder: Path) -> None:
    code, out, err = report(folder, "--format", "json", "--where", "init=quick,stuck", "--where", "seed=0,1,2")
    contents = json.loads(out)
    assert (code, err) == (0, "")
    assert {arm["name"]: arm["planned"] for arm in contents["arms"]} == {"init=quick": 3, "init=stuck": 3}
    assert contents["facts"].endswith("; only init=quick,stuck; only seed=0,1,2")
    assert contents["completeness"]["statuses"] == {"ok": 6}
    assert contents["completeness"]["notes"][0].startswith("In the whole folder: 18 trials")


ODD_ARMS = ("normal[bias=normal,options.std=0.1]", "normal[bias=normal,options.std=0.2]", "normal", "zero")


@pytest.mark.parametrize(
    ("where", "count"),
    [
        (f"init={ODD_ARMS[0]}", 1),
        (f"init={ODD_ARMS[0]},{ODD_ARMS[1]}", 2),
        (f"init=zero,{ODD_ARMS[1]},normal", 3),
        ("lr=1e-4", 2),
        ("lr=1E-3,.0001", 4),
        ("seed=0.0", 4),
        ("deterministic=true", 4),
        ("depth=none", 4),
    ],
)
def test_where_takes_every_value_of_ours_however_a_number_is_written(
    report: Report, tmp_path: Path, where: str, count: int
) -> None:
    trials = [
        made_results.trial(place, init=init, seed=0, lr=lr, deterministic=True)
        for place, (init, lr) in enumerate(zip(ODD_ARMS, (1e-4, 1e-3, 1e-4, 1e-3), strict=True))
    ]
    made_results.write(tmp_path / "odd", trials)
    code, out, err = report(tmp_path / "odd", "--format", "json", "--where", where)
    assert (code, err) == (0, "")
    assert sum(json.loads(out)["completeness"]["statuses"].values()) == count


@pytest.mark.parametrize(
    ("where", "said"),
    [
        (["colour=red"], "no such choice"),
        (["init"], "no trial has init="),
        (["init=quik"], "no trial has init=quik; there is: quick, slow, stuck"),
        (["init=quick", "init=slow"], "no trial has all of these"),
        (["init=quick,"], "no trial has init=; there is: "),
        (["seed=0,1e-4"], "no trial has seed=1e-4; there is: "),
        (["seed=nan"], "no trial has seed=nan; there is: "),
        (["seed=sNaN"], "no trial has seed=sNaN; there is: "),
    ],
    ids=str,
)
def test_a_wrong_where_is_one_line(report: Report, folder: Path, where: list[str], said: str) -> None:
    code, out, err = report(folder, *(part for text in where for part in ("--where", text)))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: --where ")
    assert said in err


def test_what_so_many_arms_leave_out_is_said(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best and the last ones have curves; the page says so, and how to see others; text says it of its rows."""
    for module in ("arms", "words"):
        monkeypatch.setattr(f"harness.report.{module}.DETAILED_BEST", 3)
        monkeypatch.setattr(f"harness.report.{module}.DETAILED_LAST", 2)
    monkeypatch.setattr("harness.report.text._MOST_ROWS", 6)
    made_report.large(tmp_path / "r", arms=7, seeds=2)
    contents = read_json(report, tmp_path / "r")
    (line,) = contents["left_out"]
    assert line.startswith("Of 7 arms 5 have curves")
    assert "the best 3 and the last 2" in line
    assert "--where init=VALUE,VALUE" in line
    compared = [row["difference"] is not None for row in contents["ranking"][0]["rows"]]
    assert compared == [False, True, True, False, False, True, True]
    markdown = report(tmp_path / "r", "--format", "md")[1]
    assert "7 arms: the best 1 and the last 5 with finished runs are shown, 1 are not." in markdown
    assert report(tmp_path / "r")[0] == 0
    text = (tmp_path / "r" / "report.html").read_text()
    assert html.escape(line) in text
    data = json.loads(text.split('id="data">')[1].split("</script>")[0])
    steps = data["clocks"][0]
    detailed = [data["curves"], data["heat"], data["signals"], steps["profile"]["shares"], steps["survival"][0]]
    assert [sorted(part) for part in detailed] == [["0", "1", "2", "5", "6"]] * 5


def test_nothing_is_left_out_of_few_arms(report: Report, folder: Path) -> None:
    assert read_json(report, folder)["left_out"] == []


def test_arms_that_could_not_be_told_apart_are_named_apart_from_those_that_were_not(
    report: Report, tmp_path: Path
) -> None:
    """Ten runs each could have separated a from b; c is one run in effect, whatever its seeds."""
    times = [10, 20, 30, 40, 50] * 2
    trials, curves = made_results.arms_reaching({"a": times, "b": times[::-1], "c": [30] * 10})
    for row in trials:
        if row["init"] == "c":
            row |= {"initial_weights_sha256": "one", "final_weights_sha256": "two"}
    made_results.write(tmp_path / "r", trials, curves)
    (_, entry) = read_json(report, tmp_path / "r")["ranking"]
    said = (
        "It is separated from none of the 2 other arms (adjusted p at most 0.05); it is not separated from init=b, "
        "which does not mean equal; too few runs differ to tell it from init=c."
    )
    assert said in entry["conclusion"]
    assert {row["name"]: row["verdict"] for row in entry["rows"]}["init=c"] == "one run in effect"


def test_a_machine_without_a_name_is_listed_and_what_git_does_not_tell_is_not_known(tmp_path: Path) -> None:
    """Trials that never got as far as their environment are not listed."""
    rows = [
        made_results.trial(0, python_version="3.11.7"),
        made_results.trial(1, python_version="3.11.7", git_commit="a" * 40, git_dirty=True),
        made_results.trial(2, python_version="3.11.7", git_commit="b" * 40),
        made_results.trial(3),
    ]
    made_results.write(tmp_path / "r", rows)
    frames, _ = read(tmp_path / "r")
    listed = {(row.cpu, row.commit) for row in content(frames, tmp_path / "r", []).environments}
    commits = ("not known", f"{'a' * 10}, with changes", f"{'b' * 10}, changes not known")
    assert listed == {("none", commit) for commit in commits}


def other(column: str) -> object:
    """A value that no made trial has in this column."""
    (kind,) = [own.type for own in COLUMNS["trials"] if own.name == column]
    return {pa.string(): "other", pa.int64(): 77, pa.bool_(): False}[kind]


@pytest.mark.parametrize("column", SPEED)
def test_trials_under_other_conditions_of_speed_are_never_timed_together(tmp_path: Path, column: str) -> None:
    """Not by one clock, nor in one row of throughput, whichever condition it is in which they differ."""
    trials, curves = made_results.arms_reaching({"a": [10, 20], "b": [30, 40]}, images_per_s_median=1000.0)
    for row in trials:
        row.update({name: row[name] or "Chip 9" for name in ("device_model", "cpu_model")})
        row.update({column: other(column)} if row["init"] == "b" else {})
    made_results.write(tmp_path / "r", trials, curves)
    frames, _ = read(tmp_path / "r")
    made = content(frames, tmp_path / "r", [])
    names = {arm.id: arm.name.split()[0] for arm in made.arms}
    timed = [[(names[row.arm], row.n) for row in clock.ranking[0].rows] for clock in made.clocks[1:]]
    assert sorted(timed) == [[("init=a", 2)], [("init=b", 2)]]
    assert sorted(([names[arm] for arm in row.arms], row.n) for row in made.throughput.table) == [
        (["init=a"], 2),
        (["init=b"], 2),
    ]


@pytest.mark.parametrize("status", [name for name in STATUSES if name != "ok"])
def test_every_status_is_counted_listed_and_drawn(report: Report, tmp_path: Path, status: str) -> None:
    """A status needs its line in STATUSES and the place that sets it, and nothing in the report."""
    trials, curves = made_results.arms_reaching({"a": [10, 20], "b": [30, 40]})
    trials[3] |= {"status": status, "error_type": "E", "error_message": "m"}
    made_results.write(tmp_path / "r", trials, curves)
    contents = read_json(report, tmp_path / "r")
    assert contents["completeness"]["statuses"] == {"ok": 3, status: 1}
    assert [(row["status"], row["n"]) for row in contents["completeness"]["failures"]] == [(status, 1)]
    (_, entry) = contents["ranking"]
    counted = STATUSES[status].counted
    assert {row["name"]: row["n"] for row in entry["rows"]} == {"init=a": 2, "init=b": 2 if counted else 1}
    notes = [note for note in entry["notes"] if " that ended as " in note]
    assert all(status in note for note in notes)
    assert len(notes) == (0 if counted else 1)


def test_arms_are_timed_once_for_each_target_and_clock(
    report: Report, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two targets, in steps and in seconds; labels of arms are made once for the whole report."""
    calls: dict[str, int] = dict.fromkeys(("first_times", "_joined", "arm_names"), 0)
    for module, name in ((arm_times, "first_times"), (grouping, "_joined"), (grouping, "arm_names")):
        real = getattr(module, name)

        def counting(*given: object, _real: Any = real, _name: str = name) -> object:
            calls[_name] += 1
            return _real(*given)

        monkeypatch.setattr(module, name, counting)
    read_json(report, folder)
    assert calls == {"first_times": 4, "_joined": 0, "arm_names": 1}


def test_one_arm_under_two_names_is_one_arm_of_the_report(report: Report, tmp_path: Path) -> None:
    """Its trials have one ``arm_key``; the name is that of the first."""
    trials, curves = made_results.arms_reaching({"a": [10, 20], "b": [30, 40]})
    for row in trials[2:]:
        row |= {"arm_key": trials[0]["arm_key"], "seed": row["seed"] + 2}
    made_results.write(tmp_path / "r", trials, curves)
    assert [(arm["name"], arm["planned"]) for arm in read_json(report, tmp_path / "r")["arms"]] == [("init=a", 4)]
