"""The tests of the kernels' tests: each wrong version below is noticed by the test that guards it.

A mutant is the kernels' own source with one passage replaced, loaded in place of ``kernels.triton_kernels``.
"""

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import test_blocks
import test_operators
import test_semantics
import test_stacked
from triton.runtime.errors import InterpreterError

from kernels import launch, operators, triton_kernels

SOURCE = Path(triton_kernels.__file__)

Oracle = Callable[[], object]


def semantics(case: str) -> Oracle:
    return lambda: test_semantics.test_output_and_gradients_are_torchs(case)


def block(name: str, shape: str = "odd sizes") -> Oracle:
    layout = test_blocks.torch.channels_last
    return lambda: test_blocks.test_values_and_gradients_are_torchs_bit_for_bit(test_blocks.BLOCKS[name], shape, layout)


def window(name: str, what: str) -> Oracle:
    return lambda: test_blocks.test_ties_and_strange_numbers_go_where_torch_sends_them(test_blocks.BLOCKS[name], what)


def not_finite(where: str) -> Oracle:
    return lambda: test_semantics.test_what_is_not_finite_stays_where_torch_keeps_it(where, "plain")


KERNELS: dict[str, tuple[str, str, Oracle]] = {
    "padding off by one": ("p * G.STRIDE_H - G.PAD_H +", "p * G.STRIDE_H - G.PAD_H + 1 +", semantics("primes")),
    "dropped tap": ("range(0, depth, STEP):\n        c, r, s", "range(STEP, depth, STEP):\n        c, r, s", semantics("the article's other layers")),
    "dropped tap in the input gradient": ("range(0, depth, STEP):\n        k, r, s", "range(0, depth - STEP, STEP):\n        k, r, s", semantics("the article's other layers")),
    "no mask above the image": ("(h >= 0) & (h < G.H)", "(h < G.H)", semantics("primes")),
    "no mask right of the image": ("(w >= 0) & (w < G.W)", "(w >= 0)", semantics("primes")),
    "stride ignored": ("q * G.STRIDE_W - G.PAD_W", "q - G.PAD_W", semantics("stride pair")),
    "stride ignored in the input gradient": ("(down % G.STRIDE_H == 0) &", "", semantics("kernel 5x5, stride 3")),
    "dilation ignored": ("+ s * G.DILATION_W", "+ s", semantics("dilation 2")),
    "swapped axes": ("tap // TAPS_W, tap % TAPS_W", "tap % TAPS_W, tap // TAPS_W", semantics("kernel 1x7")),
    "strides of rows and columns swapped": ("h * X.H + w * X.W", "h * X.W + w * X.H", semantics("the article's other layers")),
    "no bias": ("value += tl.load(biases", "value += 0 * tl.load(biases", semantics("primes")),
    "one group's bias for all": ("biases = bias + (model * (G.GROUPS * G.K) + first_channel + channel)", "biases = bias + (model * (G.GROUPS * G.K) + channel)", semantics("groups")),
    "one group's input for all": ("x += model * x_model + group * (G.C * X.C)\n    weight", "x += model * x_model\n    weight", semantics("groups")),
    "last part of the pixels dropped": ("end = tl.minimum(begin + share, pixels)", "end = tl.minimum(begin + share, pixels - 1)", semantics("primes")),
    "first part twice": ("begin = split.to(tl.int32) * share", "begin = tl.maximum(split.to(tl.int32) - 1, 0) * share", semantics("many pixels")),
    "parts added backwards": ("(model * count + part) * numbers", "(model * count + count - 1 - part) * numbers", test_semantics.test_parts_are_added_in_their_order),
    "last part not added": ("for part in range(count):", "for part in range(count - 1):", test_semantics.test_parts_are_added_in_their_order),
    "outputs not written": ("stored = rows_in & (channel < G.K)", "stored = rows_in & (channel < G.K - 1)", semantics("primes")),
    "relu'(0) = 1": ("tl.where(y <= 0, 0.0, gradient)", "tl.where(y < 0, 0.0, gradient)", block("relu")),
    "pooled relu'(0) = 1": ("won = tl.where(best <= 0, SHUT, won)", "won = tl.where(best < 0, SHUT, won)", block("pool_relu")),
    "no relu": ("best = tl.where(best <= 0, 0.0, best)", "best = best", block("relu")),
    "the last of equals wins": ("wins = (value > best)", "wins = (value >= best)", window("pool_relu", "the first of equals")),
    "NaN loses": ("| (value != value)", "", window("pool_relu", "NaN")),
    "a NaN's gradient is stopped": ("tl.where(y <= 0, 0.0, gradient)", "tl.where(y > 0, gradient, 0.0)", window("relu", "NaN")),
    "gate of another place": ("place = (p & 1) * 2 + (q & 1)", "place = (q & 1) * 2 + (p & 1)", block("pool_relu")),
    "an odd last row is in a window": ("seen = seen & (p < G.P // 2) & (q < G.Q // 2)", "seen = seen", block("pool_relu")),
    "not rounded before pooling": ("value = value.to(y.dtype.element_ty).to(tl.float32)", "value = value", test_blocks.test_16_bit_outputs_tie_as_they_are_stored),
    "one model's weight for all": ("weight += model * weight_model + group", "weight += group", lambda: test_stacked.test_each_model_convolves_its_own_images("none", 1)),
    "one model's gradient for all": ("dy += model * dy_model + first_channel * DY.C\n    if EPILOGUE != NONE:\n        gate += model * gate_model + first_channel * GATE.C\n    c, tap", "dy += first_channel * DY.C\n    if EPILOGUE != NONE:\n        gate += model * gate_model + first_channel * GATE.C\n    c, tap", lambda: test_stacked.test_each_model_convolves_its_own_images("none", 1)),
    "one model's gate for all": ("gate += model * gate_model + first_channel * GATE.C\n    weight", "gate += first_channel * GATE.C\n    weight", lambda: test_stacked.test_each_model_convolves_its_own_images("relu", 1)),
    "one model's input for all": ("x += model * x_model + group * (G.C * X.C)\n    weight", "x += group * (G.C * X.C)\n    weight", lambda: test_stacked.test_each_model_convolves_its_own_images("none", 1)),
    "relu's gate ignored": ("gradient = tl.where(y <= 0, 0.0, gradient)", "gradient = gradient", block("relu")),
    "the pool's gate ignored": ("gradient = tl.where(winner == place, gradient, 0.0)", "gradient = gradient", block("pool_relu")),
    "padding of ones": ("(c * X.C + h * X.H + w * X.W), mask=seen, other=0.0)", "(c * X.C + h * X.H + w * X.W), mask=seen, other=1.0)", semantics("primes")),
    "products of 10 bits": ("left, right = left.to(tl.float32), right.to(tl.float32)", "left, right = left.to(tl.float16).to(tl.float32), right.to(tl.float16).to(tl.float32)", semantics("the article's other layers")),
    "sums of 16 bits": ("total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION)", "total = tl.dot(left, tl.trans(right), total, input_precision=PRECISION).to(tl.float16).to(tl.float32)", semantics("the article's other layers")),
    "parts of 16 bits": ("tl.store(parts + at, total,", "tl.store(parts + at, total.to(tl.float16).to(tl.float32),", semantics("many pixels")),
    "rows beyond the last read x": ("rows_in & (r < G.R), G, X)", "(r < G.R), G, X)", semantics("primes")),
    "taps beyond the last read x": ("rows_in & (r < G.R), G, X)", "rows_in, G, X)", not_finite("x")),
    "filters beyond the last are read": ("(k < G.K) & (r < G.R), G)", "(r < G.R), G)", semantics("primes")),
    "taps beyond the last are read": ("(k < G.K) & (r < G.R), G)", "(k < G.K), G)", semantics("primes")),
    "rows beyond the last read dy": ("rows_in & lands & (r < G.R)", "lands & (r < G.R)", semantics("primes")),
    "taps beyond the last read dy": ("rows_in & lands & (r < G.R)", "rows_in & lands", not_finite("dy")),
    "channels beyond the last are read": ("(c < G.C) & (r < G.R), G)", "(r < G.R), G)", semantics("primes")),
    "taps beyond the last are read backwards": ("(c < G.C) & (r < G.R), G)", "(c < G.C), G)", semantics("groups")),
    "channels beyond the last of dy are read": ("(pixel < end) & (k < G.K), G, DY", "(pixel < end), G, DY", semantics("primes")),
    "channels beyond the bias are read": ("mask=channel < G.K, other", "mask=channel < 10**6, other", semantics("primes")),
    "numbers beyond the parts are read": ("mask=at < numbers, other", "mask=at < numbers + 10**6, other", test_semantics.test_parts_are_added_in_their_order),
    "channels beyond the last of y are written": ("stored = rows_in & (channel < G.K)", "stored = rows_in", semantics("primes")),
    "rows beyond the last of dx are written": ("mask=rows_in & (channel < G.C))", "mask=channel < G.C)", semantics("primes")),
    "bias rounded to 16 bits": ("other=0.0).to(tl.float32)\n        # rounded", "other=0.0).to(tl.float16).to(tl.float32)\n        # rounded", semantics("one number")),
}  # fmt: skip


