"""The convolutions' bench without a GPU: its gate, its arithmetic, its choices, and a dry run as a user starts it."""

import contextlib
import dataclasses
import functools
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parent.parent
pytest.importorskip("triton", reason="Triton is there for Linux only")


@pytest.fixture(scope="module")
def bench() -> Iterator[SimpleNamespace]:
    """The script as ``bench.main`` and its parts: ``cells``, ``arms``, ``gate``, ``clock``, ``report``."""
    sys.path.insert(0, str(ROOT / "scripts"))
    parts = {name: importlib.import_module(f"bench_conv2d_{name}") for name in PARTS}
    yield SimpleNamespace(main=importlib.import_module("bench_conv2d"), **parts)
    sys.path.remove(str(ROOT / "scripts"))


PARTS = ("cells", "arms", "gate", "clock", "report")


def run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    variables |= {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=540, check=False)


def script(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return run(str(ROOT / "scripts/bench_conv2d.py"), *arguments, **environment)


@pytest.mark.parametrize(
    ("arguments", "interpret", "said"),
    [
        ([], "0", "no GPU that torch can use"),
        ([], "1", "TRITON_INTERPRET is set"),
        (["--dry-run"], "0", "set TRITON_INTERPRET=1"),
        (["--dry-run", "--output", "missing/a.parquet"], "1", "there is no folder"),
    ],
)
def test_what_cannot_run_here_is_one_line(arguments: list[str], interpret: str, said: str) -> None:
    done = script(*arguments, TRITON_INTERPRET=interpret)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert said in line


def test_help_names_the_exit_codes_and_a_wrong_option_is_refused() -> None:
    done = script("--help")
    assert done.returncode == 0
    assert "Exit code: 0 all right" in done.stdout
    done = script("--minutes", "0")
    assert done.returncode == 2
    assert done.stderr == (
        "error: --minutes 0: give a number above 0; python scripts/bench_conv2d.py --help shows the options\n"
    )


def check_dry_run(precisions: set[str], folder: Path, *arguments: str) -> None:
    """Every cell and arm is there and right, and nothing is said of speed."""
    file = folder / "bench.parquet"
    done = script("--dry-run", "--output", str(file), *arguments, TRITON_INTERPRET="1")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert done.stdout.startswith("DRY RUN")
    assert done.stderr == ""
    table = pd.read_parquet(file)
    speeds = ["median_us", "q25_us", "q75_us", "host_us", "floor_us", "roofline_share"]
    assert table[speeds].isna().all(axis=None)
    assert table["fault"].isna().all()
    assert set(table["precision"]) == precisions
    arms = table.groupby("operation")["arm"].agg(set).to_dict()
    plain = {"triton NCHW", "triton channels-last", "cudnn NCHW", "cudnn channels-last"}
    stacked = {"triton channels-last", "vmap", "loop", "grouped NCHW", "grouped channels-last"}
    assert arms == {
        "forward": plain,
        "input gradient": plain,
        "weight gradient": plain,
        "block": plain | {"compiled"},
        "stacked block": stacked,
    }
    # 2 layers and 2 clocks
    assert len(table) == 4 * len(precisions) * sum(map(len, arms.values()))
    aims = [line for line in done.stdout.splitlines() if line.startswith("aim: ")]
    assert len(aims) == 4
    assert all(line.endswith("not measured") for line in aims)


def test_dry_run_passes_every_gate(tmp_path: Path) -> None:
    check_dry_run({"tf32"}, tmp_path, "--quick")


@pytest.mark.slow
def test_dry_run_passes_every_gate_in_every_precision(tmp_path: Path) -> None:
    check_dry_run({"ieee", "tf32", "bf16"}, tmp_path)


_WRONG_KERNEL = """
import dataclasses, sys
sys.path.insert(0, "scripts")
import bench_conv2d, bench_conv2d_cells
from kernels import launch
right = launch._geometry
def one_pixel_off(*shapes):
    geometry = right(*shapes)
    return geometry._replace(PAD_W=geometry.PAD_W + 1)
launch._geometry = one_pixel_off
bench_conv2d_cells.OPERATIONS = ("forward",)
bench_conv2d.PLANS[True, True] = dataclasses.replace(bench_conv2d.DRY, precisions=("ieee",))
sys.exit(bench_conv2d.main(["--dry-run", "--quick"]))
"""


def test_a_wrong_kernel_has_no_speed_and_fails_the_run() -> None:
    done = run("-c", _WRONG_KERNEL, TRITON_INTERPRET="1")
    assert done.returncode == 1, done.stderr
    faults = done.stderr.splitlines()
    assert len(faults) == 4, faults
    assert all(line.startswith("wrong result, no speed: forward, conv") for line in faults)
    assert all("whole numbers differ from float64's" in line and "triton" in line for line in faults)


def cell(bench: SimpleNamespace, operation: str = "block", **changes: object) -> object:
    """Of conv2-4 at batch 3 in ieee, but for the changes."""
    return dataclasses.replace(bench.cells.BenchmarkCell(operation, bench.cells.LAYERS[1], 3, "ieee"), **changes)


def trained(function: Callable[..., torch.Tensor]) -> Callable[[list[torch.Tensor], torch.Tensor], list[torch.Tensor]]:
    def work(leaves: list[torch.Tensor], dy: torch.Tensor) -> list[torch.Tensor]:
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        y = function(*leaves)
        return [y.detach(), *torch.autograd.grad(y, leaves, dy)]

    return work


class ReluOfZero(torch.autograd.Function):
    """With relu'(0) = 1."""

    @staticmethod
    def forward(ctx: object, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x.relu()

    @staticmethod
    def backward(ctx: object, dy: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return dy * (x >= 0)


def cut(tensor: torch.Tensor) -> torch.Tensor:
    """To tf32's 10 bits."""
    return (tensor.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


def right(x, w, b):
    return F.relu(F.conv2d(x, w, b, padding=1))


WRONG = {
    "no bias": lambda x, w, b: F.relu(F.conv2d(x, w, padding=1)) + 0 * b.sum(),
    "dropped tap": lambda x, w, b: F.relu(F.conv2d(x, w * (torch.arange(9).view(3, 3) > 0), b, padding=1)),
    "shifted": lambda x, w, b: right(x.roll(1, -1), w, b),
    "relu'(0) = 1": lambda x, w, b: ReluOfZero.apply(F.conv2d(x, w, b, padding=1)),
    "one number not written": lambda x, w, b: right(x, w, b).index_put((torch.tensor(0),) * 4, torch.tensor(torch.nan)),
}


def block_fault(bench: SimpleNamespace, function: Callable[..., torch.Tensor]) -> str | None:
    """What the gate says of a block by this function, held to exactness."""
    one = cell(bench)
    inputs = bench.gate.random_inputs(one, torch.device("cpu"), whole_numbers=True)
    taken, wanted = bench.gate.exact(one, inputs)
    leaves = [inputs.x[0], inputs.weight[0], inputs.bias[0]]
    arm = bench.arms.ConvolutionArm(
        lambda: trained(function)(leaves, inputs.dy[0]), lambda results: [tensor.unsqueeze(0) for tensor in results]
    )
    return bench.gate.exactness_fault(one, arm, taken, wanted)


def test_gate_accepts_torch(bench: SimpleNamespace) -> None:
    assert block_fault(bench, right) is None


@pytest.mark.parametrize("name", WRONG)
def test_gate_refuses_a_wrong_block(bench: SimpleNamespace, name: str) -> None:
    fault = block_fault(bench, WRONG[name])
    assert fault is not None
    assert "whole numbers differ" in fault


def test_gate_refuses_results_that_change(bench: SimpleNamespace) -> None:
    """The first run is exact, the second a bit off, as sums in any order would be."""
    runs = iter(range(2))

    def changing(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return right(x, w, b) * (1.0 if next(runs) == 0 else 1 + 2**-20)

    fault = block_fault(bench, changing)
    assert fault is not None
    assert "second run" in fault


@pytest.mark.parametrize("operation", ["forward", "input gradient", "weight gradient"])
def test_gate_tells_tf32_from_ieee(bench: SimpleNamespace, operation: str) -> None:
    """Ours and others alike: none may win by multiplying less exactly."""
    one = cell(bench, operation)
    given = bench.gate.random_inputs(one, torch.device("cpu"), whole_numbers=False)
    taken, wanted = bench.gate.exact(one, given)
    rounded = bench.arms.ConvolutionInputs(*(cut(tensor) for tensor in vars(given).values()))
    for tensors, is_right in ((given, True), (rounded, False)):
        arm = bench.arms.others(one, tensors, backend="eager")["cudnn NCHW"]
        for is_ours in (True, False):
            fault = bench.gate.rounding_fault(one, arm, taken, wanted, is_ours=is_ours)
            assert (fault is None) == is_right, fault


def test_an_arm_that_raises_is_a_fault(bench: SimpleNamespace) -> None:
    assert bench.gate.fault(lambda: 1 // 0) == "ZeroDivisionError: integer division or modulo by zero"


def test_costs_are_those_of_the_layers(bench: SimpleNamespace) -> None:
    """By hand: conv2-4 makes 3.61 MFLOP and moves 50 kB for each image; conv1 with pooling is 28 kB."""
    forward = cell(bench, "forward", images=1)
    filters = 4 * 32 * (9 * 32 + 1)
    assert forward.flops == 2 * 32 * 32 * 9 * 14 * 14 == 3_612_672
    assert forward.fewest_bytes - filters == 2 * 4 * 32 * 14 * 14 == 50_176
    block = cell(bench, "block", images=1)
    assert block.flops == 3 * forward.flops
    # x, y; then dy, y, x again, and dx
    assert block.fewest_bytes == 6 * 4 * 32 * 14 * 14 + 3 * filters
    conv1 = cell(bench, "block", images=1, layer=bench.cells.LAYERS[0], precision="bf16")
    assert conv1.flops == 2 * 2 * 32 * 9 * 28 * 28
    # x twice, y, dy, a byte for each winner twice; filters read and their gradient written
    assert conv1.fewest_bytes == 2 * (2 * 784 + 2 * 6272) + 2 * 6272 + 2 * 2 * 32 * 10
    assert dataclasses.replace(block, operation="stacked block", models=8).flops == 8 * block.flops


@pytest.mark.parametrize(
    ("images", "precision", "bound", "us"),
    [(8192, "tf32", "memory", 137.03), (8192, "ieee", "arithmetic", 441.72), (50, "tf32", "launches", 0.85)],
)
def test_floor_is_the_longer_of_two(bench: SimpleNamespace, images: int, precision: str, bound: str, us: float) -> None:
    ceilings = bench.cells.MeasuredCeilings(3e12, {"ieee": 67e12, "tf32": 400e12})
    floor = bench.cells.floor(cell(bench, "forward", images=images, precision=precision), ceilings)
    assert floor.bound == bound
    assert floor.us == pytest.approx(us, abs=0.01)


def test_docs_show_these_floors(bench: SimpleNamespace) -> None:
    ceilings = bench.cells.MeasuredCeilings(3e12, {"ieee": 67e12, "tf32": 494e12, "bf16": 989e12})
    lines = [line.strip("| ").split(" | ") for line in (ROOT / "docs/kernels.md").read_text().splitlines()]
    shown = [line for line in lines if line[0] in {"forward", "block", "stacked block of 64 models"}]
    assert len(shown) == 2 * (4 + 4 + 1)
    layers = {layer.name: layer for layer in bench.cells.LAYERS}
    for operation, layer, batch, gflop, megabytes, *floors in shown:
        name, _, stack = operation.partition(" of ")
        one = bench.cells.BenchmarkCell(name, layers[layer], int(batch), "tf32", 64 if stack else 1)
        assert [gflop, megabytes] == [f"{one.flops / 1e9:.3f}", f"{one.fewest_bytes / 1e6:.2f}"]
        for precision, floor in zip(("ieee", "tf32", "bf16"), floors, strict=True):
            least = bench.cells.floor(dataclasses.replace(one, precision=precision), ceilings)
            assert floor == f"{least.us:.2f}, {least.bound}"


def test_every_combination_is_a_cell_and_aims_come_first(bench: SimpleNamespace) -> None:
    cells = bench.cells.cells((50, 256, 1024, 8192), (8, 64), ("ieee", "tf32", "bf16"))
    assert len(cells) == len(set(cells)) == 2 * 4 * 3 * (4 + 2)
    assert {one.operation for one in cells[:24]} == {"block"}
    assert all((one.models, one.images) == (64, 50) for one in cells[24:30])


def test_rounds_are_interleaved_and_end_in_time(bench: SimpleNamespace) -> None:
    now_s, order = 0.0, []

    def sample(name: str) -> Callable[[], float]:
        def call() -> float:
            nonlocal now_s
            now_s += 1.0
            order.append(name)
            return now_s

        return call

    samples = {("a", "cold"): sample("a"), ("b", "cold"): sample("b")}
    taken = bench.clock.interleaved(samples, rounds=9, least=2, limit_s=5.0, now=lambda: now_s)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(values) for name, values in taken.items()} == {("a", "cold"): 3, ("b", "cold"): 3}
    taken = bench.clock.interleaved(samples, rounds=9, least=2, limit_s=0.0, now=lambda: now_s)
    assert len(taken["a", "cold"]) == 2


def times(bench: SimpleNamespace, us: float) -> object:
    return bench.clock.ArmTimes({clock: [us, us + 1.0, us + 4.0] for clock in bench.clock.CLOCKS}, host_us=7.0)


def whole_run(bench: SimpleNamespace) -> list:
    """Every cell, ours twice as fast as cuDNN and five times as vmap, at 80% of the floor of 1 TB/s."""
    ceilings = bench.cells.MeasuredCeilings(1e12, dict.fromkeys(bench.main.PRECISIONS, 1e18))
    results = []
    for one in bench.cells.cells(bench.main.BATCHES, bench.main.STACKS, bench.main.PRECISIONS):
        us = bench.cells.floor(one, ceilings).us / 0.8
        arms = {"triton channels-last": us, "cudnn NCHW": 2.5 * us, "cudnn channels-last": 2 * us, "vmap": 5 * us}
        made = {arm: bench.clock.ArmTimes({"cold": [value], "graph": [value]}) for arm, value in arms.items()}
        results.append(bench.report.CellResult(one, made))
    return [results, ceilings, [result.cell for result in results]]


def test_aims_are_met_by_a_whole_run_alone(bench: SimpleNamespace) -> None:
    results, ceilings, expected = whole_run(bench)
    assert [aim.met for aim in bench.report.aims(results, ceilings, expected)] == [True] * 4
    assert [aim.met for aim in bench.report.aims([], None, expected)] == [None] * 4
    aims = bench.report.aims(results[1:], ceilings, expected)
    assert [aim.met for aim in aims[:3]] == [None, True, True]
    assert "2 of 36 not measured" in aims[0].outcome


@pytest.mark.parametrize(("aim", "index", "factor"), [(0, 0, 1.4), (1, -1, 2.1), (2, 24, 1.3), (3, -1, 1.4)])
def test_one_slow_cell_misses_its_aim(bench: SimpleNamespace, aim: int, index: int, factor: float) -> None:
    results, ceilings, expected = whole_run(bench)
    blocks = [place for place, one in enumerate(expected) if one.operation == "block" and one.images == 8192]
    place = index if index >= 0 else blocks[0]
    slow = results[place].times["triton channels-last"]
    slow.us["cold"] = [factor * value for value in slow.us["cold"]]
    aims = bench.report.aims(results, ceilings, expected)
    assert aims[aim].met is False
    assert str(expected[place]) in aims[aim].outcome


def test_table_and_file_have_medians_quartiles_and_shares(bench: SimpleNamespace, tmp_path: Path) -> None:
    ceilings = bench.cells.MeasuredCeilings(1e12, {"ieee": 1e15})
    one = cell(bench, "forward", images=1000)
    made = {"triton NCHW": times(bench, 100.0), "cudnn NCHW": times(bench, 150.0)}
    result = bench.report.CellResult(one, made, {"cudnn channels-last": "wrong"})
    (head, _, cold, graph) = bench.report.summary([result], ceilings).splitlines()
    assert "101.0 (100.5 to 102.5)" in cold
    assert "| cudnn NCHW | 1.50  | 3 | 50.21     | memory   | 50%" in cold
    assert "graph" in graph
    assert head.count("|") == cold.count("|")
    path = tmp_path / "bench.parquet"
    bench.report.write(path, [result], ceilings, {"device": "a card"})
    table = pd.read_parquet(path)
    assert list(table.columns) == bench.report.SCHEMA.names
    assert table.loc[table["arm"] == "triton NCHW", "median_us"].tolist() == [101.0, 101.0]
    assert table.loc[table["arm"] == "triton NCHW", "roofline_share"].iloc[0] == pytest.approx(50.213 / 101, abs=1e-4)
    assert table.loc[table["fault"] == "wrong", "median_us"].isna().all()
    assert [file.name for file in tmp_path.iterdir()] == ["bench.parquet"]


def test_what_was_left_out_is_said(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [cell(bench), cell(bench, images=10**9), cell(bench, precision="tf32"), cell(bench, precision="bf16")]
    clock_s = iter((0.0, 1.0, 2.0, 3.0))
    monkeypatch.setattr(bench.main, "measure", lambda _, one: bench.report.CellResult(one, {}))
    run = bench.main.BenchmarkRun(torch.device("cpu"), bench.clock.NoClock(), bench.main.DRY)
    results, left_out = bench.main.measure_all(wanted, run, until_s=2.5, memory_bytes=8e10, now=lambda: next(clock_s))
    assert [result.cell for result in results] == [wanted[0], wanted[2]]
    assert left_out == {"would not fit into the memory": [wanted[1]], "no time left": [wanted[3]]}
    bench.main.tell(results, left_out, None)
    said = capsys.readouterr().out
    assert "left out, no time left: block, conv2-4, batch 3, bf16" in said
    assert "left out, would not fit into the memory: block, conv2-4, batch 1000000000, ieee" in said


def test_a_device_that_fails_ends_the_run_and_loses_nothing(
    bench: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [cell(bench), cell(bench, precision="tf32"), cell(bench, precision="bf16")]

    def measure(_: object, one: object) -> object:
        if one == wanted[1]:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nmore")
        return bench.report.CellResult(one, {})

    monkeypatch.setattr(bench.main, "measure", measure)
    run = bench.main.BenchmarkRun(torch.device("cpu"), bench.clock.NoClock(), bench.main.DRY)
    results, left_out = bench.main.measure_all(wanted, run, until_s=1.0, memory_bytes=8e10, now=lambda: 0.0)
    assert [result.cell for result in results] == wanted[:1]
    reason = "the device failed: CUDA error: an illegal memory access was encountered"
    assert left_out == {reason: wanted[1:]}
    assert not bench.main.tell(results, left_out, None)
    assert f"left out, {reason}: block, conv2-4, batch 3, tf32; " in capsys.readouterr().out


def test_what_fits_into_80_gb(bench: SimpleNamespace) -> None:
    """By hand: of 64 models x 8192 images conv1's output alone takes 64 x 8192 x 32 x 28 x 28 x 4 bytes = 53 GB."""
    cells = bench.cells.cells(bench.main.BATCHES, bench.main.STACKS, bench.main.PRECISIONS)
    unfit = [one for one in cells if not bench.cells.fits(one, 79e9)]
    assert {(one.models, one.images, one.operation) for one in unfit} == {(64, 8192, "stacked block")}
    assert len(unfit) == 6
    largest = max((one for one in cells if one not in unfit), key=lambda one: one.memory_bytes)
    # an arm without fusion keeps conv1's output, 6.6 GB, its gradient and what cuDNN lays out anew
    assert (largest.models * largest.images, largest.layer.name) == (65536, "conv1")
    assert 40e9 < largest.memory_bytes < 50e9


class FakeStream(str):
    """A name."""

    __slots__ = ()

    def wait_stream(self, other: str) -> None:
        """Nothing runs beside another here."""


class FakeCuda:
    """Enough of ``torch.cuda`` for the clocks: time passes when a work says so, and a capture breaks as CUDA's does.

    Attributes:
        now_us: of the device.
        current: the stream.
        pools: pool of each capture, in order.
        broken: pools in which a capture failed, which take no other.
    """

    def __init__(self) -> None:
        self.now_us, self.current, self.capturing = 0.0, FakeStream("default"), False
        self.pools: list[object] = []
        self.broken: list[object] = []

    @contextlib.contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        replaced = {
            "Event": functools.partial(FakeEvent, self),
            "Stream": lambda _device: FakeStream("side"),
            "CUDAGraph": functools.partial(FakeGraph, self),
            "graph": functools.partial(FakeCapture, self),
            "graph_pool_handle": object,
            "stream": self.stream,
            "current_stream": lambda _device: self.current,
            "synchronize": lambda _device: None,
            "get_device_properties": lambda _device: SimpleNamespace(L2_cache_size=2**20),
        }
        for name, value in replaced.items():
            assert hasattr(torch.cuda, name)
            monkeypatch.setattr(torch.cuda, name, value)


class FakeEvent:
    """Recording it takes a microsecond."""

    def __init__(self, fake: FakeCuda, *, enable_timing: bool) -> None:
        assert enable_timing
        self.fake = fake

    def record(self) -> None:
        assert not self.fake.capturing
        self.fake.now_us += 1.0
        self.at_us = self.fake.now_us

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: "FakeEvent") -> float:
        return 1e-3 * (end.at_us - self.at_us)


class FakeGraph:
    """Takes as long as what was captured."""

    def __init__(self, fake: FakeCuda) -> None:
        self.fake, self.us = fake, 0.0

    def replay(self) -> None:
        self.fake.now_us += self.us


class FakeCapture:
    """Leaves its stream current where it fails, and then says something else than the first error, as torch's."""

    def __init__(self, fake: FakeCuda, graph: FakeGraph, *, pool: object) -> None:
        self.fake, self.graph, self.pool = fake, graph, pool

    def __enter__(self) -> None:
        assert self.pool not in self.fake.broken, "already recording to this pool"
        self.fake.pools.append(self.pool)
        self.before, self.begun_us = self.fake.current, self.fake.now_us
        self.fake.current, self.fake.capturing = FakeStream("capture"), True

    def __exit__(self, kind: object, *_: object) -> None:
        self.fake.capturing = False
        self.graph.us, self.fake.now_us = self.fake.now_us - self.begun_us, self.begun_us
        if kind is not None:
            self.fake.broken.append(self.pool)
            raise RuntimeError("operation failed due to a previous error during capture")
        self.fake.current = self.before


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    cuda = FakeCuda()
    cuda.install(monkeypatch)
    return cuda


def test_clocks_of_a_gpu(bench: SimpleNamespace, fake: FakeCuda) -> None:
    """On a device that is played: each arm's own time by both clocks, and a failed capture costs the others nothing."""

    def takes(us: float) -> Callable[[], list[torch.Tensor]]:
        def work() -> list[torch.Tensor]:
            fake.now_us += us
            return []

        return work

    def waits() -> list[torch.Tensor]:
        fake.now_us += 30.0
        if fake.capturing:
            raise RuntimeError("operation not permitted when stream is capturing")
        return []

    works = {"first": takes(40.0), "waits": waits, "last": takes(500.0)}
    arm_times = bench.clock.GpuClock(torch.device("meta")).times(works, rounds=4, least=3, limit_s=60.0)
    # an event takes a microsecond here
    assert arm_times["first"].us == {"cold": pytest.approx([41.0] * 4), "graph": pytest.approx([40.2] * 4)}
    assert arm_times["last"].us == {"cold": pytest.approx([501.0] * 4), "graph": pytest.approx([501.0] * 4)}
    assert arm_times["waits"].us == {"cold": pytest.approx([31.0] * 4)}
    assert arm_times["waits"].without == {"graph": "operation not permitted when stream is capturing"}
    assert len(fake.pools) == 3
    assert fake.pools[0] is fake.pools[1] is not fake.pools[2]
    assert fake.current == "default"
    row = bench.report._row(bench.report.CellResult(cell(bench), arm_times), "waits", "graph", None)
    assert (row["median_us"], row["fault"]) == (None, "operation not permitted when stream is capturing")


def test_launching_is_timed_often_but_not_for_long(
    bench: SimpleNamespace, fake: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call waits for the one before: ten of a second each would take the time of other cells."""
    assert fake.current == "default"
    for takes_s, calls in ((0.001, 10), (0.03, 4), (1.0, 3)):
        now_s, count = 0.0, 0

        def work(takes_s: float = takes_s) -> list[torch.Tensor]:
            nonlocal now_s, count
            now_s, count = now_s + takes_s, count + 1
            return []

        monkeypatch.setattr(bench.clock.time, "perf_counter", lambda: now_s)  # noqa: B023 - called within the turn
        clock = bench.clock.GpuClock(torch.device("meta"))
        assert clock._host_us(work) == pytest.approx(1e6 * takes_s)
        assert count == calls


def test_the_flush_outlasts_the_launching(bench: SimpleNamespace, fake: FakeCuda) -> None:
    """A first overwriting that is slow, for it loads the kernel, is not what is counted by."""
    overwritten = []

    class Flush:
        def zero_(self) -> None:
            overwritten.append(True)
            fake.now_us += 5000.0 if len(overwritten) == 1 else 99.0

    clock = bench.clock.GpuClock(torch.device("meta"))
    clock._flush = Flush()
    clock._flush_us = clock._fastest_us(clock._flush.zero_)
    overwritten.clear()
    clock._cold(list, 1000.0)()
    assert 99.0 * len(overwritten) >= 2 * 1000.0 - 99.0
    assert len(overwritten) == 20


def test_ceilings_are_the_best_of_several(bench: SimpleNamespace, fake: FakeCuda) -> None:
    """One microsecond here for 2 GiB read and written, and for each product."""
    ceilings = bench.clock.GpuClock(torch.device("meta")).ceilings()
    assert fake.now_us > 0
    assert ceilings.bytes_per_s == pytest.approx(2 * 2**30 * 1e6)
    sizes = {"ieee": 4096, "tf32": 8192, "bf16": 8192}
    assert ceilings.flops_per_s == pytest.approx({name: 2e6 * size**3 for name, size in sizes.items()})
