"""Which tile each kernel works in: one table, and the reason for each row.

A program computes ``M`` rows by ``N`` columns of a matrix product and goes through the depth ``K`` at a time (see
``kernels.triton_kernels``). Choices follow from shapes and precision alone, never from the device, so that sums are
taken in the same order everywhere. Where a row says so it was timed on an NVIDIA H200 with Triton 3.6, on the article's
network (docs/kernels.md); ``scripts/compile_kernels.py`` shows what each compiles to.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = "forward", "input_gradient", "weight_gradient"
DIRECT, FMA, TF32, TF32X3, HALF = "direct", "fma", "tf32", "tf32x3", "half"
"""How products are made: without a dot; by ordinary multiply-adds (ieee); by matrix units, of float32 numbers in one
step or in three, or of 2-byte numbers."""

LEAST_DOT = 16
"""Columns and depth that a dot takes at least. Up to this depth, a tile is done in one step."""


class Tile(NamedTuple):
    """Rows, columns and depth of a program's tile; powers of two."""

    M: int
    N: int
    K: int


class TileChoice(NamedTuple):
    """A tile, and what it is compiled with.

    Attributes:
        tile: rows, columns, depth.
        warps: of a block.
        stages: of the pipeline that loads ahead.
        registers: the most that a thread may take on an NVIDIA GPU. Left to itself, ptxas takes fewer so that one block
            more fits into a multiprocessor, and may spill 4 to 16 bytes to get there: other kernels by each version.
            128 in 8 warps leave room for 2 blocks, 168 in 4 for 3, and 255, the most there is, for 2.
    """

    tile: Tile
    warps: int
    stages: int
    registers: int | None = None


_TABLE: dict[tuple[str, str], TileChoice] = {
    # depthwise: an outer product for each tap wastes no columns; 8 sums a thread: 16 took 223 registers and 32 spilled
    (FORWARD, DIRECT): TileChoice(Tile(64, 32, 1), 8, 1, 128),
    # exact float32 is bound by arithmetic; 3 blocks of 4 warps, for in 2 of 8 warps Triton 3.6 spilled 8 bytes
    (FORWARD, FMA): TileChoice(Tile(32, 32, 16), 4, 2, 168),
    # memory-bound: 64 pixels share one read of the 32 x 16 filter slice; with pooling 128 spilled on gfx942, and with a
    # third stage 64 on sm_80 (312 bytes in 8 warps by Triton 3.8, 672 in 4 by 3.9); unlimited 8 bytes by 3.6
    (FORWARD, TF32): TileChoice(Tile(64, 64, 16), 8, 2, 128),
    # three products from two parts of each number: narrower, or it spills, as it did by Triton 3.6 with a depth of 32
    (FORWARD, TF32X3): TileChoice(Tile(64, 32, 16), 4, 2, 255),
    # a third stage or a depth of 32 took up to 255 registers with pooling on sm_80; 4 warps spilled 88 bytes by Triton
    # 3.9, and unlimited 8 by 3.9 and 4 by 3.7 on sm_100
    (FORWARD, HALF): TileChoice(Tile(64, 64, 16), 8, 2, 128),
    # the same product with the roles of C and K swapped; unlimited, Triton 3.6 spilled 4 bytes after relu
    (INPUT_GRADIENT, DIRECT): TileChoice(Tile(64, 32, 1), 8, 1, 128),
    # as forward; in 2 blocks of 8 warps Triton 3.9 spilled 24 bytes on sm_100
    (INPUT_GRADIENT, FMA): TileChoice(Tile(32, 32, 16), 4, 2, 168),
    # reading through the gate takes registers: 128 rows spilled, 64 rows in 4 warps on sm_100, and a depth of 32 on
    # sm_80, 4 bytes by Triton 3.6 unlimited and 3.9 limited
    (INPUT_GRADIENT, TF32): TileChoice(Tile(64, 64, 16), 8, 2, 128),
    (INPUT_GRADIENT, TF32X3): TileChoice(Tile(64, 32, 16), 4, 2, 255),
    (INPUT_GRADIENT, HALF): TileChoice(Tile(64, 64, 32), 4, 3, 255),
    # every column tile reads dy again (from L2): 128 columns are 4 taps of 32 channels, so it is read 3 times, not 9.
    # No limit lower than the hardware's: PROGRAMS_WANTED fills a multiprocessor with 2 blocks. A depth of 32 filled
    # those 255 registers and spilled up to 44 bytes (FMA), or 164 (TF32), by Triton 3.9
    (WEIGHT_GRADIENT, FMA): TileChoice(Tile(32, 64, 16), 4, 2, 255),
    (WEIGHT_GRADIENT, TF32): TileChoice(Tile(32, 128, 16), 4, 2, 255),
    # three products: 32 pixels at a time spilled on sm_100 in 8 warps, and on sm_90 in 4
    (WEIGHT_GRADIENT, TF32X3): TileChoice(Tile(32, 32, 16), 8, 2),
    (WEIGHT_GRADIENT, HALF): TileChoice(Tile(32, 128, 32), 4, 3, 255),
}

