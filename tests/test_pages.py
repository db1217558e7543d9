"""README, CONTRIBUTING and docs: their size, their openings, their links, and every command that they tell to type."""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pages
import pytest
import torch
from hydra._internal.utils import get_args_parser
from pages import DOCS, PAGES, ROOT, named
from torch import nn

from harness import explain
from harness.compare import command as compare
from harness.compose import refusals
from harness.errors import UsageError
from harness.model_choices import with_options_added
from harness.report import command as report
from harness.results import command as results
from harness.sweep.composer import Composer
from harness.sweep.plan import composed, loader_of, plan_of

# one for all commands, because to make it and to compose take Hydra some tenths of a second
COMPOSER = Composer(loader_of())
# what stands for a name of the reader's, and one that exists
EXAMPLES = {"NAME": {"experiment": "learn", "init": "he", "model": "mlp"}}


@cache
def check(typed: tuple[str, ...]) -> None:
    """Compose or parse a command without running it.

    Raises:
        UsageError: it would be refused.
    """
    program, rest = (typed[2], typed[3:]) if typed[1] == "-m" else (typed[1], typed[2:])
    if typed[0] == "make":
        return check_make(typed[1:])
    if typed[0] == "initbench" or program == "harness.run":
        return check_run(typed[1:] if typed[0] == "initbench" else rest)
    if program.startswith("scripts/"):
        return check_script(ROOT / program, rest)
    return {
        "harness.explain": lambda: check_run(explain._overrides(rest)),
        "harness.report": lambda: report._parser().parse_args(rest),
        "harness.results": lambda: results._parser().parse_args(rest),
        "harness.compare": lambda: check_compare(rest),
        "pytest": lambda: check_files(rest),
    }[program]()


def check_run(typed: Sequence[str]) -> None:
    """Compose the first trial, and look up the choices of the others."""
    given = get_args_parser().parse_intermixed_args([filled_in(word) for word in typed])
    if not given.multirun:
        COMPOSER.config(with_options_added(given.overrides))
        return
    with refusals():
        config = composed(COMPOSER.loader, given.overrides)
    plan = plan_of(COMPOSER.loader, config, multirun=True)
    COMPOSER.refuse_unknown(trial.overrides for trial in plan.trials)


def filled_in(word: str) -> str:
    key, _, value = word.partition("=")
    return f"{key}={EXAMPLES[value][key]}" if value in EXAMPLES else word


def check_compare(typed: Sequence[str]) -> None:
    parser = compare._promote_parser() if typed[0] == "promote" else compare._parser()
    parser.parse_args(typed[1:] if typed[0] == "promote" else typed)


def check_script(script: Path, typed: Sequence[str]) -> None:
    check_files([str(script)])
    code = script.read_text(encoding="utf-8")
    for option in (word.partition("=")[0] for word in typed if word.startswith("--")):
        if f'"{option}"' not in code:
            raise UsageError(f"{script.name}: has no option {option}")


def check_files(typed: Sequence[str]) -> None:
    for word in typed:
        if word.endswith(".py") and not (ROOT / word).is_file():
            raise UsageError(f"{word}: no such file")


def check_make(typed: Sequence[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in typed:
        name, is_variable, _ = word.partition("=")
        begin = f"{name} ?=" if is_variable else f"{name}:"
        if not any(line.startswith(begin) for line in makefile.splitlines()):
            raise UsageError(f"{word}: the Makefile does not know it")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_commands_of_a_page_would_run(page: Path) -> None:
    for typed in pages.commands(page):
        try:
            check(tuple(typed))
        except UsageError as error:
            pytest.fail(f"{' '.join(typed)}: {error}")


@pytest.mark.parametrize(
    "typed",
    [
        "python -m harness.run init=glorott",
        "python -m harness.run -m init=zero,glorott",
        "python -m harness.run -m seed=0 optimizer.rate=0.1",
        "python -m harness.explain train.steps=abc",
        "python -m harness.report --no-such-option",
        "python -m harness.compare promote RESULTS --thresholds FILE",
        "python -m harness.results merge",
        "python scripts/nightly.py --no-such-option",
        "python scripts/nothing.py",
        "python -m pytest tests/test_nothing.py",
        "make everything",
        "make nightly NIGHTLY_COLOUR=red",
    ],
)
def test_a_wrong_command_would_be_seen(typed: str) -> None:
    with pytest.raises(UsageError):
        check(tuple(typed.split()))


def test_the_commands_are_found() -> None:
    """In every form that a page has: a block, a console, a span in a table, an indented block."""
    found = {named(page): [" ".join(typed) for typed in pages.commands(page)] for page in PAGES}
    assert (
        "python -m harness.run -m experiment=learn init=zero,glorot,he seed=0,1,2 results.dir=outputs/learn"
        in found["README.md"]
    )
    assert "python -m harness.explain init=zero" in found["docs/explain.md"]
    assert "make nightly NIGHTLY_DEVICE=cpu NIGHTLY_SIZE=small" in found["docs/analysis.md"]
    assert any("hydra.launcher.n_jobs=4 sweep.trials_per_job=50 init=" in typed for typed in found["docs/clusters.md"])


def test_readme_and_contributing_are_short() -> None:
    readme, contributing = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    assert len(readme.splitlines()) <= 130
    assert len(readme.split()) <= 1100
    assert len(contributing.splitlines()) <= 80


@pytest.mark.parametrize("page", [ROOT / "CONTRIBUTING.md", *DOCS], ids=named)
def test_a_page_begins_with_what_it_answers(page: Path) -> None:
    opening = pages.first_paragraph(page)
    assert re.match(r"This page answers(?: \w+ questions)?: \S", opening), opening


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=named)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in pages.links(page):
        path, _, anchor = target.partition("#")
        led_to = page.parent / path if path else page
        assert led_to.exists(), target
        assert not anchor or anchor in pages.headings(led_to), target


def test_the_readme_leads_to_every_page() -> None:
    led_to = {(ROOT / target.partition("#")[0]).resolve() for target in pages.links(ROOT / "README.md")}
    assert set(DOCS) <= led_to


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_of_a_page_compiles(page: Path) -> None:
    for block in pages.blocks(page, "python"):
        compile(block, named(page), "exec")


def test_the_readmes_diagnosis_of_ones_own_network_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = (text for text in pages.blocks(ROOT / "README.md", "python") if "diagnose" in text)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    nn.init.zeros_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    names: dict[str, Any] = {
        "model": model,
        "batches": (inputs, torch.arange(20) % 3),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
    }
    exec(block, names)  # noqa: S102 - the README's lines
    assert "dead" in capsys.readouterr().out
