"""The harness's own peers: one trial by an engine, and R trials as one stack, as a sweep's worker trains them."""

from contextlib import ExitStack

import torch
from peer_process import PeerTask

import harness
from harness import TrialConfig, device, engine, fusion, kernel_choice, models, torch_state
from harness.engine import stacked_graph
from harness.engine.stacked import stacked_batches
from harness.train import batch_source

MOST_STEPS = 2**18


class Single:
    """One network by an engine, under the flags of a trial; a round is one timing window."""

    def __init__(self, name: str, threads: int, device_name: str) -> None:
        self._choices = [f"device={device_name}", f"device.threads={threads}", *self.choices(name, device_name)]
        self.config = self._configured(50, 1e-4)
        self.device = device.resolve(self.config.device)
        # as the command and its workers do
        device.settle_process(self.config.device)
        self._settings = ExitStack()
        self._settings.enter_context(torch_state.set_for(self.config.device))
        self.versions = f"torch {torch.__version__}, initbench {harness.__version__}"

    @staticmethod
    def choices(name: str, _device_name: str) -> list[str]:
        """Return the overrides that choose the engine and the kernel of this name."""
        engine_name, _, fused = name.removeprefix("ours_").partition("_")
        return [f"engine={engine_name}", *(["kernel=triton_fused"] if fused else [])]

    def _configured(self, batch_size: int, lr: float) -> TrialConfig:
        train = [f"train.batch_size={batch_size}", f"train.steps={MOST_STEPS}", f"optimizer.lr={lr!r}"]
        return harness.load_config([*self._choices, *train])

    def filled(self, task: PeerTask, model: int) -> models.Network:
        """Build the network as a trial does, and fill it with a model's weights."""
        network = models.build(self.config.model).to(self.device)
        network.to(memory_format=kernel_choice.memory_format(self.config, self.device))
        with torch.no_grad():
            for parameter, values in zip(network.parameters(), task.weights, strict=True):
                parameter.copy_(torch.from_numpy(values[model]))
        return network

    def load(self, task: PeerTask) -> None:
        """Take weights and batch, with an engine of its own."""
        self.config = self._configured(len(task.labels), task.lr)
        self._at = 0
        images, labels = (torch.from_numpy(values).to(self.device) for values in (task.images_NCHW, task.labels))
        self._begin(task, images, labels)

    def _begin(self, task: PeerTask, images_NCHW: torch.Tensor, labels: torch.Tensor) -> None:
        batches = batch_source(images_NCHW, labels, None, len(labels))
        network = fusion.Trained(self.filled(task, 0), kernel_choice.kernel_of(self.config)).train()
        self._losses = torch.full((MOST_STEPS,), torch.nan, device=self.device)
        self._engine = engine.prepare(self.config, network, batches, self._losses).engine

    def _take(self, window: range) -> None:
        self._engine.run(window)
        device.synchronise(self.device)
        self._engine.right()

    def _window(self, steps: int) -> range:
        window = range(self._at, self._at + steps)
        self._at = window.stop
        return window

    def losses(self, steps: int) -> list[list[float]]:
        """Train; a list for each model."""
        window = self._window(steps)
        self._take(window)
        lists: list[list[float]] = self._losses.view(-1, MOST_STEPS)[:, window.start : window.stop].tolist()
        return lists

    def run(self, steps: int) -> None:
        """Train one window, and look for losses that are not finite, as a trial does.

        Raises:
            RuntimeError: one is not.
        """
        window = self._window(steps)
        self._take(window)
        if not torch.isfinite(self._losses[..., window.start : window.stop]).all():
            raise RuntimeError("a loss is not finite")


class Stacked(Single):
    """R networks in one stack."""

    @staticmethod
    def choices(name: str, device_name: str) -> list[str]:
        """Return the overrides that choose the engine of this device and the kernel of this name."""
        return Single.choices(name.replace("stacked", "eager" if device_name == "cpu" else "graph"), device_name)

    def _begin(self, task: PeerTask, images_NCHW: torch.Tensor, labels: torch.Tensor) -> None:
        count = len(task.weights[0])
        networks = [self.filled(task, model) for model in range(count)]
        batches = stacked_batches(images_NCHW, labels, [None] * count, len(labels))
        self._losses = torch.full((count, MOST_STEPS), torch.nan, device=self.device)
        kernel, optimizers = kernel_choice.kernel_of(self.config), [self.config.optimizer] * count
        stack = stacked_graph.Stack(networks, kernel, optimizers, batches, self._losses, self.config.train)
        self._stack = stacked_graph.prepare(self.config.engine, stack).training

    def _take(self, window: range) -> None:
        self._stack.run(window)
        device.synchronise(self.device)
        self._stack.right()