_NARROW: dict[tuple[str, str], tuple[int, TileChoice]] = {
    # 32 columns and no more: twice the rows, and a depth of one tap. Timed: 76 us of conv2-4 at batch 1024 became 39
    (FORWARD, TF32): (32, TileChoice(Tile(128, 32, 32), 8, 3, 128)),
    # 4 x 4 sums a thread read a quarter as often from shared memory: 551 us became 309
    (FORWARD, FMA): (32, TileChoice(Tile(128, 32, 16), 4, 2, 255)),
    # 61 us became 25
    (FORWARD, HALF): (32, TileChoice(Tile(128, 32, 32), 4, 3, 168)),
    # 119 us became 77; a depth of 32 took 82
    (INPUT_GRADIENT, TF32): (32, TileChoice(Tile(128, 32, 16), 8, 3, 128)),
    # 183 us became 138; a third stage, no quicker, spilled on sm_100
    (INPUT_GRADIENT, FMA): (32, TileChoice(Tile(128, 32, 16), 4, 2, 255)),
    # conv1's 9 columns: pixels are all the work, so more at a time. 111 us became 92, of 64 models 415 became 228
    (WEIGHT_GRADIENT, TF32): (16, TileChoice(Tile(32, 16, 32), 4, 3, 168)),
    # 83 us became 62, of 64 models 325 became 154; 128 pixels at a time took 53, but spilled after relu
    (WEIGHT_GRADIENT, HALF): (16, TileChoice(Tile(32, 16, 64), 4, 3, 168)),
}
"""(operation, arithmetic) -> up to how many columns which choice is quicker than the table's; times by an H200 at batch
1024, without a limit of registers.

Not with pooling, which keeps three numbers for each of a tile's, and not where a tile's depth is more than one tap, so
that each number's place is worked out: there most of these spilled.
"""

_SHALLOW = TileChoice(Tile(64, 32, 16), 4, 1, 255)
"""For a depth of up to ``LEAST_DOT``, done in one step: there is nothing to load ahead. A dot with 7 of 16 taps empty
took 38 us of conv1 at batch 1024 in tf32 and 46 in ieee; an outer product for each tap, in which every thread works out
its rows' addresses, took 182. 128 rows took 33 and 43, and spilled with pooling."""

PROGRAMS_WANTED = 264
"""Programs of a weight gradient: two for each multiprocessor of an H100, a constant so that every GPU splits alike."""

LEAST_SPLIT_PIXELS = 128
"""Fewer pixels to a part would make writing and adding the parts the larger work."""

SUM_BLOCK = 256
"""Numbers a program of the second stage of a reduction adds up."""


