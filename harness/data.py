"""A data set as tensors on the device, and the order of the batches.

Shapes: images x_NCHW (N, 1, 28, 28), labels (N,). Everything random is drawn on the CPU from the seed alone, so a CPU
and a GPU see the same batches. What differs between data sets stands in ``harness.datasets``.
"""

import functools
import gzip
import hashlib
import http.client
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torchvision import datasets as torchvision_datasets
from torchvision.datasets.mnist import read_image_file, read_label_file
from torchvision.datasets.utils import download_and_extract_archive

from harness.config import DataConfig
from harness.datasets import DATASETS, DataSet
from harness.errors import DataError
from harness.paths import typed_path
from harness.random_streams import generator as random_stream
from harness.results import UnlockableError, locked

TRAIN_EVAL_IMAGES = 1000
"""Training images on which training accuracy is taken when batches change from step to step: the first ones."""

_DOWNLOAD_TIMEOUT_S, _FOR_EVER = 30.0, -1.0
_FAILURES = (OSError, RuntimeError, ValueError, EOFError, http.client.HTTPException)
_EMBEDDED = Path(__file__).with_name("mnist5k.parquet")


@dataclass(frozen=True)
class Digits:
    """Images and labels of each split: uint8 (N, 28, 28) as loaded, float32 (N, 1, 28, 28) once on the device.

    The validation split is there once on the device, and only if the config holds images out.
    """

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor
    validation_images: torch.Tensor | None = None
    validation_labels: torch.Tensor | None = None


def load(config: DataConfig) -> Digits:
    """Return the data as uint8 images and int64 labels on the CPU; read once per process.

    Raises:
        DataError: its files cannot be read or downloaded.
    """
    if DATASETS[config.name].torchvision is None:
        return _embedded()
    root = typed_path(config.root, "data.root=").resolve()
    return _downloaded(config.name, str(root), tuple(config.mirrors))


SCALINGS: dict[str, Callable[[torch.Tensor, DataSet], torch.Tensor]] = {
    "raw": lambda pixels, _: pixels,
    "unit": lambda pixels, _: pixels / 255,
    "standardised": lambda pixels, data_set: (pixels / 255 - data_set.mean) / data_set.std,
}
"""Name of ``data.scaling`` -> what it makes of pixels 0..255."""


def to_device(digits: Digits, config: DataConfig, device: torch.device) -> Digits:
    """Return the digits that a config asks for as float32 x_NCHW, scaled as it says, and their labels on the device."""
    data_set, scale = DATASETS[config.name], SCALINGS[config.scaling]
    trained, held_out = config.trained_images, config.validation_images

    def scaled(images: torch.Tensor) -> torch.Tensor:
        # on the CPU, because a GPU divides by a number through its reciprocal, which rounds otherwise
        return scale(images.float().unsqueeze(1), data_set).to(device)

    validation = slice(trained, trained + held_out)
    return Digits(
        scaled(digits.train_images[:trained]),
        digits.train_labels[:trained].to(device),
        scaled(digits.test_images[: config.tested_images]),
        digits.test_labels[: config.tested_images].to(device),
        scaled(digits.train_images[validation]) if held_out else None,
        digits.train_labels[validation].to(device) if held_out else None,
    )


def _fixed(_images: int, _count: int, _draws: torch.Generator) -> None:
    """Every step sees the first images, which needs no order."""


def _random(images: int, count: int, draws: torch.Generator) -> torch.Tensor:
    """Draw with replacement."""
    return torch.randint(images, (count,), generator=draws)


