"""The public functions inside a program that has its own Hydra, threads, handlers and settings of PyTorch."""

import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from conftest import Configure
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from torch import backends

import harness
from harness import explain, torch_state
from harness.compose import CONF_DIR
from harness.results import problems_in

CHOICES = ("model=mlp", "init=glorot", "device.threads=1")
SETTINGS: dict[str, Callable[[], Any]] = {
    "threads": torch.get_num_threads,
    "default dtype": torch.get_default_dtype,
    "default device": torch.get_default_device,
    "float32 products": lambda: [place.fp32_precision for place in PLACES],
    "deterministic": torch.get_deterministic_debug_mode,
    "filled": lambda: torch.utils.deterministic.fill_uninitialized_memory,
    "cudnn": lambda: (backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
    "gradients": torch.is_grad_enabled,
    "inference": torch.is_inference_mode_enabled,
    "autocast": lambda: torch.is_autocast_enabled("cpu"),
    "anomalies": torch.is_anomaly_enabled,
    # the old generator of NumPy, which is the one that is shared
    "random": lambda: (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
    "handlers": lambda: {number: signal.getsignal(number) for number in signal.Signals},
    "mask": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, []),
    "logging": lambda: (logging.root.level, list(logging.root.handlers), logging.root.manager.disable),
    "warnings": lambda: list(warnings.filters),
    "environment": lambda: dict(os.environ),
    "folder": os.getcwd,
    "import path": lambda: list(sys.path),
    "streams": lambda: (sys.stdout, sys.stderr),
    "Hydra": lambda: GlobalHydra.instance().hydra,
}
PLACES = (
    backends.cuda.matmul,
    backends.cudnn.conv,
    backends.cudnn.rnn,
    backends.mkldnn.matmul,
    backends.mkldnn.conv,
    backends.mkldnn.rnn,
)


def settings() -> dict[str, Any]:
    return {name: read() for name, read in SETTINGS.items()}


@contextmanager
def put(setter: Callable[[Any], Any], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


@contextmanager
def medium_precision() -> Iterator[None]:
    """Products of float32 in bfloat16, where the processor has them."""
    before = [place.fp32_precision for place in PLACES]
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for place, precision in zip(PLACES, before, strict=True):
            place.fp32_precision = precision


def own_hydra() -> AbstractContextManager[Any]:
    return hydra.initialize_config_dir(str(CONF_DIR), version_base="1.3", job_name="mine")


PROGRAMS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "its own Hydra": own_hydra,
    "float64": lambda: put(torch.set_default_dtype, torch.float64, torch.float32),
    "default device": lambda: put(torch.set_default_device, "meta", None),
    "a device for the block": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "anomalies": lambda: torch.autograd.set_detect_anomaly(mode=True),
    "deterministic": lambda: put(torch.set_deterministic_debug_mode, "error", "default"),
    "two threads": lambda: put(torch.set_num_threads, 2, torch.get_num_threads()),
    "medium precision": medium_precision,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The weights at the end, in a program that has set nothing."""
    folder = tmp_path_factory.mktemp("plain") / "results"
    config = harness.load_config(["device=cpu", "train.steps=6", *CHOICES, f"results.dir={folder}"])
    return str(harness.run_trial(config).trial["final_weights_sha256"])


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_trial_is_the_same_in_any_program_and_leaves_it_alone(
    configure: Configure, expected: str, program: str
) -> None:
    with PROGRAMS[program]():
        before = settings()
        config = configure(*CHOICES)
        row = harness.run_trial(config).trial
        diagnosis = explain.explain(config).diagnosis
        frames = harness.load(config.results.dir)
        after = settings()
    assert (row["status"], row["final_weights_sha256"]) == ("ok", expected), row["error_message"]
    assert diagnosis.network.kind == "fine"
    assert len(frames.trials) == 1
    assert {name for name in before if before[name] != after[name]} == set()


def test_the_hydra_of_the_program_goes_on(configure: Configure) -> None:
    """Its job keeps its name and its resolvers, also one that has the name of Hydra's own."""
    with own_hydra():
        OmegaConf.register_new_resolver("now", lambda pattern: f"mine {pattern}", replace=True)
        try:
            configure(*CHOICES)
            composed = hydra.compose("config", return_hydra_config=True)
            assert composed.hydra.job.name == "mine"
            assert OmegaConf.create({"when": "${now:x}"}).when == "mine x"
        finally:
            OmegaConf.clear_resolver("now")


def test_threads_may_compose_run_and_load_at_once(configure: Configure, expected: str) -> None:
    """Trials of one process run one after the other, because each is timed."""
    ended: list[Any] = []

    def work() -> None:
        try:
            row = harness.run_trial(configure(*CHOICES)).trial
            harness.load(configure().results.dir)
            ended.append((row["status"], row["final_weights_sha256"]))
        except BaseException as error:  # noqa: BLE001 - the test shows it
            ended.append(error)

    before = settings()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [("ok", expected)] * 4
    assert settings() == before
    assert problems_in(configure().results.dir) == []


def test_a_trial_waits_for_anothers_end_off_its_clock(configure: Configure) -> None:
    """It has not begun meanwhile: its time limit does not run, and Ctrl-C ends the waiting."""
    config = configure(*CHOICES, "sweep.trial_timeout_s=2")
    with torch_state.ONE_AT_A_TIME:
        ended: list[Any] = []
        thread = threading.Thread(target=lambda: ended.append(harness.run_trial(config).trial["status"]))
        thread.start()
        time.sleep(2.5)
        assert not list(Path(config.results.dir).glob("*/*"))
    thread.join()
    assert ended == ["ok"]
    holder = threading.Thread(target=hold_for, args=(20.0, begun := threading.Event()))
    holder.start()
    begun.wait()
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        before = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            harness.run_trial(config)
        assert time.monotonic() - before < 10
    finally:
        signal.signal(signal.SIGALRM, handler)
        RELEASE.set()
        holder.join()


RELEASE = threading.Event()


def hold_for(most_s: float, begun: threading.Event) -> None:
    """What a long trial in another thread does."""
    with torch_state.ONE_AT_A_TIME:
        begun.set()
        RELEASE.wait(most_s)


def test_hydra_of_another_thread_is_not_disturbed() -> None:
    """A job that resolves its config while this thread composes ours."""
    wrong: list[BaseException] = []
    over = threading.Event()

    def resolve() -> None:
        while not over.is_set():
            try:
                assert HydraConfig.get().job.name == "mine"
                assert GlobalHydra.instance().is_initialized()
                assert OmegaConf.create({"when": "${now:x}"}).when == "mine x"
            except BaseException as error:  # noqa: BLE001 - the test shows it
                wrong.append(error)
                return

    with own_hydra():
        HydraConfig.instance().set_config(hydra.compose("config", return_hydra_config=True))
        OmegaConf.register_new_resolver("now", lambda pattern: f"mine {pattern}", replace=True)
        thread = threading.Thread(target=resolve)
        thread.start()
        try:
            for _ in range(5):
                harness.load_config(["init=zero"])
        finally:
            over.set()
            thread.join()
            OmegaConf.clear_resolver("now")
            HydraConfig.instance().cfg = None
    assert wrong == []


def test_a_precision_that_is_inherited_stays_so(configure: Configure) -> None:
    before = [place.fp32_precision for place in PLACES]
    for place in PLACES:
        # another test may have given it a precision of its own
        place.fp32_precision = "none"
    backends.fp32_precision = "tf32"
    try:
        assert harness.run_trial(configure(*CHOICES)).ok
        assert {place.fp32_precision for place in PLACES} == {"tf32"}
        backends.fp32_precision = "ieee"
        assert {place.fp32_precision for place in PLACES} == {"ieee"}
    finally:
        backends.fp32_precision = "none"
        for place, precision in zip(PLACES, before, strict=True):
            place.fp32_precision = precision


def test_modules_are_imported_and_the_import_path_stays(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's module may go to another folder, when it is imported and when it draws: results stay where they were."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "wandering.py").write_text(
        "import os\n"
        "from harness.initializers import register\n"
        "os.chdir('elsewhere')\n"
        '@register("wandering")\n'
        "def wandering(shape, *, generator):\n"
        "    os.chdir('/')\n"
        "    import torch\n"
        "    return torch.zeros(shape)\n"
    )
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    config = configure(*CHOICES, "init.modules=[wandering]", "init.weight=wandering", "results.dir=here")
    row = harness.run_trial(config).trial
    monkeypatch.chdir(tmp_path)
    assert row["status"] == "ok", row["error_message"]
    assert sys.path == before
    assert len(harness.load(tmp_path / "here").trials) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_failed_trial_leaves_the_program_alone_too(configure: Configure) -> None:
    before = settings()
    config = configure(*CHOICES, "init.weight=orthogonal", "init.gain=1e30", "data.scaling=raw")
    assert harness.run_trial(config).trial["status"] == "diverged"
    assert settings() == before


def test_a_timer_of_the_program_rings_in_its_time(configure: Configure) -> None:
    """A trial with a time limit uses the same timer."""
    rung: list[float] = []
    handler = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    begun = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 60)
        assert harness.run_trial(configure(*CHOICES, "sweep.trial_timeout_s=50")).ok
        left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        assert 60 - (time.monotonic() - begun) - 1 < left < 60
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert harness.run_trial(configure(*CHOICES, "sweep.trial_timeout_s=50", "train.steps=200")).ok
        time.sleep(0.05)
        assert len(rung) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
