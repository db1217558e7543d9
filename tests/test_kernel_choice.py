"""``kernel=``: what is fused, refused and checked before it is timed, and training through the interpreter."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import Command, Configure

import harness
from harness import device, fusion, kernel_check, kernel_choice, models
from harness.backends import KERNELS, Backend, Kernel
from harness.errors import UsageError
from kernels import geometry

needs_triton = pytest.mark.skipif(sys.platform != "linux", reason="Triton is there for Linux only")


def relu(*arguments: torch.Tensor, **settings: object) -> torch.Tensor:
    return F.relu(F.conv2d(*arguments, **settings))


def pool_relu(*arguments: torch.Tensor, **settings: object) -> torch.Tensor:
    return F.relu(F.max_pool2d(F.conv2d(*arguments, **settings), 2))


CUDA = torch.device("cuda")
TORCH_FUSED = Kernel(F.conv2d, relu, pool_relu)
"""Right by construction: torch's own composition in place of fused kernels."""


def functions(configure: Configure, *choices: str) -> list[object]:
    """What computes each convolution of a network, in order."""
    network = models.build(configure(*choices).model)
    sequences = [module for module in network.modules() if isinstance(module, torch.nn.Sequential)]
    blocks = [block for sequence in sequences for block in fusion.blocks(list(sequence), TORCH_FUSED)]
    return [function for module, function, _ in blocks if isinstance(module, models.Conv)]


def test_the_article_network_is_fused_in_four_blocks(configure: Configure) -> None:
    assert functions(configure) == [pool_relu, relu, relu, relu]


@pytest.mark.parametrize("choice", ["model.activation=tanh", "model.activation=relu_one"])
def test_other_activations_are_not_fused(configure: Configure, choice: str) -> None:
    assert functions(configure, choice) == [F.conv2d] * 4


def test_average_pooling_keeps_its_relu_apart_and_before_it(configure: Configure) -> None:
    assert functions(configure, "model.pooling=avg") == [relu] * 4


def test_convolutions_in_branches_are_fused(configure: Configure) -> None:
    called = functions(configure, "model=residual", "init=rezero")
    assert relu in called
    assert F.conv2d in called


@pytest.mark.parametrize(
    "choices", [(), ("model.pooling=avg",), ("model=residual", "init=fixup"), ("model=deep",)], ids=str
)
def test_a_fused_network_is_the_same_function(configure: Configure, choices: tuple[str, ...]) -> None:
    """Bit for bit: torch computes both, in blocks or layer by layer."""
    config = configure("model.activation=relu", *choices)
    network = models.build(config.model)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fusion.Trained(network, TORCH_FUSED)(images), network(images))


def shifted(x: torch.Tensor, *rest: torch.Tensor, **settings: object) -> torch.Tensor:
    return F.conv2d(x.roll(1, dims=3), *rest, **settings)


def without_last_tap(x: torch.Tensor, weight: torch.Tensor, *rest: torch.Tensor, **settings: object) -> torch.Tensor:
    keep = torch.ones_like(weight)
    keep[..., -1, -1] = 0
    return F.conv2d(x, weight * keep, *rest, **settings)


def without_bias(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, **settings: object) -> torch.Tensor:
    return F.conv2d(x, weight, 0 * bias, **settings)


