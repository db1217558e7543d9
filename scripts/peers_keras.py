"""The article's network as a Keras model on TensorFlow, trained by a compiled step (``tf.function``).

Shapes: images x_NHWC (N, 28, 28, 1), labels (N,), filters (r, s, C, K), dense weights (in, out).
"""

import os
from typing import Any

# read when Keras is imported
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from peer_process import PeerTask


def article_model() -> Any:  # noqa: ANN401 - a model of a library that may be missing
    """Return the network in Keras's layers, in the order of the article."""
    layers = keras.layers
    convolutions = [layers.Conv2D(32, 3, padding="same", activation="relu") for _ in range(4)]
    pool = layers.MaxPooling2D(2)
    dense = [layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)]
    return keras.Sequential([keras.Input((28, 28, 1)), convolutions[0], pool, *convolutions[1:], *dense])


def converted(weights: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """Turn one model's tensors in torch's layout into Keras's; see ``peers_jax.converted``."""
    turned = []
    for index, values in enumerate(weights):
        if values.ndim == 4:
            turned.append(values.transpose(2, 3, 1, 0))
        elif index == 8:
            turned.append(values.reshape(-1, 32, 14, 14).transpose(2, 3, 1, 0).reshape(-1, len(values)))
        else:
            turned.append(values.T)
    return turned


class Keras:
    """One model: ``GradientTape`` and ``optimizer.apply_gradients`` within a ``tf.function``."""

    def __init__(self, name: str, threads: int, device: str) -> None:
        del name
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        # every peer computes in full float32
        tf.config.experimental.enable_tensor_float_32_execution(False)
        if device == "cuda" and not tf.config.list_physical_devices("GPU"):
            raise ValueError("no GPU that TensorFlow can use")
        self.versions = f"tensorflow {tf.__version__}, keras {keras.__version__}"
        self._model = article_model()
        self._optimizer = keras.optimizers.SGD()
        self._optimizer.build(self._model.trainable_variables)
        self._loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self._step: Any = tf.function(self._traced)

    def _traced(self, images: Any, labels: Any) -> Any:  # noqa: ANN401
        with tf.GradientTape() as tape:
            loss = self._loss(labels, self._model(images, training=True))
        gradients = tape.gradient(loss, self._model.trainable_variables)
        self._optimizer.apply_gradients(zip(gradients, self._model.trainable_variables, strict=True))
        return loss

    def load(self, task: PeerTask) -> None:
        """Take weights, batch and learning rate."""
        self._model.set_weights(converted([values[0] for values in task.weights]))
        self._optimizer.learning_rate.assign(task.lr)
        self._images = tf.constant(task.images_NCHW.transpose(0, 2, 3, 1))
        self._labels = tf.constant(task.labels)

    def losses(self, steps: int) -> list[list[float]]:
        """Train; the losses as one list."""
        return [[float(self._step(self._images, self._labels)) for _ in range(steps)]]

    def run(self, steps: int) -> None:
        """Train and wait."""
        for _ in range(steps - 1):
            self._step(self._images, self._labels)
        # asking for a number waits for the device
        float(self._step(self._images, self._labels))

    def accuracy(self, images_NCHW: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Return the share of right answers."""
        logits = self._model(tf.constant(images_NCHW.transpose(0, 2, 3, 1)), training=False)
        return float((logits.numpy().argmax(axis=1) == labels).mean())
