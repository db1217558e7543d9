"""Rows as they are published, part after part, for who waits for another process to write them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


class Arrivals:
    """The published trials of the owners whose names begin alike.

    A file is read once, and its name says whose it is, so that a look costs little however many rows the folder holds.
    """

    def __init__(self, folder: Path, owners: str, columns: Sequence[str]) -> None:
        """Take the results folder, what the owners' names begin with, and the columns to read."""
        self._place, self._pattern, self._columns = folder / "trials", f"part-*-{owners}*.parquet", list(columns)
        self._read: set[str] = set()

    def new(self) -> list[dict[str, Any]]:
        """Return the rows that were published since the last call; a file that cannot be read is tried again."""
        rows: list[dict[str, Any]] = []
        for path in sorted(self._place.glob(self._pattern)):
            if path.name not in self._read:
                try:
                    rows += pq.read_table(path, columns=self._columns, partitioning=None).to_pylist()
                except (OSError, pa.ArrowException):
                    continue
                self._read.add(path.name)
        return rows
