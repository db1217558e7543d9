"""Numeric axes: curves, good ranges and maps of known results, and families judged at their own best."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_results
import numpy as np
import own_best_simulation as simulation
import pandas as pd
import pytest
from selenium import webdriver
from test_report_page import chrome, shots  # noqa: F401 - the fixture of the browser

import harness
from harness.analysis import axes, label_arms, own_best, sensitivity, settings, theory
from harness.analysis.own_best import Family
from harness.report import axes_words
from harness.report.command import main

RATES = (0.001, 0.01, 0.1, 1.0)
LR = {"he": (0.2, 0.5, 0.81, 0.8), "glorot": (0.3, 0.79, 0.6, 0.2)}
"""Init -> the final accuracy at each rate."""


def rows(seeds: int = 3) -> list[made_results.Row]:
    """Trials with these accuracies, a little apart by seed; glorot diverges at the highest rate with seed 0."""
    made = []
    for init, accuracies in LR.items():
        for lr, accuracy in zip(RATES, accuracies, strict=True):
            for seed in range(seeds):
                own = {"test_accuracy_last": accuracy + 0.001 * seed, "test_loss_last": 1 - accuracy}
                own |= {"init": init, "lr": lr, "seed": seed, "device": "cpu", "cpu_model": "Chip 9"}
                made.append(made_results.trial(len(made), **own))
    at_last_rate = [row for row in made if row["init"] == "glorot" and row["lr"] == RATES[-1]]
    at_last_rate[0] |= {"status": "diverged", "test_loss_last": None, "test_accuracy_last": 0.9}
    return made


def curves(made: list[made_results.Row]) -> list[made_results.Row]:
    return [point for row in made for point in made_results.curve(row["trial_id"], [0.1, 0.6], every=100)]


def report(folder: Path, capsys: pytest.CaptureFixture[str], form: str = "json") -> str:
    capsys.readouterr()
    assert main([str(folder), "--format", form]) == 0
    return capsys.readouterr().out


def summary(made: list[made_results.Row]) -> pd.DataFrame:
    """Runs by init and lr, as the analysis has them."""
    frames = made_results.frames(made, curves(made))
    known = settings.settings_of(frames.trials)
    (axis,) = axes.find_axes(known)
    table = sensitivity.sensitivity(sensitivity.runs_of(frames, 0.5), known.table.index, axis)
    return table.assign(family=[axis.families[number] for number in table["family"]])


def test_report_says_best_value_good_range_and_edge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """He's good range is open above and its best inside; glorot's best is inside with nothing good around it."""
    made = rows()
    made_results.write(tmp_path / "made", made, curves(made))
    (axis,) = json.loads(report(tmp_path / "made", capsys))["axes"]["axes"]
    assert (axis["name"], axis["spacing"], [one["name"] for one in axis["families"]]) == (
        "lr",
        "log",
        ["init=he", "init=glorot"],
    )
    he, glorot = axis["rows"]["test_accuracy_last"]
    assert (he["best"], he["median"], he["good"]) == ("0.1", 0.811, "0.1 to 1 (at least a factor of 10)")
    assert (glorot["best"], glorot["good"], glorot["runs"], glorot["diverged"]) == ("0.01", "0.01 alone", 12, 1)
    assert "no difference among 2 families" in axis["notes"][0]
    assert [row["rank"] for row in axis["own_best"]] == [None, None]
    text = report(tmp_path / "made", capsys, "md")
    assert "## Sensitivity to lr" in text
    assert "| init=he | 0.1 | 0.811 | 0.1 to 1 (at least a factor of 10) | 4 | 12 | 0 |" in text


def test_families_are_ranked_once_there_are_enough_seeds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = rows(seeds=9)
    made_results.write(tmp_path / "made", made, curves(made))
    (axis,) = json.loads(report(tmp_path / "made", capsys))["axes"]["axes"]
    assert [(row["rank"], row["name"]) for row in axis["own_best"]] == [(1, "init=he"), (2, "init=glorot")]


@pytest.mark.parametrize(
    ("medians", "said"),
    [
        ([0.9, 0.5, 0.2], "lr=0.01, the smallest of 3); try smaller ones"),
        ([0.2, 0.5, 0.9], "lr=1, the largest of 3); try larger ones"),
        ([0.2, 0.9, 0.5], ""),
        ([0.9, 0.895, 0.899], "hardly matters"),
    ],
    ids=["smallest", "largest", "inside", "flat"],
)
def test_best_at_the_edge_is_warned_of(medians: list[float], said: str) -> None:
    axis = axes.Axis("lr", np.array([0.01, 0.1, 1]), np.zeros(3, dtype=np.intp), [""], "log", whole=False)
    table = pd.DataFrame({"value": axis.points, "n": 3, "test_accuracy_last_median": medians})
    text = axes_words.warning("lr", sensitivity.good_range(table.assign(test_accuracy_last_mean=medians), axis), 0)
    assert said in text
    assert bool(text) == bool(said)


def test_momentum_of_zero_is_no_edge() -> None:
    """Nothing smaller can be tried."""
    axis = axes.Axis("momentum", np.array([0, 0.5, 0.9]), np.zeros(3, dtype=np.intp), [""], "linear", whole=False)
    table = pd.DataFrame({"value": axis.points, "n": 3, "test_accuracy_last_median": [0.9, 0.5, 0.2]})
    found = sensitivity.good_range(table.assign(test_accuracy_last_mean=0.5), axis)
    assert found is not None
    assert found.edge == ""


def test_diverged_run_counts_with_the_worst_value() -> None:
    """Its last recorded accuracy, 0.9, was before the end; the other two are 0.201 and 0.202."""
    table = summary(rows()).set_index(["family", "value"])
    cell = table.loc[("init=glorot", 1.0)]
    assert (cell["n"], cell["diverged"]) == (3, 1)
    assert cell["test_accuracy_last_median"] == pytest.approx(0.201)
    assert cell["test_accuracy_last_mean"] == pytest.approx((0.1 + 0.201 + 0.202) / 3)
    assert cell["test_loss_last_q75"] == np.inf
    assert cell["reached"] == 3


def test_unfinished_run_has_no_value_and_is_counted() -> None:
    made = rows()
    made[0] |= {"status": "killed", "test_accuracy_last": None}
    cell = summary(made).set_index(["family", "value"]).loc[("init=he", 0.001)]
    assert (cell["n"], cell["unfinished"]) == (2, 1)


def test_quartiles_are_those_of_numpy() -> None:
    table = summary(rows(6)).set_index(["family", "value"])
    own = 0.5 + 0.001 * np.arange(6)
    parts = [table.loc[("init=he", 0.01), f"test_accuracy_last_{part}"] for part in ("q25", "median", "q75")]
    np.testing.assert_allclose(parts, np.quantile(own, [0.25, 0.5, 0.75]), rtol=1e-12)


def test_folder_without_a_numeric_axis_shows_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two rates make a comparison and no curve."""
    made = [row for row in rows() if row["lr"] in RATES[:2]]
    made_results.write(tmp_path / "made", made, curves(made))
    view = json.loads(report(tmp_path / "made", capsys))["axes"]
    assert (view["axes"], view["maps"]) == ([], [])
    assert "Sensitivity" not in report(tmp_path / "made", capsys, "md")


