"""``harness.diagnose`` on models of one's own: what it sees, leaves alone and refuses, and its thresholds."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import harness
from harness.diagnosis import GROWS, LARGEST_RATIO, LOSS_BLOW_UP, LOSS_SEES
from harness.diagnosis.case import Case, case_of
from harness.diagnosis.judging import Evidence, Finding, judge
from harness.diagnosis.watching import Course, Passed, Step, watch

EXAMPLES = 24


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES, LABELS = drawn(EXAMPLES, 1, 8, 8), torch.arange(EXAMPLES) % 3
TOKENS = torch.arange(EXAMPLES * 5).reshape(EXAMPLES, 5) % 11


class Pictures(nn.Module):
    """Convolutions up and down, three kinds of normalisation, dropout, a functional activation that works in place."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.batch = nn.BatchNorm2d(4)
        self.down = nn.Conv2d(4, 4, 2, stride=2, groups=2)
        self.group = nn.GroupNorm(2, 4)
        self.up = nn.ConvTranspose2d(4, 2, 2, stride=2)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.2)
        self.last = nn.Linear(128, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.batch(self.first(x)))
        x = F.gelu(self.group(self.down(x)))
        x = F.relu_(self.up(x)).flatten(1)
        return self.last(self.dropout(x))


class Words(nn.Module):
    """An embedding, attention with a residual sum, layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(()))
        self.last = nn.Linear(8, 3)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embedding(tokens)
        mixed, _ = self.attention(x, x, x, need_weights=False)
        return self.last(self.norm(x + self.scale * mixed).mean(dim=1))


class Recurrent(nn.Module):
    """A recurrent layer, and a weight in two parts."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(6, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.lstm(x.flatten(1, 2))[0][:, -1])


class Functional(nn.Module):
    """Nothing but tensors of its own: no module is ever called."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(drawn(16, 64) / 6)
        self.second = nn.Parameter(drawn(3, 16) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(torch.tanh(F.linear(x.flatten(1), self.first)), self.second)


MODELS: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "pictures": (Pictures, IMAGES),
    "words": (Words, TOKENS),
    "recurrent": (Recurrent, IMAGES),
    "functional": (Functional, IMAGES),
    "sequential": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)), IMAGES),
}


def built(name: str) -> tuple[nn.Module, list[tuple[torch.Tensor, torch.Tensor]]]:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    return make(), [(inputs, LABELS)]


@pytest.mark.parametrize("name", MODELS)
def test_a_healthy_model_of_any_kind_is_fine(name: str) -> None:
    model, batches = built(name)
    result = harness.diagnose(model, batches)
    assert result.ok, str(result)
    assert result.to_blame == frozenset()
    assert result.network.kind == "fine", str(result)


FAULTS = [
    # relu behind it lets no gradient through at 0
    ("pictures", ("up.weight", "up.bias"), {"up.weight"}),
    ("pictures", ("batch.weight",), {"batch.weight"}),
    ("words", ("attention.out_proj.weight", "scale"), {"attention.out_proj.weight", "scale"}),
    ("functional", ("first", "second"), {"first", "second"}),
    ("sequential", ("1.weight", "1.bias"), {"1.weight"}),
]


@pytest.mark.parametrize(("name", "zero", "expected"), FAULTS, ids=[f"{name}-{zero[0]}" for name, zero, _ in FAULTS])
def test_what_is_zero_is_to_blame(name: str, zero: tuple[str, ...], expected: set[str]) -> None:
    model, batches = built(name)
    with torch.no_grad():
        for tensor in zero:
            model.get_parameter(tensor).zero_()
    result = harness.diagnose(model, batches)
    assert result.network.kind == "dead", str(result)
    assert result.to_blame == expected, str(result)
    assert all(tensor in str(result) for tensor in expected)


def everything_of(model: nn.Module) -> dict[str, Any]:
    hooks = [(name, len(module._forward_hooks), len(module._backward_hooks)) for name, module in model.named_modules()]
    return {
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "gradients": {name: copy.deepcopy(value.grad) for name, value in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "hooks": hooks,
        "random": (torch.get_rng_state(), random.getstate(), str(np.random.get_state())),  # noqa: NPY002
        "grad": torch.is_grad_enabled(),
    }


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, tuple) and any(isinstance(part, torch.Tensor) for part in first):
        return all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize("mode", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("fault", [None, "up.weight"], ids=["healthy", "faulty"])
def test_the_model_and_the_program_are_left_as_they_were(fault: str | None, *, mode: bool) -> None:
    model, _ = built("pictures")
    if fault:
        nn.init.zeros_(model.get_parameter(fault))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train(mode)
    F.cross_entropy(model(IMAGES), LABELS).backward()
    batches = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, shuffle=True)
    before, state = everything_of(model), copy.deepcopy(optimizer.state_dict())
    with torch.no_grad():
        harness.diagnose(model, batches, optimizer=optimizer)
    after = everything_of(model)
    assert [name for name in before if not same(before[name], after[name])] == []
    assert same(state["state"], optimizer.state_dict()["state"])


def test_a_diagnosis_is_the_same_each_time() -> None:
    """Dropout and the shuffling of the batches included."""
    torch.manual_seed(3)
    model, _ = built("pictures")
    batches = DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8, shuffle=True)
    first, second = (harness.diagnose(model, batches) for _ in range(2))
    assert [step.loss for step in first.steps] == [step.loss for step in second.steps]


def test_batches_of_a_generator_that_draws_differ() -> None:
    """A generator's random numbers go on from batch to batch, although the program gets its own back."""

    def endless() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        while True:
            yield torch.randn(6, 64), torch.arange(6) % 3

    model, _ = built("sequential")
    losses = [step.loss for step in harness.diagnose(model, endless()).steps]
    assert len(set(losses)) == len(losses)


