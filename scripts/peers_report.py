"""What bench_peers.py found, as tables and as JSON, and its aims."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.markdown import aligned_table
from harness.timing import quartiles

PLAIN, EAGER, GRAPH, STACKED = "PyTorch, plain", "ours, engine=eager", "ours, engine=graph", "ours, stacked"
STACKED_FUSED = "ours, stacked, kernel=triton_fused"
VMAP, JAX_VMAP = "PyTorch, torch.func.vmap", "JAX, jit of vmap"
WORKERS, PLAIN_LOOP, KERAS_LOOP = "ours, sweep.workers", "PyTorch, one script after another", "Keras, likewise"
MOST_TRIAL_S = 0.1
TRIAL_IMAGES = 50_000


@dataclass
class StepArm:
    """A peer's speed at one batch size.

    Attributes:
        batch_size: images of a step, of each model.
        name: in the tables.
        models: trained together.
        steps: of a round.
        images_per_s: of each round, of all models together.
        matmul_share: training FLOP/s of each round to the float32 matmul rate just before.
    """

    batch_size: int
    name: str
    models: int
    steps: int
    images_per_s: list[float] = field(default_factory=list)
    matmul_share: list[float] = field(default_factory=list)


@dataclass
class TrialArm:
    """A way to run many trials.

    Attributes:
        name: in the tables.
        trials: of a round.
        steps: of each trial.
        trials_per_h: of each round.
    """

    name: str
    trials: int
    steps: int
    trials_per_h: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class PeerAim:
    """What is aimed at; ``met`` is None where it was not measured."""

    name: str
    least: float
    ratios: list[float]

    @property
    def met(self) -> bool | None:
        """Whether the median ratio reaches it."""
        found = quartiles(self.ratios)
        return None if found is None else found.median >= self.least


@dataclass
class PeersReport:
    """All that was found.

    Attributes:
        header: machine, threads, rounds.
        stack: models of a stack.
        versions: of the frameworks.
        steps: part steps.
        trials: part trials.
        faults: peer -> what is wrong with its losses.
        not_measured: peer -> why.
    """

    header: str
    stack: int
    versions: set[str] = field(default_factory=set)
    steps: list[StepArm] = field(default_factory=list)
    trials: list[TrialArm] = field(default_factory=list)
    faults: dict[str, str] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)

    def rates(self, batch_size: int, name: str) -> list[float]:
        """Return images/s of a peer's rounds; nothing if it was not measured."""
        return [rate for arm in self.steps if (arm.batch_size, arm.name) == (batch_size, name)
                for rate in arm.images_per_s]  # fmt: skip

    def hourly(self, name: str) -> list[float]:
        """Return trials an hour of the rounds of a way; nothing if it was not measured."""
        return [rate for arm in self.trials if arm.name == name for rate in arm.trials_per_h]

    def as_json(self, judged: Sequence[PeerAim]) -> dict[str, Any]:
        """Return everything, every round by itself."""
        found = asdict(self) | {"versions": sorted(self.versions)}
        return found | {"aims": [asdict(aim) | {"met": aim.met} for aim in judged]}


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratios round by round; nothing where one of the two was not measured."""
    return [one / other for one, other in zip(ours, theirs, strict=True)] if ours and theirs else []


def aims(found: PeersReport, device: str) -> list[PeerAim]:
    """Return the aims on a device, with what was reached."""
    return list(_on_cuda(found) if device == "cuda" else _on_cpu(found))


def _on_cpu(found: PeersReport) -> Iterator[PeerAim]:
    for batch_size, least in ((50, 1.25), (256, 1.5)):
        ours, theirs = (found.rates(batch_size, name) for name in (EAGER, PLAIN))
        yield PeerAim(f"one training to plain PyTorch, batch {batch_size}", least, ratios(ours, theirs))
    for name in (PLAIN_LOOP, KERAS_LOOP):
        reached = ratios(found.hourly(WORKERS), found.hourly(name))
        yield PeerAim(f"trials an hour by workers to: {name}", 1.8, reached)


def _on_cuda(found: PeersReport) -> Iterator[PeerAim]:
    rates = {name: found.rates(50, name) for name in (EAGER, GRAPH, STACKED, STACKED_FUSED, VMAP, JAX_VMAP)}
    yield PeerAim("engine=graph to engine=eager, batch 50", 3, ratios(rates[GRAPH], rates[EAGER]))
    for stacked in (STACKED, STACKED_FUSED):
        which = f"{found.stack} models by {stacked}"
        for name, least in ((EAGER, 20), (VMAP, 4), (JAX_VMAP, 1.5)):
            yield PeerAim(f"{which} to {name}, batch 50", least, ratios(rates[stacked], rates[name]))
        shares = [MOST_TRIAL_S * rate / TRIAL_IMAGES for rate in rates[stacked]]
        yield PeerAim(f"1,000 steps of batch 50 in {MOST_TRIAL_S:g} s, {which}: how many", 1, shares)


def spread(values: Sequence[float], *, digits: int) -> str:
    """Return median and quartiles."""
    found = quartiles(values)
    if found is None:
        return "not measured"
    return f"{found.median:,.{digits}f} ({found.q25:,.{digits}f} to {found.q75:,.{digits}f})"


def tables(found: PeersReport, judged: Sequence[PeerAim]) -> str:
    """Return everything in Markdown."""
    parts = [f"{', '.join(sorted(found.versions))}. Median (quartiles) of the rounds."] if found.versions else []
    parts += [_steps_table(found, batch_size) for batch_size in dict.fromkeys(arm.batch_size for arm in found.steps)]
    if found.trials:
        parts.append(_trials_table(found))
    parts += [f"- not measured: {name}: {reason}" for name, reason in found.not_measured.items()]
    parts += [f"- no speed: {name}: {fault}" for name, fault in found.faults.items()]
    met = {True: "met", False: "MISSED", None: "not measured"}
    lines = [(aim.name, spread(aim.ratios, digits=2), f"at least {aim.least:g}", met[aim.met]) for aim in judged]
    parts.append(aligned_table(("aim, as a ratio", "reached", "wanted", "result"), lines))
    return "\n\n".join(parts)


def _steps_table(found: PeersReport, batch_size: int) -> str:
    lines = []
    for arm in found.steps:
        if arm.batch_size == batch_size:
            ratio = spread(ratios(arm.images_per_s, found.rates(batch_size, PLAIN)), digits=2)
            rate, share = spread(arm.images_per_s, digits=0), spread(arm.matmul_share, digits=3)
            lines.append((arm.name, str(arm.models), rate, ratio, share))
    head = (f"batch {batch_size}", "models", "images/s of all", "to plain PyTorch", "share of matmul rate")
    return aligned_table(head, lines)


def _trials_table(found: PeersReport) -> str:
    lines = []
    for arm in found.trials:
        ratio = spread(ratios(arm.trials_per_h, found.hourly(PLAIN_LOOP)), digits=2)
        lines.append((arm.name, str(arm.trials), str(arm.steps), spread(arm.trials_per_h, digits=0), ratio))
    return aligned_table(("trials, batch 50", "in a round", "steps", "trials an hour", "to plain PyTorch"), lines)
