"""Tools that watch a network train and say what is wrong: each is one function from a network to a :class:`ToolReport`.

torchmortem and training-doctor are no dependencies of the project. They are imported where they are used, and they are
called as their own documentation shows, with their default thresholds.
"""

import enum
import importlib
import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import harness
from harness.diagnosis import HARMFUL
from harness.errors import UsageError

Batches = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Inputs and class numbers of each batch."""

LEARNING_RATE = 0.01
FAULTS = HARMFUL
"""Kinds of networks that do not train, and of our findings that say so."""

OURS = "harness.diagnose"
PINS = {"torchmortem": "torchmortem==0.1.1", "training_doctor": "training-doctor==0.1.0"}
"""Module -> what to install: the releases that these functions were written for."""


class Level(enum.IntEnum):
    """How serious a finding is; both tools use these three words."""

    INFO = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True)
class ToolFinding:
    """One finding of a tool, with the module paths that it names."""

    level: Level
    title: str
    layers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ToolReport:
    """What one tool says about one network.

    Attributes:
        findings: all of them, of every level.
        worst: module paths that the tool ranks as the worst; empty if it ranks none.
        failure: the error if the tool could not watch this network, else empty.
    """

    findings: tuple[ToolFinding, ...] = ()
    worst: frozenset[str] = frozenset()
    failure: str = ""


Tool = Callable[[nn.Module, Batches, int], ToolReport]


def require_tools() -> None:
    """Check that both tools are installed.

    Raises:
        UsageError: one is missing; the message holds the command that installs it.
    """
    missing = [pin for module, pin in PINS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UsageError(f"not installed: {', '.join(missing)}; run: pip install {' '.join(missing)}")


def versions() -> str:
    """Return names and installed versions of both tools."""
    names = [pin.partition("==")[0] for pin in PINS.values()]
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def layer_of(parameter: str) -> str:
    """Return the module path of a parameter; a parameter of the network itself stands for its own layer."""
    return parameter.rpartition(".")[0] or parameter


def layers_of(network: nn.Module) -> frozenset[str]:
    """Return the module paths that hold parameters: what a tool may name. An activation function is none."""
    return frozenset(layer_of(name) for name, _ in network.named_parameters())


def _sgd(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=LEARNING_RATE)


def take_steps(network: nn.Module, batches: Batches, steps: int) -> None:
    """Train without any tool."""
    train(network, _sgd(network.parameters()), batches, steps, lambda _step, _loss, _norm: None)


def train(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Batches,
    steps: int,
    after: Callable[[int, float, float], None],
) -> None:
    """Train without clipping, so that every tool sees the same training.

    Args:
        network: trained in place.
        optimizer: of the network's parameters.
        batches: repeated from the first when they are used up.
        steps: how many.
        after: called after each step with its number, the loss and the norm of the whole gradient.
    """
    for step in range(steps):
        inputs, classes = batches[step % len(batches)]
        optimizer.zero_grad()
        loss = F.cross_entropy(network(inputs), classes)
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        optimizer.step()
        after(step, loss.item(), norm)


def ours(network: nn.Module, batches: Batches, _steps: int) -> ToolReport:
    """Diagnose with :func:`harness.diagnose`, which decides by itself how many steps it takes.

    Only the tensors to blame count as named. The findings of single layers are symptoms.
    """
    result = harness.diagnose(network, batches, loss=F.cross_entropy, optimizer=_sgd)
    finding = result.network
    if finding.kind not in FAULTS:
        return ToolReport()
    layers = frozenset(map(layer_of, result.to_blame))
    return ToolReport((ToolFinding(Level.CRITICAL, f"{finding.kind}: {finding.reason}", layers),), worst=layers)


def torchmortem(network: nn.Module, batches: Batches, steps: int) -> ToolReport:
    """Watch with torchmortem's ``Autopsy``, as in its quick start.

    A finding names the layers in its field ``affected_layers``. The worst layers are those of the lowest health score.
    """
    optimizer = _sgd(network.parameters())
    with importlib.import_module("torchmortem").Autopsy(network, optimizer=optimizer) as autopsy:
        train(network, optimizer, batches, steps, lambda _step, loss, _norm: autopsy.step(loss=loss))
    report = autopsy.get_report()
    findings = tuple(
        ToolFinding(Level[finding.severity.name], finding.title, frozenset(finding.affected_layers))
        for finding in report.findings
    )
    return ToolReport(findings, worst=_least_healthy(report.health_scores, layers_of(network)))


def _least_healthy(scores: Sequence[Any], layers: frozenset[str]) -> frozenset[str]:
    """Return the layers of the lowest health score; none if no layer has lost any health."""
    health = {score.layer_name: score.score for score in scores if score.layer_name in layers}
    lowest = min(health.values(), default=1.0)
    return frozenset(name for name, score in health.items() if score == lowest < 1)


def training_doctor(network: nn.Module, batches: Batches, steps: int) -> ToolReport:
    """Watch with training-doctor's ``Doctor``, logging what its documentation calls full diagnostics.

    These are loss, learning rate and gradient norm. The norm is measured without clipping. The tool never sees the
    network, so its diagnoses have no field that could name a layer.
    """
    doctor = importlib.import_module("training_doctor").Doctor()

    def log(step: int, loss: float, norm: float) -> None:
        doctor.log(step=step, loss=loss, lr=LEARNING_RATE, grad_norm=norm)

    train(network, _sgd(network.parameters()), batches, steps, log)
    return ToolReport(
        tuple(ToolFinding(Level[diagnosis.severity.name], diagnosis.problem) for diagnosis in doctor.diagnoses)
    )


TOOLS: dict[str, Tool] = {OURS: ours, "torchmortem": torchmortem, "training-doctor": training_doctor}


def watch(tool: Tool, network: nn.Module, batches: Batches, steps: int, *, seed: int = 0) -> ToolReport:
    """Run one tool on a network of its own, with the same random numbers for every tool.

    A tool that raises an error counts as one that found nothing, and its report says so.
    """
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # numpy warns of the NaN and overflow that some networks are meant to produce
        warnings.simplefilter("ignore")
        try:
            return tool(network, batches, steps)
        except (RuntimeError, ValueError, OverflowError) as error:
            # torch's messages go on for several sentences; the first one says what is wrong
            return ToolReport(failure=f"{type(error).__name__}: {str(error).partition('. ')[0]}")
