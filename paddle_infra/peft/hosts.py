"""Layers that adapters are in: the model's own layers, which learn to ask the active adapter.

A layer that is adapted stays the same object with the same parameters under the same names; only its class becomes a
subclass of what it was. So everything that knows it (tied weights, lists of layers, optimizers, recomputation) still
does, and without adapters it is the old layer again.
"""

from __future__ import annotations

import functools
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.jit.marker import unified

from paddle_infra import ops
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.nn import Linear, MultiHeadAttention, TransformerEncoder
from paddle_infra.nn.sizes import size_of
from paddle_infra.ops._linear_reference import activate


class Host:
    """What all adapted layers have.

    Attributes:
        adapters: the adapters by name.
        active_name: which of them computes; None: none.
        is_merged: whether the active one is in the layer's own weights.
    """

    adapters: Any  # nn.LayerDict
    active_name: str | None
    is_merged: bool
    _parameters: dict[str, Any]

    @property
    def active(self) -> Any:
        """The adapter that computes, or None."""
        return None if self.active_name is None or self.is_merged else self.adapters[self.active_name]


class _WeightedHost(Host):
    """A layer whose weight others may read: they get what it multiplies by in effect (without LoRA's dropout)."""

    def raw(self, name: str) -> Tensor:
        """Return the layer's own weight or bias."""
        return nn.Layer.__getattr__(self, name)

    def _effective(self, index: int) -> Any:
        bias = self.raw("bias") if "bias" in self._parameters else None
        own = (self.raw("weight"), bias)
        return own[index] if self.active is None else self.active.effective(*own)[index]

    # The setters do nothing: Paddle's __setattr__ calls them first and then keeps the value itself.
    @property
    def weight(self) -> Tensor:
        """The weight in effect."""
        return self._effective(0)

    @weight.setter
    def weight(self, value: Any) -> None:
        pass

    def extra_repr(self) -> str:
        """Return the shape of the weight, and the adapters."""
        return f"weight={self.raw('weight').shape}, active={self.active_name}"


class _LinearHost(_WeightedHost):
    @property
    def bias(self) -> Tensor | None:
        """The bias in effect."""
        return self._effective(1)

    @bias.setter
    def bias(self, value: Any) -> None:
        pass


class AdaptedLinear(_LinearHost, Linear):
    """This package's linear layer: the activation comes after the adapter."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the active adapter."""
        adapter = self.active
        if adapter is None:
            return Linear.forward(self, x)
        weight = self.raw("weight")
        product = ops.linear(
            adapter.before(x), weight, self.raw("bias"), packed_weight=self._packed_weight(weight)
        )
        return activate(adapter.after(product, x), self.activation)


class AdaptedPaddleLinear(_LinearHost, nn.Linear):
    """Paddle's linear layer."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output with the active adapter."""
        adapter = self.active
        if adapter is None:
            return nn.Linear.forward(self, x)
        product = nn.functional.linear(adapter.before(x), self.raw("weight"), self.raw("bias"))
        return adapter.after(product, x)


class AdaptedEmbedding(_WeightedHost, nn.Embedding):
    """Paddle's embedding."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the rows with the active adapter's part."""
        adapter = self.active
        if adapter is None:
            return nn.Embedding.forward(self, x)
        padding_idx = self._padding_idx
        own = nn.functional.embedding(x, self.raw("weight"), padding_idx=padding_idx)
        return own + adapter.rows(x, padding_idx)


class AdaptedAttention(Host, MultiHeadAttention):
    """Attention whose prefix is the active adapter."""

    @property
    def prefix(self) -> nn.Layer | None:
        """The active prefix."""
        return self.active

    @prefix.setter
    def prefix(self, value: Any) -> None:
        raise AttributeError("prefix: use peft.set_adapter")


class AdaptedEncoder(Host, TransformerEncoder):
    """An encoder whose input begins with the active adapter's soft tokens; they are not in its output."""

    def forward(
        self, hidden: Tensor, bias: Tensor | None = None, *, kv_lengths: Tensor | None = None
    ) -> Tensor:
        """Return the hidden states of the real tokens."""
        if self.active is None:
            return TransformerEncoder.forward(self, hidden, bias, kv_lengths=kv_lengths)
        return self._with_prompt(self.active, hidden, bias, kv_lengths)

    def _with_prompt(
        self, prompt: nn.Layer, hidden: Tensor, bias: Tensor | None, kv_lengths: Tensor | None
    ) -> Tensor:
        extended = paddle.concat([prompt(size_of(hidden, 0)), hidden], axis=1)
        seen = _seen_prompt(bias, prompt.length, size_of(hidden, 1))
        lengths = None if kv_lengths is None else kv_lengths + prompt.length
        return TransformerEncoder.forward(self, extended, seen, kv_lengths=lengths)[:, prompt.length :]


