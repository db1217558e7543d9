"""Two sides made ready to compare: paired, with the names of their arms and what is known of their machines."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.compare.pairs import Pair, Pairing, SeedResult, pair_up
from harness.processor import identifies
from harness.results import CHOICES, HARDWARE, MISSING, SPEED, arm_names

Names = tuple[str, str]


@dataclass(frozen=True)
class Prepared:
    """What every step of a comparison needs, made once.

    Attributes:
        pairing: the pairs, and what only one side has.
        sides: what base and candidate are called.
        arms: arm -> its name, of all arms of both sides.
        hardware: device -> a line for each thing in which its machines differ, between the sides or within one.
        unknown: device -> a line for each thing that does not say which machines they are.
    """

    pairing: Pairing
    sides: Names
    arms: Mapping[str, str]
    hardware: Mapping[str, Sequence[str]]
    unknown: Mapping[str, Sequence[str]]

    @property
    def measured(self) -> list[Pair]:
        """The pairs that have results on both sides."""
        return [pair for pair in self.pairing.pairs if pair.base.measured and pair.candidate.measured]


def prepare(
    base: Sequence[SeedResult], candidate: Sequence[SeedResult], sides: Names, arms: Mapping[str, str] | None = None
) -> Prepared:
    """Pair two sides.

    Args:
        base: its results.
        candidate: the same.
        sides: what to call the two.
        arms: arm -> its name; None: see :func:`named_arms`.
    """
    pairing = pair_up(base, candidate)
    names = named_arms([*base, *candidate]) if arms is None else arms
    hardware, unknown = _hardware_differences(pairing, sides)
    return Prepared(pairing, sides, names, hardware, unknown)


def named_arms(results: Sequence[SeedResult]) -> dict[str, str]:
    """Arm -> its name, by what tells it from the others among these results."""
    columns = {name: [result.row.get(name) for result in results] for name in CHOICES}
    return arm_names(columns, [result.arm for result in results])


def sides_of(pairs: Iterable[Pair]) -> tuple[list[SeedResult], list[SeedResult]]:
    """Return the results of base and those of the candidate."""
    listed = list(pairs)
    return [pair.base for pair in listed], [pair.candidate for pair in listed]


Lines = dict[str, list[str]]


def _hardware_differences(pairing: Pairing, sides: Names) -> tuple[Lines, Lines]:
    """For each device a line for each condition of speed that differs, and for each that is not known."""
    measured = [pair for pair in pairing.pairs if pair.base.measured and pair.candidate.measured]
    different: Lines = defaultdict(list)
    unknown: Lines = defaultdict(list)
    for device in sorted({pair.base.device for pair in measured}):
        on_it = [pair for pair in measured if pair.base.device == device]
        for column in SPEED:
            base, candidate = (
                frozenset[str]().union(*(result.speed[column] for result in side)) for side in sides_of(on_it)
            )
            texts = f"{sides[0]} has {_listed(base)}, {sides[1]} {_listed(candidate)}"
            if _differ(column, base, candidate):
                different[device].append(f"different hardware for device={device}: of {column}, {texts}")
            elif column in HARDWARE and not all(map(_is_known, base | candidate)):
                unknown[device].append(f"unknown hardware for device={device}: of {column}, {texts}")
    return dict(different), dict(unknown)


def _listed(values: Iterable[str]) -> str:
    return " and ".join(sorted(values))


def _differ(column: str, base: frozenset[str], candidate: frozenset[str]) -> bool:
    """Return whether the sides differ, or one side has several values.

    Hardware without a value is not known. A setting without one is known: ``kernel_precision`` is null for torch.
    """
    if column in HARDWARE:
        base, candidate = base - {MISSING}, candidate - {MISSING}
        return len(base) > 1 or len(candidate) > 1 or bool(base and candidate and base != candidate)
    return base != candidate or len(base) > 1


def _is_known(text: str) -> bool:
    return text != MISSING and identifies(text)
