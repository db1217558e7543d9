"""One trial from end to end: the same bits twice, other bits for another seed, clocks that add up, filled columns."""

import json
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Configure

import harness
from harness import data, measuring, metrics, results, timing, trial_setup
from harness.compose import CONF_DIR
from harness.engine import eager
from harness.results import COLUMNS
from harness.trial import TrialResult, run_trial


def bits(result: TrialResult) -> tuple[object, ...]:
    """All that must repeat: the curves and layers but for their clock and id, every loss, the hashes."""
    curves = result.curves.drop(columns=["trial_id", "train_time_s"]).fillna(-1.0).to_numpy().tolist()
    layers = result.layers.drop(columns=["trial_id"]).astype(str).to_numpy().tolist()
    hashes = result.trial["initial_weights_sha256"], result.trial["final_weights_sha256"]
    return curves, layers, result.train_losses.tolist(), hashes, result.trial["trial_key"]


@pytest.mark.parametrize("batches", ["fixed", "random", "epochs"])
def test_the_same_config_twice_gives_the_same_bits(configure: Configure, batches: str) -> None:
    config = configure(f"data.batches={batches}", "data.scaling=standardised", "optimizer.lr=0.01")
    first = harness.run_trial(config)
    # another trial in between, and other use of the global generator, must not matter
    harness.run_trial(configure("init=he", "seed=5", "optimizer=adam", "model=mlp"))
    torch.rand(7)
    assert bits(first) == bits(harness.run_trial(config))


def test_another_seed_gives_other_weights_and_batches(configure: Configure) -> None:
    both = [harness.run_trial(configure(f"seed={seed}", "data.batches=random", "model=mlp")) for seed in (0, 1)]
    assert len({result.trial["initial_weights_sha256"] for result in both}) == 2
    assert not torch.equal(both[0].train_losses, both[1].train_losses)
    only_batches = [
        harness.run_trial(configure(f"seed={seed}", "init=all_zero", "data.batches=random", "model=mlp"))
        for seed in (0, 1)
    ]
    assert len({result.trial["initial_weights_sha256"] for result in only_batches}) == 1
    assert not torch.equal(only_batches[0].train_losses, only_batches[1].train_losses), "batches come from the seed"


def test_trial_with_an_owner_is_spooled_under_the_given_id_and_the_owner_publishes_it(configure: Configure) -> None:
    """Nor does it clean the folder up: a neighbour that has just died is its owner's to record."""
    config = configure("model=mlp")
    folder = Path(config.results.dir)
    results.prepare(folder)
    with results.Publisher(folder, "sweep") as publisher:
        done = run_trial(config, trial_id="mine", owner="sweep")
        neighbour = results.Running(folder, done.trial | {"trial_id": "neighbour"}, owner="sweep")
        neighbour._lock.release()
        assert run_trial(config, trial_id="other", owner="sweep").trial["trial_id"] == "other"
        assert (folder / ".running/neighbour.json").exists()
        assert [list((folder / table).iterdir()) for table in results.TABLES] == [[], [], []]
        publisher.ended("mine")
        assert sorted(harness.load(folder).trials["trial_id"]) == ["mine", "other"]
    assert len(list((folder / "trials").iterdir())) == 1


def test_trial_without_an_owner_is_published_when_it_returns(configure: Configure) -> None:
    config = configure("model=mlp")
    trial_id = harness.run_trial(config).trial["trial_id"]
    paths = [path for path in Path(config.results.dir).rglob("*") if path.is_file()]
    assert sorted((path.parent.name, path.name) for path in paths) == sorted(
        (table, f"{trial_id}.parquet") for table in results.TABLES
    )


def test_how_a_trial_is_timed_changes_no_bit_of_it(configure: Configure) -> None:
    plain = harness.run_trial(configure("data.batches=random"))
    timed_otherwise = harness.run_trial(
        configure("data.batches=random", "train.window_steps=1", "train.warmup_steps=5")
    )
    assert bits(plain) == bits(timed_otherwise)


def test_every_column_of_a_finished_trial_is_filled(configure: Configure) -> None:
    """But for those that say they may be empty: errors, the GPU's, energy, what this network and kernel have not."""
    result = harness.run_trial(configure("init=glorot"))
    empty = {name for name, value in result.trial.items() if value is None}
    allowed = {
        "error_type",
        "error_message",
        "diverged_step",
        "left_as_built",
        "convolutions_by_torch",
        "kernel_error",
        "kernel_precision",
        "engine_reason",
        "engine_error",
        "compile_time_s",
        "sweep_id",
        "sweep_size",
        "sweep_index",
        "gpu_driver",
        "energy_j",
        "tie_classes",
        "tie_accuracies",
        "depth",
        "width",
        "stride",
        "train_images",
        "test_images",
        "schedule_step",
        "schedule_factor",
        "warmup_steps",
    }
    assert empty <= allowed | ({"git_commit", "git_dirty"} if not CONF_DIR.parent.joinpath(".git").exists() else set())
    assert list(result.trial) == [column.name for column in COLUMNS["trials"]]