def _seen_prompt(bias: Tensor | None, length: int, keys: int | Tensor) -> Tensor | None:
    """Extend a bias to the left by the columns of soft tokens, which every query sees.

    Raises:
        UnsupportedError: it differs from query to query: nobody knows what the soft tokens should see.
    """
    if bias is None:
        return None
    if len(bias.shape) > 1 and bias.shape[-2] != 1:
        raise UnsupportedError(
            "bias: expected one that is the same for every query (shape [..., 1, keys]) with prompt tuning, got shape "
            f"{list(bias.shape)}"
        )
    first = bias[..., :1]
    leading = [-1] * (len(bias.shape) - 1)  # to expand: as they are
    seen = paddle.ones_like(first) if bias.dtype == paddle.bool else paddle.zeros_like(first)
    if bias.shape[-1] == 1:
        bias = bias.expand([*leading, keys])
    return paddle.concat([seen.expand([*leading, length]), bias], axis=-1)


# Paddle's graph capture shall call it as it is: it looks at a shape.
unified(_seen_prompt)

_HOSTS: dict[Any, Any] = {  # the first that fits
    Linear: AdaptedLinear,
    nn.Linear: AdaptedPaddleLinear,
    nn.Embedding: AdaptedEmbedding,
    MultiHeadAttention: AdaptedAttention,
    TransformerEncoder: AdaptedEncoder,
}


@functools.cache
def host_class(cls: Any) -> type:
    """Return the class of a layer of class ``cls`` that is adapted.

    Raises:
        UnsupportedError: ``cls`` has a forward of its own, which may not ask the adapter.
    """
    base = next(base for base in _HOSTS if issubclass(cls, base))
    if cls is base:
        return _HOSTS[base]
    if cls.forward is not base.forward and not cls.__module__.startswith("paddle_infra.nn."):
        raise UnsupportedError(
            f"expected a layer with the forward of {base.__name__}, got {cls.__module__}.{cls.__qualname__}, which has "
            "one of its own: an adapter might not be asked"
        )
    # Calls of the base's methods go to the host, which lies between both.
    return type(f"Adapted{cls.__name__}", (cls, _HOSTS[base]), {})


def check_hostable(name: str, layer: nn.Layer, *, is_ours: bool) -> None:
    """Raise unless adapters can be put into ``layer``.

    Raises:
        UnsupportedError: its class cannot be adapted.
        InvalidInputError: it has a prefix of someone else's, or adapters of another model that it is part of.
    """
    if isinstance(layer, Host):
        if not is_ours:
            raise InvalidInputError(
                f"{name}: expected a layer without adapters, got one that peft.apply has adapted in another model: in "
                "a part of this one, or in one that this is part of"
            )
        return
    cls: Any = type(layer)
    try:
        host_class(cls)
    except UnsupportedError as error:
        raise UnsupportedError(f"{name}: {error}") from error
    if isinstance(layer, MultiHeadAttention) and layer.prefix is not None:
        raise InvalidInputError(f"{name}: prefix: expected None, got a {type(layer.prefix).__name__}")


def attach(layer: nn.Layer, name: str, adapter: nn.Layer) -> None:
    """Put an adapter into a layer; it does not compute yet."""
    if not isinstance(layer, Host):
        cls: Any = type(layer)
        # Not through Paddle's __setattr__, which is about parameters and sub-layers.
        object.__setattr__(layer, "__class__", host_class(cls))
        layer.active_name, layer.is_merged = None, False
        layer.adapters = nn.LayerDict()
    adapter.training = layer.training
    layer.adapters[name] = adapter


def detach(layer: nn.Layer, name: str) -> None:
    """Remove an adapter, which is not active, from a layer."""
    del layer.adapters[name]
    if len(layer.adapters):
        return
    del layer.adapters, layer.active_name, layer.is_merged
    cls = type(layer)
    own = next((base for base, host in _HOSTS.items() if host is cls), cls.__bases__[0])
    object.__setattr__(layer, "__class__", own)