@pytest.mark.parametrize(
    ("labels", "options", "families"),
    [
        ([f"own[options.width={width}]" for width in (4, 8, 16)], [{"width": width} for width in (4, 8, 16)], [""]),
        (
            [f"own[model.layers.fc.out={out},options.width={width}]" for out in (1, 2) for width in (4, 8, 16)],
            [{"width": width} for _ in range(2) for width in (4, 8, 16)],
            ["model=own[model.layers.fc.out=1]", "model=own[model.layers.fc.out=2]"],
        ),
        (
            [f"own[options.kind={kind},options.width={width}]" for kind in "ab" for width in (4, 8, 16)],
            [{"kind": kind, "width": width} for kind in "ab" for width in (4, 8, 16)],
            ["model.options.kind=a", "model.options.kind=b"],
        ),
    ],
    ids=["one number", "layers beside it", "a word beside it"],
)
def test_option_of_an_own_network_is_an_axis(
    labels: list[str], options: list[dict[str, object]], families: list[str]
) -> None:
    trials = made_results.frames(
        [
            made_results.trial(at, model=label, config=json.dumps({"model": {"options": own}}))
            for at, (label, own) in enumerate(zip(labels, options, strict=True))
        ]
    ).trials
    assert settings.needs_configs(trials, label_arms(trials))
    (axis,) = axes.find_axes(settings.settings_of(trials, trials.set_index("arm_key")["config"]))
    assert (axis.name, axis.families) == ("model.options.width", families)


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ({"steps": [100, 200, 400], "warmup_steps": [10, 20, 40]}, ["steps"]),
        ({"steps": [100, 200, 400], "warmup_steps": [10, 50, 40]}, []),
        ({"steps": [9, 99, 999], "schedule_step": [3, 33, 333]}, ["steps"]),
        ({"batch_size": [30, 60, 90], "steps": [334, 167, 112]}, ["batch_size"]),
        ({"batch_size": [30, 60, 90], "steps": [334, 167, 100]}, []),
        ({"train_images": [1000, 2000, 4000], "steps": [40, 80, 160], "warmup_steps": [4, 8, 16]}, ["train_images"]),
        ({"steps": [100, 200, 400] * 2, "warmup_steps": [10, 20, 40, 30, 60, 120]}, []),
    ],
    ids=["warm-up", "a warm-up of its own", "drops", "epochs", "no epochs", "images", "two warm-ups"],
)
def test_settings_that_follow_from_an_axis_part_no_family(table: dict[str, list[int]], found: list[str]) -> None:
    assert [axis.name for axis in axes.find_axes(settings.Settings(pd.DataFrame(table), list(table)))] == found


