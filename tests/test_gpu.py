"""What only a CUDA GPU can show: the CPU's weights and batches, the article's run, clocks, memory, energy, flags."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Configure

import harness
from harness import article, device, measuring, random_streams, rows, torch_state
from harness.config import TrialConfig
from harness.errors import UsageError
from harness.resolution import resolved
from harness.timing import Stopwatch
from harness.trial import TrialResult

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU that torch can use"),
]
NAME = "cuda"
GIB = 2**30


@pytest.fixture(scope="module")
def zero_run(tmp_path_factory: pytest.TempPathFactory) -> TrialResult:
    """The article's 1,000 steps with conv2's kernel at zero."""
    folder = tmp_path_factory.mktemp("zero") / "results"
    return harness.run_trial(harness.load_config(["init=zero", f"device={NAME}", f"results.dir={folder}"]))


def outstanding_work() -> torch.Tensor:
    """Queue twenty products (22 TFLOP) and come back without waiting for them."""
    left = torch.rand(8192, 8192, device=NAME)
    for _ in range(20):
        product = left @ left
    return product


@pytest.mark.parametrize("init", ["glorot", "zero", "torch_default"])
def test_initial_weights_are_the_cpus(configure: Configure, init: str) -> None:
    trials = [harness.run_trial(configure(f"init={init}", f"device={name}")).trial for name in (NAME, "cpu")]
    assert [row["status"] for row in trials] == ["ok", "ok"]
    assert [row["device"] for row in trials] == [NAME, "cpu"]
    assert trials[0]["initial_weights_sha256"] == trials[1]["initial_weights_sha256"]


@pytest.mark.parametrize("scaling", ["raw", "unit", "standardised"])
@pytest.mark.parametrize("batches", ["fixed", "random", "epochs"])
def test_batches_are_the_cpus_bit_for_bit(configure: Configure, batches: str, scaling: str) -> None:
    def batches_of(config: TrialConfig) -> list[torch.Tensor]:
        config = resolved(config)
        record = measuring.Record(config, device.resolve(config.device), rows.planned(config, "batches"))
        setup = measuring.set_up(record)
        assert setup.digits.train_images.device.type == config.device.name
        return [tensor.cpu() for step in range(config.train.steps) for tensor in setup.batch(step)]

    choices = (f"data.batches={batches}", f"data.scaling={scaling}")
    drawn = [batches_of(configure(f"device={name}", *choices)) for name in (NAME, "cpu")]
    assert len(drawn[0]) == len(drawn[1]) == 12
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*drawn, strict=True))


def test_first_loss_is_the_cpus_but_for_the_order_of_sums(configure: Configure) -> None:
    outcomes = [harness.run_trial(configure("init=glorot", f"device={name}")) for name in (NAME, "cpu")]
    assert float(outcomes[0].train_losses[0]) == pytest.approx(float(outcomes[1].train_losses[0]), rel=1e-4)


def test_zero_kernel_leaves_all_but_the_last_bias_bit_equal(zero_run: TrialResult) -> None:
    assert zero_run.trial["status"] == "ok", zero_run.trial["error_message"]
    assert len(zero_run.trial["unmoved"]) == 11
    layers = zero_run.layers
    assert set(layers.loc[~layers["bit_equal"], "parameter"]) == {"fc2.bias"}
    assert set(layers.loc[layers["parameter"] != "fc2.bias", "gradient_norm"]) == {0.0}


def test_zero_kernel_follows_the_closed_form(zero_run: TrialResult) -> None:
    exact = article.trajectory(article.CLASS_COUNTS, lr=1e-4, steps=1000)
    np.testing.assert_allclose(zero_run.train_losses.double(), exact.losses[:-1], rtol=1e-6)
    expected = [exact.losses[step] for step in zero_run.curves["step"]]
    np.testing.assert_allclose(zero_run.curves["train_loss"], expected, rtol=1e-6)
    np.testing.assert_allclose(-np.array(zero_run.trial["last_bias_difference"]), exact.bias, atol=1e-7, rtol=0)


@pytest.mark.parametrize("batches", ["fixed", "epochs"])
def test_the_same_config_twice_ends_at_the_same_bits(configure: Configure, batches: str) -> None:
    choices = ("init=glorot", "data.scaling=standardised", "optimizer.lr=0.01", "train.steps=40")
    config = configure(f"device={NAME}", f"data.batches={batches}", *choices)
    outcomes = [harness.run_trial(config) for _ in range(2)]
    assert outcomes[0].trial["unmoved"] == []
    assert outcomes[0].trial["final_weights_sha256"] == outcomes[1].trial["final_weights_sha256"]
    assert torch.equal(outcomes[0].train_losses, outcomes[1].train_losses)


def test_columns_of_the_gpu_are_filled(zero_run: TrialResult) -> None:
    row = zero_run.trial
    assert row["device"] == NAME
    assert row["device_model"] == torch.cuda.get_device_name()
    assert row["gpu_driver"]
    assert row["memory_format"] == "contiguous"
    assert row["images_per_s_q25"] <= row["images_per_s_median"] <= row["images_per_s_q75"]
    assert row["timing_windows"] == 40
    assert 0 < row["matmul_share"] < 1


def test_peak_memory_holds_at_least_the_data_and_is_no_other_trials(configure: Configure) -> None:
    """Also that it is counted anew: the small trial comes after one that takes far more."""
    choices = ("device=" + NAME, "data.scaling=unit")
    large = harness.run_trial(configure(*choices, "train.batch_size=2000")).trial["peak_memory_bytes"]
    small = harness.run_trial(configure(*choices, "model=mlp")).trial["peak_memory_bytes"]
    images_bytes = 6_000 * 28 * 28 * 4
    activations_bytes = 2000 * 32 * 28 * 28 * 4
    assert images_bytes < small < large
    assert large > images_bytes + activations_bytes


def test_energy_is_that_of_a_gpu_at_work(zero_run: TrialResult) -> None:
    if device.energy_j(torch.device(NAME, 0)) is None:
        pytest.skip("NVML has no energy counter for this GPU")
    worked_s = zero_run.trial["train_time_s"] + zero_run.trial["eval_time_s"]
    assert 3 < zero_run.trial["energy_j"] / worked_s < 3000, "watts"


def test_stopwatch_waits_for_what_a_block_queued() -> None:
    outstanding_work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    outstanding_work()
    queued_s = time.perf_counter() - start
    assert not torch.cuda.current_stream().query(), "the work must outlast its queueing, or this test shows nothing"
    torch.cuda.synchronize()
    watch = Stopwatch(torch.device(NAME, 0))
    with watch:
        outstanding_work()
    assert torch.cuda.current_stream().query()
    assert watch.total_s > 3 * queued_s


def test_stopwatch_does_not_count_what_was_queued_before() -> None:
    outstanding_work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    outstanding_work()
    watch = Stopwatch(torch.device(NAME, 0))
    with watch:
        pass
    assert watch.total_s < 0.1 * (time.perf_counter() - start)


def test_out_of_memory_is_a_status_and_the_next_trial_runs(configure: Configure) -> None:
    """CUDA's allocator is held to 1 GiB, far less than 5,000 images' activations need."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(GIB / torch.cuda.get_device_properties(0).total_memory)
    try:
        row = harness.run_trial(configure(f"device={NAME}", "train.batch_size=5000")).trial
        assert (row["status"], row["error_type"]) == ("oom", "OutOfMemoryError"), row["error_message"]
        assert "out of memory" in row["error_message"]
        after = harness.run_trial(configure(f"device={NAME}")).trial
        assert after["status"] == "ok", after["error_message"]
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_index_of_a_gpu_that_is_not_there_is_refused(configure: Configure) -> None:
    count = torch.cuda.device_count()
    config = configure(f"device={NAME}", f"device.index={count}")
    with pytest.raises(UsageError, match=rf"device\.index={count}: this machine has {count} usable CUDA devices"):
        harness.run_trial(config)


