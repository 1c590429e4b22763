"""What adapters of linear layers do."""

from __future__ import annotations

from typing import Any

from paddle import Tensor, nn

from paddle_infra._core.errors import UnsupportedError


class LinearAdapter(nn.Layer):
    r"""Changes a linear layer: :math:`x \mapsto \mathrm{after}(\mathrm{before}(x)\, W + b,\; x)`.

    A layer's activation, if it has one, comes afterwards.
    """

    is_mergeable = True
    """Whether some weight and bias alone give the same layer."""

    def before(self, x: Tensor) -> Tensor:
        """Return what is multiplied by the weight, ``[..., in_features]``."""
        return x

    def after(self, product: Tensor, x: Tensor) -> Tensor:
        """Return the layer's output, ``[..., out_features]``."""
        return product

    def effective(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return weight and bias of the same layer without adapter.

        Raises:
            UnsupportedError: there are none.
        """
        raise UnsupportedError(
            f"{type(self).__name__}: expected an adapter that a weight can express (LoRA, AdaLoRA, IA³), got one that "
            "is no linear function"
        )


def new_parameter(layer: nn.Layer, shape: list[int], like: Tensor, initializer: Any) -> Tensor:
    """Return a parameter of ``layer`` with the dtype of another one."""
    return layer.create_parameter(shape, dtype=like.dtype, default_initializer=initializer)


def raw_weight(layer: nn.Layer) -> Tensor:
    """Return a layer's own weight, whatever adapters it has."""
    return layer._parameters["weight"]
