"""How long each initializer takes to fill the article's network, on the CPU.

Usage: python scripts/bench_init.py [--rounds N] [--drawn]     (exit code 0: all drawn ones within 50 ms, 1: not)

Rounds are interleaved: every initializer once, then all again. Those that look at data or learn scales are listed
apart, and nothing is required of them.
"""

import sys
import time
from collections.abc import Sequence
from statistics import median

import torch

import harness
from harness import trial_setup
from harness.arguments import one_line_errors, positive, script_parser
from harness.compose import CONF_DIR
from harness.config import TrialConfig
from harness.processor import cpu_model
from harness.timing import quartiles

MOST_MS = 50.0
ADAPTING_ROUNDS = 3


def fill_ms(config: TrialConfig, setup: trial_setup.TrialSetup) -> float:
    """Milliseconds to fill the network once."""
    start = time.perf_counter()
    trial_setup.initialise(config, setup)
    return 1000 * (time.perf_counter() - start)


def report(title: str, times: dict[str, list[float]]) -> None:
    """A line per initializer: median and quartiles in milliseconds."""
    print(f"\n{title}")
    for name, values in sorted(times.items(), key=lambda item: -median(item[1])):
        spread = quartiles(values)
        assert spread is not None
        print(f"  {name:<28}{spread.median:>10.1f} ms   ({spread.q25:.1f} to {spread.q75:.1f}, n={len(values)})")


def fill_interleaved(
    configs: dict[str, TrialConfig], setup: trial_setup.TrialSetup, rounds: int
) -> dict[str, list[float]]:
    """Name -> milliseconds of each round."""
    times: dict[str, list[float]] = {name: [] for name in configs}
    for _ in range(rounds):
        for name, config in configs.items():
            times[name].append(fill_ms(config, setup))
    return times


@one_line_errors
def main(typed: Sequence[str] | None = None) -> int:
    """Time all of them; returns the exit code."""
    parser = script_parser("bench_init", __doc__)
    parser.add_argument("--rounds", type=positive, default=15, help="fillings by each initializer (default: 15)")
    parser.add_argument("--drawn", action="store_true", help="leave out those that look at data (a minute or two)")
    arguments = parser.parse_args(typed)
    rounds = arguments.rounds
    names = sorted(path.stem for path in (CONF_DIR / "init").glob("*.yaml"))
    configs = {name: harness.load_config([f"init={name}", "device=cpu", "data.scaling=unit"]) for name in names}
    adapting = {name: config for name, config in configs.items() if config.init.adapt != "none"}
    drawn = {name: config for name, config in configs.items() if name not in adapting}
    machine = f"{cpu_model() or 'an unknown processor'}, {torch.get_num_threads()} threads"
    print(f"{machine}, torch {torch.__version__}; the article's network")
    setup = trial_setup.assemble(configs["glorot"], torch.device("cpu"))
    trial_setup.initialise(configs["glorot"], setup)
    drawn_ms = fill_interleaved(drawn, setup, rounds)
    report(f"drawn (required: at most {MOST_MS:g} ms)", drawn_ms)
    if not arguments.drawn:
        adapting_ms = fill_interleaved(adapting, setup, min(rounds, ADAPTING_ROUNDS))
        report("looking at data or learning scales (nothing required)", adapting_ms)
    late = [name for name, times in drawn_ms.items() if median(times) > MOST_MS]
    print(f"\n{'MISSED by ' + ', '.join(late) if late else 'all drawn ones within the limit'}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
