"""The random numbers of a trial: one independent stream per seed and purpose, drawn on the CPU."""

import hashlib

import torch


def generator(seed: int, stream: str) -> torch.Generator:
    """Return a new CPU random generator for a (seed, stream), independent of the generators of all other streams.

    Args:
        seed: the trial's seed, 0 or more.
        stream: what the numbers are for, e.g. ``"init"`` or ``"batches"``.
    """
    return torch.Generator(device="cpu").manual_seed(seed_of(seed, stream))


def seed_of(seed: int, stream: str) -> int:
    """Return the seed of a stream, below 2**63; arguments as of :func:`generator`."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    # torch takes seeds below 2**63
    return int.from_bytes(digest[:8], "little") >> 1