def test_settings_that_vary_together_make_no_map() -> None:
    """A diagonal through the plane is a line, whatever its two names."""
    table = pd.DataFrame({"lr": [0.1, 0.2, 0.3], "momentum": [0.5, 0.7, 0.9]}, index=list("abc"))
    assert axes.find_planes(settings.Settings(table, ["lr", "momentum"])) == []
    assert axes.find_axes(settings.Settings(table, ["lr", "momentum"])) == []


def test_scattered_points_make_a_map_without_an_axis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No row of the plane has three points, so there is a map and no curve."""
    points = [(0.1, 0.5), (0.2, 0.9), (0.3, 0.5), (0.1, 0.9)]
    own = {"test_accuracy_last": 0.5, "device": "cpu", "cpu_model": "Chip 9", "seed": 0}
    made = [made_results.trial(at, lr=lr, momentum=momentum, **own) for at, (lr, momentum) in enumerate(points)]
    made_results.write(tmp_path / "made", made, curves(made))
    view = json.loads(report(tmp_path / "made", capsys))["axes"]
    assert view["axes"] == []
    assert [shown["n"] for shown in view["maps"]] == [[[1, 0, 1], [1, 1, 0]]]


def _theory(trials: pd.DataFrame) -> list[theory.Line]:
    """A line from (0.01, 0.01) to (0.1, 0.1), and one of another plane."""
    assert {json.loads(config)["init"]["options"]["std"] for config in trials["config"]} == {0.01, 0.1, 1}
    ends = [0.01, 0.1]
    return [
        theory.Line("diagonal", "made up", "init.options.std", "lr", ends, ends),
        theory.Line("elsewhere", "made up", "depth", "lr", ends, ends),
    ]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real sweep of two numbers, one of which stands in the config alone; one point was not tried."""
    folder = tmp_path_factory.mktemp("swept") / "results"
    for std in (0.01, 0.1, 1):
        for lr in (0.01, 0.1):
            if (std, lr) != (1, 0.1):
                overrides = [f"+init.options.std={std}", f"optimizer.lr={lr}", f"results.dir={folder}"]
                fixed = ["experiment=learn", "model=mlp", "init=normal", "train.steps=2", "train.eval_every=2"]
                harness.run_trial(harness.load_config([*fixed, "device=cpu", *overrides]))
    return folder


