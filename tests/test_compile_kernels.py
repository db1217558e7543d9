"""Every kernel compiles for GPUs that are not here, without spills, within their memory, on their matrix units."""

import dataclasses
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kernels import launch, tiles

ROOT = Path(__file__).parent.parent
pytest.importorskip("triton", reason="Triton is there for Linux only")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("compile_kernels")
    sys.path.remove(str(ROOT / "scripts"))


def faults(script: ModuleType, launches: list, targets: Sequence[str], *, processes: int = 1) -> list[str]:
    outcomes, complaints = script.compile_all(launches, targets, processes=processes)
    expected = sum(1 for one in launches for target in targets if (one.kind, target) != (tiles.TF32X3, "gfx942"))
    assert len(outcomes) + len(complaints) == expected
    return complaints + [f"{script._describe(o.launch)} on {o.target}: {f}" for o in outcomes for f in o.faults]


def few(script: ModuleType) -> list:
    """Of the article's network, the launches of conv2 with pooling, in every arithmetic: they need most registers."""
    layer = script.ARTICLE[1]
    return [one for one in script.launches([layer]) if dict(one.constants).get("EPILOGUE") == 2]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_the_hungriest_kernels_fit_each_gpu(script: ModuleType, target: str) -> None:
    launches = few(script)
    assert {one.kind for one in launches} == {tiles.FMA, tiles.TF32, tiles.TF32X3, tiles.HALF}
    assert {one.kernel for one in launches} == {"forward_kernel", "input_gradient_kernel", "weight_gradient_kernel"}
    assert faults(script, launches, [target]) == []


@pytest.mark.slow
def test_every_configuration_fits_each_gpu(script: ModuleType) -> None:
    assert faults(script, script.cover(), list(script.TARGETS), processes=2) == []


def test_the_cover_has_each_tile_of_the_table_in_each_type_and_with_each_epilogue(script: ModuleType) -> None:
    kernels = {
        tiles.FORWARD: "forward_kernel",
        tiles.INPUT_GRADIENT: "input_gradient_kernel",
        tiles.WEIGHT_GRADIENT: "weight_gradient_kernel",
    }
    types = {tiles.DIRECT: ("*fp32", "*fp16", "*bf16"), tiles.HALF: ("*fp16", "*bf16")}
    wanted = {
        (kernels[operation], kind, dtype, choice, epilogue)
        for operation, kind, pools, choice in tiles.choices()
        for dtype in types.get(kind, ("*fp32",))
        for epilogue in launch.EPILOGUES.values()
        if operation == tiles.WEIGHT_GRADIENT or pools == (epilogue == launch.EPILOGUES["pool_relu"])
    }
    compiled = {one.configuration for one in script.cover()}
    assert wanted <= compiled, wanted - compiled
    # and of the rest: the kernel that adds parts, and the bias's gradient alone, which multiplies nothing
    assert {configuration[:2] for configuration in compiled - wanted} == {
        ("add_parts_kernel", tiles.DIRECT),
        ("weight_gradient_kernel", tiles.DIRECT),
    }


def test_the_cover_has_each_special_case_in_each_arithmetic(script: ModuleType) -> None:
    compiled = set(script.cover())
    for layer in script.SPECIAL:
        pooled = {one for one in script.launches([layer]) if dict(one.constants).get("EPILOGUE") == 2}
        assert {one.dtype for one in pooled} == {"*fp32", "*fp16", "*bf16"}
        assert pooled <= compiled, layer


@pytest.mark.parametrize("channels", [1, 32])
def test_training_under_autocast_compiles(script: ModuleType, channels: int) -> None:
    """A product of two types does not; the interpreter, which multiplies all in float32, would take it."""
    from kernels import conv2d

    x, weight, bias = (
        torch.randn(*shape, requires_grad=True) for shape in ((1, channels, 9, 9), (8, channels, 3, 3), (8,))
    )
    with script.recorded() as launches:
        with torch.autocast("cpu", torch.bfloat16):
            y = conv2d(x, weight, bias)
        y.float().sum().backward()
    kernels = ["forward_kernel", "input_gradient_kernel", "weight_gradient_kernel", "add_parts_kernel"]
    assert [one.kernel for one in launches] == kernels
    assert faults(script, launches, ["sm_90"]) == []


def test_a_tile_that_is_too_large_is_noticed(script: ModuleType) -> None:
    (launch, *_) = [one for one in few(script) if one.kernel == "input_gradient_kernel" and one.kind == tiles.TF32]
    large = tiles.TileChoice(tiles.Tile(256, 32, 128), 4, 4)
    constants = tuple((name, large.tile if name == "TILE" else value) for name, value in launch.constants)
    complaints = faults(script, [dataclasses.replace(launch, choice=large, constants=constants)], ["sm_80"])
    assert any("spills" in fault for fault in complaints), complaints


def test_an_addition_that_ptxas_gets_wrong_is_noticed(script: ModuleType) -> None:
    """The weight's gradient of 5 channels was wrong on an H200, because this one's 30 was lost."""
    addition = "mov.b32 %r4, {%rs1, %rs2};\nmov.b32 %r5, 30;\nadd.s16x2 %r6, %r4, %r5;\n"
    one, both = "mov.b32 \t{%rs3, _}, %r6;", "mov.b32 \t{%rs3, %rs4}, %r6;"
    assert [script.count_half_used(addition + taken) for taken in (one, both)] == [1, 0]
    (launch, *_) = few(script)
    outcome = script.CompiledKernel(launch, "sm_90", 32, 0, 0, "wgmma.mma_async", half_used=1)
    assert any("16-bit" in fault for fault in outcome.faults)


def test_unused_matrix_units_are_noticed(script: ModuleType) -> None:
    (launch, *_) = [one for one in few(script) if one.kernel == "forward_kernel" and one.kind == tiles.TF32]
    exact = tuple((name, "ieee" if name == "PRECISION" else value) for name, value in launch.constants)
    complaints = faults(script, [dataclasses.replace(launch, constants=exact)], ["sm_90"])
    assert any("matrix" in fault for fault in complaints), complaints


def test_docs_show_what_is_compiled_now(script: ModuleType) -> None:
    """A changed tile, or a kernel more, makes the table in the docs stale."""
    lines = (ROOT / "docs/kernels.md").read_text().splitlines()
    kernels = r"\| ((?:forward|input_gradient|weight_gradient|add_parts)_kernel [^|]+) \|"
    documented = {row[1] for line in lines if (row := re.match(kernels, line))}
    assert documented == {script._describe(one) for one in script.launches(script.ARTICLE)}