class Gated(nn.Module):
    """Its hidden layer sees only batches whose first number is positive."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.hidden(x * (x[0, 0] > 0)) if x[0, 0] > 0 else x + 0 * self.hidden(x).sum())


@pytest.mark.parametrize(("every", "kind"), [(7, "intermittent"), (10**6, "dead")])
def test_never_and_sometimes_are_told_apart_by_other_batches(every: int, kind: str) -> None:
    torch.manual_seed(0)

    def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = drawn(6, 4, seed=step)
        x[0, 0] = 1.0 if step % every == every - 1 else -1.0
        return x, torch.arange(6) % 3

    result = harness.diagnose(Gated(), batch)
    assert result.layers["hidden"].kind == kind, str(result)


def deep(gain: float, depth: int = 30, width: int = 16) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth):
        layer = nn.Linear(64 if index == 0 else width, width)
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def test_zero_and_underflow_are_told_apart() -> None:
    """0.02^30 is no number in float32 and one in float64; a zero weight is zero in both."""
    faint = harness.diagnose(deep(0.02), [(IMAGES, LABELS)], optimizer=sgd(0.1))
    assert faint.network.kind == "vanishing", str(faint)
    assert "too small for the number format" in faint.layers["1"].reason
    model = deep(1.0)
    for index in (15, 17):
        nn.init.zeros_(model.get_submodule(str(index)).get_parameter("weight"))
    gone = harness.diagnose(model, [(IMAGES, LABELS)], optimizer=sgd(0.1))
    assert gone.network.kind == "dead"
    assert gone.causes.slots == (("15.weight", "17.weight"),)


def sgd(rate: float) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters: torch.optim.SGD(parameters, lr=rate)


def test_underflow_beyond_float64_is_not_called_dead() -> None:
    """1e-12^30 is no number in float64 either."""
    result = harness.diagnose(deep(1e-12), [(IMAGES, LABELS)])
    assert {finding.kind for finding in result.layers.values()} <= {"vanishing", "delayed"}, str(result)


def test_a_rate_whose_updates_rounding_swallows_is_to_blame() -> None:
    model, batches = built("sequential")
    result = harness.diagnose(model, batches, optimizer=sgd(1e-10))
    assert result.network.kind == "rounded away"
    assert result.causes.rate == 1e3
    assert "because of the learning rate" in result.network.reason


def test_what_cannot_be_seen_is_said() -> None:
    class Unseen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.forgotten = nn.Linear(64, 3), nn.Linear(2, 2)
            self.frozen = nn.Linear(64, 64).requires_grad_(requires_grad=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return F.linear(self.frozen(x.flatten(1)), self.used.weight)

    result = harness.diagnose(Unseen(), [(IMAGES, LABELS)])
    assert result.unseen == (
        "signals of used, whose weight is used without calling the module",
        "2 frozen tensors (frozen.weight, frozen.bias), which training does not change",
    )
    assert result.layers["forgotten"].kind == "unused"
    assert result.ok
    assert all(sentence in str(result) for sentence in result.unseen)


def test_a_parameter_that_the_optimizer_does_not_hold_is_said() -> None:
    model, batches = built("sequential")
    result = harness.diagnose(model, batches, optimizer=torch.optim.SGD(model.get_submodule("3").parameters(), lr=0.1))
    assert str(result.layers["1"]) == "unused: the optimizer does not hold it, or with learning rate 0"
    assert result.layers["3"].kind == "fine"


def test_the_result_shows_itself() -> None:
    model, batches = built("sequential")
    nn.init.zeros_(model.get_parameter("1.weight"))
    nn.init.constant_(model.get_parameter("1.bias"), -1.0)
    result = harness.diagnose(model, batches)
    assert list(result.table) == ["layer", "finding", "why", "output_rms", "output_gradient_norm"]
    assert list(result.table["layer"]) == ["1", "3"]
    assert set(result.table["finding"]) == {"dead"}
    page = result._repr_html_()
    assert page.count("<table>") == 2
    assert "1.weight" in page
    assert "1.weight drawn by he" in page


def test_names_are_escaped_in_a_notebook() -> None:
    model = nn.Sequential()
    model.add_module("<b>", nn.Linear(64, 3))
    page = harness.diagnose(nn.Sequential(nn.Flatten(), model), [(IMAGES, LABELS)])._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>.0" not in page


INPUTS: dict[str, Any] = {
    "one pair": (IMAGES, LABELS),
    "lists": [[IMAGES, LABELS]],
    "loader": DataLoader(TensorDataset(IMAGES, LABELS), batch_size=8),
    "generator": ((IMAGES, LABELS) for _ in range(2)),
    "function": lambda _step: (IMAGES, LABELS),
    "arguments": [((IMAGES,), LABELS)],
    "keywords": [({"input": IMAGES}, LABELS)],
}


@pytest.mark.parametrize("form", INPUTS)
def test_batches_may_have_any_usual_form(form: str) -> None:
    model, _ = built("sequential")
    assert harness.diagnose(model, INPUTS[form]).network.kind == "fine"


REFUSED = {
    "no model": (lambda model: (model.state_dict(), INPUTS["one pair"]), {}, TypeError, "model=OrderedDict"),
    "frozen": (
        lambda model: (model.requires_grad_(requires_grad=False), [(IMAGES, LABELS)]),
        {},
        ValueError,
        "model: ",
    ),
    "one step": (lambda model: (model, [(IMAGES, LABELS)]), {"steps": 1}, ValueError, "steps=1: too few"),
    "no batch": (lambda model: (model, []), {}, ValueError, "batches: there is none"),
    "no pairs": (lambda model: (model, [IMAGES]), {}, TypeError, "batches: one is a Tensor"),
    "a tensor": (lambda model: (model, IMAGES), {}, TypeError, "batches=Tensor"),
    "a number": (lambda model: (model, 3), {}, TypeError, "batches=int"),
    "loss": (
        lambda model: (model, [(IMAGES, LABELS)]),
        {"loss": lambda out, _: out},
        ValueError,
        r"loss: it gave \(24, 3\)",
    ),
    "a loss class": (
        lambda model: (model, [(IMAGES, LABELS)]),
        {"loss": nn.CrossEntropyLoss},
        TypeError,
        r"loss=CrossEntropyLoss: a class; give an instance, CrossEntropyLoss\(\)",
    ),
    "a loss name": (
        lambda model: (model, [(IMAGES, LABELS)]),
        {"loss": "mse"},
        TypeError,
        "loss='mse': not understood",
    ),
    "labels": (
        lambda model: (model, [(IMAGES, LABELS[:, None])]),
        {},
        ValueError,
        r"loss: it failed on output \(24, 3\) torch.float32 and targets \(24, 1\) torch.int64 \(",
    ),
    "regression": (
        lambda _model: (nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), [(IMAGES, IMAGES.mean((1, 2, 3)))]),
        {},
        ValueError,
        "cross entropy .the default. over one output is always 0; give loss=",
    ),
    "optimizer": (lambda model: (model, [(IMAGES, LABELS)]), {"optimizer": "sgd"}, TypeError, "optimizer=str"),
    "another's": (
        lambda model: (model, [(IMAGES, LABELS)]),
        {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=1)},
        ValueError,
        "optimizer: it holds no parameter of this model",
    ),
    "lbfgs": (lambda model: (model, [(IMAGES, LABELS)]), {"optimizer": torch.optim.LBFGS}, TypeError, "LBFGS"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_diagnosed_is_refused(case: str) -> None:
    model, _ = built("sequential")
    arguments, keywords, error, words = REFUSED[case]
    given, batches = arguments(model)
    with pytest.raises(error, match=words):
        harness.diagnose(given, batches, **keywords)


MLP: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "sigmoid": nn.Sigmoid}


def as_torch_draws(depth: int, activation: str, head: int = 3) -> nn.Sequential:
    """A dense network as PyTorch fills it, which lets signals shrink by 0.4 a layer with relu."""
    torch.manual_seed(2)
    layers: list[nn.Module] = [nn.Flatten()]
    for index in range(depth):
        layers += [nn.Linear(64 if index == 0 else 32, 32), MLP[activation]()]
    return nn.Sequential(*layers, nn.Linear(32, head))


def adam(rate: float) -> Callable[..., torch.optim.Optimizer]:
    return lambda parameters: torch.optim.Adam(parameters, lr=rate)


@pytest.mark.parametrize(("depth", "activation"), [(6, "gelu"), (8, "relu"), (10, "relu")])
def test_a_small_signal_that_the_optimizer_overcomes_is_no_fault(depth: int, activation: str) -> None:
    """The same network stalls under plain SGD and learns by Adam, so what is found must depend on the optimizer."""
    ends = {}
    for name, optimizer in (("sgd", sgd(0.01)), ("adam", adam(2e-3))):
        model = as_torch_draws(depth, activation)
        found = harness.diagnose(model, [(IMAGES, LABELS)], optimizer=optimizer)
        updates = optimizer(model.parameters())
        for _ in range(300):
            loss = F.cross_entropy(model(IMAGES), LABELS)
            updates.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            updates.step()
        ends[name] = found, float(loss.detach())
    assert ends["adam"][1] < 0.5, "else the network is none to test with"
    assert ends["sgd"][1] > 1.0, "else the network is none to test with"
    assert ends["adam"][0].ok, str(ends["adam"][0])
    assert ends["sgd"][0].network.kind == "vanishing", str(ends["sgd"][0])


class Several(nn.Module):
    """Returns features that the loss does not see, or a loss, beside the logits."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.body, self.last = form, nn.Linear(64, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> Any:
        features = torch.relu(self.body(x.flatten(1)))
        logits = self.last(features)
        if self.form == "tuple":
            return features.detach(), logits
        if self.form == "object":
            return torch.distributions.Categorical(logits=logits)
        return {"loss": 1e-4 * F.cross_entropy(logits, LABELS), "logits": logits}


LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "tuple": lambda out, labels: F.cross_entropy(out[1], labels),
    "object": lambda out, labels: -out.log_prob(labels).mean(),
    "loss": lambda out, _labels: out["loss"],
}


@pytest.mark.parametrize("form", LOSSES)
def test_outputs_may_have_any_form(form: str) -> None:
    result = harness.diagnose(Several(form), [(IMAGES, LABELS)], loss=LOSSES[form], optimizer=sgd(0.1))
    assert result.network.kind == "fine", str(result)
    assert any("sizes of signals" in sentence for sentence in result.unseen) == (form == "object")


class Positions(nn.Module):
    """A table of positions, whose output is the same for every example."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.last = nn.Embedding(5, 8), nn.Linear(8, 3)
        self.tokens = nn.Embedding(11, 8)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = torch.arange(5).expand_as(tokens)
        return self.last((self.tokens(tokens) + self.table(positions)).mean(dim=1))


def test_a_loss_that_falls_by_its_bias_alone_is_no_learning() -> None:
    """A network that answers every image alike still finds the share of each class."""
    torch.manual_seed(0)
    model = deep(1.0, depth=20)
    for index, module in enumerate(model):
        if isinstance(module, nn.Tanh):
            model[index] = nn.Sigmoid()
    nn.init.constant_(model[-1].bias, 0.0)
    model[-1].bias.data[0] = 6.0
    result = harness.diagnose(model, [(IMAGES, LABELS)], optimizer=sgd(0.1))
    assert result.network.kind == "vanishing", str(result)


def test_what_cannot_vary_is_not_vanishing() -> None:
    assert harness.diagnose(Positions(), [(TOKENS, LABELS)]).network.kind == "fine"
    model, _ = built("sequential")
    same_image = IMAGES[:1].expand_as(IMAGES)
    assert harness.diagnose(model, [(same_image, LABELS)]).ok


class SequenceFirst(nn.Module):
    """Takes (time, examples, numbers)."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.middle, self.last = nn.RNN(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.middle(self.recurrent(x)[0][-1])))


