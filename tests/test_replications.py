"""docs/replications.md is what its files give, its verdicts can fall either way, and every experiment runs."""

import importlib
import re
from pathlib import Path
from types import ModuleType

import pandas as pd
import pyarrow.parquet as pq
import pytest

import harness
from harness.sweep.plan import plan_from

ROOT = Path(__file__).parent.parent
NAMES = ["trainability", "delta_orthogonal", "start_training", "glorot_bengio", "zero_mnist", "zero_residual"]
# what makes one trial of an experiment a matter of a second
SMALL = {
    "trainability": ["model.depth=2"],
    "delta_orthogonal": ["model.depth=2"],
    "start_training": ["model.depth=3"],
    "glorot_bengio": ["model.width=20"],
    "zero_mnist": ["model.width=800", "data=mnist5k"],
    "zero_residual": ["model.depth=1"],
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("replications")


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("replication_claims")


def test_the_page_is_what_the_files_give(script: ModuleType) -> None:
    assert list(script.REPLICATIONS) == NAMES
    assert script.page() == script.PAGE.read_text(encoding="utf-8")


def test_other_results_give_another_verdict(script: ModuleType, claims: ModuleType) -> None:
    """With the two initializations exchanged, what Glorot and Bengio say is not borne out."""
    replication, tables = script.REPLICATIONS["glorot_bengio"], script.read("glorot_bengio")
    names = {"torch_default": "glorot_uniform", "glorot_uniform": "torch_default"}
    exchanged = claims.Tables(tables.trials.assign(init=tables.trials["init"].map(names)), tables.layers)
    words = [[claim.judge(each).word for claim in replication.claims[:2]] for each in (tables, exchanged)]
    assert words == [[claims.BORNE_OUT] * 2, [claims.NOT_BORNE_OUT] * 2]


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        ([1, 2, 3], [4, 5, 6], "borne out"),
        ([4, 5, 6], [1, 2, 3], "not borne out"),
        ([1, 2, 4], [4, 5, 6], "cannot be told"),
        ([1, 2], [4, 5, 6], "cannot be told"),
        ([1, 2, float("nan")], [4, 5, 6], "cannot be told"),
    ],
    ids=["below", "above", "overlap", "too few", "a run without a value"],
)
def test_an_order_counts_only_without_overlap(
    claims: ModuleType, low: list[float], high: list[float], word: str
) -> None:
    assert claims.order(low, high, ("low", "high")).word == word


def test_a_claim_about_runs_needs_all_of_them(claims: ModuleType) -> None:
    words = [claims.within(values, 0, 1, "x").word for values in ([0, 0.5, 1], [2, 3, 4], [0, 1, 2], [0, 1])]
    assert words == [claims.BORNE_OUT, claims.NOT_BORNE_OUT, claims.UNCLEAR, claims.UNCLEAR]
    trials = pd.DataFrame({"targets": [[0.2, 0.5]] * 3, "steps_to_target": [[10, 20], [10, None], None]})
    assert claims.reach(trials, 0.2, "x", shall=True) == claims.Verdict(
        claims.UNCLEAR, "x: 2 of 3 runs reach test accuracy 0.2"
    )
    assert claims.steps_to(trials, 0.5).isna().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("reached", "word"),
    [
        ([[True] * 3, [True] * 3], "borne out"),
        ([[False] * 3, [False] * 3], "not borne out"),
        ([[False] * 3, [False, False, True]], "cannot be told"),
        ([[True] * 3, [True] * 2], "cannot be told"),
        ([], "cannot be told"),
    ],
    ids=["all", "none", "one run", "a cell of two runs", "no cell"],
)
def test_a_map_is_judged_by_every_run_of_every_cell(
    monkeypatch: pytest.MonkeyPatch, reached: list[list[bool]], word: str
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    made = [{"sum": sum(runs), "size": len(runs), "depth": 4, "bound": 6.0} for runs in reached]
    beyond = {"sum": 0, "size": 3, "depth": 8, "bound": 6.0}
    depth = importlib.import_module("replication_depth")
    monkeypatch.setattr(depth, "cells", lambda _: pd.DataFrame([*made, beyond]))
    assert depth.judge_map(None, within_bound=True).word == word
    assert depth.judge_map(None, within_bound=False).word == "borne out"


@pytest.mark.parametrize("name", NAMES)
def test_the_files_hold_the_whole_sweep(script: ModuleType, name: str) -> None:
    """The choices and seeds of the rows are those that the experiment's own sweep plans today."""
    plan, _ = plan_from([f"experiment={name}"])
    trials = script.read(name).trials
    overrides = [dict(each.split("=", 1) for each in trial.overrides) for trial in plan.trials]
    assert [int(each["seed"]) for each in overrides] == trials["seed"].tolist()
    config = harness.load_config([f"experiment={name}"])
    said = {"data": config.data.name, "steps": config.train.steps, "batch_size": config.train.batch_size}
    said |= {"eval_every": config.train.eval_every, "lr": config.optimizer.lr, "scaling": config.data.scaling}
    assert {column: set(trials[column]) for column in said} == {column: {value} for column, value in said.items()}
    kept = {"model.depth": "depth", "model.activation": "activation", "init.gain": "init_gain"}
    for key, column in kept.items():
        if key in overrides[0]:
            assert [type(trials[column].iloc[0])(each[key]) for each in overrides] == trials[column].tolist()


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_trial_of_each_experiment_runs(script: ModuleType, name: str, tmp_path: Path) -> None:
    cut = [f"experiment={name}", "train.steps=1", "train.batch_size=10", "train.warmup_steps=0", *SMALL[name]]
    trial = harness.run_trial(harness.load_config([*cut, f"results.dir={tmp_path}"])).trial
    assert (trial["status"], trial["experiment"], trial["steps_done"]) == ("ok", name, 1)
    layers = harness.load(tmp_path).layers
    assert layers[list(script.REPLICATIONS[name].layer_columns)].notna().any().all()


@pytest.mark.parametrize(
    ("arguments", "problem"), [(["--page", "nope"], "EXPERIMENT=nope: unknown; choose one of:"), ([], "nothing to do")]
)
def test_a_wrong_command_is_one_line(
    script: ModuleType, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert problem in line


def test_the_files_are_small_and_tell_nothing_private(script: ModuleType) -> None:
    assert sum(path.stat().st_size for path in script.FOLDER.iterdir()) < 500_000
    private = re.compile(rf"{re.escape(str(Path.home()))}/|/tmp/|/home/|/Users/")
    for path in script.FOLDER.iterdir():
        for name, values in pq.read_table(path).to_pydict().items():
            assert not [value for value in values if private.search(str(value))], f"{path.name}: {name}"