def test_columns_are_consistent_with_each_other(configure: Configure) -> None:
    result = harness.run_trial(configure("optimizer=adam", "data.scaling=unit", "train.targets=[0.05,0.9999]"))
    row, curves = result.trial, result.curves
    assert row["train_loss_first"] == curves["train_loss"].iloc[0]
    assert row["train_loss_first"] == pytest.approx(float(result.train_losses[0]), rel=1e-5), "loss of the fixed batch"
    assert row["test_accuracy_last"] == curves["test_accuracy"].iloc[-1] == row["test_accuracy_after"]
    assert row["train_loss_best"] == curves["train_loss"].min()
    assert row["steps_to_target"] == [int(curves.loc[curves["test_accuracy"] >= 0.05, "step"].iloc[0]), None]
    assert row["step_ms_median"] == pytest.approx(1000 * 50 / row["images_per_s_median"])
    assert row["matmul_share"] == pytest.approx(
        row["train_flops_per_image"] * row["images_per_s_median"] / row["matmul_flops_per_s"]
    )
    assert row["images_per_s_q25"] <= row["images_per_s_median"] <= row["images_per_s_q75"]
    assert row["train_time_s"] == curves["train_time_s"].iloc[-1] > 0


def test_clocks_are_apart(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow evaluation lengthens its own clock and not that of training; together they stay within the wall clock."""
    from harness import metrics

    plain = metrics.probe

    def slow(*arguments: object) -> object:
        time.sleep(0.5)
        return plain(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(metrics, "probe", slow)
    started = time.perf_counter()
    row = harness.run_trial(configure("model=mlp")).trial
    wall = time.perf_counter() - started
    assert row["eval_time_s"] >= 1.5, "three evaluations"
    assert row["train_time_s"] < 0.5
    clocks = ("setup_time_s", "init_time_s", "warmup_time_s", "train_time_s", "eval_time_s")
    assert sum(row[clock] for clock in clocks) <= wall


def test_throughput_leaves_evaluation_and_initialisation_out(configure: Configure) -> None:
    """The rates are those of the windows of training time, of which the curve has one for each evaluation here."""
    result = harness.run_trial(configure("model=mlp", "train.steps=20", "train.eval_every=5", "train.window_steps=5"))
    row, seconds = result.trial, result.curves["train_time_s"].diff().dropna()
    assert (row["timing_windows"], len(seconds)) == (4, 4)
    assert seconds.sum() == pytest.approx(row["train_time_s"])
    rates = (5 * 50 / seconds).quantile([0.25, 0.5, 0.75]).tolist()
    assert [row[f"images_per_s_{name}"] for name in ("q25", "median", "q75")] == pytest.approx(rates)


def test_initializer_of_the_user_is_timed_as_initialisation(configure: Configure) -> None:
    from harness.initializers import REGISTRY, register

    @register("slow_zeros")
    def slow_zeros(shape: torch.Size, *, gain: float, generator: torch.Generator) -> torch.Tensor:  # noqa: ARG001
        time.sleep(0.1)
        return torch.zeros(shape)

    try:
        row = harness.run_trial(configure("init.weight=slow_zeros", "model=mlp")).trial
    finally:
        del REGISTRY["slow_zeros"]
    assert row["status"] == "ok"
    assert 0.3 <= row["init_time_s"] < 1


def test_learning_proper(configure: Configure) -> None:
    """Glorot learns the digits in 200 steps of shuffled epochs, the zero kernel nothing."""
    accuracy = {}
    for init in ("glorot", "zero"):
        config = configure("experiment=learn", f"init={init}", "train.steps=200", "train.eval_every=100")
        accuracy[init] = harness.run_trial(config).trial["test_accuracy_last"]
    assert accuracy["glorot"] > 0.85
    assert accuracy["zero"] <= 0.126


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize("scaling", ["raw", "unit", "standardised"])
def test_every_choice_trains(configure: Configure, optimizer: str, scaling: str) -> None:
    config = configure(
        f"optimizer={optimizer}", f"data.scaling={scaling}", "init=lecun", "model=mlp", "optimizer.lr=1e-5"
    )
    result = harness.run_trial(config)
    assert result.ok
    assert result.trial["unmoved"] == []
    assert result.trial["train_loss_last"] < result.trial["train_loss_first"]


def test_environment_names_versions_and_machine(configure: Configure) -> None:
    row = harness.run_trial(configure("model=mlp", "device.threads=1")).trial
    versions = json.loads(row["package_versions"])
    assert versions["torch"] == row["torch_version"] == torch.__version__
    assert {"torchvision", "numpy", "pandas", "pyarrow", "hydra-core", "cuda"} <= versions.keys()
    assert (row["threads"], row["device"], row["memory_format"]) == (1, "cpu", "channels_last")
    assert row["cpu_model"] == row["device_model"]


def test_memory_format_changes_strides_and_no_more_than_rounding(configure: Configure) -> None:
    formats = ("contiguous", "channels_last")
    rows = [harness.run_trial(configure(f"device.memory_format={name}", "data.scaling=unit")) for name in formats]
    assert [row.trial["memory_format"] for row in rows] == list(formats)
    assert rows[0].trial["initial_weights_sha256"] == rows[1].trial["initial_weights_sha256"]
    np.testing.assert_allclose(rows[0].train_losses, rows[1].train_losses, rtol=1e-5)


def test_matmul_rate_is_measured_anew_for_each_trial(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def counted(device: torch.device) -> float:
        asked.append(device)
        return timing.matmul_flops_per_s(device)

    monkeypatch.setattr(measuring, "matmul_flops_per_s", counted)
    rates = [harness.run_trial(configure("model=mlp")).trial["matmul_flops_per_s"] for _ in range(2)]
    assert len(asked) == 4, "before and after training"
    assert rates[0] != rates[1]


def test_result_is_what_lies_in_the_folder(configure: Configure) -> None:
    config = configure("model=mlp")
    result = harness.run_trial(config)
    frames = harness.load(config.results.dir)
    assert frames.trials.loc[0, "final_weights_sha256"] == result.trial["final_weights_sha256"]
    pd.testing.assert_frame_equal(frames.curves, result.curves, check_dtype=False)
    pd.testing.assert_frame_equal(frames.layers, result.layers, check_dtype=False)


def test_held_out_images_are_scored_and_never_trained_on(configure: Configure) -> None:
    """Epochs over 100 of 120 images; the losses and scores are those of the images themselves."""
    part = ("data.train_images=120", "data.validation_images=20", "data.test_images=30", "data.batches=epochs")
    config = configure("model=mlp", "init=he", "optimizer.lr=1e-6", *part)
    setup = trial_setup.assemble(config, torch.device("cpu"))
    trial_setup.initialise(config, setup)
    seen = torch.cat([setup.batch(step)[0] for step in range(2)]).flatten(1)
    digits = setup.digits
    assert {tuple(image) for image in seen.tolist()} == {tuple(x) for x in digits.train_images.flatten(1).tolist()}
    assert (len(digits.train_images), len(digits.test_images)) == (100, 30)
    everything = data.load(config.data)
    assert torch.equal(digits.validation_images[:, 0], everything.train_images[100:120].float())
    curves = harness.run_trial(config).curves
    expected = metrics.score(metrics.logits_of(setup.network, digits.validation_images), digits.validation_labels)
    assert (curves["validation_loss"][0], curves["validation_accuracy"][0]) == (expected.loss, expected.accuracy)
    batches = [metrics.score(metrics.logits_of(setup.network, setup.batch(s)[0]), setup.batch(s)[1]) for s in range(3)]
    # at so small a rate the network is nearly the one that it began as
    assert curves["batch_loss"][1] == pytest.approx(sum(batch.loss for batch in batches) / 3, rel=0.05)
    assert curves["batch_accuracy"][1] == pytest.approx(sum(batch.accuracy for batch in batches) / 3, abs=0.03)
    assert curves[["batch_loss", "batch_accuracy"]].isna()[:1].all().all()
    assert curves["lr"].tolist() == [1e-6] * 3


def test_a_failed_trial_holds_nothing_that_it_computed(configure: Configure, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even while its error lives, as one that refers to itself does: on a GPU the next trial needs that memory."""
    errors: list[Exception] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def run_out_of_memory(*_: object) -> None:
        activations = torch.zeros(8)
        held.append(weakref.ref(activations))
        errors.append(torch.OutOfMemoryError("CUDA out of memory"))
        raise errors[0]

    monkeypatch.setattr(eager, "plain_step", run_out_of_memory)
    assert harness.run_trial(configure("model=mlp")).trial["status"] == "oom"
    assert errors[0].__traceback__ is not None
    assert [reference() for reference in held] == [None]