def mutant(old: str, new: str, folder: Path) -> ModuleType:
    """The kernels with one passage replaced."""
    source = SOURCE.read_text()
    assert old in source, "the passage to replace is gone; mend the mutant"
    path = folder / "mutant_kernels.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location("mutant_kernels", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", KERNELS)
def test_a_wrong_kernel_is_caught(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The oracles pass on the real kernels where they stand as tests of their own."""
    old, new, oracle = KERNELS[name]
    monkeypatch.setattr(launch, "tk", mutant(old, new, tmp_path))
    with pytest.raises((AssertionError, InterpreterError)) as caught:
        oracle()
    assert isinstance(caught.value, AssertionError) or "an address outside" in str(caught.value)


def test_an_unchanged_copy_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else a mutant could fail because it is a copy."""
    monkeypatch.setattr(launch, "tk", mutant("@triton.jit", "@triton.jit", tmp_path))
    for oracle in (semantics("primes"), block("pool_relu"), test_stacked.test_vmap_over_a_stack):
        oracle()


def loads(source: str) -> list[ast.Call]:
    """Every masked load in the source."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [call for call in calls if ast.unparse(call.func) == "tl.load"]
    return [call for call in named if any(word.arg == "mask" for word in call.keywords)]


def test_every_masked_load_says_what_is_there_instead() -> None:
    """The interpreter takes 0; a GPU leaves whatever the register held."""
    masked_loads = loads(SOURCE.read_text())
    assert len(masked_loads) >= 6
    assert [ast.unparse(call) for call in masked_loads if not any(word.arg == "other" for word in call.keywords)] == []


def test_nothing_is_added_in_any_order() -> None:
    """The interpreter runs one program after the other, so that atomic additions would give the same bits each time."""
    names = {ast.unparse(node) for node in ast.walk(ast.parse(SOURCE.read_text())) if isinstance(node, ast.Attribute)}
    assert "tl.store" in names
    assert [name for name in names if "atomic" in name] == []


def test_a_shared_gradient_that_is_not_summed_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    add = launch._add_parts
    monkeypatch.setattr(launch, "_add_parts", lambda *a, parts: add(*a, parts=1 if a[2] is None else parts))
    with pytest.raises(AssertionError):
        test_stacked.test_all_models_share_one_input("none")


def nothing(ctx: Any, *_: object) -> tuple[None, ...]:
    return (None,) * len(ctx.needs_input_grad)


def test_a_second_derivative_that_is_silently_zero_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    for gradient in ("input_gradient", "weight_gradient"):
        operator = getattr(operators, gradient)
        silent = operators._function(operator, operator, operators._remember_nothing, nothing)
        monkeypatch.setattr(operators, f"_differentiable_{gradient}", silent)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_operators.test_second_derivatives_are_refused("none")
