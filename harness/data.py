"""MNIST as tensors on the device, and the order of the batches.

Shapes: images x_NCHW (N, 1, 28, 28), labels (N,). Everything random is drawn on the CPU from the seed alone, so a CPU
and a GPU see the same batches.
"""

import functools
import hashlib
import http.client
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from torchvision import datasets

from harness.config import DataConfig
from harness.errors import DataError
from harness.random_streams import generator as random_stream
from harness.validation import DATA_SIZES

TRAIN_EVAL_IMAGES = 1000
"""Training images on which training accuracy is taken when batches change from step to step: the first ones."""

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
"""SHA-256 of each file of ``data=mnist`` once it is unpacked."""

_MEAN, _STD = 0.1307, 0.3081
_DOWNLOAD_TIMEOUT_S = 30.0
_FAILURES = (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException)
_EMBEDDED = Path(__file__).with_name("mnist5k.parquet")


@dataclass(frozen=True)
class Digits:
    """Images and labels of both splits: uint8 (N, 28, 28) as loaded, float32 (N, 1, 28, 28) once on the device."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load(config: DataConfig) -> Digits:
    """The data as uint8 images and int64 labels on the CPU; read once per process.

    Raises:
        DataError: ``data=mnist`` cannot be read or downloaded.
    """
    if config.name == "mnist5k":
        return _embedded()
    return _full(str(Path(config.root).expanduser().resolve()), tuple(config.mirrors))


def to_device(digits: Digits, scaling: str, device: torch.device) -> Digits:
    """Float32 x_NCHW on the device: ``raw`` 0..255, ``unit`` 0..1, ``standardised`` (unit - .1307)/.3081."""

    def scaled(images: torch.Tensor) -> torch.Tensor:
        # on the CPU, for a GPU divides by a number through its reciprocal, which rounds otherwise
        x_NCHW = images.float().unsqueeze(1)
        if scaling != "raw":
            x_NCHW = x_NCHW / 255
        if scaling == "standardised":
            x_NCHW = (x_NCHW - _MEAN) / _STD
        return x_NCHW.to(device)

    return Digits(
        scaled(digits.train_images),
        digits.train_labels.to(device),
        scaled(digits.test_images),
        digits.test_labels.to(device),
    )


def batch_indices(config: DataConfig, *, steps: int, batch_size: int, seed: int) -> torch.Tensor | None:
    """Which training images each step sees, from the seed alone.

    Returns:
        int64 (steps, batch_size) on the CPU; None for ``fixed`` batches, which are the first ``batch_size`` images.
        ``random`` draws with replacement; ``epochs`` lays shuffled passes end to end, so a batch may straddle two of
        them.
    """
    if config.batches == "fixed":
        return None
    images, draws = DATA_SIZES[config.name][0], random_stream(seed, "batches")
    if config.batches == "random":
        return torch.randint(images, (steps, batch_size), generator=draws)
    passes = -(-steps * batch_size // images)
    order = torch.cat([torch.randperm(images, generator=draws) for _ in range(passes)])
    return order[: steps * batch_size].view(steps, batch_size)


def train_eval_count(config: DataConfig, batch_size: int) -> int:
    """How many of the first training images training accuracy is taken on: the fixed batch itself, or 1,000."""
    return batch_size if config.batches == "fixed" else TRAIN_EVAL_IMAGES


def random_test_indices(config: DataConfig, seed: int, count: int = 1000) -> torch.Tensor:
    """``count`` test images drawn with replacement: the article's look at the network before training."""
    return torch.randint(DATA_SIZES[config.name][1], (count,), generator=random_stream(seed, "test_before"))


@functools.cache
def _embedded() -> Digits:
    table = pq.ParquetFile(_EMBEDDED).read()
    images, labels = _bytes(table["image"]).view(-1, 28, 28), _bytes(table["label"]).long()
    train = DATA_SIZES["mnist5k"][0]
    return Digits(images[:train], labels[:train], images[train:], labels[train:])


def _bytes(column: pa.ChunkedArray) -> torch.Tensor:
    """A column of bytes as one uint8 tensor; by its buffer, for pyarrow's own conversion imports pandas (0.4 s)."""
    return torch.frombuffer(bytearray(column.combine_chunks().buffers()[1]), dtype=torch.uint8)


class MNIST(datasets.MNIST):  # type: ignore[misc]
    """Torchvision's MNIST without its pre-2020 file format; its raw files lie in ``root/MNIST/raw``."""

    mirrors: list[str] = datasets.MNIST.mirrors
    sha256: ClassVar[dict[str, str]] = MNIST_SHA256

    def _check_legacy_exist(self) -> bool:
        return False

    def download(self) -> None:
        """Try each mirror in turn; torchvision's own loop ends at one that hangs up or falls silent."""
        if self._check_exists():
            return
        failures = []
        for mirror in self.mirrors:
            try:
                self._download_from(mirror)
            except _FAILURES as error:
                failures.append(f"{mirror}: {_lines(error)[-1]}")
            else:
                return
        raise RuntimeError("\n".join(failures))

    def _download_from(self, mirror: str) -> None:
        if not mirror.startswith(("http://", "https://")):
            raise ValueError("not an http:// or https:// address")
        self.mirrors = [mirror]
        super().download()


@functools.cache
def _full(root: str, mirrors: tuple[str, ...]) -> Digits:
    with _explained(root):
        folder = Path(root) / "MNIST"
        folder.mkdir(parents=True, exist_ok=True)
        # one process downloads while the others wait, then find the files there
        with FileLock(folder / ".lock"):
            _remove_damaged(folder / "raw")
            train = _open(root, mirrors, train=True)
            test = _open(root, mirrors, train=False)
            if damaged := _damaged(folder / "raw"):
                raise RuntimeError(f"wrong checksum: {', '.join(path.name for path in damaged)}")
    return Digits(train.data, train.targets, test.data, test.targets)


def _open(root: str, mirrors: tuple[str, ...], *, train: bool) -> MNIST:
    chosen = type("MNIST", (MNIST,), {"mirrors": [mirror.rstrip("/") + "/" for mirror in mirrors] or MNIST.mirrors})
    return chosen(root, train=train, download=True)  # type: ignore[no-any-return]


def _damaged(raw: Path) -> list[Path]:
    paths = [raw / name for name in MNIST.sha256]
    return [path for path in paths if path.exists() and _sha256(path) != MNIST.sha256[path.name]]


def _remove_damaged(raw: Path) -> None:
    """A file with a wrong checksum would be taken for the data by torchvision, which asks only whether it exists."""
    for path in _damaged(raw):
        path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


@contextmanager
def _explained(root: str) -> Iterator[None]:
    """Limit how long a silent server is waited for, and turn every way this fails into one DataError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        yield
    except _FAILURES as error:
        raise DataError(
            f"data=mnist: cannot get the four MNIST files ({'; '.join(_lines(error))}). "
            "Use data=mnist5k (embedded), name another mirror with "
            f"'data.mirrors=[https://HOST/PATH]', or put the files in {Path(root) / 'MNIST' / 'raw'}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
