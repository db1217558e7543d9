"""The comparison with other tools counts by its rules, whether or not those tools are installed."""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Self

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
LAYERS = frozenset({"conv1", "conv2", "fc"})
BATCHES = [(torch.ones(2, 3), torch.tensor([0, 1]))]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    return importlib.import_module("compare_diagnosis_tools")


@pytest.fixture
def tools(script: ModuleType) -> ModuleType:
    return sys.modules[script.TOOLS["torchmortem"].__module__]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``install(name, **contents)``: a module of that name that stands in for the real one, or is missing."""

    def now(name: str, *, missing: bool = False, **contents: object) -> None:
        if missing:
            monkeypatch.setitem(sys.modules, name, None)
            return
        module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec(name, None))
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    return now


def report(tools: ModuleType, *findings: tuple[str, set[str]], worst: set[str] = frozenset()) -> object:
    said = tuple(tools.ToolFinding(tools.Level[level], "title", frozenset(layers)) for level, layers in findings)
    return tools.ToolReport(said, worst=frozenset(worst))


BOTH = "torchmortem==0.1.1", "training-doctor==0.1.0"


@pytest.mark.parametrize(
    ("installed", "pins"), [([], BOTH), (["torchmortem"], BOTH[1:])], ids=["none installed", "one installed"]
)
def test_a_missing_tool_is_one_line_that_says_what_to_install(
    script: ModuleType,
    install: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    installed: list[str],
    pins: tuple,
) -> None:
    for name in ("torchmortem", "training_doctor"):
        install(name, missing=name not in installed)
    assert script.main([]) == 2
    line = f"error: not installed: {', '.join(pins)}; run: pip install {' '.join(pins)}\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([], set()),
        ([("WARNING", set())], {"flagged"}),
        ([("WARNING", {"conv1"})], {"flagged"}),
        ([("WARNING", {"conv2"})], {"flagged", "named", "alone"}),
        ([("WARNING", {"conv1", "conv2"})], {"flagged", "named"}),
        ([("WARNING", {"conv2"}), ("CRITICAL", {"fc"})], {"flagged", "named"}),
        ([("WARNING", {"conv2"}), ("INFO", {"fc"})], {"flagged", "named", "alone"}),
        ([("INFO", {"conv2"})], set()),
        ([("WARNING", {"conv2", "relu2"})], {"flagged", "named", "alone"}),
        ([("WARNING", {"relu2"})], {"flagged"}),
    ],
    ids=["none", "no layer", "other", "alone", "both", "two findings", "info", "info only", "activation", "only relu"],
)
def test_named_and_named_alone(
    script: ModuleType, tools: ModuleType, findings: list[tuple[str, set[str]]], expected: set[str]
) -> None:
    """``relu2`` has no parameters: naming it beside the layer at fault costs nothing, and alone it names none."""
    found = script.score(
        report(tools, *findings), blamed=frozenset({"conv2"}), layers=LAYERS, least=tools.Level.WARNING
    )
    assert {column for column in ("flagged", "named", "alone") if getattr(found, column)} == expected


def test_critical_findings_are_scored_without_warnings(script: ModuleType, tools: ModuleType) -> None:
    both = report(tools, ("WARNING", {"conv1"}), ("CRITICAL", {"conv2"}))
    blamed = frozenset({"conv2"})
    assert not script.score(both, blamed=blamed, layers=LAYERS, least=tools.Level.WARNING).alone
    assert script.score(both, blamed=blamed, layers=LAYERS, least=tools.Level.CRITICAL).alone


@pytest.mark.parametrize(
    ("worst", "expected"), [(set(), 0), ({"conv2"}, 1), ({"conv1", "conv2"}, 0)], ids=["none", "one", "tie"]
)
def test_worst_place_is_for_layers_at_fault_alone(
    script: ModuleType, tools: ModuleType, worst: set[str], expected: int
) -> None:
    ranked = report(tools, worst=worst)
    found = script.score(ranked, blamed=frozenset({"conv2"}), layers=LAYERS, least=tools.Level.WARNING)
    assert found.worst == expected


def test_each_column_is_about_its_own_networks(script: ModuleType, tools: ModuleType) -> None:
    """Where every layer is at fault any name is right, so the columns about names leave that network out."""

    def watched(kind: str, said: object, *, name: str = "odd: one", blamed: set[str] = frozenset()) -> object:
        parameters = {f"{layer}.weight" for layer in blamed}
        return script.Watched(SimpleNamespace(kind=kind, name=name, to_blame=parameters), LAYERS, said)

    quiet, right = report(tools), report(tools, ("WARNING", {"conv2"}), worst={"conv2"})
    runs = [
        watched("dead", right, blamed={"conv2"}),
        watched("dead", right, blamed={"conv1"}),
        watched("exploding", quiet, blamed={"conv1", "fc"}),
        watched("symmetric", right, blamed=set(LAYERS)),
        watched("fine", right, name="ordinary: one"),
        watched("fine", quiet, name="ordinary: two"),
        watched("fine", quiet),
    ]
    shares = "3 of 4", "1 of 3", "1 of 3", "1 of 3", "1 of 2", "0 of 1"
    assert tuple(script.counts(runs, tools.Level.WARNING)) == shares
    assert [share for share in script.counts(runs, tools.Level.CRITICAL) if share[0] != "0"] == ["1 of 3"]
    assert len(shares) == len(script.HEAD) - 3


def test_messages_of_c_libraries_stay_out_of_the_table(script: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    with script.messages_to_stderr():
        script.ctypes.CDLL(None).puts(b"a message")
    print("a table")
    assert capfd.readouterr() == ("a table\n", "a message\n")


def test_every_tool_gets_the_network_as_it_was_built(
    script: ModuleType, tools: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def tool(network: nn.Module, batches: object, steps: int) -> object:
        seen.append((steps, network.weight.detach().clone(), torch.rand(())))
        tools.take_steps(network, batches, 1)
        return report(tools)

    monkeypatch.setattr(script, "TOOLS", {script.OURS: tool, "other": tool})
    planted = SimpleNamespace(name="line", build=lambda: nn.Linear(3, 2), kind="fine", to_blame=set(), fault="")
    runs = script.run([planted], BATCHES, [3, 4])
    assert [steps for steps, _, _ in seen] == [0, 3, 4]
    assert all(weight.equal(seen[0][1]) and drawn == seen[0][2] for _, weight, drawn in seen)
    assert list(runs) == [(script.OURS, "its own"), ("other", "3"), ("other", "4")]


def test_a_network_that_does_not_run_is_no_failure_of_a_tool(script: ModuleType) -> None:
    planted = SimpleNamespace(name="wrong", build=lambda: nn.Linear(4, 2), kind="fine", to_blame=set(), fault="")
    with pytest.raises(RuntimeError, match="shapes"):
        script.run([planted], BATCHES, [1])


class Autopsy:
    """As torchmortem's: told the loss of each step, and asked for a report after the context has ended."""

    def __init__(self, network: nn.Module, *, optimizer: torch.optim.Optimizer) -> None:
        assert {id(p) for group in optimizer.param_groups for p in group["params"]} == set(
            map(id, network.parameters())
        )
        self.losses, self.ended = [], False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended = True

    def step(self, *, loss: float) -> None:
        self.losses.append(loss)

    def get_report(self) -> SimpleNamespace:
        assert self.ended
        assert len(self.losses) == 5
        assert self.losses[-1] < self.losses[0]
        found = SimpleNamespace(severity=SimpleNamespace(name="WARNING"), title="dead", affected_layers=["0", "1"])
        scores = [SimpleNamespace(layer_name=name, score=score) for name, score in (("0", 0.5), ("1", 0.2), ("2", 1.0))]
        return SimpleNamespace(findings=[found], health_scores=scores)