def test_map_of_an_option_that_no_column_holds(
    swept: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The accuracy of each trial stands in its cell, the one not tried is empty, theory's line is on the cells."""
    monkeypatch.setitem(theory.THEORY, "learn", _theory)
    view = json.loads(report(swept, capsys))["axes"]
    (axis,), (shown,) = view["axes"], view["maps"]
    assert axis["name"] == "init.options.std"
    assert {one["name"] for one in axis["families"]} == {"lr=0.01", "lr=0.1"}
    assert (shown["x_axis"], shown["x"]) == ("init.options.std", [0.01, 0.1, 1])
    assert (shown["y_axis"], shown["y"]) == ("lr", [0.01, 0.1])
    assert shown["n"] == [[1, 1, 1], [1, 1, 0]]
    trials = harness.load(swept).trials
    own = trials[(trials["lr"] == 0.1) & (trials["init"] == "normal[options.std=0.1]")]
    assert shown["medians"]["test_accuracy_last"][1][1] == pytest.approx(own["test_accuracy_last"].item(), rel=1e-3)
    assert shown["medians"]["test_accuracy_last"][1][2] is None
    assert [(line["label"], line["x"], line["y"]) for line in shown["lines"]] == [("diagonal", [0, 1], [0, 1])]
    assert "## Map: lr by init.options.std" in report(swept, capsys, "md")


@pytest.fixture
def drawn(chrome: webdriver.Chrome, swept: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:  # noqa: F811
    """The page of that sweep in a browser, which must have nothing to complain of."""
    monkeypatch.setitem(theory.THEORY, "learn", _theory)
    assert main([str(swept)]) == 0
    shots.open_page(chrome, swept / "report.html", width=390, height=800)
    yield lambda script: chrome.execute_script(f"return {script}")
    assert chrome.get_log("browser") == []


def test_page_draws_curve_and_map(drawn: Any) -> None:
    """A band and a line for each of two families; cells with value and runs on hover, and theory's line over them."""
    assert drawn("document.getElementById('sensitivity').data.length") == 6
    assert drawn("document.getElementById('map').data.map((trace) => trace.type || trace.mode)") == [
        "heatmap",
        "lines",
        "lines",
    ]
    assert drawn("document.getElementById('map').data[0].customdata[0][1][3]").startswith("n = 1, ")
    assert "Solid line: diagonal (made up)" in drawn("document.getElementById('map-lines').textContent")
    assert drawn("document.querySelectorAll('#best tr').length") == 2
    assert drawn("document.documentElement.scrollWidth") <= 390


def test_own_best_holds_its_level_and_the_same_runs_do_not() -> None:
    """Eight values against one, all equal in truth: of 600 sweeps at most 5 % may be declared different."""
    assert simulation.rejections(simulation.by_halves, 20, 600) <= simulation.LEVEL
    assert simulation.rejections(simulation.on_the_same_runs, 20, 200) > 1.5 * simulation.LEVEL


def test_own_best_finds_a_difference() -> None:
    """1.5 standard deviations between the families and 20 seeds."""
    assert simulation.rejections(simulation.by_halves, 20, 100, advantage=1.5) > 0.8


def test_own_best_judges_on_seeds_that_did_not_choose() -> None:
    """The even seeds prefer the first value, the odd ones the second; each is scored where it is worse."""
    scores = np.array([[1.0, 0.0] * 4, [0.0, 1.0] * 4])
    judged = own_best.judged(Family("a", np.array([0.1, 1.0]), scores, np.full(scores.shape, "x", dtype=object)))
    assert judged.chosen == (0.1, 1.0)
    assert judged.scores.tolist() == [0.0] * 8


def test_runs_that_are_one_in_effect_cannot_separate() -> None:
    """Twenty seeds of two families without any random draw are one pair."""
    runs = np.full((1, 20), "same", dtype=object)
    families = [Family(name, np.array([1.0]), np.full((1, 20), at), runs) for name, at in (("a", 0.5), ("b", 0.9))]
    assert own_best.at_own_best(families)["verdict"].tolist() == ["n too small to tell"] * 2


@pytest.mark.parametrize("families", [2, 3, 6])
def test_needed_seeds_are_the_fewest_that_can_show_anything(families: int) -> None:
    def separated(seeds: int) -> bool:
        base = np.arange(seeds) / 1000
        runs = np.array([[f"{seed}" for seed in range(seeds)]], dtype=object)
        made = [Family(f"{at}", np.array([1.0]), (base + at)[None], runs) for at in range(families)]
        return "worse" in own_best.at_own_best(made)["verdict"].tolist()

    needed = own_best.needed_seeds(families)
    assert separated(needed)
    assert not separated(needed - 1)