def test_auto_takes_the_gpu(configure: Configure) -> None:
    assert resolved(configure("device=auto")).device.name == NAME


@pytest.mark.parametrize("tf32", [True, False])
def test_tf32_is_recorded(configure: Configure, tf32: bool) -> None:  # noqa: FBT001 - the parameter is the flag
    row = harness.run_trial(configure(f"device={NAME}", f"device.tf32={tf32}", "model=mlp")).trial
    assert (row["status"], row["tf32"]) == ("ok", tf32)


def test_tf32_changes_the_product_and_float32_is_the_default(configure: Configure) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no TF32")
    left = torch.randn(1024, 1024, generator=random_streams.generator(0, "tf32"))
    x_NCHW, weight = left.view(4, 1024, 16, 16), left.view(-1)[: 32 * 1024 * 9].view(32, 1024, 3, 3)

    def error(product: torch.Tensor, exact: torch.Tensor) -> float:
        return float((product.cpu().double() - exact).norm() / exact.norm())

    product, convolution = left.double() @ left.double(), F.conv2d(x_NCHW.double(), weight.double())
    errors = {}
    for name, choices in {"default": [], "tf32": ["device.tf32=true"]}.items():
        with torch_state.set_for(configure(f"device={NAME}", *choices).device):
            errors[name] = error(left.to(NAME) @ left.to(NAME), product)
            if name == "default":
                assert error(F.conv2d(x_NCHW.to(NAME), weight.to(NAME)), convolution) < 1e-5
    assert errors["default"] < 1e-6
    assert 1e-5 < errors["tf32"] < 1e-2
