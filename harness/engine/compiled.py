"""The compiled engine: ``torch.compile`` of the network and its loss, forward and backward; the update is eager."""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from harness.engine.eager import RightAnswers
from harness.looking import undisturbed
from harness.train import Batches


class Compiled:
    """Takes training steps by compiled code.

    Args:
        network: what is trained, on the device of ``losses``.
        new_optimizer: makes a fresh optimizer over its parameters.
        batches: of each step.
        losses: float32 (steps,) on the device; filled as training goes.
    """

    def __init__(
        self,
        network: nn.Module,
        new_optimizer: Callable[[], torch.optim.Optimizer],
        batches: Batches,
        losses: torch.Tensor,
    ) -> None:
        self.losses = losses
        self._network, self._new_optimizer, self._batches = network, new_optimizer, batches
        self.rewind()

        def loss_and_logits(images_NCHW: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logits = network(images_NCHW)
            return F.cross_entropy(logits, labels), logits.detach()

        # torch's own random numbers, so that dropout draws the masks that it draws without a compiler
        options: dict[str, str | int | bool | Callable[..., Any]] = {"fallback_random": True}
        self._loss_and_logits = torch.compile(loss_and_logits, dynamic=False, options=options)

    def prepare(self) -> None:
        """Compile, by a forward and a backward pass that leave the network as it was."""
        # what other trials of this process compiled is not reused, and so does not count against torch's limit of
        # versions, above which it would run eager without a word
        torch.compiler.reset()
        # where a CUDA toolkit is installed and no GPU is there, this module says so in the midst of a sweep's lines
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        with undisturbed(self._network), warnings.catch_warnings():
            # full float32 is what device.tf32=false asks for
            warnings.filterwarnings("ignore", "TensorFloat32 tensor cores .* available but not enabled")
            loss, _ = self._loss_and_logits(*self._batches(0))
            loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.zero_grad(set_to_none=True)

    def rewind(self) -> None:
        """Begin at step 0 again with a fresh optimizer; the parameters are the caller's business."""
        self._optimizer, self._right = self._new_optimizer(), RightAnswers()
        self.losses.fill_(torch.nan)

    def run(self, window: range) -> None:
        """Take these steps."""
        for step in window:
            images_NCHW, labels = self._batches(step)
            loss, logits = self._loss_and_logits(images_NCHW, labels)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self.losses[step] = loss.detach()
            self._right.add(logits, labels)

    def rate(self) -> float:
        """Return the learning rate of the next update."""
        return float(self._optimizer.param_groups[0]["lr"])

    def right(self) -> int:
        """Return how many images the steps since the last call answered right."""
        return self._right.take()
