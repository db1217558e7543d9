"""Whether two sides can be compared at all, and what a reader of the comparison has to know."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING

from harness.compare.pairs import COLUMNS, Pair, Pairing, Unit, labels
from harness.results import COLUMNS as TABLE_COLUMNS
from harness.results import EXECUTION, SPEED, text_of
from harness.wording import counted, few

if TYPE_CHECKING:
    import pandas as pd

Names = tuple[str, str]
_MOST_NAMED = 6


def incomparable(pairing: Pairing, names: Names, *, allow_missing: bool, allow_hardware: bool) -> list[str]:
    """Why nothing can be judged, one line each; an empty list if it can."""
    if not any(pair.base.measured for pair in pairing.pairs):
        conditions = "; ".join(_other_conditions(pairing, names))
        why = f" ({conditions})" if conditions else ""
        advice = "compare runs of the same configs and seeds, with the same device and device.threads"
        return [f"{names[0]} and {names[1]} have no trial in common{why}; {advice}"]
    lines = [] if allow_missing else list(_missing(pairing, names))
    if not allow_hardware:
        lines += [
            f"{line}; run both on one machine, or give --allow-different-hardware (throughput is then not judged)"
            for line in chain(*hardware_differences(pairing, names).values())
        ]
    return lines


def _other_conditions(pairing: Pairing, names: Names) -> Iterator[str]:
    """The settings of device and kernel that no trial of one side shares with the other."""
    for column in EXECUTION:
        base, candidate = (_values(side, column) for side in (pairing.only_base, pairing.only_candidate))
        if base and candidate and not set(base) & set(candidate):
            yield f"of {column}, {names[0]} has {' and '.join(base)}, {names[1]} {' and '.join(candidate)}"


def shared(sides: "Sequence[pd.DataFrame]", names: Sequence[str]) -> Iterator[str]:
    """A line if two folders hold a trial with the same id, which means the same data: no id is given twice."""
    for one, other in combinations(range(len(sides)), 2):
        both = sorted(set(sides[one]["trial_id"]) & set(sides[other]["trial_id"]))
        if both:
            what = f"{counted(len(both), 'trial')} with the same id: {few(both)}"
            yield (
                f"{names[one]} and {names[other]} hold the same data ({what}), and what is compared with itself shows "
                "nothing; give folders of separate runs"
            )
            return


def mixed_versions(versions: Sequence[Collection[int]], names: Sequence[str]) -> Iterator[str]:
    """A line if the files are not all of one schema version: what the older ones do not record."""
    every = sorted(set().union(*versions))
    if len(every) < 2:
        return
    listed = (
        f"{name} is of version {' and '.join(map(str, sorted(own)))}" for name, own in zip(names, versions, strict=True)
    )
    lacking = [column.name for column in TABLE_COLUMNS["trials"] if column.since > every[0] and column.name in COLUMNS]
    hidden = f"; version {every[0]} does not record {', '.join(lacking)}, so that nobody can say whether these differ"
    yield f"mixed schema versions: {', '.join(listed)}{hidden if lacking else ''}."


def _missing(pairing: Pairing, names: Names) -> Iterator[str]:
    there = {pair.base.arm for pair in pairing.pairs}
    missing = [unit for unit in pairing.only_base if unit.measured]
    arms = [unit for unit in missing if unit.arm not in there]
    seeds = [unit for unit in missing if unit.arm in there]
    advice = f"run them into {names[1]}, or give --allow-missing"
    if arms:
        named = sorted(set(labels(arms).values()))
        yield f"{names[1]} lacks {counted(len(named), 'arm')} of {names[0]}: {few(named, _MOST_NAMED)}; {advice}"
    if seeds:
        which = few(in_words(seeds), _MOST_NAMED)
        yield f"{names[1]} lacks {counted(len(seeds), 'trial')} of {names[0]}: {which}; {advice}"


def in_words(found: Sequence[Unit]) -> list[str]:
    """Each trial by its arm and seed."""
    named = labels(found)
    return sorted(f"{named[unit.arm]} seed={unit.seed}" for unit in found)


def hardware_differences(pairing: Pairing, names: Names) -> dict[str, list[str]]:
    """Device -> one line for each thing in which its machines differ, between the sides or within one."""
    measured = [pair for pair in pairing.pairs if pair.base.measured and pair.candidate.measured]
    lines: dict[str, list[str]] = defaultdict(list)
    for device in sorted({pair.base.device for pair in measured}):
        on_it = [pair for pair in measured if pair.base.device == device]
        for column in SPEED:
            base, candidate = (
                sorted(frozenset().union(*(unit.speed[column] for unit in units))) for units in _sides(on_it)
            )
            if base != candidate or len(base) > 1:
                said = f"{names[0]} has {' and '.join(base)}, {names[1]} {' and '.join(candidate)}"
                lines[device].append(f"different hardware for device={device}: of {column}, {said}")
    return dict(lines)


def _sides(pairs: Iterable[Pair]) -> tuple[list[Unit], list[Unit]]:
    listed = list(pairs)
    return [pair.base for pair in listed], [pair.candidate for pair in listed]


def _values(found: Iterable[Unit], column: str) -> list[str]:
    return sorted({text_of(unit.row.get(column)) for unit in found})


def notes(pairing: Pairing, names: Names, named: Mapping[str, str], *, different: Collection[str]) -> Iterator[str]:
    """What to know beside the verdicts."""
    measured = [pair for pair in pairing.pairs if pair.base.measured and pair.candidate.measured]
    if different:
        lines = "; ".join(chain(*hardware_differences(pairing, names).values()))
        yield f"{lines}. Throughput is not judged there, and what changed in convergence may come from the machine."
    for column, what in (("torch_version", "torch"), ("gpu_driver", "GPU driver"), ("git_commit", "commit")):
        base, candidate = (_values(units, column) for units in _sides(measured))
        if base != candidate:
            yield f"{what}: {names[0]} {' and '.join(base)}, {names[1]} {' and '.join(candidate)}."
    yield from _changed(measured, named, different=different)
    yield from _not_compared(pairing, named)


def _changed(measured: Sequence[Pair], named: Mapping[str, str], *, different: Collection[str]) -> Iterator[str]:
    """Where there is no noise, other weights are a change of the program."""
    noisy = [p for p in measured if p.base.reproducible is False or p.candidate.reproducible is False]
    for arm, number in _by_arm(noisy, named):
        configs = counted(number, "config")
        yield f"{arm}: {configs} ended with other weights from repetition to repetition: not deterministic."
    here = [p for p in measured if p.base.device not in different]
    same_program = [p for p in here if _same(p, "torch_version") and p not in noisy]
    for arm in sorted({pair.base.arm for pair in same_program}):
        pairs = [pair for pair in same_program if pair.base.arm == arm]
        changed = [pair for pair in pairs if pair.base.weights != pair.candidate.weights]
        if not changed:
            continue
        repeated = any(pair.base.reproducible or pair.candidate.reproducible for pair in pairs)
        if repeated or all(pair.base.row.get("deterministic") for pair in pairs):
            yield _changed_line(named[arm], len(changed), len(pairs), repeated=repeated)


def _changed_line(arm: str, changed: int, of: int, *, repeated: bool) -> str:
    sure = "repetitions give the same bits" if repeated else "deterministic algorithms were asked for"
    return (
        f"{arm}: {changed} of {of} trials ended with other weights from the same config, seed, torch and machine; "
        f"{sure}, so the program changed and this is no noise. Only whether other seeds agree is uncertain."
    )


def _same(pair: Pair, column: str) -> bool:
    return bool(pair.base.row.get(column) == pair.candidate.row.get(column))


def _by_arm(pairs: Iterable[Pair], named: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    yield from sorted(Counter(named[pair.base.arm] for pair in pairs).items())


def _not_compared(pairing: Pairing, named: Mapping[str, str]) -> Iterator[str]:
    failing = [pair for pair in pairing.pairs if not pair.base.measured]
    for arm, number in _by_arm((pair for pair in failing if not pair.candidate.measured), named):
        yield f"{arm}: {counted(number, 'trial')} failed on both sides and cannot be compared."
    for arm, number in _by_arm((pair for pair in failing if pair.candidate.measured), named):
        yield f"{arm}: {counted(number, 'trial')} failed in base and ended in the candidate."
    diverged = [p for p in pairing.pairs if p.base.status == "ok" and p.candidate.status == "diverged"]
    for arm, number in _by_arm(diverged, named):
        yield f"{arm}: {counted(number, 'trial')} diverged in the candidate alone."
