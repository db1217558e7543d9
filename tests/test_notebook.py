"""The notebook runs top to bottom on results made here, and shows what the tables hold; in git it has no outputs."""

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from conftest import QUICK, run_command
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

import harness
from harness import analysis

NOTEBOOK = Path(__file__).parent.parent / "scripts/analysis.ipynb"
ARMS = ["init=glorot", "init=zero"]
PLOTLY = "application/vnd.plotly.v1+json"
# what the kernel is asked after the last cell of the notebook
ASKED = "import json, sys\nprint(json.dumps({'torch': 'torch' in sys.modules, 'sql': table.to_dict('records')}))"


def read_notebook() -> NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def execute(notebook: NotebookNode, results: Path) -> NotebookNode:
    """Run it as an editor does: the kernel starts in the notebook's folder."""
    environment = {**os.environ, "INITBENCH_RESULTS": str(results)}
    client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    return client.execute(env=environment)


def stored(notebook: NotebookNode) -> list[Any]:
    """What an execution leaves in the code cells."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [entry for cell in code for entry in (*cell.outputs, cell.execution_count) if entry is not None]


def numbers(values: Any) -> np.ndarray:
    """Numbers of a figure, which plotly packs as base64."""
    if isinstance(values, dict):
        return np.frombuffer(base64.b64decode(values["bdata"]), dtype=values["dtype"]).astype(float)
    return np.array(values, dtype=float)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two initializers with two seeds each, by the command line; 0.05 is reached, 1.0 is not."""
    path = tmp_path_factory.mktemp("notebook")
    targets = "train.targets=[0.05,1.0]"
    done = run_command(
        "-m", "experiment=learn", "init=zero,glorot", "seed=0,1", targets, *QUICK, "results.dir=results", cwd=path
    )
    assert done.returncode == 0, done.stderr
    return path / "results"


@pytest.fixture(scope="module")
def executed(folder: Path) -> NotebookNode:
    notebook = read_notebook()
    notebook.cells.append(nbformat.v4.new_code_cell(ASKED))
    return execute(notebook, folder)


@pytest.fixture(scope="module")
def answers(executed: NotebookNode) -> dict[str, Any]:
    return json.loads(executed.cells[-1].outputs[0].text)


@pytest.fixture(scope="module")
def figures(executed: NotebookNode) -> dict[str, list[dict[str, Any]]]:
    """First word of a figure's title -> its traces."""
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    drawn = [output.data[PLOTLY] for output in outputs if PLOTLY in output.get("data", {})]
    return {figure["layout"]["title"]["text"].split()[0].strip(":"): figure["data"] for figure in drawn}


def test_no_cell_warns(executed: NotebookNode) -> None:
    outputs = [output for cell in executed.cells for output in cell.get("outputs", [])]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


def test_torch_is_not_needed(answers: dict[str, Any]) -> None:
    assert answers["torch"] is False


def test_the_main_figures_are_there(figures: dict[str, Any]) -> None:
    assert list(figures) == ["Steps", "Convergence", "Runs", "Throughput"]


def test_the_ranking_drawn_is_that_of_the_analysis(figures: dict[str, Any], folder: Path) -> None:
    (trace,) = figures["Steps"]
    expected = analysis.ranking(analysis.read(folder), target=1.0).table
    assert list(trace["y"]) == list(expected["arm"])
    assert list(trace["text"]) == list(expected["verdict"])
    assert numbers(trace["x"]).tolist() == expected["rmst"].tolist()


def test_each_curve_is_the_median_of_its_runs_and_has_a_band(figures: dict[str, Any], folder: Path) -> None:
    trials, curves, _ = harness.load(folder)
    joined = curves.merge(trials[["trial_id", "init"]], on="trial_id")
    expected = joined.groupby(["init", "step"])["test_accuracy"].median()
    lines = {trace["name"]: trace for trace in figures["Convergence"] if "name" in trace}
    assert sorted(lines) == ARMS
    for arm, trace in lines.items():
        own = expected[arm.removeprefix("init=")]
        assert numbers(trace["x"]).tolist() == own.index.tolist() == [0, 3, 6]
        np.testing.assert_allclose(numbers(trace["y"]), own.to_numpy(dtype=float))
        assert [band.get("fill") for band in figures["Convergence"] if band["legendgroup"] == arm] == [
            None,
            "tonexty",
            None,
        ]


def test_runs_that_never_arrive_stay_at_one(figures: dict[str, Any]) -> None:
    assert sorted(trace["name"] for trace in figures["Runs"]) == ARMS
    for trace in figures["Runs"]:
        assert numbers(trace["x"]).max() == 6
        assert set(numbers(trace["y"])) == {1.0}


def test_the_throughput_drawn_is_the_median_over_the_trials(figures: dict[str, Any], folder: Path) -> None:
    (trace,) = figures["Throughput"]
    assert numbers(trace["x"]).tolist() == [harness.load(folder).trials["images_per_s_median"].median()]


def test_the_sql_table_says_what_pandas_says(answers: dict[str, Any], folder: Path) -> None:
    trials, curves, _ = harness.load(folder)
    last = curves[curves["step"] == 6].merge(trials[["trial_id", "init"]], on="trial_id")
    expected = last.groupby("init")["test_accuracy"].agg(n="count", mean="mean", lowest="min", highest="max")
    table = pd.DataFrame(answers["sql"]).set_index("init").sort_index()
    assert table["n"].tolist() == [2, 2]
    pd.testing.assert_frame_equal(table, expected, check_dtype=False, check_index_type=False)


def test_the_sql_table_is_shown(executed: NotebookNode) -> None:
    shown = executed.cells[-2].outputs[-1].data["text/plain"]
    assert all(word in shown for word in ("glorot", "zero", "lowest", "highest"))


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match=r"no results there \(it has no folder 'trials'\)"):
        execute(read_notebook(), tmp_path)


def test_files_that_cannot_be_read_are_a_line_each_and_the_rest_is_shown(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "results")
    for table in ("trials", "curves"):
        good = min((tmp_path / "results" / table).glob("*.parquet"))
        (good.parent / "z-truncated.parquet").write_bytes(good.read_bytes()[:-40])
    (good.parent / "z-foreign.parquet").write_bytes(b"no Parquet")
    done = execute(read_notebook(), tmp_path / "results")
    printed = [
        line
        for cell in done.cells
        for output in cell.get("outputs", [])
        if output.get("name") in ("stdout", "stderr")
        for line in output.text.splitlines()
    ]
    assert sum("z-truncated.parquet: cannot be read as Parquet" in line for line in printed) == 2
    assert sum("z-foreign.parquet: cannot be read as Parquet" in line for line in printed) == 1
    assert not [line for line in printed if "Warning" in line]
    assert all(word in done.cells[-1].outputs[-1].data["text/plain"] for word in ("glorot", "zero"))


def test_the_notebook_in_git_has_no_outputs() -> None:
    assert stored(read_notebook()) == [], "clear all outputs in the editor and save it"


def test_outputs_would_be_seen(executed: NotebookNode) -> None:
    assert len(stored(executed)) > 10
