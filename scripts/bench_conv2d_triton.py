"""The clocks of bench_conv2d.py against those of ``triton.testing``, on the same calls in the same process.

ours      Triton's               both
cold      do_bench               overwrite the L2 cache before each call
graph     do_bench_cudagraph     replay a CUDA graph of several calls
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.markdown import aligned_table
from harness.timing import Quartiles, quartiles

if TYPE_CHECKING:
    from bench_conv2d_cells import Work
    from bench_conv2d_clock import ArmTimes

_QUANTILES = [0.25, 0.5, 0.75]

Row = tuple[str, str, Quartiles, Quartiles]
"""What was called, the clock's name, microseconds by ours and by Triton's."""


def compared(name: str, works: Mapping[str, "Work"], ours: Mapping[str, "ArmTimes"]) -> list[Row]:
    """Time each call by Triton's clocks too, where ours has a time.

    Args:
        name: of the cell.
        works: arm -> what it calls.
        ours: arm -> times by our clocks.
    """
    import triton.testing

    theirs: dict[str, Callable[..., Any]] = {
        "cold": triton.testing.do_bench,
        "graph": triton.testing.do_bench_cudagraph,
    }
    rows = []
    for arm, work in works.items():
        for clock, bench in theirs.items():
            found = quartiles(ours[arm].us.get(clock, []))
            if found is not None:
                # Triton's give milliseconds
                q25, median, q75 = (1e3 * float(ms) for ms in bench(work, quantiles=_QUANTILES))
                rows.append((f"{name}, {arm}", clock, found, Quartiles(q25, median, q75)))
    return rows


def agree(ours: Quartiles, theirs: Quartiles) -> bool:
    """Return whether the quartiles overlap."""
    return ours.q25 <= theirs.q75 and theirs.q25 <= ours.q75


def summary(rows: Sequence[Row]) -> str:
    """Return the table, and how many pairs of times agree within their quartiles."""
    head = ("call", "clock", "ours, us", "triton.testing, us", "ours to theirs", "quartiles overlap")
    lines = [
        (name, clock, _spread(ours), _spread(theirs), f"{ours.median / theirs.median:.3f}", _yes(agree(ours, theirs)))
        for name, clock, ours, theirs in rows
    ]
    count = sum(agree(ours, theirs) for *_, ours, theirs in rows)
    return f"{aligned_table(head, lines)}\n\n{count} of {len(rows)} pairs of times agree within their quartiles"


def _spread(found: Quartiles) -> str:
    return f"{found.median:.1f} ({found.q25:.1f} to {found.q75:.1f})"


def _yes(is_so: bool) -> str:  # noqa: FBT001 - what is said of it
    return "yes" if is_so else "NO"