def arithmetic(operation: str, *, depth: int, columns: int, element_bytes: int, precision: str) -> str:
    """How the products of an operation are made: a key of the table.

    Args:
        operation: forward, input_gradient or weight_gradient.
        depth: length of the reduction (channels x taps); the weight gradient's, over pixels, does not matter.
        columns: of the right matrix.
        element_bytes: of the operands.
        precision: ieee, tf32 or tf32x3, of float32 operands.
    """
    if operation != WEIGHT_GRADIENT and depth <= LEAST_DOT and columns < LEAST_DOT:
        return DIRECT
    if element_bytes < 4:
        return HALF
    return {"ieee": FMA, "tf32": TF32, "tf32x3": TF32X3}[precision]


@functools.lru_cache(maxsize=1024)
def choose(operation: str, kind: str, *, channels: int, depth: int, rows: int, columns: int, pools: bool) -> TileChoice:
    """The tile for a product of this depth and many columns, and of this many rows where rows are channels.

    Args:
        operation: forward, input_gradient or weight_gradient.
        kind: what :func:`arithmetic` gave.
        channels: that the depth takes together for each tap; 0 for the weight gradient.
        depth: as there.
        rows: of the left matrix; pixels, but for the weight gradient, whose rows are output channels.
        columns: of the right matrix.
        pools: whether 2 x 2 max-pooling follows the forward pass; False for the weight gradient.
    """
    choice = _row(operation, kind, channels, depth, columns, pools=pools)
    tile, least = choice.tile, 1 if kind == DIRECT else LEAST_DOT
    row_tile = min(tile.M, _power_of_two(rows, LEAST_DOT)) if operation == WEIGHT_GRADIENT else tile.M
    return choice._replace(tile=Tile(row_tile, min(tile.N, _power_of_two(columns, least)), tile.K))


def _row(operation: str, kind: str, channels: int, depth: int, columns: int, *, pools: bool) -> TileChoice:
    """The entry of the tables."""
    if operation != WEIGHT_GRADIENT and depth <= LEAST_DOT and kind != DIRECT:
        return _SHALLOW
    most, choice = _NARROW.get((operation, kind), (0, None))
    if choice is None or columns > most or channels % choice.tile.K or pools:
        return _TABLE[operation, kind]
    return choice


def _power_of_two(count: int, least: int) -> int:
    """The smallest power of two that is no less than either."""
    return max(least, 1 << max(count - 1, 0).bit_length())


def choices() -> Iterator[tuple[str, str, bool, TileChoice]]:
    """Every (operation, arithmetic, whether it pools, choice) that :func:`choose` can return."""
    sizes = [2**power for power in range(8)]
    for operation, kind in _TABLE:
        few = range(1, LEAST_DOT) if kind == DIRECT else sizes
        for pools in (False,) if operation == WEIGHT_GRADIENT else (False, True):
            asked = itertools.product((0, 1), (LEAST_DOT, LEAST_DOT + 1), sizes, few)
            chosen = {
                choose(operation, kind, channels=c, depth=d, rows=rows, columns=n, pools=pools)
                for c, d, rows, n in asked
                if not (c and operation == WEIGHT_GRADIENT)
            }
            yield from ((operation, kind, pools, choice) for choice in sorted(chosen))


def for_interpreter(operation: str, choice: TileChoice) -> TileChoice:
    """The same with more pixels to a tile: the interpreter's time goes with the number of steps, not their size."""
    tile = choice.tile
    larger = tile._replace(K=1024) if operation == WEIGHT_GRADIENT else tile._replace(M=2048)
    return choice._replace(tile=larger)


def splits(pixels: int, tiles: int, depth: int) -> int:
    """Into how many parts the weight gradient's sum over pixels is cut.

    Args:
        pixels: of all images.
        tiles: programs that work on each part.
        depth: pixels in one of their steps.
    """
    most = -(-pixels // max(LEAST_SPLIT_PIXELS, depth))
    return max(1, min(most, PROGRAMS_WANTED // tiles))
