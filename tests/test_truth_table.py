"""``harness.diagnose`` finds every planted fault and raises no false alarm; experiments confirm the labels.

The experiment is independent of the diagnosis: it trains in float64 with plain SGD, looks at gradients and weights
alone, and redraws tensors to see which of them cure the network.
"""

import copy
import dataclasses
import functools
import importlib
import itertools
import math
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import harness
from harness.diagnosis import Diagnosis

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
table: ModuleType = importlib.import_module("planted_networks")
made: ModuleType = importlib.import_module("planted_modules")
sys.path.pop(0)

HARMFUL = ("not finite", "dead", "symmetric", "exploding", "vanishing", "rounded away")
HARMLESS = ("delayed", "intermittent", "unused", "fine")
IMAGES, LABELS = made.batch()
EXACT = IMAGES.double()
SHARES = torch.bincount(LABELS).double() / len(LABELS)
# a network that ignores its input can reach this loss and none below
BLIND_LOSS = float(-torch.xlogy(SHARES, SHARES).sum())
LEARNED = 0.75 * BLIND_LOSS
# the last is the default of ``harness.diagnose``
RATES = (0.1, 1.0, 0.01)
FEW_NAMES, MOST_NAMES = 8, 16
"""Up to so many tensors all pairs are tried, and all single ones; beyond, a few single ones."""
TOO_SMALL, TOO_LARGE, TOO_LARGE_LOSS = 1e-8, 1e4, 1e3


@dataclass(frozen=True)
class Trace:
    """What a few steps in float64 show.

    Attributes:
        losses: before each update.
        ratios: name of a weight -> norm of its gradient over that of the gradient at the logits, at each step.
        alike: names of the weights whose rows were all equal at first and at last.
    """

    losses: list[float]
    ratios: dict[str, list[float]]
    alike: set[str]


