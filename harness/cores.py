"""How many CPU cores this process may use: fewer than the machine has where an affinity or a container limits it."""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")


def usable_cores() -> list[int]:
    """Return numbers of cores that this process may run on, as many as its CPU time is enough for.

    A container that may use the time of two cores (``docker run --cpus=2``) sees all cores of its machine. Threads on
    each of them would be held up by turns. It may run on any of them, so which ones are returned says nothing.
    """
    # macOS has no affinity
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return sorted(cores)[: granted_cores()]


def granted_cores() -> int | None:
    """Return how many cores a container's CPU time is enough to run all the time, 1 at least; None without a limit."""
    quota = cpu_quota()
    return None if quota == math.inf else max(1, math.floor(quota))


def cpu_quota(root: Path = _CGROUPS, own: Path = _OWN_CGROUPS) -> float:
    """Return the cores whose time the control groups of this process grant it, ``inf`` without a limit.

    Args:
        root: where control groups are mounted, of either version.
        own: the list of the groups that this process belongs to.
    """
    return min(_limits(root, own), default=math.inf)


def _limits(root: Path, own: Path) -> Iterator[float]:
    """The limit of each group from ours up to the top; each holds for all below it."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for controllers, path in (line.split(":", 2)[1:] for line in lines if line.count(":") >= 2):
        if not controllers:
            yield from filter(None, map(_limit_v2, _upwards(root, path)))
        elif "cpu" in controllers.split(","):
            yield from filter(None, map(_limit_v1, _upwards(root / "cpu", path)))


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """The group and those above it, the root included, which in a container is the group of the container."""
    group = root / path.strip("/")
    while root in group.parents:
        yield group
        group = group.parent
    yield root


def _limit_v2(group: Path) -> float | None:
    """Version 2: ``cpu.max`` holds microseconds of CPU time, or max, and the period in which they may be used."""
    with suppress(OSError):
        if match := re.fullmatch(r"(\d+) (\d+)\s*", (group / "cpu.max").read_text()):
            return _cores(match[1], match[2])
    return None


def _limit_v1(group: Path) -> float | None:
    """Version 1: the two stand in files of their own, and -1 is no limit."""
    with suppress(OSError):
        quota = (group / "cpu.cfs_quota_us").read_text().strip()
        if quota.isdecimal():
            return _cores(quota, (group / "cpu.cfs_period_us").read_text().strip())
    return None


def _cores(quota_us: str, period_us: str) -> float | None:
    return int(quota_us) / int(period_us) if period_us.isdecimal() and int(period_us) else None
