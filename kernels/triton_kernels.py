"""The kernels, in Triton. This file is their arithmetic; ``kernels.launch`` is how they are started.

Legend: N images, C channels in, K channels out (both of one group), H x W input, P x Q output, R x S taps of a filter.
A *slot* is one group of one model: stacked models and groups are independent convolutions that differ in where their
numbers lie, so both are one axis of the grid.

**Implicit GEMM.** A convolution is a matrix product whose left matrix, never built, has a row for each output pixel
(n, p, q) and a column for each (tap, channel) pair, the *depth*:

    y[n, k, p, q] = sum over r, s, c of x[n, c, p*stride - pad + r*dilation, q*stride - pad + s*dilation] * w[k, c, r, s]

    product            rows           columns     depth, channels innermost   left operand is gathered from
    forward            N*P*Q pixels   K           R*S*C                       x
    input gradient     N*H*W pixels   C           R*S*K                       dy, at (h + pad - r*dilation) / stride
    weight gradient    K              R*S*C       N*P*Q pixels                dy, and the columns from x

A program loads a (rows x depth) tile of each operand, multiplies, moves on along the depth. Three decodings are all the
index arithmetic there is: a row number to its pixel (``_pixel``), a depth number to its tap and channel (``_tap``),
and the pixel a tap looks at, with a mask where that is padding. Sizes and strides of one image are compile-time
constants, so divisions become multiplications; where a tile's depth lies within one tap, the tap is one scalar.

What follows the convolution (the *epilogue*) happens in registers before anything is stored: relu, or a 2 x 2
max-pooling and then relu. Pooling first is the same function, and a quarter of the relus: the larger of two numbers
stays the larger under relu, and where none is positive both orders give 0 and send no gradient. The backward pass needs
from it, for each output, one *gate*: after relu the output itself (its gradient passes unless y <= 0), after pooling
one byte, the winner's place in its window, or ``SHUT``. Gradients of the convolution's own output are never stored:
both backward kernels read dy through the gate.

**What LLVM must not know.** It turns divisions of numbers below 256 into ones of 8 or 16 bits, and what follows into
packed additions; ptxas 12.8 and 12.9 lose the constant of one of which half is used (docs/kernels.md, *A wrong result*).
So numbers that are divided have no range that it could know: the number of columns and the depth, which follow from the
sizes, are arguments all the same, and halves of rows and columns are taken by bits.

Offsets of an image, a model or a group are 64 bits wide, those within an image, and in a group's filters, 32;
``kernels.geometry`` refuses what they would not count.
"""

from typing import NamedTuple

import triton
import triton.language as tl

NONE, RELU, POOL_RELU = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)
"""The epilogues."""

SHUT = tl.constexpr(4)
"""Gate of a pooled output that relu set to 0; 0 to 3 are the places of a 2 x 2 window, row by row."""

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Geometry(NamedTuple):
    """One group's convolution of one image: all sizes that are known when a kernel is compiled."""

    C: int
    K: int
    GROUPS: int
    H: int
    W: int
    P: int
    Q: int
    R: int
    S: int
    STRIDE_H: int
    STRIDE_W: int
    PAD_H: int
    PAD_W: int
    DILATION_H: int
    DILATION_W: int


class ImageStrides(NamedTuple):
    """Distance in elements between neighbours along each dimension of x, y or their gradients."""

    N: int
    C: int
    H: int
    W: int


class FilterStrides(NamedTuple):
    """The same within the weight's gradient, which lies in memory as the weight does."""

    K: int
    C: int
    R: int
    S: int


