"""Where docs/performance.md shows the tables of bench_peers.py."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from peers_report import PeerAim, PeersReport, tables

PAGE = Path(__file__).parent.parent / "docs/performance.md"
BEGIN, END = "<!-- written by: python scripts/bench_peers.py --page -->", "<!-- end of what the script wrote -->"


def write_page(found: PeersReport, judged: Sequence[PeerAim]) -> None:
    """Put the tables in the place of those that are there."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    day = datetime.now(UTC).date()
    text = f"{before}{BEGIN}\n\nMeasured on {day}: {found.header}.\n\n{tables(found, judged)}\n\n{END}{after}"
    PAGE.write_text(text, "utf-8")
