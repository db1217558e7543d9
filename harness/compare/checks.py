"""Whether two sides can be compared at all, and what a reader of the comparison has to know."""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain, combinations
from typing import TYPE_CHECKING

from harness.compare.measures import KINDS
from harness.compare.pairs import COLUMNS, Pair, SeedResult
from harness.compare.preparation import Prepared, sides_of
from harness.results import COLUMNS as TABLE_COLUMNS
from harness.results import COUNTED, ENVIRONMENT, EXECUTION, text_of
from harness.wording import counted, few

if TYPE_CHECKING:
    import pandas as pd

_MOST_NAMED = 6


def incomparable(prepared: Prepared, *, allow_missing: bool, allow_hardware: bool) -> list[str]:
    """Why nothing can be judged, one line each; an empty list if it can."""
    if not any(pair.base.measured for pair in prepared.pairing.pairs):
        conditions = "; ".join(_other_conditions(prepared))
        why = f" ({conditions})" if conditions else ""
        advice = "compare runs of the same configs and seeds, with the same device and device.threads"
        return [f"{prepared.sides[0]} and {prepared.sides[1]} have no trial in common{why}; {advice}"]
    lines = [] if allow_missing else list(_missing(prepared))
    if not allow_hardware:
        lines += [
            f"{line}; run both on one machine, or give --allow-different-hardware (throughput is then not judged)"
            for line in chain(*prepared.hardware.values())
        ]
    return lines


def unknown_hardware(prepared: Prepared, judged: Collection[str]) -> list[str]:
    """A line for each thing that does not say which machines ran, if speed is among the kinds that are judged."""
    of_speed = any(not KINDS[name].learning for name in judged)
    return list(chain(*prepared.unknown.values())) if of_speed else []


def _other_conditions(prepared: Prepared) -> Iterator[str]:
    """The settings of device and kernel that no trial of one side shares with the other."""
    alone = prepared.pairing.only_base, prepared.pairing.only_candidate
    for column in EXECUTION:
        base, candidate = (_values(side, column) for side in alone)
        if base and candidate and not set(base) & set(candidate):
            yield f"of {column}, {_has(prepared, base, candidate)}"


def _has(prepared: Prepared, base: Sequence[str], candidate: Sequence[str]) -> str:
    return f"{prepared.sides[0]} has {' and '.join(base)}, {prepared.sides[1]} {' and '.join(candidate)}"


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


def _missing(prepared: Prepared) -> Iterator[str]:
    there = {pair.base.arm for pair in prepared.pairing.pairs}
    missing = [result for result in prepared.pairing.only_base if result.measured]
    arms = [result for result in missing if result.arm not in there]
    seeds = [result for result in missing if result.arm in there]
    base, candidate = prepared.sides
    advice = f"run them into {candidate}, or give --allow-missing"
    if arms:
        named = sorted({prepared.arms[result.arm] for result in arms})
        yield f"{candidate} lacks {counted(len(named), 'arm')} of {base}: {few(named, _MOST_NAMED)}; {advice}"
    if seeds:
        which = few(in_words(seeds, prepared.arms), _MOST_NAMED)
        yield f"{candidate} lacks {counted(len(seeds), 'trial')} of {base}: {which}; {advice}"


def in_words(results: Sequence[SeedResult], arms: Mapping[str, str]) -> list[str]:
    """Each trial by its arm and seed."""
    return sorted(f"{arms[result.arm]} seed={result.seed}" for result in results)


def _values(results: Iterable[SeedResult], column: str) -> list[str]:
    return sorted({text_of(result.row.get(column)) for result in results})


def notes(prepared: Prepared) -> Iterator[str]:
    """What to know beside the verdicts."""
    if prepared.hardware:
        lines = "; ".join(chain(*prepared.hardware.values()))
        yield f"{lines}. Throughput is not judged there, and what changed in convergence may come from the machine."
    if prepared.unknown:
        lines = "; ".join(chain(*prepared.unknown.values()))
        yield (
            f"{lines}. Nobody can say whether one machine ran both sides, so throughput is not judged there, and what "
            "changed in convergence may come from the machine. --allow-different-hardware asks for convergence only."
        )
    for column in ENVIRONMENT:
        base, candidate = (_values(side, column) for side in sides_of(prepared.measured))
        if base != candidate:
            yield f"{column}: {prepared.sides[0]} {' and '.join(base)}, {prepared.sides[1]} {' and '.join(candidate)}."
    yield from _changed(prepared)
    yield from _not_compared(prepared)


def _changed(prepared: Prepared) -> Iterator[str]:
    """Where there is no noise, other weights are a change of the program."""
    measured = prepared.measured
    noisy = [p for p in measured if p.base.reproducible is False or p.candidate.reproducible is False]
    for arm, number in _by_arm(noisy, prepared.arms):
        configs = counted(number, "config")
        yield f"{arm}: {configs} ended with other weights from repetition to repetition: not deterministic."
    here = [p for p in measured if p.base.device not in {*prepared.hardware, *prepared.unknown}]
    same_program = [p for p in here if _same(p, "torch_version") and p not in noisy]
    for arm in sorted({pair.base.arm for pair in same_program}, key=lambda arm: prepared.arms[arm]):
        pairs = [pair for pair in same_program if pair.base.arm == arm]
        changed = [pair for pair in pairs if pair.base.weights != pair.candidate.weights]
        if not changed:
            continue
        repeated = any(pair.base.reproducible or pair.candidate.reproducible for pair in pairs)
        if repeated or all(pair.base.row.get("deterministic") for pair in pairs):
            yield _changed_line(prepared.arms[arm], len(changed), len(pairs), repeated=repeated)


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


def _not_compared(prepared: Prepared) -> Iterator[str]:
    pairs, arms = prepared.pairing.pairs, prepared.arms
    failing = [pair for pair in pairs if not pair.base.measured]
    for arm, number in _by_arm((pair for pair in failing if not pair.candidate.measured), arms):
        yield f"{arm}: {counted(number, 'trial')} failed on both sides and cannot be compared."
    for arm, number in _by_arm((pair for pair in failing if pair.candidate.measured), arms):
        yield f"{arm}: {counted(number, 'trial')} failed in base and ended in the candidate."
    for status in COUNTED:
        ended = [p for p in pairs if p.base.status == "ok" and p.candidate.status == status != "ok"]
        for arm, number in _by_arm(ended, arms):
            yield f"{arm}: {counted(number, 'trial')} {status} in the candidate alone."