def gradients(network: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Fill in ``.grad``; the loss, and the norm of the gradient at the logits."""
    network.zero_grad()
    logits = network(images)
    logits.retain_grad()
    loss = F.cross_entropy(logits, LABELS)
    loss.backward()
    return float(loss.detach()), float(logits.grad.norm())


def step(network: nn.Module, rate: float) -> None:
    with torch.no_grad():
        for value in network.parameters():
            if value.grad is not None:
                value.sub_(rate * value.grad)


def units_are_equal(name: str, weight: torch.Tensor) -> bool:
    """Whether all rows are the same; of a recurrent layer, those of each gate."""
    of_gates = weight.reshape(-1, made.HIDDEN if "recurrent" in name else len(weight), weight[0].numel())
    spread = (of_gates - of_gates[:, :1]).abs().max()
    return len(weight) > 1 and float(spread) <= 1e-9 * float(weight.abs().max())


def trace(network: nn.Module, steps: int, rate: float = 0.01) -> Trace:
    """Train a copy; weights that the network does not use, or that are not to be trained, are left out."""
    network = copy.deepcopy(network).double().train()
    weights = {name: value for name, value in network.named_parameters() if value.dim() > 1}
    alike = {name for name, value in weights.items() if units_are_equal(name, value.detach())}
    losses: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in weights}
    for _ in range(steps):
        loss, at_logits = gradients(network, EXACT)
        losses.append(loss)
        if not math.isfinite(loss):
            break
        for name, value in weights.items():
            if value.grad is not None:
                ratios[name].append(float(value.grad.norm()) / at_logits if at_logits else 0.0)
        step(network, rate)
    alike = {name for name in alike if units_are_equal(name, weights[name].detach())}
    return Trace(losses, {name: found for name, found in ratios.items() if found}, alike)


def is_finite(network: nn.Module) -> bool:
    """Whether loss and gradients are finite at step 0, in the network's own number format."""
    network = copy.deepcopy(network).train()
    loss, _ = gradients(network, IMAGES)
    found = [value.grad for value in network.parameters() if value.grad is not None]
    return math.isfinite(loss) and all(bool(gradient.isfinite().all()) for gradient in found)


def depth_of(network: nn.Module) -> int:
    return sum(value.dim() > 1 for value in network.parameters())


def harm(network: nn.Module) -> str:
    """The kind of harm by experiment; empty if there is none."""
    torch.manual_seed(0)
    if not is_finite(network):
        return "not finite"
    # zero layers may wake one after the other; the deep networks here are not of that kind
    seen = trace(network, min(depth_of(network), 8) + 4)
    largest = [max(ratios) for ratios in seen.ratios.values()]
    if min(largest) == 0:
        return "dead"
    if seen.alike:
        return "symmetric"
    first_gradient = max(ratios[0] for ratios in seen.ratios.values())
    if not max(seen.losses) < TOO_LARGE_LOSS or first_gradient > TOO_LARGE:
        return "exploding"
    return "vanishing" if min(largest) < TOO_SMALL else ""


def learns(network: nn.Module, steps: int = 300) -> bool:
    """Whether plain SGD tells the images apart at one of the learning rates."""
    torch.manual_seed(0)
    return any(_learns(copy.deepcopy(network).double().train(), steps, rate) for rate in RATES)


def _learns(network: nn.Module, steps: int, rate: float) -> bool:
    for _ in range(steps):
        loss, _ = gradients(network, EXACT)
        if loss < LEARNED or not math.isfinite(loss):
            return loss < LEARNED
        step(network, rate)
    return False


def redrawn(network: nn.Module, names: Iterable[str], gain: float) -> nn.Module:
    """A copy with some of its tensors drawn anew, as healthy ones are."""
    network = copy.deepcopy(network)
    draws = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name in names and value.dim() > 1:
                value.copy_(torch.randn(value.shape, generator=draws) * gain / math.sqrt(value[0].numel()))
            elif name in names:
                value.fill_(0.0 if "bias" in name else 1.0)
    return network


def cure(network: nn.Module, names: Iterable[str]) -> nn.Module | None:
    """The network with these tensors redrawn, if that takes the harm away with one of the usual gains."""
    candidates = (redrawn(network, names, gain) for gain in (math.sqrt(2), 1.0))
    return next((candidate for candidate in candidates if not harm(candidate)), None)


def minimal_picks(slots: tuple[frozenset[str], ...]) -> Iterator[set[str]]:
    """Every tensor of every slot, each with one tensor of every other slot."""
    first = [min(slot) for slot in slots]
    for index, slot in enumerate(slots):
        for name in slot:
            yield {name, *first[:index], *first[index + 1 :]}


CURABLE = [planted for planted in table.PLANTED if planted.causes]
curable = pytest.mark.parametrize("planted", CURABLE, ids=[planted.name for planted in CURABLE])


def planted_as(name: str):
    (planted,) = [each for each in table.PLANTED if each.name == name]
    return planted


def of_kind(*kinds: str) -> pytest.MarkDecorator:
    networks = [planted for planted in table.PLANTED if planted.kind in kinds]
    return pytest.mark.parametrize("planted", networks, ids=[planted.name for planted in networks])


@of_kind("fine")
def test_healthy_networks_are_healthy(planted) -> None:
    network = planted.build()
    assert not harm(network)
    assert learns(network)


@of_kind(*HARMFUL)
def test_faulty_networks_have_the_fault(planted) -> None:
    assert harm(planted.build()) == planted.kind


@pytest.mark.slow
@of_kind("exploding", "vanishing")
def test_sizes_that_are_called_harmful_keep_a_network_from_learning(planted) -> None:
    assert not learns(planted.build())


def picks_that_do_not_cure(planted) -> list[set[str]]:
    network = planted.build()
    picks = [set(planted.to_blame)] if planted.gradual else minimal_picks(planted.causes)
    return [pick for pick in picks if cure(network, pick) is None]


def slots_that_are_not_needed(planted) -> list[frozenset[str]]:
    """Slots without which redrawing everything else cures."""
    network = planted.build()
    names = {name for name, _ in network.named_parameters()}
    slots = [planted.to_blame] if planted.gradual else planted.causes
    return [slot for slot in slots if cure(network, names - slot)]


@of_kind("vanishing")
def test_what_is_said_to_have_no_cure_has_none(planted) -> None:
    network = planted.build()
    names = [name for name, _ in network.named_parameters()]
    assert bool(planted.causes) == (cure(network, names) is not None)


@curable
def test_redrawing_one_tensor_of_every_slot_cures(planted) -> None:
    assert not picks_that_do_not_cure(planted)


@pytest.mark.slow
@curable
def test_cured_networks_learn(planted) -> None:
    """Those with gradual faults may go on to learn more slowly than this test waits."""
    if not planted.gradual:
        assert learns(cure(planted.build(), next(minimal_picks(planted.causes))))


@curable
def test_redrawing_all_tensors_but_those_of_one_slot_does_not_cure(planted) -> None:
    """No set of tensors cures that misses a slot: each slot is needed, and names all that can stand in for it."""
    assert not slots_that_are_not_needed(planted)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("zeros: conv1 and conv2", ["conv1.weight"]),
        ("zeros: conv1 and conv2", ["conv1.weight|conv2.weight"]),
        ("zeros: conv1 and conv2", ["conv1.weight", "conv2.weight", "fc1.weight"]),
        ("zeros: conv2 and last", ["conv2.weight|last.weight"]),
        ("joint: tanh", ["conv2.weight"]),
        ("joint: tanh", ["conv2.weight", "last.weight"]),
        ("closed by a bias: conv relu", ["conv2.weight"]),
    ],
)
def test_a_wrong_label_does_not_pass(name: str, wrong: list[str]) -> None:
    slots = tuple(frozenset(slot.split("|")) for slot in wrong)
    mislabelled = dataclasses.replace(planted_as(name), causes=slots)
    assert picks_that_do_not_cure(mislabelled) or slots_that_are_not_needed(mislabelled)


