"""The tests of the tests: every wrong version in ``mutants.py`` and beside it is noticed by the test that guards it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from analysis_mutants import ANALYSIS_MUTANTS
from conftest import Configure
from initializer_mutants import INITIALIZER_MUTANTS
from mutants import MUTANTS, Mutant, Oracle

ALL = MUTANTS | INITIALIZER_MUTANTS | ANALYSIS_MUTANTS


PASSED: set[Oracle] = set()
"""Oracles that have passed without a mutant in this process: several mutants share one."""


def _replace(mutant: Mutant, patch: pytest.MonkeyPatch) -> None:
    if isinstance(mutant.owner, dict):
        patch.setitem(mutant.owner, mutant.name, mutant.wrong)
    else:
        patch.setattr(mutant.owner, mutant.name, mutant.wrong)


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    """One of its own, so that an oracle can undo its patches without undoing the mutant."""
    with pytest.MonkeyPatch.context() as made:
        yield made


@pytest.mark.parametrize("name", ALL)
def test_mutant_is_caught(
    name: str, configure: Configure, monkeypatch: pytest.MonkeyPatch, patch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mutant, tools = ALL[name], {"configure": configure, "monkeypatch": monkeypatch}
    # rows of the right version would stand for those that the wrong one must write
    elsewhere = {"configure": lambda *choices: configure(f"results.dir={tmp_path / 'wrong'}", *choices)}
    if mutant.oracle not in PASSED:
        mutant.oracle(tools)
        monkeypatch.undo()
        PASSED.add(mutant.oracle)
    _replace(mutant, patch)
    with pytest.raises(AssertionError):
        mutant.oracle(tools | elsewhere)