def _epochs(images: int, count: int, draws: torch.Generator) -> torch.Tensor:
    """Lay shuffled passes end to end, so that a batch may straddle two of them."""
    passes = -(-count // images)
    return torch.cat([torch.randperm(images, generator=draws) for _ in range(passes)])[:count]


ORDERS: dict[str, Callable[[int, int, torch.Generator], torch.Tensor | None]] = {
    "fixed": _fixed,
    "random": _random,
    "epochs": _epochs,
}
"""Name of ``data.batches`` -> (training images, images wanted, random numbers) -> int64 (images wanted,), or None."""


def batch_indices(config: DataConfig, *, steps: int, batch_size: int, seed: int) -> torch.Tensor | None:
    """Return which training images each step sees, from the seed alone.

    Returns:
        int64 (steps, batch_size) on the CPU; None for ``fixed`` batches, which are the first ``batch_size`` images.
    """
    images, draws = config.trained_images, random_stream(seed, "batches")
    order = ORDERS[config.batches](images, steps * batch_size, draws)
    return None if order is None else order.view(steps, batch_size)


def train_eval_count(config: DataConfig, batch_size: int) -> int:
    """How many of the first training images training accuracy is taken on: the fixed batch itself, or 1,000."""
    return batch_size if config.batches == "fixed" else TRAIN_EVAL_IMAGES


def random_test_indices(config: DataConfig, seed: int, count: int = 1000) -> torch.Tensor:
    """``count`` test images drawn with replacement: the article's look at the network before training."""
    return torch.randint(config.tested_images, (count,), generator=random_stream(seed, "test_before"))


@functools.cache
def _embedded() -> Digits:
    table = pq.ParquetFile(_EMBEDDED).read()
    images, labels = _bytes(table["image"]).view(-1, 28, 28), _bytes(table["label"]).long()
    train = DATASETS["mnist5k"].train_images
    return Digits(images[:train], labels[:train], images[train:], labels[train:])


def _bytes(column: pa.ChunkedArray) -> torch.Tensor:
    """A column of bytes as one uint8 tensor; by its buffer, because pyarrow's own conversion imports pandas (0.4 s)."""
    return torch.frombuffer(bytearray(column.combine_chunks().buffers()[1]), dtype=torch.uint8)


@functools.cache
def _downloaded(name: str, root: str, mirrors: tuple[str, ...]) -> Digits:
    """Read the four files; only if one is missing or damaged is anything locked, downloaded or written."""
    data_set = DATASETS[name]
    folder = Path(root) / str(data_set.torchvision)
    raw = folder / "raw"
    with _explained(name, raw):
        if _unsound(raw, data_set):
            try:
                _complete(folder, data_set, mirrors)
            except OSError:
                # a folder that others share may hold the archives and be read-only
                digits = _unpacked_elsewhere(raw, data_set)
                if digits is None:
                    raise
                return digits
        return _digits(raw)


def _complete(folder: Path, data_set: DataSet, mirrors: Sequence[str]) -> None:
    raw = folder / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        # one process downloads while the others wait, then find the files there
        with locked(folder / ".lock", wait_s=_FOR_EVER), _patient_for(_DOWNLOAD_TIMEOUT_S):
            _download(raw, data_set, mirrors)
    except UnlockableError as error:
        raise OSError(f"{folder / '.lock'}: {error}") from error
    if unsound := _unsound(raw, data_set):
        raise RuntimeError(f"wrong checksum: {', '.join(unsound)}")


def _unpacked_elsewhere(raw: Path, data_set: DataSet) -> Digits | None:
    """Read the archives of a folder by way of a temporary one; None if they are not all there and sound."""
    archives = [raw / archive for archive, _ in _source(data_set).resources]
    if not all(archive.is_file() for archive in archives):
        return None
    with tempfile.TemporaryDirectory() as scratch, suppress(OSError, EOFError, zlib.error):
        for archive in archives:
            target = Path(scratch) / archive.name
            target.symlink_to(archive.absolute())
            with gzip.open(archive) as packed, target.with_suffix("").open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        if not _unsound(Path(scratch), data_set):
            return _digits(Path(scratch))
    return None


def _digits(raw: Path) -> Digits:
    return Digits(*_read(raw, "train"), *_read(raw, "t10k"))


def _read(raw: Path, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    return read_image_file(str(raw / f"{split}-images-idx3-ubyte")), read_label_file(
        str(raw / f"{split}-labels-idx1-ubyte")
    )


def _unsound(raw: Path, data_set: DataSet) -> list[str]:
    """Return the names of the files that are missing, or are not byte for byte what the data set's sums say."""
    return [name for name, sha256 in data_set.sha256.items() if not _is_sound(raw / name, sha256)]


def _is_sound(path: Path, sha256: str) -> bool:
    """Whether a file has its sum and, if it is an archive, the unpacked file beside it has the archive's contents."""
    if not path.is_file() or _sha256(path) != sha256:
        return False
    unpacked = path.with_suffix("")
    return path.suffix != ".gz" or (unpacked.is_file() and _sha256(unpacked) == _sha256_inside(path))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_inside(archive: Path) -> str:
    with gzip.open(archive) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(raw: Path, data_set: DataSet, mirrors: Sequence[str]) -> None:
    """Get each file that is not sound from its archive, downloaded if need be, from the first mirror that works."""
    source = _source(data_set)
    failures = []
    for mirror in [mirror.rstrip("/") + "/" for mirror in mirrors] or source.mirrors:
        try:
            for archive, md5 in source.resources:
                _get(mirror, archive, md5, raw, data_set)
        except _FAILURES as error:
            failures.append(f"{mirror}: {_lines(error)[-1]}")
        else:
            return
    raise RuntimeError("\n".join(failures))


def _source(data_set: DataSet) -> Any:  # noqa: ANN401 - one of torchvision's classes, which have no types
    return getattr(torchvision_datasets, str(data_set.torchvision))


def _get(mirror: str, archive: str, md5: str, raw: Path, data_set: DataSet) -> None:
    sums = data_set.sha256
    (name,) = {archive, archive.removesuffix(".gz")} & sums.keys()
    if _is_sound(raw / name, sums[name]):
        return
    if not mirror.startswith(("http://", "https://")):
        raise ValueError("not an http:// or https:// address")
    download_and_extract_archive(f"{mirror}{archive}", str(raw), filename=archive, md5=md5)


def _lines(error: BaseException) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]


@contextmanager
def _explained(name: str, raw: Path) -> Iterator[None]:
    """Turn every way to fail into one DataError."""
    try:
        yield
    except _FAILURES as error:
        raise DataError(
            f"data={name}: cannot get its four files ({'; '.join(_lines(error))}). "
            "Use data=mnist5k (embedded), name another mirror with "
            f"'data.mirrors=[https://HOST/PATH]', or put the files, as .gz archives, in {raw}"
        ) from error


@contextmanager
def _patient_for(seconds: float) -> Iterator[None]:
    """Limit how long a silent server is waited for."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
