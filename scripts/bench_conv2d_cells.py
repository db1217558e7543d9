"""What bench_conv2d.py measures: layers of the article's network, operations on them, and what each must cost at least.

M models, N images, C channels in, K out, H x H input, P x P output (halved by pooling), R x S taps = 3 x 3, padding 1.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

TAPS, PADDING = 3, 1
PRECISIONS = {"ieee": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
"""Name -> type of every tensor. ieee and tf32 are how float32 numbers are multiplied."""

BLOCK, STACKED = "block", "stacked block"
OPERATIONS = (BLOCK, STACKED, "forward", "weight gradient", "input gradient")
"""In the order in which they are measured: those that have an aim first. The weight gradient is with the bias's."""

_COPIES, _KEPT = 7, 5
_MEMORY_SHARE = 0.8

LEAST_LAUNCHES_US = 5.0
"""Two launches of about 2.5 us: what takes less by its floor is bound by launching, not by memory or arithmetic."""


@dataclass(frozen=True)
class ConvolutionLayer:
    """A convolution of the article's network, padded to keep its image's size.

    Attributes:
        pools: whether 2 x 2 max-pooling follows, before relu.
        first: whether it sees the images themselves, which need no gradient when training.
    """

    name: str
    c: int
    k: int
    size: int
    pools: bool
    first: bool

    @property
    def block_size(self) -> int:
        """Height and width of what leaves the block of convolution, pooling and relu."""
        return self.size // 2 if self.pools else self.size


LAYERS = (
    ConvolutionLayer("conv1", 1, 32, 28, pools=True, first=True),
    # conv2, conv3 and conv4 have one shape
    ConvolutionLayer("conv2-4", 32, 32, 14, pools=False, first=False),
)


@dataclass(frozen=True)
class BenchmarkCell:
    """One thing to measure.

    Attributes:
        images: of each model.
        models: 1, but for a stacked block.
    """

    operation: str
    layer: ConvolutionLayer
    images: int
    precision: str
    models: int = 1

    def __str__(self) -> str:
        stack = f" of {self.models} models" if self.operation == STACKED else ""
        return f"{self.operation}{stack}, {self.layer.name}, batch {self.images}, {self.precision}"

    @property
    def dtype(self) -> torch.dtype:
        """The type of every tensor of the cell."""
        return PRECISIONS[self.precision]

    @property
    def is_block(self) -> bool:
        """Whether it is a forward and backward pass with what follows the convolution."""
        return self.operation in {BLOCK, STACKED}

    @property
    def epilogue(self) -> str:
        """What follows the convolution, as ``kernels`` calls it."""
        return ("pool_relu" if self.layer.pools else "relu") if self.is_block else "none"

    @property
    def output_size(self) -> int:
        """Height and width of the operation's output (of the forward pass, for a gradient)."""
        return self.layer.block_size if self.is_block else self.layer.size

    @property
    def flops(self) -> int:
        """Operations of the products alone, two for a multiply-add; a block of a first layer has no input gradient."""
        layer = self.layer
        once = 2 * self.models * self.images * layer.size**2 * layer.k * layer.c * TAPS**2
        return once * ((2 if layer.first else 3) if self.is_block else 1)

    @property
    def fewest_bytes(self) -> int:
        """What any implementation must read and write once: each pass its own inputs and outputs, nothing between.

        A block keeps for its backward pass y after relu, which is there anyway, and a byte for each output after
        pooling.
        """
        layer, element, planes = self.layer, self.dtype.itemsize, self.models * self.images
        x = planes * layer.c * layer.size**2 * element
        outputs = planes * layer.k * self.output_size**2
        y = outputs * element
        filters = self.models * layer.k * (layer.c * TAPS**2 + 1) * element
        if not self.is_block:
            # whichever the operation: two of them are read and the third is written
            return x + y + filters
        forward = x + filters + y + (outputs if layer.pools else 0)
        backward = y + (outputs if layer.pools else y) + x + filters
        return forward + backward + (0 if layer.first else x + filters)

    @property
    def memory_bytes(self) -> int:
        """About the most that is held at once: each arm's own x and dy, and what one without fusion keeps."""
        layer, planes = self.layer, self.models * self.images * self.dtype.itemsize
        x, largest = planes * layer.c * layer.size**2, planes * layer.k * layer.size**2
        dy = planes * layer.k * self.output_size**2
        return _COPIES * (x + dy) + _KEPT * largest


@dataclass(frozen=True)
class MeasuredCeilings:
    """What the device does at best, measured in the same run.

    Attributes:
        bytes_per_s: read and written by a copy.
        flops_per_s: precision -> of a large matrix product.
    """

    bytes_per_s: float
    flops_per_s: dict[str, float]


@dataclass(frozen=True)
class TimeFloor:
    """The least time a cell can take, and what sets it: ``memory``, ``arithmetic`` or ``launches``."""

    us: float
    bound: str


def floor(cell: BenchmarkCell, ceilings: MeasuredCeilings) -> TimeFloor:
    """Least time by the roofline: bytes at the copy's rate or products at the matrix product's, the longer of both."""
    memory_us = 1e6 * cell.fewest_bytes / ceilings.bytes_per_s
    arithmetic_us = 1e6 * cell.flops / ceilings.flops_per_s[cell.precision]
    longer_us = max(memory_us, arithmetic_us)
    if longer_us < LEAST_LAUNCHES_US:
        return TimeFloor(longer_us, "launches")
    return TimeFloor(longer_us, "memory" if memory_us >= arithmetic_us else "arithmetic")


def cells(batches: Sequence[int], stacks: Sequence[int], precisions: Sequence[str]) -> list[BenchmarkCell]:
    """Every combination; those with an aim first, then the smaller ones."""

    def build() -> Iterator[BenchmarkCell]:
        for operation, images, layer, precision in itertools.product(OPERATIONS, batches, LAYERS, precisions):
            if operation == STACKED:
                yield from (BenchmarkCell(operation, layer, images, precision, models) for models in stacks)
            else:
                yield BenchmarkCell(operation, layer, images, precision)

    return sorted(build(), key=lambda cell: (not has_aim(cell), OPERATIONS.index(cell.operation)))


def has_aim(cell: BenchmarkCell) -> bool:
    """Whether ours is to be faster there than another by so much."""
    return cell.operation == BLOCK or (cell.operation == STACKED and cell.models == 64 and cell.images == 50)


def fits(cell: BenchmarkCell, memory_bytes: float) -> bool:
    """Whether most of this memory is enough for it."""
    return cell.memory_bytes <= _MEMORY_SHARE * memory_bytes


Work = Callable[[], Sequence[torch.Tensor]]
"""What is timed: does the cell's operation once and returns its results."""
