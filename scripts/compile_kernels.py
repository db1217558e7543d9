"""Compile every Triton kernel for GPUs that need not be there, and show what each costs: registers, spills, memory.

Usage: python scripts/compile_kernels.py [--quick] [--targets sm_90,gfx942] [--markdown FILE]
Exit code: 0 all fit, 1 one does not (it spills, takes too much shared memory or leaves matrix units unused), 2 wrong
command. The launches are recorded from ``kernels.launch`` itself, on tensors without data, for shapes from which every
tile in ``kernels.tiles`` follows: what is compiled here is what a GPU would be asked to run.

Compiled are the article's network; every kernel in every arithmetic, type, tile with its warps and stages, and
epilogue, in the shape that leaves most index arithmetic; and, with pooling, in every arithmetic: contiguous, strided,
depthwise without a bias, grouped, stacked, stacked on one input, and with a frozen weight. At 0.3 s of a core each, all
take about 4 minutes on two cores, --quick (the article's network) one. To compile with another version of Triton:
    pip install --no-deps --target DIR triton==3.6.0; PYTHONPATH=DIR:. python scripts/compile_kernels.py
"""

import contextlib
import io
import itertools
import multiprocessing
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from harness import markdown
from harness.arguments import file_to_write, one_line_errors, script_parser
from harness.cores import usable_cores
from harness.errors import UsageError
from kernels import geometry, launch, tiles, triton_kernels

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
"""Name -> what Triton compiles for: A100, H100 and H200, B200, MI300."""

SHARED_LIMIT_BYTES = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "sm_100": 227 * 1024, "gfx942": 64 * 1024}
"""Shared memory a block can have (CUDA programming guide; LDS of a CDNA3 workgroup)."""

_MATRIX_INSTRUCTIONS = ("wgmma.mma_async", "tcgen05.mma", "mma.sync", "v_mfma")
_COSTS = ("registers", "spilled_bytes", "shared_bytes")
_TYPES = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.uint8: "*u8"}
_ARITHMETIC: list[tuple[torch.dtype, str]] = [
    (torch.float32, "ieee"),
    (torch.float32, "tf32"),
    (torch.float32, "tf32x3"),
    (torch.float16, "ieee"),
    (torch.bfloat16, "ieee"),
]


@dataclass(frozen=True)
class RecordedConvolution:
    """A convolution to record: channels, image, filters, taps, how it moves, what is there and needs a gradient."""

    c: int
    size: int
    k: int
    taps: int = 3
    stride: int = 1
    groups: int = 1
    models: int = 1
    images: int = 50
    bias: bool = True
    weight: bool = True
    channels_last: bool = True
    shared: bool = False


ARTICLE = (RecordedConvolution(1, 28, 32), RecordedConvolution(32, 14, 32))
"""conv1, and conv2 to conv4."""

SPECIAL = (
    RecordedConvolution(32, 14, 32, channels_last=False),
    RecordedConvolution(3, 32, 64, taps=7, stride=2),
    RecordedConvolution(32, 14, 32, groups=32, bias=False),
    RecordedConvolution(64, 7, 10, taps=5, groups=2),
    RecordedConvolution(32, 14, 32, models=8),
    RecordedConvolution(32, 14, 32, models=8, shared=True),
    RecordedConvolution(32, 14, 32, weight=False),
    RecordedConvolution(5, 9, 6),
    RecordedConvolution(7, 9, 3, channels_last=False),
)
"""Contiguous; strided, taps that a tile's depth cuts; depthwise without a bias; groups; stacked; on one input; a frozen
weight; odd channels, whose numbers are taken apart by division."""


@dataclass(frozen=True)
class KernelLaunch:
    """One compiled thing: everything that the compiler is told."""

    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[int, ...]
    choice: tiles.TileChoice
    kind: str

    @property
    def dtype(self) -> str:
        """The type of its operands, as Triton names it."""
        return next(kind for _, kind in self.signature if kind.startswith("*"))

    @property
    def configuration(self) -> tuple[Any, ...]:
        """All of it that does not follow from a shape."""
        return self.kernel, self.kind, self.dtype, self.choice, dict(self.constants).get("EPILOGUE")

    @property
    def appetite(self) -> tuple[int, ...]:
        """Orders launches of one configuration by the index arithmetic left to them, which takes registers."""
        geometry = dict(self.constants).get("G")
        if geometry is None:
            return ()
        channels = geometry.K if self.kernel == "input_gradient_kernel" else geometry.C
        return channels % self.choice.tile.K > 0, geometry.R * geometry.S, geometry.STRIDE_H

    @property
    def precision(self) -> str:
        """The precision of its float32 products, or its type."""
        kinds = {tiles.DIRECT: "exact", tiles.FMA: "ieee", tiles.HALF: "16-bit"}
        return kinds.get(self.kind, self.kind)


