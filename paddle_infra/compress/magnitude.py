"""Magnitude pruning: the smallest weights are zero, exactly as many as asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import paddle

from paddle_infra._core.checks import check_choice, check_number
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.compress.sublayers import Layer, check_model, chosen


class SparsityMasks:
    """Which weights of a model are kept, by the names of their parameters.

    Files and time do not shrink: products are dense. Zeros compress (a zipped file of a model with 80 % zeros is much
    smaller) and show how much a model could lose.

    Attributes:
        masks: bool arrays, True where a weight is kept.
    """

    def __init__(self, masks: Mapping[str, np.ndarray]) -> None:
        self.masks = dict(masks)
        self._tensors: dict[str, paddle.Tensor] = {}

    def apply(self, model: Layer) -> None:
        """Set the pruned weights to zero (again): call it after every step of an optimizer.

        Raises:
            InvalidInputError: the model has no such parameter, or of another shape.
        """
        parameters = dict(model.named_parameters())
        for name, mask in self.masks.items():
            found = list(parameters[name].shape) if name in parameters else None
            if found != list(mask.shape):
                raise InvalidInputError(
                    f"{name}: expected a parameter of shape {list(mask.shape)}, got {found}"
                )
        with paddle.no_grad():
            for name, mask in self.masks.items():
                weight = parameters[name]
                if name not in self._tensors:
                    self._tensors[name] = paddle.to_tensor(mask)
                # where, not a product: a NaN or an infinity times 0 would stay.
                paddle.assign(paddle.where(self._tensors[name], weight, paddle.zeros_like(weight)), weight)

    @property
    def sparsity(self) -> float:
        """The share of pruned weights among those that have a mask."""
        total = sum(mask.size for mask in self.masks.values())
        return 1.0 - sum(int(mask.sum()) for mask in self.masks.values()) / total


def prune_weights(
    model: Layer,
    sparsity: float,
    *,
    names: str | Sequence[str] = "*",
    exclude: Sequence[str] = (),
    scope: Literal["layer", "model"] = "layer",
) -> SparsityMasks:
    """Set the weights of linear layers with the smallest magnitudes to zero, in place.

    Exactly ``round(sparsity · n)`` of ``n`` weights become zero; of equal magnitudes the first ones. Biases stay.

    Args:
        model: the model.
        sparsity: from 0 to 1.
        names: pattern of the linear layers' names, or several.
        exclude: patterns to leave out.
        scope: ``"layer"`` prunes each layer alike, ``"model"`` ranks the weights of all of them together.

    Returns:
        The masks: apply them after every optimizer step if training goes on.

    Raises:
        InvalidInputError: an argument is out of range, a pattern fits nothing, or a weight is not finite.
        UnsupportedError: a layer is quantized.

    References:
        Han et al., "Learning both weights and connections", arXiv:1506.02626; across layers, arXiv:1803.03635.
    """
    check_model(model)
    check_number("sparsity", sparsity, 0.0, 1.0)
    check_choice("scope", scope, ("layer", "model"))
    linears = chosen(model, lambda x: isinstance(x, paddle.nn.Linear), names, exclude, "linear layers")
    if not linears:
        raise UnsupportedError("names: expected linear layers that are not excluded, got none")
    weights = {f"{name}.weight": layer.weight.numpy() for name, layer in linears.items()}
    for name, weight in weights.items():
        if not np.isfinite(weight).all():
            raise InvalidInputError(f"{name}: expected finite numbers, got a NaN or an infinity")
    groups: list[list[Any]] = [list(weights)] if scope == "model" else [[name] for name in weights]
    masks = SparsityMasks(
        {name: mask for group in groups for name, mask in _masks(weights, group, sparsity).items()}
    )
    masks.apply(model)
    return masks


def _masks(weights: Mapping[str, np.ndarray], group: list[str], sparsity: float) -> dict[str, np.ndarray]:
    sizes = np.concatenate([np.abs(weights[name]).ravel() for name in group])
    kept = np.ones(sizes.size, bool)
    kept[np.argsort(sizes, kind="stable")[: round(sparsity * sizes.size)]] = False
    ends = np.cumsum([weights[name].size for name in group])[:-1]
    return {
        name: part.reshape(weights[name].shape)
        for name, part in zip(group, np.split(kept, ends), strict=True)
    }
