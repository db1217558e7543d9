"""Convolutions the harness can be told to use. Imports torch only, and knows nothing of the harness."""

from collections.abc import Callable

import torch
import torch.nn.functional as F

Conv2d = Callable[..., torch.Tensor]
"""A function with the signature of ``torch.nn.functional.conv2d``."""

IMPLEMENTATIONS: dict[str, Conv2d] = {"torch": F.conv2d}
"""Name of ``kernel=`` -> the function that computes the convolution."""