@dataclass(frozen=True)
class CompiledKernel:
    """What a launch became on a target.

    Attributes:
        registers: of a thread.
        spilled_bytes: of a thread, memory for registers that did not fit.
        shared_bytes: of a block.
        matrix: the matrix instruction that is used, or an empty string.
        half_used: 16-bit additions in pairs of which one result is used; see :func:`count_half_used`.
    """

    launch: KernelLaunch
    target: str
    registers: int
    spilled_bytes: int
    shared_bytes: int
    matrix: str
    half_used: int = 0

    @property
    def faults(self) -> list[str]:
        """What is wrong with it, in words."""
        texts = []
        if self.spilled_bytes:
            texts.append(f"spills {self.spilled_bytes} bytes")
        if self.shared_bytes > SHARED_LIMIT_BYTES[self.target]:
            texts.append(
                f"takes {self.shared_bytes} bytes of shared memory, {self.target} has {SHARED_LIMIT_BYTES[self.target]}"
            )
        if self.launch.kind in (tiles.TF32, tiles.TF32X3, tiles.HALF) and not self.matrix:
            texts.append("uses no matrix instruction")
        if self.half_used:
            texts.append(f"adds {self.half_used} pairs of 16-bit numbers and uses one of each; ptxas 12 gets it wrong")
        return texts


@contextlib.contextmanager
def recorded() -> Iterator[list[KernelLaunch]]:
    """Within, launches are noted and not made; tensors may be without data."""
    noted: list[KernelLaunch] = []

    def note(kernel: Any, _programs: int, choice: tiles.TileChoice, *arguments: Any, **constants: Any) -> None:  # noqa: ANN401
        noted.append(_launch(kernel, choice, arguments, constants))

    with mock.patch.object(launch, "_start", note), mock.patch.object(launch, "require_device", return_value=None):
        yield noted


def _launch(
    kernel: Any,  # noqa: ANN401 - Triton's decorator has no type
    choice: tiles.TileChoice,
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
) -> KernelLaunch:
    """What Triton would specialise on: types, constants, which addresses and numbers are multiples of 16."""
    signature, fixed, aligned = {}, dict(constants), []
    for index, (name, value) in enumerate(zip(kernel.arg_names, arguments, strict=False)):
        if value is None or (isinstance(value, int) and value == 1):
            fixed[name] = value
        elif isinstance(value, int):
            signature[name] = "i32"
            aligned += [index] * (value % 16 == 0)
        else:
            signature[name] = _TYPES[value.dtype]
            aligned.append(index)
    dtype = next(value.dtype for value in arguments if isinstance(value, torch.Tensor))
    dotless = choice.tile.K == 1 or not constants.get("WEIGHT", True)
    kind = tiles.DIRECT if dotless else _kind(kernel.fn.__name__, dtype, constants["PRECISION"])
    in_order = tuple((name, signature.get(name, "constexpr")) for name in kernel.arg_names)
    return KernelLaunch(kernel.fn.__name__, in_order, tuple(sorted(fixed.items())), tuple(aligned), choice, kind)


def _kind(kernel: str, dtype: torch.dtype, precision: str) -> str:
    operation = tiles.WEIGHT_GRADIENT if kernel.startswith("weight") else tiles.FORWARD
    many = 1 + tiles.LEAST_DOT
    return tiles.arithmetic(operation, depth=many, columns=many, element_bytes=dtype.itemsize, precision=precision)


def launches(layers: Sequence[RecordedConvolution]) -> list[KernelLaunch]:
    """Every different launch that training these layers makes, in every arithmetic, with every epilogue."""
    with recorded() as noted:
        for layer, (dtype, precision), epilogue in itertools.product(layers, _ARITHMETIC, launch.EPILOGUES.values()):
            _train(layer, dtype, precision, epilogue)
    return list(dict.fromkeys(noted))


