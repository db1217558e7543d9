"""What bench_conv2d.py found: rows of a Parquet file, a summary, and which aims are met."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from bench_conv2d_arms import CUDNN, OURS, VMAP
from bench_conv2d_cells import BLOCK, STACKED, BenchmarkCell, MeasuredCeilings, floor
from bench_conv2d_clock import CLOCKS, ArmTimes

from harness.markdown import aligned_table
from harness.timing import Quartiles, quartiles

_WORDS, _WHOLE, _NUMBERS = pa.string(), pa.int64(), pa.float64()
SCHEMA = pa.schema(
    [
        pa.field("operation", _WORDS),
        pa.field("layer", _WORDS),
        pa.field("images", _WHOLE, metadata={"description": "of each model"}),
        pa.field("models", _WHOLE),
        pa.field("precision", _WORDS, metadata={"description": "ieee, tf32: of float32 products; bf16: type"}),
        pa.field("arm", _WORDS),
        pa.field("clock", _WORDS, metadata={"description": "cold: L2 overwritten before each call; graph: replayed"}),
        pa.field("median_us", _NUMBERS, metadata={"description": "of a call; null: not measured"}),
        pa.field("q25_us", _NUMBERS),
        pa.field("q75_us", _NUMBERS),
        pa.field("rounds", _WHOLE),
        pa.field("host_us", _NUMBERS, metadata={"description": "to launch a call, median"}),
        pa.field("flops", _WHOLE, metadata={"description": "of products, two for a multiply-add"}),
        pa.field("fewest_bytes", _WHOLE, metadata={"description": "that any implementation must move"}),
        pa.field("floor_us", _NUMBERS, metadata={"description": "of the roofline measured in this run"}),
        pa.field("bound", _WORDS, metadata={"description": "memory, arithmetic or launches"}),
        pa.field("roofline_share", _NUMBERS, metadata={"description": "floor_us / median_us"}),
        pa.field("fault", _WORDS, metadata={"description": "why a wrong arm has no time, or why a clock has none"}),
    ]
)
"""One row for each cell, arm and clock."""

_MEMORY_SHARE = 0.6


@dataclass(frozen=True)
class CellResult:
    """What was measured of one cell.

    Attributes:
        times: arm -> its times; an arm that is wrong is not among them.
        faults: arm -> what is wrong with its results.
    """

    cell: BenchmarkCell
    times: dict[str, ArmTimes]
    faults: dict[str, str] = field(default_factory=dict)

    def best(self, arms: Sequence[str], clock: str) -> tuple[str, Quartiles] | None:
        """The quickest of these arms by its median; None if none was timed."""
        spreads = {arm: quartiles(self.times[arm].us.get(clock, [])) for arm in arms if arm in self.times}
        timed = [(arm, value) for arm, value in spreads.items() if value is not None]
        return min(timed, key=lambda pair: pair[1].median, default=None)

    def ratio(self, arms: Sequence[str], clock: str) -> float | None:
        """How many times as long the quickest of these takes as ours."""
        ours, theirs = self.best(OURS, clock), self.best(arms, clock)
        return None if ours is None or theirs is None else theirs[1].median / ours[1].median

    @property
    def others(self) -> list[str]:
        """Arms that are not ours."""
        return [arm for arm in self.times if arm not in OURS]


@dataclass(frozen=True)
class SpeedAim:
    """What was aimed at; ``met`` is None where it was not measured."""

    name: str
    outcome: str
    met: bool | None


def rows(results: Sequence[CellResult], ceilings: MeasuredCeilings | None) -> Iterator[dict[str, Any]]:
    """As :data:`SCHEMA` has them."""
    for result in results:
        for arm in [*result.times, *(arm for arm in result.faults if arm not in result.times)]:
            for clock in CLOCKS:
                yield _row(result, arm, clock, ceilings)


def _row(result: CellResult, arm: str, clock: str, ceilings: MeasuredCeilings | None) -> dict[str, Any]:
    cell, times = result.cell, result.times.get(arm, ArmTimes())
    spread = quartiles(times.us.get(clock, []))
    least = None if ceilings is None else floor(cell, ceilings)
    return {
        "operation": cell.operation,
        "layer": cell.layer.name,
        "images": cell.images,
        "models": cell.models,
        "precision": cell.precision,
        "arm": arm,
        "clock": clock,
        "median_us": spread and spread.median,
        "q25_us": spread and spread.q25,
        "q75_us": spread and spread.q75,
        "rounds": len(times.us.get(clock, [])),
        "host_us": times.host_us,
        "flops": cell.flops,
        "fewest_bytes": cell.fewest_bytes,
        "floor_us": least and least.us,
        "bound": least and least.bound,
        "roofline_share": least.us / spread.median if least and spread else None,
        "fault": result.faults.get(arm) or times.without.get(clock),
    }


def write(
    path: Path, results: Sequence[CellResult], ceilings: MeasuredCeilings | None, about: Mapping[str, str]
) -> None:
    """The Parquet file; ``about`` (card, versions, ceilings) goes into its footer."""
    table = pa.Table.from_pylist(list(rows(results, ceilings)), schema=SCHEMA)
    partial = path.with_name(path.name + ".partial")
    pq.write_table(table.replace_schema_metadata(dict(about)), partial)
    partial.replace(path)


def summary(results: Sequence[CellResult], ceilings: MeasuredCeilings | None) -> str:
    """A Markdown table: for each cell and clock ours, the quickest other, and how near the floor ours comes."""
    head = ("operation", "layer", "batch", "models", "precision", "clock", "ours, us", "quickest other, us", "which",
            "ratio", "n", "floor, us", "bound by", "share of floor")  # fmt: skip
    return aligned_table(head, [_line(result, clock, ceilings) for result in results for clock in CLOCKS])


def _line(result: CellResult, clock: str, ceilings: MeasuredCeilings | None) -> tuple[str, ...]:
    cell, ours, theirs = result.cell, result.best(OURS, clock), result.best(result.others, clock)
    ratio = result.ratio(result.others, clock)
    least = None if ceilings is None else floor(cell, ceilings)
    count = "-" if ours is None else str(len(result.times[ours[0]].us[clock]))
    return (
        cell.operation,
        cell.layer.name,
        str(cell.images),
        str(cell.models),
        cell.precision,
        clock,
        _spread(ours),
        _spread(theirs),
        theirs[0] if theirs else "-",
        "-" if ratio is None else f"{ratio:.2f}",
        count,
        f"{least.us:.2f}" if least else "-",
        least.bound if least else "-",
        f"{least.us / ours[1].median:.0%}" if least and ours else "-",
    )


def _spread(best: tuple[str, Quartiles] | None) -> str:
    return "-" if best is None else f"{best[1].median:,.1f} ({best[1].q25:,.1f} to {best[1].q75:,.1f})"


def aims(
    results: Sequence[CellResult], ceilings: MeasuredCeilings | None, expected: Sequence[BenchmarkCell]
) -> list[SpeedAim]:
    """Each aim, by the worst of its cells and clocks. It is met only if every cell that it speaks of was measured.

    Args:
        results: what was measured.
        ceilings: of the same run; None: not measured.
        expected: every cell of a whole run.
    """
    small = [cell for cell in expected if cell.operation == BLOCK and cell.images <= 1024]
    large = [cell for cell in expected if cell.operation == BLOCK and cell.images == 8192]
    stack = [cell for cell in expected if cell.operation == STACKED and (cell.models, cell.images) == (64, 50)]
    ratios = (
        ("fused block, batch 50 to 1024: at least 1.5 times as fast as the better of cuDNN's", small, CUDNN, 1.5),
        ("fused block, batch 8192: not behind the better of cuDNN's", large, CUDNN, 1.0),
        ("64 stacked blocks, batch 50: at least 4 times as fast as vmap", stack, (VMAP,), 4.0),
    )
    by_cell = {result.cell: result for result in results}
    speed_aims = [
        _aim(name, [(cell, clock, _ratio(by_cell.get(cell), arms, clock)) for cell in cells for clock in CLOCKS], least)
        for name, cells, arms, least in ratios
    ]
    return [*speed_aims, _memory_aim(by_cell, ceilings, expected)]


def _ratio(result: CellResult | None, arms: Sequence[str], clock: str) -> float | None:
    return None if result is None else result.ratio(arms, clock)


def _aim(name: str, values: Sequence[tuple[BenchmarkCell, str, float | None]], least: float) -> SpeedAim:
    """Worst value against the least that is wanted."""
    known = [(value, f"{cell}, {clock}") for cell, clock, value in values if value is not None]
    missing = len(values) - len(known)
    if not known:
        return SpeedAim(name, "not measured", None)
    worst, where = min(known)
    text = f"worst {worst:.2f} ({where})" + (f"; {missing} of {len(values)} not measured" if missing else "")
    # one that falls short decides, however many are missing
    return SpeedAim(name, text, False if worst < least else None if missing else True)


def _memory_aim(
    by_cell: Mapping[BenchmarkCell, CellResult], ceilings: MeasuredCeilings | None, expected: Sequence[BenchmarkCell]
) -> SpeedAim:
    """Cold, for in a graph small tensors come from the cache and not from memory."""
    name = f"{_MEMORY_SHARE:.0%} of the memory roofline where memory binds"
    if ceilings is None:
        return SpeedAim(name, "not measured", None)
    values: list[tuple[BenchmarkCell, str, float | None]] = []
    for cell in expected:
        least = floor(cell, ceilings)
        if least.bound == "memory":
            best = by_cell[cell].best(OURS, "cold") if cell in by_cell else None
            values.append((cell, "cold", best and least.us / best[1].median))
    return _aim(name, values, _MEMORY_SHARE)
