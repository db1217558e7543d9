"""What a config means on this machine: the device, threads, memory format and precision that it leaves open."""

from dataclasses import replace

import torch

from harness import device, engine_choice, initializers, kernel_choice, layouts, own_models
from harness.config import TrialConfig


def resolved(config: TrialConfig, *, elsewhere: bool = False) -> TrialConfig:
    """Check all that can be known to be wrong before a trial begins, and fill in what is left to the machine.

    Args:
        config: as composed.
        elsewhere: the trial runs on another machine, whose GPU is taken for granted if one is asked for.

    Returns:
        the config with the device, threads, memory format and precision that it means here, and the hashes of the
        modules of ``init.modules`` and ``model.modules``; a config that is resolved already comes back equal.

    Raises:
        UsageError: naming the choice, what was given and what is allowed.
    """
    own_models.check(config.model)
    initializers.check(config.init, config.model)
    if config.model.function is None:
        layouts.check_batch(config.model, config.train.batch_size)
    kernel_choice.check_model(config)
    is_granted = elsewhere and config.device.name == "cuda"
    if not is_granted:
        kernel_choice.check(config, device.resolve(config.device))
        engine_choice.check(config, device.resolve(config.device))
    sources = {**initializers.sources(config.init), **own_models.sources(config.model)}
    return replace(presumed(config, elsewhere=is_granted), sources=sources)


def presumed(config: TrialConfig, *, elsewhere: bool = False) -> TrialConfig:
    """Fill in what is left to the machine and check nothing, for a trial that died before it could be checked.

    The user's modules are not imported, because one of them may be what it died of; so their hashes are not there.

    Raises:
        UsageError: a CUDA device was asked for that is not there, and the trial does not run ``elsewhere``.
    """
    target = torch.device("cuda", config.device.index) if elsewhere else device.resolve(config.device)
    layout = str(kernel_choice.memory_format(config, target)).removeprefix("torch.").removesuffix("_format")
    threads = device.threads(config.device)
    precision = "auto" if kernel_choice.backend_of(config).is_torch else kernel_choice.precision(config)
    return replace(
        config,
        device=replace(config.device, name=target.type, threads=threads, memory_format=layout),
        kernel=replace(config.kernel, precision=precision),
        engine=engine_choice.resolved(config.engine, target),
        optimizer=config.optimizer.scheduled(config.train.steps),
    )
