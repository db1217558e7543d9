"""Choices that would let a config's network learn: found from the diagnosis, and each tried before it is offered."""

import itertools
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness import device, resolution, torch_state, trial_setup
from harness.compose import load_config
from harness.config import TrialConfig
from harness.diagnosis import HARMFUL, Causes, Diagnosis, Finding
from harness.errors import TimeBudgetError

MOST = 4
"""So many are offered."""
BUDGET_S = 15.0
"""No further one is tried after this time, because a deep network takes some seconds each."""

_POSITIVE_BIAS = ("init.bias=constant", "init.bias_options.value=0.1")
_FEW = 3


@dataclass(frozen=True)
class Cure:
    """A change of the command that lets the network learn.

    Attributes:
        typed: the choices, quoted for a shell.
        finding: of the network with them.
    """

    typed: str
    finding: Finding


def cures_of(config: TrialConfig, diagnosis: Diagnosis, overrides: Sequence[str]) -> list[Cure]:
    """Try what may cure a network, the smallest change first, and return what does.

    Args:
        config: resolved, of the network.
        diagnosis: of it.
        overrides: as they were typed; a cure replaces those of the same name and is added to the rest.
    """
    found: list[Cure] = []
    begun = time.monotonic()
    for choices in [] if diagnosis.ok else _candidates(config, diagnosis, overrides):
        if len(found) == MOST or time.monotonic() - begun > BUDGET_S:
            break
        cure = _cure(config, overrides, choices)
        if cure is not None:
            found.append(cure)
    return found


def _cure(config: TrialConfig, overrides: Sequence[str], choices: list[str]) -> Cure | None:
    # an option of an initializer that is no longer there is refused, and left out at the second try
    for more in ([], _options_left_out(config)):
        changed = [*choices, *more]
        finding = _tried([*_without(overrides, changed), *changed])
        if finding is not None:
            return Cure(shlex.join(changed), finding) if finding.kind not in HARMFUL else None
    return None


def _options_left_out(config: TrialConfig) -> list[str]:
    tables = {"init.options": config.init.options, "init.bias_options": config.init.bias_options}
    return [f"~{table}.{name}" for table, options in tables.items() for name in options]


def _without(overrides: Sequence[str], choices: Sequence[str]) -> list[str]:
    # what a tilde takes away must be there first, and dictionaries are merged
    replaced = {_key(choice) for choice in choices if not choice.startswith("~") and "={" not in choice}
    return [override for override in overrides if _key(override) not in replaced]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def _tried(overrides: list[str]) -> Finding | None:
    """The finding with some choices; None where they do not fit this network."""
    try:
        config = resolution.resolved(load_config(overrides))
        with torch_state.ONE_AT_A_TIME, torch_state.set_for(config.device):
            setup = trial_setup.assemble(config, device.resolve(config.device))
            trial_setup.initialise(config, setup)
            return trial_setup.finding(config, setup)
    except TimeBudgetError:
        raise
    except Exception:  # noqa: BLE001 - whatever fails with these choices is no cure, and costs no explanation
        return None


def _candidates(config: TrialConfig, diagnosis: Diagnosis, overrides: Sequence[str]) -> Iterator[list[str]]:
    causes, activation = diagnosis.causes, config.model.activation
    yield from _redrawn(config, causes, overrides)
    if causes.rate:
        yield [f"optimizer.lr={config.optimizer.lr * causes.rate:g}"]
        yield ["data.scaling=standardised"]
    if activation != "leaky_relu":
        yield ["model.activation=leaky_relu"]
    if diagnosis.network.kind == "dead" and config.model.bias:
        bias, value = _POSITIVE_BIAS
        yield [bias, value if "value" in config.init.bias_options else f"+{value}"]
    if any(layer.type == "residual" for layer in config.model.layers):
        yield ["init=skipinit"]
    if causes.incurable:
        yield from ([f"model.activation={name}", f"init={init}"] for name, init in (("relu", "he"), ("tanh", "glorot")))


def _redrawn(config: TrialConfig, causes: Causes, overrides: Sequence[str]) -> Iterator[list[str]]:
    """The tensors to blame, drawn as the experiments drew them."""
    if 0 < len(causes.slots) <= _FEW and not causes.draw.by_data:
        for names in itertools.product(*causes.slots):
            yield list(dict.fromkeys(_choice(config, name, causes.draw.name, overrides) for name in names))
    if causes.slots:
        yield [f"init={causes.draw.name}"]


def _choice(config: TrialConfig, tensor: str, draw: str, overrides: Sequence[str]) -> str:
    """The override that makes a tensor healthy."""
    layer, _, kind = tensor.rpartition(".")
    if kind == "scale":
        return "init.branch_scale=1"
    key, known, value = (
        ("init.bias_layers", config.init.bias_layers, "zeros")
        if kind == "bias"
        else ("init.layers", config.init.layers, f"{draw}_normal")
    )
    if "." in layer:
        # a path in a network of the user's own, which Hydra would take for nested names; it merges dictionaries
        return f"++{key}={{{layer}: {value}}}"
    name = f"{key}.{layer}"
    # Hydra wants a plus where the name is new, and two where it was typed with one
    typed = any(override.startswith(f"+{name}=") for override in overrides)
    return f"{'++' if typed else '' if layer in known else '+'}{name}={value}"
