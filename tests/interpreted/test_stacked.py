"""Many models in one launch: against a loop over them, and as what vmap becomes."""

import pytest
import torch
import torch.nn.functional as F
from oracle import DEVICE, assert_equal, gradients, random_inputs, torchs, whole_inputs

from kernels import ConvolutionError, conv2d, conv2d_pool_relu, conv2d_relu, conv2d_stacked, tiles

MODELS = 3
PLAIN = {
    "none": torchs,
    "relu": lambda *a, **k: F.relu(torchs(*a, **k)),
    "pool_relu": lambda *a, **k: F.relu(F.max_pool2d(torchs(*a, **k), 2)),
}
OURS = {"none": conv2d, "relu": conv2d_relu, "pool_relu": conv2d_pool_relu}


def stacks(image: tuple[int, int] = (4, 5), *, groups: int = 1) -> list[torch.Tensor]:
    """Input, weight and bias of each of the models, of whole numbers: sums are exact. One tile to each is quick."""
    models = [whole_inputs((2, 4, *image), (6, 4 // groups, 3, 3), seed=seed) for seed in range(MODELS)]
    return [torch.stack(tensors) for tensors in zip(*models, strict=True)]


def assert_same(ours, theirs, tensors: list[torch.Tensor]) -> None:
    """Values, and gradients of a weighted sum of their squares."""
    results = []
    for function in (ours, theirs):
        leaves = [tensor.detach().requires_grad_() for tensor in tensors]
        y = function(*leaves)
        results.append([y, *torch.autograd.grad((y * y.detach()).sum(), leaves)])
    assert_equal(*results)


@pytest.mark.parametrize("epilogue", PLAIN)
@pytest.mark.parametrize("groups", [1, 2])
def test_each_model_convolves_its_own_images(epilogue: str, groups: int) -> None:
    settings = {"padding": 1, "groups": groups}

    def loop(x, weight, bias):
        return torch.stack([PLAIN[epilogue](*each, **settings) for each in zip(x, weight, bias, strict=True)])

    def ours(x, weight, bias):
        return conv2d_stacked(x, weight, bias, epilogue=epilogue, **settings)

    several_tiles = (6, 6)
    assert_same(ours, loop, stacks(several_tiles, groups=groups))


@pytest.mark.parametrize("epilogue", PLAIN)
def test_all_models_share_one_input(epilogue: str) -> None:
    """Its gradient is the sum over the models."""
    x, weight, bias = stacks()

    def loop(x, weight, bias):
        return torch.stack([PLAIN[epilogue](x, *each, padding=1) for each in zip(weight, bias, strict=True)])

    assert_same(lambda *a: conv2d_stacked(*a, padding=1, epilogue=epilogue), loop, [x[0], weight, bias])


def test_a_stack_is_the_models_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradients of weight and bias are summed in fewer parts, as more models fill a GPU."""
    monkeypatch.setattr(tiles, "PROGRAMS_WANTED", 6)
    x, weight, bias = random_inputs((MODELS, 2, 3, 16, 17), (MODELS, 4, 3, 3, 3))
    stacked = gradients(conv2d_stacked, [x, weight, bias], None)
    models = [gradients(conv2d, [*model], None) for model in zip(x, weight, bias, strict=True)]
    alone = [torch.stack(each) for each in zip(*models, strict=True)]
    assert_equal(stacked[:2], alone[:2])
    assert not torch.equal(stacked[2], alone[2])
    for mine, other in zip(stacked[2:], alone[2:], strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-4)


def test_without_a_bias_and_for_one_model() -> None:
    x, weight, _ = stacks()
    assert_same(conv2d_stacked, lambda x, w: torchs(x[0], w[0])[None], [x[:1], weight[:1]])


@pytest.mark.parametrize(
    ("x", "weight"),
    [((2, 4, 6, 6), (6, 4, 3, 3)), ((4, 2, 4, 6, 6), (3, 6, 4, 3, 3)), ((4, 6, 6), (3, 6, 4, 3, 3))],
    ids=["no models", "other numbers of models", "no batch"],
)
def test_what_is_no_stack_is_refused(x: tuple[int, ...], weight: tuple[int, ...]) -> None:
    with pytest.raises(ConvolutionError, match=r"models"):
        conv2d_stacked(torch.ones(x, device=DEVICE), torch.ones(weight, device=DEVICE))


MAPPED = {
    "all": (0, 0, 0),
    "images": (0, None, None),
    "weights": (None, 0, 0),
    "weights without bias": (None, 0, None),
    "bias alone": (None, None, 0),
    "images and weights": (0, 0, None),
    "other dimensions": (1, 2, 1),
}


def mapped(in_dims: tuple[int | None, ...]) -> list[torch.Tensor]:
    return [t[0] if dim is None else t.movedim(0, dim) for t, dim in zip(stacks(), in_dims, strict=True)]


@pytest.mark.parametrize("epilogue", PLAIN)
@pytest.mark.parametrize("what", MAPPED)
def test_vmap_is_one_launch(what: str, epilogue: str, launches: list[str]) -> None:
    in_dims, tensors = MAPPED[what], mapped(MAPPED[what])
    output = torch.vmap(lambda *a: OURS[epilogue](*a, padding=1), in_dims)(*tensors)
    wanted = torch.vmap(lambda *a: PLAIN[epilogue](*a, padding=1), in_dims)(*tensors)
    assert_equal([output], [wanted])
    assert launches == ["forward_kernel"]


@pytest.mark.parametrize("epilogue", PLAIN)
@pytest.mark.parametrize("what", MAPPED)
def test_gradients_of_each_model_under_vmap(what: str, epilogue: str, launches: list[str]) -> None:
    def of(function):
        def loss(*tensors):
            y = function(*tensors, padding=1)
            return (y * y.detach()).sum()

        return torch.vmap(torch.func.grad(loss, (0, 1, 2)), MAPPED[what])(*mapped(MAPPED[what]))

    assert_equal(of(OURS[epilogue]), of(PLAIN[epilogue]))
    assert launches == ["forward_kernel", "input_gradient_kernel", "weight_gradient_kernel", "add_parts_kernel"]


def test_gradients_through_vmap() -> None:
    x, weight, bias = stacks()

    def of(function):
        def loss(*tensors):
            y = torch.vmap(lambda *a: function(*a, padding=1), (None, 0, 0))(*tensors)
            return (y * y.detach()).sum()

        return torch.func.grad(loss, (0, 1, 2))(x[0], weight, bias)

    assert_equal(of(conv2d), of(torchs))


def test_vmap_over_nothing() -> None:
    """Empty results and gradients; torch's forgets the number of images, and its gradients fail."""
    x, weight, bias = whole_inputs((2, 4, 6, 6), (6, 4, 3, 3))
    none, in_dims = x[None][:0], (0, None, None)
    assert torch.vmap(conv2d, in_dims)(none, weight, bias).shape == (0, 2, 6, 4, 4)
    loss = torch.func.grad(lambda *a: conv2d(*a).sum(), (0, 1, 2))
    assert [t.shape[0] for t in torch.vmap(loss, in_dims)(none, weight, bias)] == [0, 0, 0]
    through = torch.func.grad(lambda *a: torch.vmap(conv2d, in_dims)(*a).sum(), (0, 1, 2))(none, weight, bias)
    assert [t.shape for t in through] == [none.shape, weight.shape, bias.shape]
    assert not any(t.any() for t in through)


def test_vmap_within_vmap(launches: list[str]) -> None:
    """Two sets of images by three models."""
    x, weight, bias = stacks()

    def of(function):
        return torch.vmap(torch.vmap(function, (None, 0, 0)), (0, None, None))(x[:2], weight, bias)

    assert_equal([of(conv2d)], [of(torchs)])
    assert launches == ["forward_kernel"]


def test_vmap_over_a_stack() -> None:
    x, weight, bias = stacks()
    images = torch.stack([x, x.flip(0)])
    output = torch.vmap(conv2d_stacked, (0, None, None))(images, weight, bias)
    wanted = torch.stack([conv2d_stacked(each, weight, bias) for each in images])
    assert_equal([output], [wanted])
