"""The rows of a sweep as its jobs publish them, for whoever watches it."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from harness.results.places import Place
from harness.results.table_files import UnreadableError, files, read_file


class Arrivals:
    """The published trials of the owners whose names begin alike.

    A file is read once, and its name says whose it is, so that a look costs little however many rows the folder holds.
    """

    def __init__(self, folder: Place, owners: str, columns: Sequence[str]) -> None:
        """Take the results folder, what the owners' names begin with, and the columns to read."""
        self._folder, self._pattern, self._columns = folder, f"part-*-{owners}*.parquet", list(columns)
        self._read: set[str] = set()

    def new(self) -> list[dict[str, Any]]:
        """Return the rows that were published since the last call; a file that cannot be read is tried again."""
        rows: list[dict[str, Any]] = []
        for path in files(self._folder, "trials"):
            if path.name in self._read or not fnmatchcase(path.name, self._pattern):
                continue
            try:
                rows += read_file(path, "trials", self._columns).to_pylist()
            except (UnreadableError, FileNotFoundError):
                continue
            self._read.add(path.name)
        return rows