class HalvedInputGradient(torch.autograd.Function):
    """The same numbers, and half of their gradient."""

    @staticmethod
    def forward(_ctx: object, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        return gradient / 2


def half_the_input_gradient(x: torch.Tensor, *rest: torch.Tensor, **settings: object) -> torch.Tensor:
    return F.conv2d(HalvedInputGradient.apply(x), *rest, **settings)


def relu_one(*arguments: torch.Tensor, **settings: object) -> torch.Tensor:
    y = F.conv2d(*arguments, **settings)
    return torch.where(y < 0, 0.0, y)


def of_ten_bits(x: torch.Tensor, *rest: torch.Tensor, **settings: object) -> torch.Tensor:
    if x.dtype == torch.float64 or x.device.type == "meta":
        return F.conv2d(x, *rest, **settings)
    return F.conv2d(x.half().float(), *rest, **settings)


def imprecise_relu(x: torch.Tensor, *rest: torch.Tensor, **settings: object) -> torch.Tensor:
    return F.relu(of_ten_bits(x, *rest, **settings))


WRONG: dict[str, tuple[Kernel, str]] = {
    "shifted": (Kernel(shifted), "output of conv1"),
    "dropped tap": (Kernel(without_last_tap), "output of conv1"),
    "no bias": (Kernel(without_bias), "output of conv1"),
    "half the input gradient": (Kernel(half_the_input_gradient), "input gradient of conv2"),
    "relu'(0) = 1": (Kernel(F.conv2d, relu_one, pool_relu), "gradient of conv2"),
    "tf32 where ieee is asked for": (Kernel(of_ten_bits), "output of conv1"),
    "tf32 in a fused block alone": (Kernel(F.conv2d, imprecise_relu, pool_relu), "output of conv2"),
}


def largest_error(configure: Configure, kernel: Kernel, precision: str = "ieee") -> float:
    network = models.build(configure().model)
    images = torch.zeros(4, 1, 28, 28)
    return kernel_check.largest_error(network, kernel, images, precision=precision, seed=0)


@pytest.mark.parametrize("kernel", [Kernel(F.conv2d), TORCH_FUSED], ids=["plain", "fused"])
def test_a_right_kernel_passes_its_check(configure: Configure, kernel: Kernel) -> None:
    assert 0 < largest_error(configure, kernel) < 1e-5


def test_ten_bits_are_allowed_where_they_were_asked_for(configure: Configure) -> None:
    assert 1e-5 < largest_error(configure, Kernel(of_ten_bits), "tf32") < 1e-2


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_kernel_is_found_by_layer_and_tensor(configure: Configure, wrong: str) -> None:
    kernel, words = WRONG[wrong]
    with pytest.raises(kernel_check.WrongKernelError, match=words):
        largest_error(configure, kernel)


@needs_triton
def test_a_trial_of_a_wrong_kernel_fails_without_a_number(
    configure: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel_choice, "check", lambda _config, _target: None)
    monkeypatch.setattr(kernel_choice, "kernel_of", lambda _config: Kernel(without_last_tap))
    row = harness.run_trial(configure("kernel=triton")).trial
    assert (row["status"], row["error_type"]) == ("error", "WrongKernelError")
    assert "output of conv1 (50, 1, 28, 28) differs from torch's" in row["error_message"]
    assert row["images_per_s_median"] is None
    assert row["train_time_s"] is None
    assert row["kernel_error"] is None


@needs_triton
def test_memory_of_the_check_is_not_that_of_the_kernel(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    while_checking: list[int] = []

    def check(*_arguments: object, **_settings: object) -> float:
        numbers = torch.ones(2**28)
        while_checking.append(device.peak_memory_bytes(numbers.device))
        return float(numbers[0] - 1)

    monkeypatch.setattr(kernel_choice, "check", lambda _config, _target: None)
    monkeypatch.setattr(kernel_choice, "kernel_of", lambda _config: Kernel(F.conv2d))
    monkeypatch.setattr(kernel_check, "largest_error", check)
    row = harness.run_trial(configure("kernel=triton")).trial
    assert (row["status"], row["kernel_error"]) == ("ok", 0)
    assert 0 < row["peak_memory_bytes"] < while_checking[0]


def test_the_precision_follows_tf32_unless_said(configure: Configure) -> None:
    precisions = [
        kernel_choice.precision(configure("kernel=triton", *more))
        for more in ((), ("device.tf32=true",), ("device.tf32=true", "kernel.precision=tf32x3"))
    ]
    assert precisions == ["ieee", "tf32", "tf32x3"]


def test_a_precision_for_torch_is_refused(command: Command) -> None:
    done = command("kernel.precision=tf32", "device=cpu")
    assert done.returncode == 2
    words = (
        "kernel.precision=tf32: has no effect with kernel=torch, which follows device.tf32; set kernel.precision=auto"
    )
    assert f"{words} or use kernel=triton or kernel=triton_fused" in done.stderr


def one_entry(precisions: tuple[str, ...]) -> Backend:
    """A back end of the user's: torch's function with a precision, on a CPU only."""

    def require(device: torch.device, _precision: str) -> None:
        if device.type != "cpu":
            raise RuntimeError("runs on a CPU only; use device=cpu")

    return Backend(lambda _: TORCH_FUSED, require, "mine", precisions, channels_last=True)


def test_a_back_end_is_one_entry(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its check, precision, memory format and columns follow from the entry."""
    monkeypatch.setitem(KERNELS, "mine", one_entry(("ieee",)))
    row = harness.run_trial(configure("kernel.name=mine")).trial
    assert (row["status"], row["kernel"], row["kernel_precision"]) == ("ok", "mine", "ieee")
    assert 0 < row["kernel_error"] < 1e-5
    # on a CPU every kernel gets channels last
    formats = [kernel_choice.memory_format(configure(f"kernel.name={name}"), CUDA) for name in ("mine", "torch")]
    assert formats == [torch.channels_last, torch.contiguous_format]
    with pytest.raises(
        UsageError, match="kernel=mine device=cuda: runs on a CPU only; use device=cpu; or use kernel=torch"
    ):
        kernel_choice.check(configure("kernel.name=mine"), CUDA)


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (
            ["kernel.precision=tf32"],
            "kernel.precision=tf32: kernel=mine does not multiply in tf32; set kernel.precision to one of: ieee",
        ),
        (
            ["device.tf32=true"],
            "device.tf32=True: kernel=mine does not multiply in tf32; set kernel.precision to one of: ieee",
        ),
    ],
    ids=["said", "from device.tf32"],
)
def test_a_precision_that_a_back_end_does_not_offer_is_refused(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, choices: list[str], words: str
) -> None:
    monkeypatch.setitem(KERNELS, "mine", one_entry(("ieee",)))
    with pytest.raises(UsageError, match=words):
        harness.run_trial(configure("kernel.name=mine", *choices))


@needs_triton
def test_a_cpu_is_refused_in_one_line(command: Command) -> None:
    done = command("kernel=triton_fused", "device=cpu")
    assert done.returncode == 2
    assert "set TRITON_INTERPRET=1 before Python starts" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@needs_triton
def test_a_gpu_under_the_interpreter_is_refused(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the CPU's time would stand in the GPU's row."""
    monkeypatch.setattr("kernels.triton_kernels.INTERPRETED", True)
    with pytest.raises(UsageError, match=r"device=cuda: TRITON_INTERPRET is set.* unset it"):
        kernel_choice.check(configure("kernel=triton"), torch.device("cuda"))


def test_without_triton_one_line_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['triton'] = None; from harness.run import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "kernel=triton", "device=cpu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.strip().splitlines()
    assert re.fullmatch(
        r"error: kernel=triton: .* cannot be imported \(.*triton.*\); install triton .* or use kernel=torch", line
    )


STEPS = 20
TRAIN = f"""
import json, sys, harness
by_kernel = {{}}
for name in ("torch", "triton", "triton_fused"):
    for init in ("glorot", "zero"):
        choices = [f"kernel={{name}}", f"init={{init}}", "device=cpu", "device.threads=1", "train.steps={STEPS}"]
        choices += ["train.batch_size=2", "train.eval_every={STEPS}", "train.warmup_steps=0"]
        choices += [f"results.dir={{sys.argv[1]}}"]
        if (name, init) == ("triton", "zero"):
            continue
        result = harness.run_trial(harness.load_config(choices))
        columns = ("status", "error_message", "unmoved", "kernel_error", "kernel_precision", "memory_format")
        row = {{key: result.trial[key] for key in columns}}
        by_kernel[f"{{name}} {{init}}"] = row | {{"losses": result.train_losses.tolist()}}
print(json.dumps(by_kernel))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """Twenty steps by each kernel through the interpreter, in a process of its own."""
    folder = tmp_path_factory.mktemp("trained")
    variables = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAIN, str(folder / "results")]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    by_kernel: dict[str, dict] = json.loads(done.stdout.splitlines()[-1])
    return by_kernel


@needs_triton
@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["triton", "triton_fused"])
def test_training_follows_torchs(trained: dict[str, dict], kernel: str) -> None:
    """The first loss differs by the order of sums; each update may double what came before it, which these do not."""
    ours, theirs = trained[f"{kernel} glorot"], trained["torch glorot"]
    assert ours["status"] == theirs["status"] == "ok", ours["error_message"]
    assert ours["losses"][0] > 100 * abs(ours["losses"][-1]), "it must learn, or following says nothing"
    for step, (mine, other) in enumerate(zip(ours["losses"], theirs["losses"], strict=True)):
        assert abs(mine - other) <= 2.0**-24 * 288 * max(theirs["losses"]) * min(2**step, 64), step


@needs_triton
@pytest.mark.slow
def test_the_zero_kernel_leaves_all_but_the_last_bias_bit_equal(trained: dict[str, dict]) -> None:
    assert len(trained["triton_fused zero"]["unmoved"]) == 11
    assert trained["triton_fused zero"]["unmoved"] == trained["torch zero"]["unmoved"]
    assert trained["triton_fused zero"]["losses"] == pytest.approx(trained["torch zero"]["losses"], rel=1e-6)


@needs_triton
@pytest.mark.slow
def test_columns_of_the_kernel(trained: dict[str, dict]) -> None:
    assert trained["torch glorot"]["kernel_error"] is None
    assert trained["torch glorot"]["kernel_precision"] is None
    for name in ("triton glorot", "triton_fused glorot"):
        assert 0 < trained[name]["kernel_error"] < 1e-5
        assert trained[name]["kernel_precision"] == "ieee"
        assert trained[name]["memory_format"] == "channels_last"


def test_our_kernels_offer_the_precisions_that_they_have() -> None:
    """The names stand in both packages, because ``kernel=torch`` loads no kernels of ours."""
    offered = {backend.precisions for backend in KERNELS.values() if not backend.is_torch}
    assert offered == {geometry.PRECISIONS}


@needs_triton
def test_loading_the_package_loads_no_triton_of_ours() -> None:
    code = "import sys, kernels, harness.fusion; assert 'kernels.triton_kernels' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=Path(__file__).parent)
