"""What vmap does to the operators; importing it tells torch.

Under ``torch.func.vmap`` a convolution of one model becomes one launch: mapped images alone are more images, and with
mapped weights there are as many models as it maps over.
"""

from collections.abc import Sequence

from torch import Tensor

from .operators import convolution, input_gradient, weight_gradient


def _stack(tensor: Tensor | None, dim: int | None, batch: int, models: int) -> Tensor | None:
    """An argument (models or 1, ...) that vmap maps over ``dim`` -> (batch * models, ...)."""
    if tensor is None:
        return None
    mapped = tensor.unsqueeze(0) if dim is None else tensor.movedim(dim, 0)
    return mapped.expand(batch, models, *mapped.shape[2:]).flatten(0, 1)


def _stack_or_share(tensor: Tensor, dim: int | None, batch: int, models: int) -> Tensor | None:
    """The same, but what all models share stays (1, ...)."""
    return tensor if dim is None and tensor.shape[0] == 1 else _stack(tensor, dim, batch, models)


def _as_images(tensor: Tensor | None, dim: int | None, batch: int) -> Tensor | None:
    """An argument (1, N, ...) of one model -> (1, batch * N, ...): images that it is mapped over are more images."""
    if tensor is None:
        return None
    mapped = tensor.unsqueeze(0).expand(batch, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
    return mapped.transpose(0, 1).flatten(1, 2)


def _length(tensor: Tensor, dim: int | None, axis: int) -> int:
    """Return the size of an axis (0 models, 1 images), the mapped one aside."""
    return tensor.shape[axis if dim is None or dim > axis else axis + 1]


def _unflatten(tensor: Tensor, axis: int, batch: int, count: int) -> Tensor:
    return tensor.reshape(*tensor.shape[:axis], batch, count, *tensor.shape[axis + 1 :])


def _unmapped(
    outputs: Sequence[Tensor], axis: int, batch: int, count: int
) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
    """Take the mapped axis out of each output, as vmap wants it; what is empty was not mapped."""
    mapped = tuple(out if out.dim() == 1 else _unflatten(out, axis, batch, count) for out in outputs)
    return mapped, tuple(None if out.dim() == 1 else axis for out in outputs)


@convolution.register_vmap
def _(info, in_dims, x, weight, bias, *settings):  # type: ignore[no-untyped-def]
    batch, (x_dim, weight_dim, bias_dim) = info.batch_size, in_dims[:3]
    models = max(_length(x, x_dim, 0), _length(weight, weight_dim, 0))
    if models == 1 and weight_dim is None and bias_dim is None:
        outputs = convolution(_as_images(x, x_dim, batch), weight, bias, *settings)
        return _unmapped(outputs, 1, batch, _length(x, x_dim, 1))
    biases = _stack(bias, bias_dim, batch, models)
    stacked = _stack_or_share(x, x_dim, batch, models), _stack(weight, weight_dim, batch, models), biases
    return _unmapped(convolution(*stacked, *settings), 0, batch, models)


@input_gradient.register_vmap
def _(info, in_dims, dy, gate, weight, image, shared, *settings):  # type: ignore[no-untyped-def]
    batch, (dy_dim, gate_dim, weight_dim) = info.batch_size, in_dims[:3]
    models = max(_length(dy, dy_dim, 0), _length(weight, weight_dim, 0))
    if models == 1 and weight_dim is None:
        dx = input_gradient(
            _as_images(dy, dy_dim, batch), _as_images(gate, gate_dim, batch), weight, image, shared, *settings
        )
        return _unflatten(dx, 1, batch, _length(dy, dy_dim, 1)), 1
    stacked = [_stack(t, dim, batch, models) for t, dim in ((dy, dy_dim), (gate, gate_dim), (weight, weight_dim))]
    dx = _unflatten(input_gradient(*stacked, image, False, *settings), 0, batch, models)
    return dx.sum(1, keepdim=True) if shared else dx, 0


@weight_gradient.register_vmap
def _(info, in_dims, x, dy, gate, *settings):  # type: ignore[no-untyped-def]
    batch, (x_dim, dy_dim, gate_dim) = info.batch_size, in_dims[:3]
    models = max(_length(x, x_dim, 0), _length(dy, dy_dim, 0))
    stacked = _stack(dy, dy_dim, batch, models), _stack(gate, gate_dim, batch, models)
    gradients = weight_gradient(_stack_or_share(x, x_dim, batch, models), *stacked, *settings)
    return _unmapped(gradients, 0, batch, models)