class Fixed(nn.Module):
    """Takes 40 examples and no other number."""

    def __init__(self) -> None:
        super().__init__()
        self.middle, self.last = nn.Linear(64, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.middle(x.reshape(40, 64))))


@pytest.mark.parametrize(("make", "shape"), [(SequenceFirst, (5, 40, 8)), (Fixed, (40, 64))])
def test_batches_that_cannot_be_cut_are_not(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    """Experiments take fewer examples where they can."""
    torch.manual_seed(0)
    model = make()
    nn.init.zeros_(model.get_parameter("middle.weight"))
    nn.init.zeros_(model.get_parameter("middle.bias"))
    result = harness.diagnose(model, [(drawn(*shape), torch.arange(40) % 3)])
    assert result.causes.slots == (("middle.weight",),), str(result)


def test_a_faint_model_that_takes_no_cut_batch_is_diagnosed() -> None:
    torch.manual_seed(0)
    model = Fixed()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1e-5 if value.ndim > 1 else 0)
    result = harness.diagnose(model, [(drawn(40, 64), torch.arange(40) % 3)])
    assert result.network.kind == "vanishing", str(result)
    assert result.to_blame == {"middle.weight", "last.weight"}


def test_a_loss_that_refers_to_the_model_leaves_it_alone() -> None:
    model, batches = built("pictures")
    before = everything_of(model)
    inner = copy.deepcopy(model.get_submodule("batch"))

    def loss(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        penalty = sum((value.square().sum() for value in model.parameters()), torch.zeros(()))
        model.get_submodule("batch")(drawn(3, 4, 2, 2))
        return F.cross_entropy(output, labels) + 1e-4 * penalty

    result = harness.diagnose(model, batches, loss=loss)
    assert same(before, everything_of(model))
    assert torch.equal(inner.running_mean, model.get_submodule("batch").get_buffer("running_mean"))
    assert any("closure" in sentence for sentence in result.unseen)


def test_an_error_of_the_model_leaves_the_program_alone() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.calls = nn.Linear(64, 3), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            if self.calls > 2:
                raise KeyError("no more")
            return self.layer(x.flatten(1))

    model = Failing()
    before = everything_of(model)
    with pytest.raises(KeyError, match="no more"):
        harness.diagnose(model, [(IMAGES, LABELS)])
    assert same(before, everything_of(model))
    assert model.calls == 0


def test_a_model_that_wants_its_number_format_is_diagnosed() -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(64, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.dtype == torch.float32, "float32 only"
            return self.last(torch.relu(self.layer(x.flatten(1))))

    model = Picky()
    nn.init.zeros_(model.layer.weight)
    nn.init.zeros_(model.layer.bias)
    result = harness.diagnose(model, [(IMAGES, LABELS)])
    assert result.to_blame == {"layer.weight"}
    assert any("fails in float64 (float32 only" in sentence for sentence in result.unseen), result.unseen


def test_a_layer_is_judged_by_each_of_its_weights() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Parameter(drawn(16, 64) / 6), nn.Parameter(drawn(3, 16) / 4)
            self.down, self.up = nn.Parameter(torch.zeros(4, 64)), nn.Parameter(torch.zeros(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            return torch.relu(x @ self.first.T) @ self.last.T + (x @ self.down.T) @ self.up.T

    result = harness.diagnose(Branch(), [(IMAGES, LABELS)])
    assert result.network.kind == "dead"
    assert result.causes.slots == (("down", "up"),)


def test_zero_tensors_of_one_row_are_diagnosed() -> None:
    """The head of a regression, or a table of positions (1, 1, D)."""
    model = as_torch_draws(2, "relu", head=1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.startswith(("3", "5")):
                value.zero_()
    result = harness.diagnose(model, [(IMAGES, drawn(EXAMPLES, 1))], loss=F.mse_loss)
    assert result.causes.slots == (("3.weight",),), str(result)
    with pytest.warns(UserWarning, match="zero-element"):
        nothing = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 0), nn.Linear(0, 3))
    assert harness.diagnose(nothing, [(IMAGES, LABELS)]).layers["2"].kind == "dead"


def test_the_rate_is_to_blame_for_what_goes_wrong_behind_a_sound_step() -> None:
    model, batches = built("sequential")
    result = harness.diagnose(model, batches, optimizer=sgd(1e4))
    assert result.network.kind in ("exploding", "not finite")
    assert result.to_blame == frozenset()
    assert result.causes.rate is not None


def test_a_random_depth_is_intermittent_on_one_batch_too() -> None:
    class Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.last = nn.ModuleList(nn.Linear(64, 64) for _ in range(4)), nn.Linear(64, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.flatten(1)
            for block in self.blocks:
                x = x + torch.relu(block(x)) * (torch.rand(()) < 0.4)
            return self.last(x)

    torch.manual_seed(0)
    result = harness.diagnose(Deep(), [(IMAGES, LABELS)])
    assert result.ok, str(result)


def test_gpus_that_start_later_are_not_seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batches = built("sequential")
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    harness.diagnose(model, batches)
    assert torch.cuda.is_initialized() or not seeded


# thresholds, at their edges: the same step with one number changed


@pytest.fixture(scope="module")
def watched() -> tuple[Case, Course]:
    torch.manual_seed(0)
    case = case_of(nn.Linear(8, 3), [(drawn(6, 8), torch.arange(6) % 3)], F.cross_entropy, None)
    return case, watch(case, 2)


def changed(
    watched: tuple[Case, Course], *, rms: float = 1.0, gradient: float = 1.0, loss: float = 1.0, later: float = 1.0
) -> tuple[Case, Course]:
    """Steps with a layer whose output has a size and a gradient, relative to inputs and output gradient of 1."""
    case, course = watched
    (name,) = case.layers
    steps = []
    for factor in (1.0, later):
        size = (rms * factor) ** 2
        passed = Passed(1, 1.0, size, 1, size, gradient**2)
        moved = {tensor: replace(seen, moved=True, held=True) for tensor, seen in course.steps[0].tensors.items()}
        steps.append(Step(loss, moved, {name: passed}, 1.0, 1.0))
    return case, replace(course, steps=steps)


def kind(case: Case, course: Course, evidence: Evidence | None = None) -> str:
    return judge(case, course, evidence).network.kind


@pytest.mark.parametrize(("factor", "expected"), [(0.999, "fine"), (1.001, "exploding")])
def test_the_reach_that_is_exploding(watched: tuple[Case, Course], factor: float, expected: str) -> None:
    assert kind(*changed(watched, rms=LARGEST_RATIO * factor)) == expected


@pytest.mark.parametrize(("factor", "expected"), [(0.999, "vanishing"), (1.001, "fine")])
def test_the_reach_that_is_vanishing(watched: tuple[Case, Course], factor: float, expected: str) -> None:
    assert kind(*changed(watched, rms=factor / LARGEST_RATIO)) == expected


@pytest.mark.parametrize(("factor", "expected"), [(0.999, "vanishing"), (1.001, "delayed")])
def test_the_growth_that_is_recovering(watched: tuple[Case, Course], factor: float, expected: str) -> None:
    assert kind(*changed(watched, rms=1e-6, later=GROWS * factor)) == expected


@pytest.mark.parametrize(("factor", "expected"), [(0.999, "fine"), (1.001, "exploding")])
def test_the_loss_that_sees_a_large_signal(watched: tuple[Case, Course], factor: float, expected: str) -> None:
    """A signal of any size is fine where the loss is no worse for it."""
    case, course = changed(watched, rms=1e6, loss=LOSS_SEES * 2 * factor)
    healthy = replace(course.steps[0], loss=2.0)
    assert kind(case, course, Evidence(healthy=healthy)) == expected


@pytest.mark.parametrize(("gradient", "expected"), [(0.999, "fine"), (1.001, "exploding")])
def test_a_large_gradient_needs_no_loss_to_show(watched: tuple[Case, Course], gradient: float, expected: str) -> None:
    case, course = changed(watched, rms=1.1, gradient=LARGEST_RATIO * gradient, loss=2.0)
    assert kind(case, course, Evidence(healthy=course.steps[0])) == expected


@pytest.mark.parametrize(("factor", "expected"), [(0.999, "fine"), (1.001, "exploding")])
def test_the_loss_that_blows_up(watched: tuple[Case, Course], factor: float, expected: str) -> None:
    case, course = changed(watched, loss=2.0)
    course = replace(course, steps=[course.steps[0], replace(course.steps[1], loss=2.0 * LOSS_BLOW_UP * factor)])
    assert kind(case, course) == expected


def test_a_normalisation_behind_a_layer_makes_its_size_harmless(watched: tuple[Case, Course]) -> None:
    """It divides the signal by its size and the gradient with it."""
    assert kind(*changed(watched, rms=1e5, gradient=1e-5)) == "fine"
    assert kind(*changed(watched, rms=1e-5, gradient=1e5)) == "fine"


def test_not_finite_inputs_are_said() -> None:
    model, _ = built("sequential")
    result = harness.diagnose(model, [(IMAGES * math.nan, LABELS)])
    assert result.network.kind == "not finite"
    assert "an input is not a finite number at step 0" in result.network.reason


def test_a_finding_says_itself() -> None:
    assert (str(Finding("fine", "")), str(Finding("dead", "why"))) == ("fine", "dead: why")
