"""The article's network in JAX: one model under ``jax.jit``, and R models under ``jax.jit(jax.vmap)``.

Shapes: images x_NHWC (N, 28, 28, 1), labels (N,), filters (r, s, C, K), dense weights (in, out); of R models (R, ...).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy.typing import NDArray
from peer_process import PeerTask

# on a GPU, JAX's default would take TF32 for products; every peer computes in full float32
jax.config.update("jax_default_matmul_precision", "highest")

Parameters = list[Any]


def converted(weights: list[NDArray[np.float32]]) -> Parameters:
    """Turn R models' tensors in torch's layout into JAX's: (R, K, C, r, s) -> (R, r, s, C, K), dense transposed.

    The first dense layer reads the image as (14, 14, 32) instead of (32, 14, 14), so its columns are reordered.
    """
    turned = []
    for index, values in enumerate(weights):
        if values.ndim == 5:
            turned.append(values.transpose(0, 3, 4, 2, 1))
        elif index == 8:
            models, out = values.shape[:2]
            turned.append(values.reshape(models, out, 32, 14, 14).transpose(0, 3, 4, 2, 1).reshape(models, -1, out))
        else:
            turned.append(values.swapaxes(1, 2) if values.ndim == 3 else values)
    return [jnp.asarray(values) for values in turned]


def logits_of(parameters: Parameters, x_NHWC: Any) -> Any:  # noqa: ANN401 - arrays of a library that may be missing
    """Apply the network of one model: (N, 28, 28, 1) -> (N, 10)."""
    for layer in range(4):
        filters, bias = parameters[2 * layer : 2 * layer + 2]
        x_NHWC = lax.conv_general_dilated(x_NHWC, filters, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        x_NHWC = jax.nn.relu(x_NHWC + bias)
        if layer == 0:
            x_NHWC = lax.reduce_window(x_NHWC, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    hidden = jax.nn.relu(x_NHWC.reshape(len(x_NHWC), -1) @ parameters[8] + parameters[9])
    return hidden @ parameters[10] + parameters[11]


def loss_of(parameters: Parameters, x_NHWC: Any, labels: Any) -> Any:  # noqa: ANN401
    """Return the mean cross entropy."""
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits_of(parameters, x_NHWC)), labels[:, None], axis=1)
    return -chosen.mean()


def step(parameters: Parameters, x_NHWC: Any, labels: Any, lr: Any) -> Any:  # noqa: ANN401
    """Take one step of SGD: (parameters, loss before it)."""
    loss, gradients = jax.value_and_grad(loss_of)(parameters, x_NHWC, labels)
    return [value - lr * gradient for value, gradient in zip(parameters, gradients, strict=True)], loss


class Jit:
    """One model: the step under ``jax.jit``, its parameters' memory given back to it."""

    is_stacked = False

    def __init__(self, name: str, threads: int, device: str) -> None:
        # how many threads XLA takes follows from the processors this process may use and XLA_FLAGS
        del name, threads
        self._device = jax.devices("gpu" if device == "cuda" else "cpu")[0]
        self.versions = f"jax {jax.__version__}"
        mapped = jax.vmap(step, in_axes=(0, None, None, None)) if self.is_stacked else step
        self._step: Any = jax.jit(mapped, donate_argnums=0)

    def load(self, task: PeerTask) -> None:
        """Take weights and batch onto the device."""
        weights = converted(task.weights)
        models = weights if self.is_stacked else [values[0] for values in weights]
        images = task.images_NCHW.transpose(0, 2, 3, 1)
        self._parameters, self._images, self._labels, self._lr = jax.device_put(
            (models, images, task.labels.astype(np.int32), np.float32(task.lr)), self._device
        )

    def _take(self) -> Any:  # noqa: ANN401
        self._parameters, loss = self._step(self._parameters, self._images, self._labels, self._lr)
        return loss

    def losses(self, steps: int) -> list[list[float]]:
        """Train; a list for each model."""
        taken = np.stack([np.asarray(self._take()) for _ in range(steps)], axis=-1)
        return [[float(loss) for loss in model] for model in np.atleast_2d(taken)]

    def run(self, steps: int) -> None:
        """Train and wait."""
        for _ in range(steps):
            self._take()
        jax.block_until_ready(self._parameters)

    def accuracy(self, images_NCHW: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Return the share of right answers of the first model."""
        model = [values[0] for values in self._parameters] if self.is_stacked else self._parameters
        answers = np.asarray(logits_of(model, jnp.asarray(images_NCHW.transpose(0, 2, 3, 1)))).argmax(axis=1)
        return float((answers == labels).mean())


class Vmap(Jit):
    """R models: the same step under ``jax.vmap``, then ``jax.jit``; they share the batch."""

    is_stacked = True
