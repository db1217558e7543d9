"""The page in a real Chromium: it draws, filters, and leaves every name as text."""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import made_report
import made_results
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from harness.report import numbers
from harness.report.command import main

SCRIPT = Path(__file__).parent.parent / "scripts" / "screenshot_report.py"
DOCS = Path(__file__).parent.parent / "docs"
PICTURE = DOCS / "report.png"
NASTY = ["<script>alert(1)</script>", "</script>", "<img src=x onerror=alert(1)>", "%{x}&amp;"]
FIGURES = ("curves", "survival", "profile", "heat-a", "heat-b", "signal-moment", "signal-gain", "throughput")


def loaded(path: Path) -> Any:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


shots = loaded(SCRIPT)


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    there = shutil.which("chromedriver") and (shutil.which("chromium") or shutil.which("google-chrome"))
    if not there and os.environ.get("INITBENCH_REQUIRE_BROWSER") != "1":
        pytest.skip("no chromium and chromedriver; INITBENCH_REQUIRE_BROWSER=1 makes this a failure")
    driver = shots.browser(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six inits, four of them with names that a careless page would run, at two learning rates, five seeds each."""
    folder = tmp_path_factory.mktemp("page") / "<b>made"
    trials, curves = [], []
    for lr in (0.01, 0.1):
        times = {name: [10 + 10 * at + 100 * lr] * 5 for at, name in enumerate([*NASTY, "plain"])} | {
            "never": [None] * 5
        }
        more, drawn = made_results.arms_reaching(
            times, lr=lr, device="cpu", cpu_model="Chip 9", images_per_s_median=1e3
        )
        for row in [*more, *drawn]:
            row["trial_id"] += f"lr{lr}"
        trials, curves = trials + more, curves + drawn
    for at, row in enumerate(trials):
        row |= {
            "matmul_share": 0.3,
            "seed": at % 5,
            "initial_weights_sha256": f"x{at}",
            "final_weights_sha256": f"y{at}",
        }
    trials[0] |= {"status": "error", "error_type": "E", "error_message": NASTY[0]}
    layers = [
        row
        for trial in trials
        for step in (0, 50, 100)
        for row in made_report.layers(trial["trial_id"], step, moved=trial["init"] != "never")
    ]
    made_report.write(folder, {"trials": trials, "curves": curves, "layers": layers})
    assert main([str(folder)]) == 0
    return folder / "report.html"


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the captured run: twelve arms, `zero` the last."""
    path = tmp_path_factory.mktemp("captured") / "report.html"
    assert main([str(DOCS / "captured"), "--output", str(path)]) == 0
    return path


@pytest.fixture
def opened(chrome: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    """The page, freshly loaded; it must have written nothing to the console when the test ends."""
    shots.open_page(chrome, page, width=1280, height=900)
    yield chrome
    assert chrome.get_log("browser") == []


def rows(chrome: webdriver.Chrome) -> list[str]:
    """The arms in the ranking, in order."""
    return [cell.text for cell in chrome.find_elements(By.CSS_SELECTOR, "#ranking tr th")]


def traces(chrome: webdriver.Chrome, figure: str) -> list[dict[str, Any]]:
    script = (
        "return document.getElementById(arguments[0]).data.map((t) => "
        "({name: t.name, type: t.type || 'scatter', n: (t.z ? t.z.flat() : t.y).length, text: t.hovertemplate}))"
    )
    drawn: list[dict[str, Any]] = chrome.execute_script(script, figure)
    return drawn


def choose(chrome: webdriver.Chrome, column: str, value: str) -> None:
    """Tick or clear a value of a filter as a user does."""
    details = chrome.find_element(By.CSS_SELECTOR, f"details[data-column='{column}']")
    if not details.get_attribute("open"):
        details.find_element(By.TAG_NAME, "summary").click()
    for box in details.find_elements(By.CSS_SELECTOR, "input[type=checkbox]"):
        if box.get_attribute("value") == value:
            box.click()


def test_every_figure_has_data(opened: webdriver.Chrome) -> None:
    for figure in FIGURES:
        assert sum(trace["n"] for trace in traces(opened, figure)) > 0, figure
        drawn = opened.find_elements(By.CSS_SELECTOR, f"#{figure} .main-svg")
        assert drawn, figure
        titles = opened.execute_script(
            "const l = document.getElementById(arguments[0]).layout; return [l.xaxis.title.text, l.yaxis.title.text]",
            figure,
        )
        assert titles[0], figure


def test_filters_change_rows_and_figures(opened: webdriver.Chrome) -> None:
    assert len(rows(opened)) == 12
    before = {figure: len(traces(opened, figure)) for figure in ("curves", "signal-moment", "throughput")}
    choose(opened, "lr", "0.1")
    assert len(rows(opened)) == 6
    assert all("lr=0.01" in name for name in rows(opened))
    for figure, count in before.items():
        assert 0 < len(traces(opened, figure)) < count, figure
    assert "6 filtered out" in opened.find_element(By.ID, "count").text
    choose(opened, "lr", "0.01")
    assert rows(opened) == []
    assert opened.find_element(By.ID, "ranking-empty").is_displayed()
    opened.find_element(By.ID, "reset").click()
    assert len(rows(opened)) == 12


def test_failures_follow_the_filters(opened: webdriver.Chrome) -> None:
    def shown() -> int:
        return sum(row.is_displayed() for row in opened.find_elements(By.CSS_SELECTOR, "#failures tr"))

    assert shown() == 1
    choose(opened, "init", NASTY[0])
    assert shown() == 0


def test_the_target_changes_conclusion_and_table(opened: webdriver.Chrome) -> None:
    before = opened.find_element(By.ID, "conclusion").text
    Select(opened.find_element(By.ID, "target")).select_by_visible_text("test accuracy 0.5")
    after = opened.find_element(By.ID, "conclusion").text
    assert "0.9:" in before
    assert "0.5:" in after
    assert "0.5" in opened.find_element(By.ID, "ranking-caption").text


def test_ticks_choose_what_is_drawn(opened: webdriver.Chrome) -> None:
    count = len(traces(opened, "curves"))
    assert count == 12 * 3
    opened.find_element(By.CSS_SELECTOR, "#ranking input").click()
    assert len(traces(opened, "curves")) == count - 3
    Select(opened.find_element(By.ID, "top")).select_by_visible_text("best 5")
    assert len(traces(opened, "curves")) == 5 * 3
    Select(opened.find_element(By.ID, "top")).select_by_visible_text("all 12")
    assert len(traces(opened, "curves")) == 12 * 3


def test_axes_and_clock(opened: webdriver.Chrome) -> None:
    kind = "return document.getElementById('curves').layout.xaxis.type"
    assert opened.execute_script(kind) == "linear"
    opened.find_element(By.ID, "log-x").click()
    assert opened.execute_script(kind) == "log"
    Select(opened.find_element(By.ID, "clock")).select_by_visible_text("training seconds")
    title = opened.execute_script("return document.getElementById('survival').layout.xaxis.title.text")
    assert title == "training time (s)"


def test_names_stay_text(opened: webdriver.Chrome) -> None:
    shown = " ".join(rows(opened))
    for name in NASTY:
        assert f"init={name}" in shown
    assert opened.find_element(By.TAG_NAME, "h1").text == "<b>made"
    # the page's own three and no more
    assert len(opened.find_elements(By.TAG_NAME, "script")) == 3
    assert opened.find_elements(By.CSS_SELECTOR, "img, h1 b") == []
    for figure in ("curves", "survival", "profile", "signal-gain", "throughput"):
        texts = [trace["text"] for trace in traces(opened, figure) if trace["text"]]
        assert not [text for text in texts if "<script" in text or "<img" in text or "%{x}&amp;amp" in text], figure


def test_a_hover_shows_a_nasty_name_as_text(opened: webdriver.Chrome) -> None:
    opened.execute_script("Plotly.Fx.hover('curves', [{curveNumber: 2, pointNumber: 3}])")
    text = opened.execute_script("return document.querySelector('#curves .hovertext').textContent")
    assert rows(opened)[0] in text


def test_bit_equal_is_marked_by_a_sign(opened: webdriver.Chrome) -> None:
    select = Select(opened.find_element(By.ID, "heat-arm-b"))
    select.select_by_visible_text("init=never lr=0.01")
    signs = opened.execute_script("return document.getElementById('heat-b').data[1].text")
    assert signs == ["="] * 24


def test_dark_by_the_system_and_by_the_button(chrome: webdriver.Chrome, page: Path) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    ink = "return document.getElementById('curves').layout.font.color"
    shots.open_page(chrome, page, width=1280, height=900, scheme="dark")
    dark = chrome.execute_script(paper), chrome.execute_script(ink)
    chrome.find_element(By.ID, "theme").click()
    light = chrome.execute_script(paper), chrome.execute_script(ink)
    assert dark[0] == "rgb(20, 23, 27)"
    assert light[0] == "rgb(255, 255, 255)"
    assert dark[1] != light[1]


def test_seconds_by_either_switch_rank_again(opened: webdriver.Chrome) -> None:
    """The switch above the survival curves and the one at the top are one; the table says its unit."""
    head, first = opened.find_element(By.ID, "head-mean"), "#ranking tr td:nth-child(6)"
    assert (head.text, opened.find_element(By.CSS_SELECTOR, first).text.split("\n")[0]) == ("mean steps", "20")
    Select(opened.find_element(By.ID, "clock-survival")).select_by_visible_text("training seconds")
    assert opened.find_element(By.ID, "clock").get_attribute("value") == "1"
    # evaluations are ten steps and a second apart
    assert head.text == "mean seconds"
    assert "on cpu, kernel x" in opened.find_element(By.ID, "ranking-caption").text
    assert float(opened.find_element(By.CSS_SELECTOR, first).text.split("\n")[0]) == 2
    Select(opened.find_element(By.ID, "clock")).select_by_visible_text("steps")
    assert head.text == "mean steps"


def test_log_rank_stands_beside_the_survival_curves(opened: webdriver.Chrome) -> None:
    cells = [
        [cell.text for cell in row.find_elements(By.CSS_SELECTOR, "th, td.number")]
        for row in opened.find_elements(By.CSS_SELECTOR, "#tests tr")
    ]
    tests = {name: rest for name, *rest in cells}
    assert len(tests) == 12
    assert sum(rest[2] == "compared with" for rest in tests.values()) == 1
    # five against five and 66 pairs of arms: no outcome at all could be significant
    assert {rest[2] for rest in tests.values()} == {"compared with", "n too small"}
    assert tests["init=never lr=0.1"][:2] == ["0 of 5", "not by the end"]


def test_a_phone_scrolls_the_table_and_not_the_page(chrome: webdriver.Chrome, captured: Path) -> None:
    """Every column can be scrolled into sight beside its arm; the head of the table has no empty band."""
    shots.open_page(chrome, captured, width=390, height=800)
    assert chrome.execute_script("return document.documentElement.scrollWidth") == 390
    script = """
      const box = document.querySelector("#ranking-table").parentElement, edge = box.getBoundingClientRect();
      const seen = (cell) => cell.getBoundingClientRect();
      const heads = [...box.querySelectorAll("thead th")];
      const cells = [...box.querySelectorAll("#ranking tr:last-child > *")];
      const caption = seen(box.querySelector("caption"));
      const out = [];
      for (const cell of cells) {
        box.scrollLeft = 0;
        box.scrollLeft = Math.max(0, seen(cell).right - edge.right + 2);
        out.push(seen(cell).right <= edge.right + 1 && seen(cells[2]).left >= edge.left - 1);
      }
      const head = Math.max(...heads.map((head) => seen(head).height));
      return {cells: out, head, overflow: getComputedStyle(box).overflowX, page: edge.right, caption: caption.right};
    """
    layout = chrome.execute_script(script)
    assert layout["cells"] == [True] * 11
    assert layout["overflow"] == "auto"
    assert layout["head"] < 60
    assert max(layout["page"], layout["caption"]) <= 390


def test_a_ranking_of_twelve_is_whole(chrome: webdriver.Chrome, captured: Path) -> None:
    shots.open_page(chrome, captured, width=1280, height=800)
    box = "const box = document.querySelector('#ranking-table').parentElement; "
    inside, seen = chrome.execute_script(box + "return [box.scrollHeight, box.clientHeight]")
    assert inside == seen
    assert rows(chrome)[-1] == "init=zero"


def test_the_picture_in_docs_holds_the_whole_ranking(chrome: webdriver.Chrome, captured: Path) -> None:
    header = PICTURE.read_bytes()[:24]
    width, height = (int.from_bytes(header[at : at + 4]) for at in (16, 20))
    shots.open_page(chrome, captured, width=width, height=height)
    bottom = "return document.querySelector('#ranking tr:last-child').getBoundingClientRect().bottom"
    assert chrome.execute_script(bottom) <= height <= 2500
    assert PICTURE.stat().st_size < 500_000


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_no_sideways_scrolling(chrome: webdriver.Chrome, page: Path, width: int) -> None:
    shots.open_page(chrome, page, width=width, height=800)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    assert chrome.execute_script("return document.documentElement.clientWidth") == width


def test_text_and_page_round_alike(opened: webdriver.Chrome) -> None:
    values = [16.25, 0.125, 2.675, 1.005, 999.5, 12345.0, 0.0, -0.5, 1e6 / 3, 1e8 / 3, 5e-4, 1.23456e-9]
    script = "return arguments[0].map((value) => [shown(value), percent(value)])"
    kept = [numbers.one(value) for value in values]
    assert opened.execute_script(script, kept) == [[numbers.shown(v), numbers.percent(v)] for v in values]


@pytest.mark.parametrize("clock", ["steps", "training seconds"])
def test_the_ranking_fits_a_desk_whole(chrome: webdriver.Chrome, captured: Path, clock: str) -> None:
    """Verdict, p and reason stand in sight of the arm, without scrolling the table sideways."""
    shots.open_page(chrome, captured, width=1280, height=900)
    Select(chrome.find_element(By.ID, "clock")).select_by_visible_text(clock)
    sizes = (
        "const box = document.querySelector('#ranking-table').parentElement; return [box.scrollWidth, box.clientWidth]"
    )
    needed, there = chrome.execute_script(sizes)
    assert needed <= there


def test_print_is_light_without_controls_and_as_wide_as_paper(chrome: webdriver.Chrome, page: Path) -> None:
    shots.open_page(chrome, page, width=700, height=900, scheme="dark")
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": dark})
    assert chrome.execute_script("return document.documentElement.dataset.theme") == "dark"
    chrome.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert chrome.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for chosen in (".controls", "#theme", ".tools"):
        assert not any(node.is_displayed() for node in chrome.find_elements(By.CSS_SELECTOR, chosen)), chosen
    widths = chrome.execute_script(
        "return [...document.querySelectorAll('.main-svg')].map((s) => s.width.baseVal.value)"
    )
    assert 0 < max(widths) <= 700
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= 700
    chrome.execute_script("window.dispatchEvent(new Event('afterprint'))")
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": dark})
    assert chrome.execute_script("return document.documentElement.dataset.theme") == "dark"


def test_tables_and_controls_have_names(opened: webdriver.Chrome) -> None:
    for table in opened.find_elements(By.TAG_NAME, "table"):
        assert table.find_element(By.TAG_NAME, "caption").get_attribute("textContent").strip()
        assert all(head.get_attribute("scope") for head in table.find_elements(By.TAG_NAME, "th"))
    for control in opened.find_elements(By.CSS_SELECTOR, "select, input, button"):
        # those of a closed filter have no name until it opens
        assert control.accessible_name or not control.is_displayed(), control.get_attribute("outerHTML")


def test_the_script_takes_a_picture(chrome: webdriver.Chrome, page: Path, tmp_path: Path) -> None:
    assert chrome.session_id
    out = tmp_path / "out.png"
    assert shots.main([str(page), str(out), "--width", "800", "--height", "600", "--scheme", "dark"]) == 0
    header = out.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (800, 600)


def test_a_missing_report_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shots.main([str(tmp_path / "none.html"), str(tmp_path / "out.png")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
