"""The captured run in docs: its tables are sound, hold nothing private, and still give the ranking that is shown."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

import harness
from harness import analysis, results
from harness.report.command import main

CAPTURED = Path(__file__).parent.parent / "docs/captured"
MOST_BYTES = 3_000_000
HEADING = "## Time to test accuracy 0.85\n\n"


def ranking(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The ranking at 0.85 and its notes, as the report prints them for a folder."""
    assert main([str(folder), "--format", "md"]) == 0
    return capsys.readouterr().out.split(HEADING)[1].split("\n\n## ")[0]


def test_the_captured_folder_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert results.main(["validate", str(CAPTURED)]) == 0
    assert capsys.readouterr().out.endswith("trials: 120, all sound\n")


def test_the_report_still_gives_the_ranking_that_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert ranking(CAPTURED, capsys) in (CAPTURED / "README.md").read_text(encoding="utf-8")


def test_another_ranking_would_be_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the evaluation at step 40 every ranking is another one."""
    shutil.copytree(CAPTURED, tmp_path / "captured")
    (path,) = (tmp_path / "captured/curves").glob("*.parquet")
    curves = pq.read_table(path)
    pq.write_table(curves.filter(pd.Series(curves["step"].to_pylist()).ne(40).to_numpy()), path)
    assert ranking(tmp_path / "captured", capsys) not in (CAPTURED / "README.md").read_text(encoding="utf-8")


def test_each_initializer_has_ten_seeds_of_one_code_and_one_machine() -> None:
    trials = harness.load(CAPTURED).trials
    assert trials.groupby("init")["seed"].apply(sorted).map(list).tolist() == [list(range(10))] * 12
    assert set(trials["status"]) == {"ok"}
    assert trials[["git_commit", "git_dirty", "platform", "torch_version", "threads"]].drop_duplicates().shape[0] == 1


def test_the_readme_names_what_the_rows_record() -> None:
    trials = harness.load(CAPTURED).trials
    text, first = (CAPTURED / "README.md").read_text(encoding="utf-8"), trials.iloc[0]
    for name in ("git_commit", "torch_version", "python_version", "cpu_model", "experiment"):
        assert first[name] in text, name
    order = ",".join(dict.fromkeys(trials.sort_values("measured_at")["init"]))
    assert f"init={order} " in text
    assert analysis.targets_of(trials) == json.loads(re.search(r"train\.targets=(\[[^]]+\])", text)[1])


def test_the_captured_folder_is_small_and_tells_nothing_private() -> None:
    assert sum(path.stat().st_size for path in CAPTURED.rglob("*")) < MOST_BYTES
    private = [str(Path.home()) + "/", "/tmp/", "/home/", "/Users/"]  # noqa: S108 - looked for, not written to
    for path in CAPTURED.rglob("*.parquet"):
        columns = pq.read_table(path).to_pydict()
        for name, values in columns.items():
            texts = {str(value) for value in values}
            assert not [text for text in texts if any(word in text for word in private)], name
        folders = [json.loads(config)["results"]["dir"] for config in columns.get("config", [])]
        assert set(folders) <= {"results"}
