"""Two sides made ready to compare: paired, with the names of their arms and the differences of their machines."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from harness.compare.pairs import Pair, Pairing, SeedResult, pair_up
from harness.results import CHOICES, SPEED, arm_names

Names = tuple[str, str]


@dataclass(frozen=True)
class Prepared:
    """What every step of a comparison needs, made once.

    Attributes:
        pairing: the pairs, and what only one side has.
        sides: what base and candidate are called.
        arms: arm -> its name, of all arms of both sides.
        hardware: device -> a line for each thing in which its machines differ, between the sides or within one.
    """

    pairing: Pairing
    sides: Names
    arms: Mapping[str, str]
    hardware: Mapping[str, Sequence[str]]

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
    return Prepared(pairing, sides, names, _hardware_differences(pairing, sides))


def named_arms(results: Sequence[SeedResult]) -> dict[str, str]:
    """Arm -> its name, by what tells it from the others among these results."""
    columns = {name: [result.row.get(name) for result in results] for name in CHOICES}
    return arm_names(columns, [result.arm for result in results])


def sides_of(pairs: Iterable[Pair]) -> tuple[list[SeedResult], list[SeedResult]]:
    """Return the results of base and those of the candidate."""
    listed = list(pairs)
    return [pair.base for pair in listed], [pair.candidate for pair in listed]


def _hardware_differences(pairing: Pairing, sides: Names) -> dict[str, list[str]]:
    measured = [pair for pair in pairing.pairs if pair.base.measured and pair.candidate.measured]
    lines: dict[str, list[str]] = defaultdict(list)
    for device in sorted({pair.base.device for pair in measured}):
        on_it = [pair for pair in measured if pair.base.device == device]
        for column in SPEED:
            base, candidate = (
                sorted(frozenset().union(*(result.speed[column] for result in side))) for side in sides_of(on_it)
            )
            if base != candidate or len(base) > 1:
                differ = f"{sides[0]} has {' and '.join(base)}, {sides[1]} {' and '.join(candidate)}"
                lines[device].append(f"different hardware for device={device}: of {column}, {differ}")
    return dict(lines)