def test_torchmortem_is_read_by_its_fields(tools: ModuleType, install: Callable[..., None]) -> None:
    """The activation function, module 1, has the lowest score but is no layer."""
    install("torchmortem", Autopsy=Autopsy)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    said = tools.watch(tools.torchmortem, network, BATCHES, 5)
    finding = tools.ToolFinding(tools.Level.WARNING, "dead", frozenset({"0", "1"}))
    assert said == tools.ToolReport((finding,), worst=frozenset({"0"}))


def test_no_layer_is_the_worst_of_a_healthy_network(tools: ModuleType) -> None:
    scores = [SimpleNamespace(layer_name=name, score=1.0) for name in LAYERS]
    assert tools._least_healthy(scores, LAYERS) == frozenset()


def test_a_tool_that_fails_found_nothing_and_is_listed(script: ModuleType, tools: ModuleType) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no hooks here. Much more is said")

    said = tools.watch(broken, nn.Linear(3, 2), BATCHES, 5)
    assert said == tools.ToolReport(failure="RuntimeError: no hooks here")
    watched = script.Watched(SimpleNamespace(name="line"), LAYERS, said)
    assert list(script.failures({("other", "5"): [watched]})) == [
        "other, 5 steps, could not watch line: RuntimeError: no hooks here"
    ]


def test_the_page_holds_the_table_as_the_script_writes_it(script: ModuleType) -> None:
    page = (ROOT / "docs/explain_compared.md").read_text()
    block = page[page.index(script.BEGIN) : page.index(script.END)]
    assert f"| {' | '.join(script.HEAD)} |" in block.splitlines()