@triton.jit
def _pixel(row, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Row number -> (image as 64 bits, vertical, horizontal place)."""
    return (row // (HEIGHT * WIDTH)).to(tl.int64), row // WIDTH % HEIGHT, row % WIDTH


@triton.jit
def _tap(start, depth, CHANNELS: tl.constexpr, TAPS_W: tl.constexpr, DEPTH: tl.constexpr):
    """The depth numbers from ``start`` on -> (channel, r, s), each (1, DEPTH), or a scalar where all share one tap."""
    lane = tl.arange(0, DEPTH)[None, :]
    if CHANNELS % DEPTH == 0:
        tap = start // CHANNELS
        # Triton 3.6 does not work this out of the loop's step, and would copy 4 bytes at a time, not 16
        channel = tl.multiple_of(start % CHANNELS, DEPTH) + lane
    else:
        # plus 0, which LLVM cannot know: see above
        number = start + lane + tl.minimum(depth, 0)
        tap = number // CHANNELS
        channel = number % CHANNELS
    return channel, tap // TAPS_W, tap % TAPS_W


@triton.jit
def _add_product(total, left, right, DEPTH: tl.constexpr, PRECISION: tl.constexpr):
    """Total (M, N) + left (M, DEPTH) times right (N, DEPTH) transposed, added up in float32."""
    tl.static_assert(left.dtype == right.dtype, "operands of two types")
    if INTERPRETED or DEPTH == 1:
        # the interpreter multiplies 16-bit numbers wrongly, for numpy has no bfloat16
        left, right = left.to(tl.float32), right.to(tl.float32)
    if DEPTH == 1:
        total += left * tl.trans(right)
    else:
        total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION)
    return total


@triton.jit
def _patch(x, n, p, q, c, r, s, seen, G: tl.constexpr, X: tl.constexpr):
    """What tap (r, s) of output pixel (p, q) looks at; 0 where that is padding or not ``seen``."""
    h = p * G.STRIDE_H - G.PAD_H + r * G.DILATION_H
    w = q * G.STRIDE_W - G.PAD_W + s * G.DILATION_W
    seen = seen & (h >= 0) & (h < G.H) & (w >= 0) & (w < G.W)
    return tl.load(x + n * X.N + (c * X.C + h * X.H + w * X.W), mask=seen, other=0.0)


@triton.jit
def _gated(dy, gate, n, k, p, q, seen, G: tl.constexpr, DY: tl.constexpr, GATE: tl.constexpr, EPILOGUE: tl.constexpr):
    """Gradient of the convolution's own output at (n, k, p, q): dy where the gate lets it through, else 0."""
    if EPILOGUE == POOL_RELU:
        place = (p & 1) * 2 + (q & 1)
        p, q = p >> 1, q >> 1
        # an odd last row or column is in no window
        seen = seen & (p < G.P // 2) & (q < G.Q // 2)
    gradient = tl.load(dy + n * DY.N + (k * DY.C + p * DY.H + q * DY.W), mask=seen, other=0.0)
    if EPILOGUE == RELU:
        y = tl.load(gate + n * GATE.N + (k * GATE.C + p * GATE.H + q * GATE.W), mask=seen, other=0.0)
        # not y > 0: like torch's, the gradient of a NaN passes
        gradient = tl.where(y <= 0, 0.0, gradient)
    if EPILOGUE == POOL_RELU:
        winner = tl.load(gate + n * GATE.N + (k * GATE.C + p * GATE.H + q * GATE.W), mask=seen, other=SHUT)
        gradient = tl.where(winner == place, gradient, 0.0)
    return gradient


@triton.jit
def _place(rows, ROW_TILE: tl.constexpr, columns, COLUMN_TILE: tl.constexpr):
    """This program's (row numbers, column numbers, slot, column tile); neighbouring programs share their rows."""
    column_tiles, row_tiles = tl.cdiv(columns, COLUMN_TILE), tl.cdiv(rows, ROW_TILE)
    program = tl.program_id(0)
    column_tile = program % column_tiles
    column = column_tile * COLUMN_TILE + tl.arange(0, COLUMN_TILE)
    row = program // column_tiles % row_tiles * ROW_TILE + tl.arange(0, ROW_TILE)
    return row[:, None], column[:, None], (program // column_tiles // row_tiles).to(tl.int64), column_tile


@triton.jit
def _filter(weight, k, c, r, s, seen, G: tl.constexpr):
    """Filter numbers from a weight that lies in memory as (K, R, S, C)."""
    return tl.load(weight + k * (G.R * G.S * G.C) + ((r * G.S + s) * G.C + c), mask=seen, other=0.0)


@triton.jit
def _convolve(x, weight, n, p, q, k, rows_in, depth, G: tl.constexpr, X: tl.constexpr, TILE: tl.constexpr,
              PRECISION: tl.constexpr):  # fmt: skip
    """Output pixels (n, p, q), each (M, 1), of channels k (N, 1): their sums over all taps and channels, (M, N)."""
    TAPS_W: tl.constexpr = G.S
    CHANNELS: tl.constexpr = G.C
    ROW_TILE: tl.constexpr = TILE.M
    COLUMN_TILE: tl.constexpr = TILE.N
    STEP: tl.constexpr = TILE.K
    total = tl.zeros((ROW_TILE, COLUMN_TILE), tl.float32)
    for start in range(0, depth, STEP):
        c, r, s = _tap(start, depth, CHANNELS, TAPS_W, STEP)
        left = _patch(x, n, p, q, c, r, s, rows_in & (r < G.R), G, X)
        right = _filter(weight, k, c, r, s, (k < G.K) & (r < G.R), G)
        total = _add_product(total, left, right, STEP, PRECISION)
    return total


@triton.jit
def forward_kernel(x, weight, bias, y, winner, images, depth, x_model, weight_model, G: tl.constexpr, X: tl.constexpr,
                   Y: tl.constexpr, TILE: tl.constexpr, EPILOGUE: tl.constexpr,
                   PRECISION: tl.constexpr):  # fmt: skip
    """Y = epilogue(convolution + bias), and with pooling the winners.

    x_model and weight_model are the distances between models in elements, 0 where all share. ``bias`` and ``winner``
    may be None.
    """
    WINDOW: tl.constexpr = 2 if EPILOGUE == POOL_RELU else 1
    HEIGHT: tl.constexpr = G.P // WINDOW
    WIDTH: tl.constexpr = G.Q // WINDOW
    ROW_TILE: tl.constexpr = TILE.M
    COLUMN_TILE: tl.constexpr = TILE.N
    row, k, slot, _ = _place(images * HEIGHT * WIDTH, ROW_TILE, G.K, COLUMN_TILE)
    model, group = slot // G.GROUPS, slot % G.GROUPS
    x += model * x_model + group * (G.C * X.C)
    weight += model * weight_model + group * (G.K * G.R * G.S * G.C)
    rows_in = row < images * HEIGHT * WIDTH
    n, top, left = _pixel(row, HEIGHT, WIDTH)

    channel = tl.trans(k)
    first_channel = group * G.K
    best = tl.full((ROW_TILE, COLUMN_TILE), float("-inf"), tl.float32)
    won = tl.zeros((ROW_TILE, COLUMN_TILE), tl.int32)
    # one loop, not four copies of it: their indices would take registers all at once
    for place in range(WINDOW * WINDOW):
        p, q = top * WINDOW + place // WINDOW, left * WINDOW + place % WINDOW
        value = _convolve(x, weight, n, p, q, k, rows_in, depth, G, X, TILE, PRECISION)
        if bias is not None:
            biases = bias + (model * (G.GROUPS * G.K) + first_channel + channel)
            value += tl.load(biases, mask=channel < G.K, other=0.0).to(tl.float32)
        # rounded as torch stores it between convolution and pooling: ties in the output's type are ties
        value = value.to(y.dtype.element_ty).to(tl.float32)
        # torch's order of comparison: the first of equals wins, and any NaN
        wins = (value > best) | (value != value)
        best = tl.where(wins, value, best)
        won = tl.where(wins, place, won)
    stored = rows_in & (channel < G.K)
    at = model * images * Y.N + n * Y.N + ((first_channel + channel) * Y.C + top * Y.H + left * Y.W)
    if EPILOGUE != NONE:
        won = tl.where(best <= 0, SHUT, won)
        best = tl.where(best <= 0, 0.0, best)
    if EPILOGUE == POOL_RELU:
        tl.store(winner + at, won.to(tl.uint8), mask=stored)
    tl.store(y + at, best.to(y.dtype.element_ty), mask=stored)


@triton.jit
def input_gradient_kernel(dy, gate, weight, dx, images, depth, dy_model, gate_model, weight_model, G: tl.constexpr,
                          DY: tl.constexpr, GATE: tl.constexpr, DX: tl.constexpr, TILE: tl.constexpr,
                          EPILOGUE: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Dx = the gated dy, spread back through the taps. ``gate`` is None without an epilogue.

    With a stride, the taps that do not land on an output pixel are masked: a share of 1 - 1/stride^2 of the work.
    """
    CHANNELS: tl.constexpr = G.K
    TAPS_W: tl.constexpr = G.S
    ROW_TILE: tl.constexpr = TILE.M
    COLUMN_TILE: tl.constexpr = TILE.N
    STEP: tl.constexpr = TILE.K
    row, c, slot, _ = _place(images * (G.H * G.W), TILE.M, G.C, TILE.N)
    model, group = slot // G.GROUPS, slot % G.GROUPS
    first_channel = group * G.K
    dy += model * dy_model + first_channel * DY.C
    if EPILOGUE != NONE:
        gate += model * gate_model + first_channel * GATE.C
    weight += model * weight_model + first_channel * (G.R * G.S * G.C)
    rows_in = row < images * (G.H * G.W)
    n, h, w = _pixel(row, G.H, G.W)

    total = tl.zeros((ROW_TILE, COLUMN_TILE), tl.float32)
    for start in range(0, depth, STEP):
        k, r, s = _tap(start, depth, CHANNELS, TAPS_W, STEP)
        down, right = h + G.PAD_H - r * G.DILATION_H, w + G.PAD_W - s * G.DILATION_W
        p, q = down // G.STRIDE_H, right // G.STRIDE_W
        lands = (
            (down >= 0) & (down % G.STRIDE_H == 0) & (p < G.P) & (right >= 0) & (right % G.STRIDE_W == 0) & (q < G.Q)
        )
        gradient = _gated(dy, gate, n, k, p, q, rows_in & lands & (r < G.R), G, DY, GATE, EPILOGUE)
        taps = _filter(weight, k, c, r, s, (c < G.C) & (r < G.R), G)
        total = _add_product(total, gradient, taps, STEP, PRECISION)
    channel = tl.trans(c)
    at = model * images * DX.N + n * DX.N + ((group * G.C + channel) * DX.C + h * DX.H + w * DX.W)
    tl.store(dx + at, total.to(dx.dtype.element_ty), mask=rows_in & (channel < G.C))


@triton.jit
def weight_gradient_kernel(x, dy, gate, parts, images, splits, columns, x_model, dy_model, gate_model, G: tl.constexpr,
                           X: tl.constexpr, DY: tl.constexpr, GATE: tl.constexpr, F: tl.constexpr, TILE: tl.constexpr,
                           EPILOGUE: tl.constexpr, PRECISION: tl.constexpr, WEIGHT: tl.constexpr,
                           BIAS: tl.constexpr):  # fmt: skip
    """One part of the weight's and the bias's gradient: the sum over ``1/splits`` of the pixels, float32.

    parts is (models, splits, numbers): first the weight's numbers as they lie in memory (if WEIGHT), then the bias's
    (if BIAS). ``add_parts_kernel`` adds them up in their order; atomic additions would come in any order.
    """
    COLUMNS: tl.constexpr = G.C * G.R * G.S if WEIGHT else 1
    WEIGHTS: tl.constexpr = G.GROUPS * G.K * G.C * G.R * G.S if WEIGHT else 0
    NUMBERS: tl.constexpr = WEIGHTS + (G.GROUPS * G.K if BIAS else 0)
    ROW_TILE: tl.constexpr = TILE.M
    COLUMN_TILE: tl.constexpr = TILE.N
    STEP: tl.constexpr = TILE.K
    k, column, slot, column_tile = _place(G.K, TILE.M, columns, TILE.N)
    split, slot = slot % splits, slot // splits
    model, group = slot // G.GROUPS, slot % G.GROUPS
    first_channel = group * G.K
    x += model * x_model + group * (G.C * X.C)
    dy += model * dy_model + first_channel * DY.C
    if EPILOGUE != NONE:
        gate += model * gate_model + first_channel * GATE.C
    c, tap = column % G.C, column // G.C
    r, s = tap // G.S, tap % G.S

    pixels = images * (G.P * G.Q)
    share = tl.cdiv(tl.cdiv(pixels, splits), STEP) * STEP
    begin = split.to(tl.int32) * share
    end = tl.minimum(begin + share, pixels)
    total = tl.zeros((ROW_TILE, COLUMN_TILE), tl.float32)
    bias_total = tl.zeros((ROW_TILE, STEP), tl.float32)
    for start in range(begin, end, STEP):
        pixel = start + tl.arange(0, STEP)[None, :]
        n, p, q = _pixel(pixel, G.P, G.Q)
        gradient = _gated(dy, gate, n, k, p, q, (pixel < end) & (k < G.K), G, DY, GATE, EPILOGUE)
        if WEIGHT:
            patch = _patch(x, n, p, q, c, r, s, (pixel < end) & (column < COLUMNS), G, X)
            total = _add_product(total, gradient, patch, STEP, PRECISION)
        if BIAS:
            bias_total += gradient.to(tl.float32)

    parts += (model * splits + split) * NUMBERS
    if WEIGHT:
        at = (first_channel + k) * F.K + tl.trans(c * F.C + r * F.R + s * F.S)
        tl.store(parts + at, total, mask=(k < G.K) & tl.trans(column < COLUMNS))
    if BIAS:
        # every column tile has the same sum
        sums = tl.sum(bias_total, axis=1)[:, None]
        tl.store(parts + WEIGHTS + first_channel + k, sums, mask=(k < G.K) & (column_tile == 0))


@triton.jit
def add_parts_kernel(parts, first, second, count, first_numbers, second_numbers, BLOCK: tl.constexpr):
    """Add ``count`` parts of each model in their order.

    parts (models, count, first_numbers + second_numbers) float32 -> first (models, first_numbers) and second
    (models, second_numbers) in their own type; either may be None.
    """
    numbers = first_numbers + second_numbers
    blocks = tl.cdiv(numbers, BLOCK)
    model = (tl.program_id(0) // blocks).to(tl.int64)
    at = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for part in range(count):
        total += tl.load(parts + (model * count + part) * numbers + at, mask=at < numbers, other=0.0)
    if first is not None:
        tl.store(first + model * first_numbers + at, total.to(first.dtype.element_ty), mask=at < first_numbers)
    if second is not None:
        own = (at >= first_numbers) & (at < numbers)
        tl.store(second + model * second_numbers + at - first_numbers, total.to(second.dtype.element_ty), mask=own)
