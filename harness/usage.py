"""The text of ``--help``: every choice with the first line of its file, every value with its default and comment."""

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

from harness.compose import CONF_DIR

GROUPS = ("init", "device", "kernel", "engine", "model", "data", "optimizer", "experiment")
_WIDTH = 100

_HEAD = """\
initbench: train a small MNIST network from different initial weights: what learns, why, how fast.

usage: python -m harness.run [-m] [CHOICE ...] [VALUE ...]          (or: initbench ...)

  python -m harness.run init=zero                                    one trial
  python -m harness.run -m init=zero,glorot seed=0,1,2 device=cpu    a sweep: every combination
  python -m harness.run -m init='glob(*)' seed='range(0,10)'         all initializers, ten seeds
  ... sweep.workers=auto                                             on every core or GPU
  ... sweep.resume=true                                              what the folder lacks
"""
_TAIL = """\
Switches: --cfg job prints the composed config and runs nothing; --hydra-help lists Hydra's own.
Exit codes: 0 all trials ok, 1 some trial failed (its row says why), 2 the command was wrong.
Results: trials, curves and layers as Parquet below results.dir.
In Python, harness.load("outputs/results") reads them;
python -m harness.results validate outputs/results checks them, and
python -m harness.results status outputs/results says what sweeps lack.
"""


def text() -> str:
    """The whole help text, at most 100 columns wide."""
    defaults = _defaults()
    parts = [_HEAD, "Choices (one file each below conf/):"]
    for group in GROUPS:
        parts += ["", f"{group}=  (default: {defaults[group]})", *_choices(CONF_DIR / group)]
    parts += ["", "Values, and their defaults:", *_values(), "", _TAIL]
    return "\n".join(parts)


def _defaults() -> dict[str, str]:
    pairs = re.findall(r"^  - (\w+): (\w+)$", (CONF_DIR / "config.yaml").read_text(), flags=re.MULTILINE)
    return dict(pairs)


def _choices(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.yaml")):
        comments = [line[2:] for line in path.read_text().splitlines() if line.startswith("# ")]
        first = next((comment for comment in comments if not comment.startswith("@package")), "")
        yield from _entry(path.stem, first)


def _values() -> Iterator[str]:
    """The values of config.yaml and of the groups' defaults, by the name they are typed with."""
    seen: set[str] = set()
    defaults = _defaults()
    yield from _values_of(CONF_DIR / "config.yaml", "", seen)
    for group in ("optimizer", "data", "device", "kernel", "engine", "init", "model"):
        yield from _values_of(CONF_DIR / group / f"{defaults[group]}.yaml", f"{group}.", seen)
    # every value of init stands in config.yaml
    for group in ("optimizer", "data", "device", "kernel", "engine", "model"):
        yield from _values_of_some(group, seen)


def _values_of_some(group: str, seen: set[str]) -> Iterator[str]:
    """The values that only some choices of a group have, below these choices."""
    choices: dict[frozenset[str], list[str]] = {}
    entries: dict[frozenset[str], list[str]] = {}
    for path in sorted((CONF_DIR / group).glob("*.yaml")):
        known = set(seen)
        lines = list(_values_of(path, f"{group}.", known))
        own = frozenset(known - seen)
        choices.setdefault(own, []).append(f"{group}={path.stem}")
        entries.setdefault(own, lines)
    for own in filter(None, choices):
        yield f"  with {' or '.join(choices[own])}:"
        yield from entries[own]


def _values_of(path: Path, prefix: str, seen: set[str]) -> Iterator[str]:
    section, comment = "", ""
    values, _, _ = path.read_text().partition("\nhydra:")
    # a group's first line describes the choice, not a value
    for line in values.splitlines()[1 if prefix else 0 :]:
        entry = re.match(r"( *)(#|\w+:) ?(.*)", line)
        if entry is None:
            continue
        indent, key, value = entry.groups()
        if key == "#":
            comment = value
            continue
        section = section if indent else ""
        if not value:
            section = f"{key[:-1]}."
        elif key != "name:" and (name := f"{prefix}{section}{key[:-1]}") not in seen:
            seen.add(name)
            yield from _entry(f"{name}={value}", comment)
        comment = ""


def _entry(name: str, description: str) -> list[str]:
    lines = textwrap.wrap(description, _WIDTH - 36) or [""]
    if len(name) > 31:
        return [f"  {name}", *(f"{'':36}{line}" for line in lines if line)]
    return [f"  {name:<34}{lines[0]}".rstrip(), *(f"{'':36}{line}" for line in lines[1:])]
