"""What only a CUDA GPU can show of engines: captured steps are eager's, stop alike, and fall back."""

import pytest
import torch
from conftest import Configure
from test_stack_sweep import orders_of

import harness
from harness.optimizers import OPTIMIZERS, SCHEDULES
from harness.stacked_trials import StackReport, run_stack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU that torch can use"),
]
LONG = ("device=cuda", "data.scaling=unit", "data.batches=epochs", "train.steps=200", "train.eval_every=70")
LONG += ("train.window_steps=25", "optimizer.lr=1e-3")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_graph_trains_as_eager(configure: Configure, optimizer: str, schedule: str) -> None:
    """Bit for bit over 200 steps where the arithmetic is the same; else the check before training has passed."""
    choices = (*LONG, f"optimizer={optimizer}", f"optimizer.schedule={schedule}")
    eager, graph = (harness.run_trial(configure(*choices, f"engine={name}")) for name in ("eager", "graph"))
    assert graph.ok, graph.trial["error_message"]
    assert (graph.trial["engine"], graph.trial["engine_reason"]) == ("graph", None)
    assert graph.curves["lr"].tolist() == eager.curves["lr"].tolist()
    if schedule == "constant" and optimizer in ("sgd", "momentum", "rmsprop"):
        assert graph.trial["engine_error"] == 0
        assert graph.trial["final_weights_sha256"] == eager.trial["final_weights_sha256"]
        assert torch.equal(graph.train_losses, eager.train_losses)
        assert graph.curves["batch_accuracy"].tolist()[1:] == eager.curves["batch_accuracy"].tolist()[1:]


@pytest.mark.parametrize("kernel", ["torch", "triton", "triton_fused"])
@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_kernels_and_autocast_are_captured(configure: Configure, kernel: str, autocast: str) -> None:
    choices = (*LONG, f"kernel={kernel}", f"train.autocast={autocast}", "engine=graph")
    row = harness.run_trial(configure(*choices)).trial
    assert (row["status"], row["engine_error"]) == ("ok", 0), row["error_message"]


def test_graph_finds_the_step_of_a_loss_that_is_not_finite(configure: Configure) -> None:
    rows = [
        harness.run_trial(configure(*LONG, "optimizer.lr=1e6", "data.scaling=raw", f"engine={name}")).trial
        for name in ("eager", "graph")
    ]
    assert [row["status"] for row in rows] == ["diverged", "diverged"]
    assert rows[0]["diverged_step"] == rows[1]["diverged_step"]


def test_graph_keeps_its_time_budget(configure: Configure) -> None:
    row = harness.run_trial(configure(*LONG, "engine=graph", "train.max_seconds=1e-9")).trial
    assert (row["status"], row["steps_done"]) == ("timeout", 25)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_stack_is_captured(configure: Configure, optimizer: str, schedule: str) -> None:
    """Each model has passed the check before training, and begins as it does alone."""
    choices = (*LONG, f"optimizer={optimizer}", f"optimizer.schedule={schedule}")
    orders = orders_of([configure(*choices, "engine=graph", "sweep.stack=3", f"seed={seed}") for seed in range(3)])
    assert run_stack(orders) == StackReport(most=3)
    trials = harness.load(orders[0].config.results.dir).trials.sort_values("seed")
    assert trials["status"].tolist() == ["ok"] * 3, trials["error_message"].tolist()
    assert trials["engine"].tolist() == ["graph"] * 3
    assert trials["engine_error"].notna().all()
    alone = harness.run_trial(configure(*choices, "engine=eager", "seed=2")).trial
    assert trials["train_loss_first"].iloc[2] == pytest.approx(alone["train_loss_first"], rel=1e-5)


def test_auto_is_graph(configure: Configure) -> None:
    assert harness.run_trial(configure(*LONG, "engine=auto")).trial["engine"] == "graph"


def test_compiled_trains_as_eager(configure: Configure) -> None:
    row = harness.run_trial(configure(*LONG, "engine=compiled")).trial
    assert row["status"] == "ok", row["error_message"]
