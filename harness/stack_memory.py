"""How many models a device can hold and train at once, estimated from their parameters and activations."""

import math

import torch

from harness import layouts
from harness.config import TrialConfig
from harness.layouts import Layout
from harness.stackable import MOST_BY_ITSELF, most_in_stack

_FLOAT_BYTES, _INDEX_BYTES = 4, 8
_OF_PARAMETERS = 8
"""Copies of each parameter: trained, initial, gradient, two of the optimizer, one of its work, two of the warm-up."""
_OF_ACTIVATIONS = 3
"""Copies of each activation: kept for the backward pass, its gradient, and what a convolution works in."""
_OF_GRAPH = 2
"""More copies of each parameter if steps are captured: a second graph's gradient, and the value that is put back."""
_GRAPHS = 2
"""Captured graphs, each with memory of its own for activations: of many steps, and of one."""
_SHARE = 0.6
"""A launch may take this share of the free memory; the rest is for data, evaluation, diagnosis and the allocator."""


def largest_stack(config: TrialConfig, target: torch.device) -> int:
    """Return the most trials like this one that ``sweep.stack`` allows in a launch on a device.

    A number that was asked for is taken as it is. ``auto`` is 1 on a CPU, and on a GPU what its free memory holds.

    Args:
        config: of one of the trials, resolved; a declared network.
        target: the device.
    """
    asked = most_in_stack(config)
    if asked is not None:
        return asked
    if target.type == "cpu":
        return 1
    try:
        free, _ = torch.cuda.mem_get_info(target)
    except RuntimeError:
        # a device that does not answer is the error of each trial, which records it
        return 1
    # what torch keeps of freed tensors is free too
    free += torch.cuda.memory_reserved(target) - torch.cuda.memory_allocated(target)
    return max(1, min(MOST_BY_ITSELF, int(_SHARE * free / bytes_per_model(config))))


def bytes_per_model(config: TrialConfig) -> int:
    """Return the memory that one model of a stack takes while it is trained, as an estimate in bytes.

    Args:
        config: of its trial; a declared network.
    """
    layers = [inner for layer in layouts.plan(config.model) for inner in (layer, *layer.branch)]
    train = config.train
    is_graph = config.engine.name == "graph"
    parameters = (_OF_PARAMETERS + _OF_GRAPH * is_graph) * sum(map(_parameters, layers))
    activations = _OF_ACTIVATIONS * train.batch_size * sum(math.prod(layer.out_shape) for layer in layers)
    activations *= _GRAPHS if is_graph else 1
    indices = 0 if config.data.batches == "fixed" else 2 * train.steps * train.batch_size
    images = 0 if config.data.batches == "fixed" else train.batch_size * math.prod(layouts.IMAGE_SHAPE)
    return _FLOAT_BYTES * (parameters + activations + images + train.steps) + _INDEX_BYTES * indices


def _parameters(layer: Layout) -> int:
    """Numbers in the parameters of a layer."""
    if layer.config.type == "norm":
        # a layer norm has them for each number of an image, the others for each channel
        return 2 * (math.prod(layer.out_shape) if layer.config.kind == "layer" else layer.out_shape[0])
    if not layer.weight_shape:
        return 0
    return math.prod(layer.weight_shape) + (layer.weight_shape[0] if layer.config.bias else 0)