@pytest.mark.slow
@curable
def test_no_other_tensor_or_pair_of_tensors_cures(planted) -> None:
    """By brute force; a tensor that is not to blame may do harm when it is redrawn beside one that is."""
    network = planted.build()
    names = [name for name, _ in network.named_parameters()]
    tried = names if len(names) <= MOST_NAMES else names[::24]
    for size in (1, 2)[: len(planted.causes) if len(names) <= FEW_NAMES else 1]:
        sets = [frozenset(found) for found in itertools.combinations(tried, size)]
        allowed = {found for found in sets if all(found & slot for slot in planted.causes)}
        needed = {found for found in allowed if found <= planted.to_blame}
        assert needed <= {found for found in sets if cure(network, found)} <= allowed


# the diagnosis


@functools.cache
def diagnosed(name: str) -> Diagnosis:
    return harness.diagnose(planted_as(name).build(), [(IMAGES, LABELS)])


def right_kinds(planted) -> tuple[str, ...]:
    """What may be found; a signal that is far too large may overflow float32 within the steps that are watched."""
    return {"fine": HARMLESS, "exploding": ("exploding", "not finite")}.get(planted.kind, (planted.kind,))


def right_blame(planted, found: Diagnosis) -> bool:
    """Whether the slots found are those planted.

    Where planted slots overlap, a single tensor may serve two of them; then every pick of a different tensor per slot
    must be a smallest cure. Where many tensors are wrong by a little each, none of them is more to blame than another.
    """
    slots = {frozenset(slot) for slot in found.causes.slots}
    if planted.gradual:
        return found.to_blame == planted.to_blame
    if sum(map(len, planted.causes)) == len(planted.to_blame):
        return slots == set(planted.causes)
    picks = [set(pick) for pick in itertools.product(*found.causes.slots) if len(set(pick)) == len(slots)]
    return len(slots) == smallest_cure(planted) and all(pick & slot for pick in picks for slot in planted.causes)


def smallest_cure(planted) -> int:
    """How many tensors must be redrawn at least."""
    sizes = range(len(planted.causes) + 1)
    hits = lambda names: all(slot & set(names) for slot in planted.causes)  # noqa: E731
    return next(size for size in sizes if any(map(hits, itertools.combinations(sorted(planted.to_blame), size))))


@of_kind(*HARMLESS, *HARMFUL)
def test_diagnosis_finds_what_was_planted(planted) -> None:
    found = diagnosed(planted.name)
    assert found.network.kind in right_kinds(planted), str(found)
    assert right_blame(planted, found), f"{found.causes.slots}\n{found}"


def confusion(pairs: "Counter[tuple[str, str]]") -> str:
    """Planted kinds down, found kinds across."""
    down, across = ([kind for kind in (*HARMFUL, *HARMLESS) if any(p[i] == kind for p in pairs)] for i in (0, 1))
    lines = [f"{'planted':<12}" + "".join(f"{kind:>14}" for kind in across)]
    lines += [f"{kind:<12}" + "".join(f"{pairs[kind, found] or '.':>14}" for found in across) for kind in down]
    return "\n".join(lines)


def test_confusion_table_has_no_false_alarm_and_no_miss() -> None:
    """Run with ``-s`` to see the table."""
    pairs = Counter((planted.kind, diagnosed(planted.name).network.kind) for planted in table.PLANTED)
    print(f"\n{confusion(pairs)}")
    wrong = {pair: count for pair, count in pairs.items() if (pair[0] in HARMFUL) != (pair[1] in HARMFUL)}
    assert not wrong, f"\n{confusion(pairs)}"
    blamed = [planted.name for planted in table.PLANTED if planted.kind == "fine" and diagnosed(planted.name).to_blame]
    assert not blamed


def test_table_is_large_enough_and_its_names_are_unique() -> None:
    names = Counter(planted.name for planted in table.PLANTED)
    assert max(names.values()) == 1
    healthy = sum(planted.kind == "fine" for planted in table.PLANTED)
    assert min(healthy, len(table.PLANTED) - healthy) >= 65
