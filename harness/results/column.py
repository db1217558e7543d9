"""What a column of the tables is, and what a status is; ``harness.results.schema`` puts the columns together."""

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

TEXT, WHOLE, REAL, FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
ID = "a trial's own id: UTC start time and random hex digits"
OLDEST_VERSION = 3
"""The oldest version whose files are read."""

Role = Literal["identity", "choice", "hardware", "environment", "result", "bulk"]
"""What a column says of its trial.

identity: which trial it is, and of which sweep. choice: a setting that makes another arm. hardware: the machine, and
what else ran there. environment: versions of software. result: what was measured. bulk: text and lists that only few
readers want.
"""

Speed = Literal["none", "condition", "work"]
"""What a choice has to do with speed: nothing; how the same work is executed; how much work a step is."""


@dataclass(frozen=True)
class Status:
    """How a trial can end.

    Attributes:
        meaning: for readers of the results.
        counted: whether the trial was given its chance and says something of its initializer.
    """

    meaning: str
    counted: bool


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        name: as in the files.
        type: Arrow type.
        description: for readers; it stands in each file's footer.
        role: what it says of its trial.
        required: whether it is never null.
        since: the schema version that brought it; files of earlier versions lack it.
        source: of a choice, the field of :class:`harness.TrialConfig` that it repeats, such as ``optimizer.lr``.
        speed: of a choice, what it has to do with speed.
        before: what it was in files of versions that lack it; None: it is not known.
    """

    name: str
    type: pa.DataType
    description: str
    role: Role
    required: bool = False
    since: int = OLDEST_VERSION
    source: str = ""
    speed: Speed = "none"
    before: int | str | bool | None = None


def result(
    name: str, type_: pa.DataType, description: str, *, required: bool = False, since: int = OLDEST_VERSION
) -> Column:
    """Return a column that was measured."""
    return Column(name, type_, description, "result", required=required, since=since)


def choice(
    name: str,
    type_: pa.DataType,
    description: str,
    source: str,
    *,
    speed: Speed = "none",
    required: bool = True,
) -> Column:
    """Return a column that repeats a setting of the config."""
    return Column(name, type_, description, "choice", required=required, source=source, speed=speed)


def later_choice(
    name: str,
    type_: pa.DataType,
    description: str,
    source: str,
    *,
    before: int | str | bool | None,
    speed: Speed = "none",
    since: int = 5,
) -> Column:
    """Return a choice that version ``since`` brought; ``before`` is what every trial had until then."""
    return Column(name, type_, description, "choice", since=since, source=source, speed=speed, before=before)