def _train(layer: RecordedConvolution, dtype: torch.dtype, precision: str, epilogue: int) -> None:
    """One forward and backward pass on tensors without data."""
    window = geometry.window((layer.taps,) * 2, layer.stride, layer.taps // 2, 1, layer.groups)
    like = torch.empty(0, dtype=dtype, device="meta")
    last = layer.channels_last
    image = (layer.size, layer.size)
    images = (1 if layer.shared else layer.models, layer.images, layer.c, *image)
    x = launch.allocate(images, like, channels_last=last)
    filters = (layer.k, layer.c // layer.groups, layer.taps, layer.taps)
    weight = launch.allocate((layer.models, *filters), like, channels_last=last)
    bias = like.new_empty((layer.models, layer.k)) if layer.bias else None
    y, winner = launch.forward(x, weight, bias, window, precision=precision, epilogue=epilogue)
    gate = {"none": None, "relu": y, "pool_relu": winner}[list(launch.EPILOGUES)[epilogue]]
    settings = {"precision": precision, "epilogue": epilogue}
    launch.input_gradient(y, gate, weight, image, window, shared=layer.shared, channels_last=last, **settings)  # type: ignore[arg-type]
    needs = (layer.weight, layer.bias)
    launch.weight_gradient(x, y, gate, filters, window, channels_last=last, needs=needs, **settings)  # type: ignore[arg-type]


def all_layers() -> list[RecordedConvolution]:
    """Layers from which every tile of the table follows, and the special cases."""
    widths = [2**power for power in range(8)]
    wide = [RecordedConvolution(c, 14, k, taps=1) for c, k in itertools.product((16, 32, 64, 128), (16, 32, 64))]
    # 15 columns are the most that take an outer product for each tap
    few = [*widths, tiles.LEAST_DOT - 1]
    shallow = [RecordedConvolution(1, 14, k) for k in few] + [RecordedConvolution(c, 14, 1) for c in few]
    cut = [RecordedConvolution(3, 14, 32), RecordedConvolution(32, 14, 3)]
    return [*ARTICLE, *SPECIAL, *wide, *shallow, *cut]


def cover() -> list[KernelLaunch]:
    """Every configuration once, in its hungriest shape; every special case in every arithmetic; the article's network.

    A configuration is a kernel, arithmetic, type, tile with its warps and stages, and epilogue. Special cases are
    compiled with pooling.
    """
    # of equals the first, which is the article's, or a special case
    by_appetite = sorted(launches(all_layers()), key=lambda one: one.appetite, reverse=True)
    hungriest = {one.configuration: one for one in reversed(by_appetite)}
    special = [one for one in launches(SPECIAL) if dict(one.constants).get("EPILOGUE", 2) == 2]
    return list(dict.fromkeys([*launches(ARTICLE), *hungriest.values(), *special]))


def compile_one(task: tuple[KernelLaunch, str]) -> CompiledKernel | str | None:
    """Compile for a target.

    Returns:
        the outcome; None where the operator refuses the precision on such a target; else the compiler's complaint.
    """
    wanted, target = task
    if wanted.kind == tiles.TF32X3 and TARGETS[target].backend == "hip":
        return None
    kernel = getattr(triton_kernels, wanted.kernel)
    source = ASTSource(
        kernel,
        signature=dict(wanted.signature),
        constexprs=dict(wanted.constants),
        attrs={(index,): [["tt.divisibility", 16]] for index in wanted.aligned},
    )
    options = launch.compile_options(wanted.choice, hip=TARGETS[target].backend == "hip")
    log = io.StringIO()
    try:
        with contextlib.redirect_stdout(log):
            compiled = triton.compile(source, target=TARGETS[target], options=options)
    except Exception as error:  # noqa: BLE001 - the compiler raises all sorts; each is a line of the report
        cause = error.__cause__ or error
        return f"{_describe(wanted)} on {target}: {type(cause).__name__}: {str(cause).splitlines()[-1][:200]}"
    if TARGETS[target].backend == "cuda":
        text = compiled.asm["ptx"]
        registers, spilled_bytes = _measure_cuda(log.getvalue())
    else:
        text = compiled.asm["amdgcn"]
        registers, spilled_bytes = _measure_hip(text)
    matrix = next((name for name in _MATRIX_INSTRUCTIONS if name in text), "")
    return CompiledKernel(
        wanted, target, registers, spilled_bytes, compiled.metadata.shared, matrix, count_half_used(text)
    )


def count_half_used(ptx: str) -> int:
    """Count the additions of two 16-bit numbers at once of which only one sum is taken out.

    The assemblers ptxas 12.8 (in Triton 3.6) and 12.9 (3.8) drop the constant of such an addition: for
    ``mov.b32 %r5, 30; add.s16x2 %r6, %r4, %r5; mov.b32 {%rs3, _}, %r6`` they write ``VIADD.16x2 R0, R0, 0x0``, where
    ptxas 13.3 writes ``0x1e``. LLVM makes them of index arithmetic on numbers that it knows to be small.
    """
    pairs = set(re.findall(r"\badd\.[su]16x2\s+(%r\d+),", ptx))
    taken = re.findall(r"mov\.b32\s+\{(?:%rs\d+, *_|_, *%rs\d+)\}, *(%r\d+)", ptx)
    return sum(register in pairs for register in taken)


def _measure_cuda(log: str) -> tuple[int, int]:
    """Registers, and bytes in memory for want of them, from what the assembler told Triton."""
    registers = re.search(r"Used (\d+) registers", log)
    spilled = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    assert registers is not None
    assert spilled is not None
    return int(registers[1]), max(int(spilled[1]), int(spilled[2]))


def _measure_hip(assembly: str) -> tuple[int, int]:
    """Registers and spilled bytes from the code object's metadata."""

    def metadata(key: str) -> int:
        match = re.search(rf"\.{key}: +(\d+)", assembly)
        assert match is not None
        return int(match[1])

    # scalar registers are spilled to lanes of vector registers, which costs no memory
    return metadata("vgpr_count"), 4 * metadata("vgpr_spill_count")


def _describe(wanted: KernelLaunch) -> str:
    constants = dict(wanted.constants)
    epilogue = list(launch.EPILOGUES)[constants["EPILOGUE"]] if "EPILOGUE" in constants else "-"
    tile = "x".join(str(size) for size in wanted.choice.tile)
    return f"{wanted.kernel} {wanted.precision} {epilogue} tile {tile}, {wanted.choice.warps} warps"


def compile_all(
    wanted: Sequence[KernelLaunch], targets: Sequence[str], *, processes: int
) -> tuple[list[CompiledKernel], list[str]]:
    """Compile each for each target; returns outcomes, and complaints of the compiler."""
    tasks = [(one, target) for target in targets for one in wanted]
    outcomes: list[CompiledKernel] = []
    complaints: list[str] = []
    with (
        tempfile.TemporaryDirectory() as cache,
        mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": cache, "TRITON_DUMP_PTXAS_LOG": "1"}),
        ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool,
    ):
        for count, outcome in enumerate(pool.map(compile_one, tasks, chunksize=4), start=1):
            if sys.stderr.isatty():
                print(f"{count} of {len(tasks)}", end="\r", file=sys.stderr, flush=True)
            if isinstance(outcome, str):
                complaints.append(outcome)
            elif outcome is not None:
                outcomes.append(outcome)
    return outcomes, complaints


def table(outcomes: Sequence[CompiledKernel]) -> str:
    """A Markdown table: a kernel, arithmetic, epilogue and tile each; of its shapes the worst, per target."""
    targets = [name for name in TARGETS if any(outcome.target == name for outcome in outcomes)]
    groups: dict[str, dict[str, list[CompiledKernel]]] = {}
    for outcome in outcomes:
        groups.setdefault(_describe(outcome.launch), {}).setdefault(outcome.target, []).append(outcome)
    rows = [
        [what, max(map(len, group.values())), *(_worst(group.get(target, [])) for target in targets)]
        for what, group in sorted(groups.items())
    ]
    return markdown.table(["kernel", "shapes", *targets], rows)


def _worst(group: Sequence[CompiledKernel]) -> str:
    """Registers / spilled bytes / shared KiB / matrix instruction; the largest of several shapes."""
    if not group:
        return "refused"
    matrix = ", ".join(sorted({outcome.matrix or "-" for outcome in group}))
    registers, spilled, shared = (max(getattr(o, name) for o in group) for name in _COSTS)
    return f"{registers} / {spilled} / {shared / 1024:.1f} / {matrix}"


@one_line_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Compile, print the table and what is wrong."""
    parser = script_parser("compile_kernels", __doc__)
    parser.add_argument("--quick", action="store_true", help="the article's network only")
    parser.add_argument("--targets", default=",".join(TARGETS), help=f"some of {','.join(TARGETS)}")
    parser.add_argument("--markdown", type=file_to_write, metavar="FILE", help="write the table to this file too")
    options = parser.parse_args(arguments)
    targets = options.targets.split(",")
    if unknown := [name for name in targets if name not in TARGETS]:
        parser.error(f"--targets: {', '.join(unknown)} given; choose from {', '.join(TARGETS)}")
    if triton_kernels.INTERPRETED:
        raise UsageError("TRITON_INTERPRET is set, and an interpreted kernel cannot be compiled; unset it")
    wanted = launches(ARTICLE) if options.quick else cover()
    outcomes, complaints = compile_all(wanted, targets, processes=len(usable_cores()))
    lines = [
        f"Triton {triton.__version__}, torch {torch.__version__}; {len(outcomes)} kernels compiled",
        "",
        "Registers of a thread / spilled bytes / shared memory of a block in KiB / matrix instruction:",
        "",
        table(outcomes),
    ]
    print("\n".join(lines))
    if options.markdown:
        options.markdown.write_text("\n".join(lines) + "\n")
    faults = [f"{_describe(o.launch)} on {o.target}: {fault}" for o in outcomes for fault in o.faults] + complaints
    for fault in dict.fromkeys(faults):
        print(f"fault: {fault}", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
