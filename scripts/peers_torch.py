"""The article's network by PyTorch alone: as a tutorial writes it, compiled, and many models by torch.func.vmap.

Shapes: images x_NCHW (N, 1, 28, 28), labels (N,), parameters of R models (R, ...).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from peer_process import PeerTask
from torch import nn
from torch.func import functional_call, grad_and_value, vmap


def article_network() -> nn.Sequential:
    """Return the network in torch's own layers and default memory format, in the order of the article."""
    convolutions = [layer for _ in range(3) for layer in (nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())]
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), *convolutions,
        nn.Flatten(), nn.Linear(32 * 14 * 14, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


class Plain:
    """Nothing tuned: NCHW, ``loss.backward()``, ``optimizer.step()``."""

    def __init__(self, name: str, threads: int, device: str) -> None:
        del name
        torch.set_num_threads(threads)
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("no CUDA GPU that torch can use")
        # every peer computes in full float32
        torch.backends.cudnn.allow_tf32 = False
        self.device = torch.device(device)
        self.network = article_network().to(self.device)
        self.versions = f"torch {torch.__version__}"

    @torch.no_grad()
    def load(self, task: PeerTask) -> None:
        """Take weights and batch, with an optimizer of its own."""
        for parameter, values in zip(self.network.parameters(), task.weights, strict=True):
            parameter.copy_(torch.from_numpy(values[0]))
        self._optimizer = torch.optim.SGD(self.network.parameters(), lr=task.lr)
        self._images = torch.from_numpy(task.images_NCHW).to(self.device)
        self._labels = torch.from_numpy(task.labels).to(self.device)

    def step(self) -> torch.Tensor:
        """Take one training step; returns its loss, still on the device."""
        self._optimizer.zero_grad()
        loss = F.cross_entropy(self.logits(self._images), self._labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return loss.detach()

    def logits(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Apply the network: (N, 1, 28, 28) -> (N, 10)."""
        logits: torch.Tensor = self.network(images_NCHW)
        return logits

    def losses(self, steps: int) -> list[list[float]]:
        """Train; the losses as one list."""
        taken = torch.stack([self.step() for _ in range(steps)])
        return [taken.tolist()]

    def run(self, steps: int) -> None:
        """Train and wait."""
        for _ in range(steps):
            self.step()
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    @torch.no_grad()
    def accuracy(self, images_NCHW: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Return the share of right answers."""
        right = self.network(torch.from_numpy(images_NCHW).to(self.device)).argmax(dim=1).cpu().numpy() == labels
        return float(right.mean())

    def matmul_flops_per_s(self) -> float:
        """Return the float32 matmul rate of the machine now, by the measure of a trial."""
        from harness.timing import matmul_flops_per_s

        return matmul_flops_per_s(self.device)


class Compiled(Plain):
    """The same loop around ``torch.compile(network)``."""

    def __init__(self, name: str, threads: int, device: str) -> None:
        super().__init__(name, threads, device)
        # a graph for each batch size: by default torch would make the second one general, which is slower
        self._compiled: Any = torch.compile(self.network, dynamic=False)

    def logits(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        """Apply the compiled network."""
        logits: torch.Tensor = self._compiled(images_NCHW)
        return logits


class Vmap(Plain):
    """R models by ``torch.func.vmap`` over ``functional_call``, as torch's tutorial on ensembles does it."""

    def load(self, task: PeerTask) -> None:
        """Take the weights of all models."""
        super().load(task)
        names = [name for name, _ in self.network.named_parameters()]
        weights = [torch.from_numpy(values).to(self.device) for values in task.weights]
        self._parameters, self._lr = dict(zip(names, weights, strict=True)), task.lr

    def step_all(self) -> torch.Tensor:
        """Take one step of every model; returns their losses (R,)."""

        def loss_of(parameters: dict[str, torch.Tensor]) -> torch.Tensor:
            return F.cross_entropy(functional_call(self.network, parameters, (self._images,)), self._labels)

        gradients, losses = vmap(grad_and_value(loss_of))(self._parameters)
        self._parameters = {name: value - self._lr * gradients[name] for name, value in self._parameters.items()}
        taken: torch.Tensor = losses
        return taken

    def losses(self, steps: int) -> list[list[float]]:
        """Train; a list for each model."""
        lists: list[list[float]] = torch.stack([self.step_all() for _ in range(steps)], dim=1).tolist()
        return lists

    def run(self, steps: int) -> None:
        """Train all models and wait."""
        for _ in range(steps):
            self.step_all()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
