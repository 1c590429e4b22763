"""Adapters of a model: applied, switched, disabled, deleted; everything else frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from paddle_infra.peft.config import AdapterConfig, matches
from paddle_infra.peft.hosts import attach, check_hostable, detach
from paddle_infra.peft.lora import LoRAConfig

_STATE = "_peft_state"
# Parameters of Paddle's normalisation layers that are not learned.
_STATISTICS = ("_mean", "_variance", "weight_u", "weight_v")


@dataclass(frozen=True)
class AppliedAdapter:
    """What was adapted.

    Attributes:
        name: the adapter's name.
        config: its method and settings.
        layers: structured names of the adapted layers.
        train_also: structured names of the model's own parameters that belong to it: every adapter has its own values
            of them.
    """

    name: str
    config: AdapterConfig
    layers: tuple[str, ...]
    train_also: tuple[str, ...]


@dataclass
class State:
    """The adapters of a model.

    Attributes:
        adapters: by name.
        active: which computes and trains; None: none.
        is_merged: whether the active one is in the model's own weights.
        values: of parameters in ``train_also`` of adapters that are not active; under None, the model's own.
        was_frozen: ``stop_gradient`` of all parameters before the first adapter came.
        originals: weights and biases that merging has replaced, by structured name.
    """

    adapters: dict[str, AppliedAdapter] = field(default_factory=dict)
    active: str | None = None
    is_merged: bool = False
    values: dict[str | None, dict[str, Tensor]] = field(default_factory=lambda: {None: {}})
    was_frozen: dict[str, bool] = field(default_factory=dict)
    originals: dict[str, Tensor] = field(default_factory=dict)


def state_of(model: nn.Layer, *, unmerged: bool = False) -> State:
    """Return the adapters of ``model``.

    Raises:
        InvalidInputError: it has none, or with ``unmerged`` the active one is merged.
    """
    state = model.__dict__.get(_STATE)
    if state is None:
        raise InvalidInputError("expected a model that peft.apply was called with, got one without adapters")
    if unmerged and state.is_merged:
        raise InvalidInputError(
            f"expected adapters that are not merged, got {state.active!r} merged: call peft.unmerge"
        )
    return state


def apply(
    model: nn.Layer, config: AdapterConfig, *, name: str = "default", train_also: Sequence[str] = ()
) -> AppliedAdapter:
    """Put an adapter into a model, make it the active one, and freeze everything else.

    No layer is replaced and no parameter renamed: adapted layers get a sublayer ``adapters`` and another class.

    Args:
        model: changed in place.
        config: the method and its settings, such as :class:`LoRAConfig`.
        name: the adapter's name.
        train_also: the model's own layers or parameters to train too, such as ``("head",)``: structured names or their
            last parts. Every adapter has its own values of them; a new one starts from the model's.

    Returns:
        What was adapted.

    Raises:
        InvalidInputError: the name is taken or unsuitable, a pattern matches nothing, or an adapter is merged.
        InvalidDtypeError: an argument has an unsuitable type.
        UnsupportedError: a matching layer cannot be adapted. On any error the model is unchanged.
    """
    if not isinstance(config, AdapterConfig):
        raise InvalidDtypeError(f"config: expected an AdapterConfig, got {type(config).__name__}")
    if not isinstance(name, str) or not name.isidentifier():
        raise InvalidInputError(f"name: expected letters, digits and underscores, got {name!r}")
    state = state_of(model, unmerged=True) if _STATE in model.__dict__ else State()
    if name in state.adapters:
        raise InvalidInputError(f"name: expected a new name, got {name!r}; there are {list(state.adapters)}")
    plan = config.plan(model)
    also = _own_parameters(model, train_also)
    layers = dict(model.named_sublayers())
    hosts = {layer for adapter in state.adapters.values() for layer in adapter.layers}
    for layer in plan:
        check_hostable(layer, layers[layer], is_ours=layer in hosts)
    if not state.was_frozen:
        state.was_frozen = {key: parameter.stop_gradient for key, parameter in model.named_parameters()}
    for layer, make in plan.items():
        attach(layers[layer], name, make())
    model.__dict__[_STATE] = state
    state.adapters[name] = AppliedAdapter(name, config, tuple(plan), tuple(also))
    own = state.values[None]
    # The model's own values, once; of parameters that the active adapter has, they are there already.
    own.update({key: also[key].detach().clone() for key in also if key not in own})
    state.values[name] = {key: own[key].clone() for key in also}
    set_adapter(model, name)
    return state.adapters[name]


def apply_lora(
    model: nn.Layer, *, name: str = "default", train_also: Sequence[str] = (), **options: Any
) -> AppliedAdapter:
    """Call :func:`apply` with ``LoRAConfig(**options)``."""
    return apply(model, LoRAConfig(**options), name=name, train_also=train_also)


def _own_parameters(model: nn.Layer, names: Sequence[str]) -> dict[str, Tensor]:
    """Return the model's own parameters that are, or lie in, what is named."""
    if isinstance(names, str):
        raise InvalidDtypeError(f"train_also: expected a list of names, got {names!r}")
    own = {
        key: parameter
        for key, parameter in model.named_parameters()
        if ".adapters." not in f".{key}" and key.rsplit(".", 1)[-1] not in _STATISTICS
    }
    found: set[str] = set()
    for name in names:
        fitting = {key for key in own if any(matches(prefix, [name]) for prefix in _prefixes(key))}
        if not fitting:
            raise InvalidInputError(
                f"train_also: expected names of layers or parameters, got {name!r}; there are {list(own)}"
            )
        found |= fitting
    return {key: parameter for key, parameter in own.items() if key in found}


def _prefixes(name: str) -> list[str]:
    """Return the names of the layers that a parameter lies in, and its own."""
    words = name.split(".")
    return [".".join(words[: end + 1]) for end in range(len(words))]


def set_adapter(model: nn.Layer, name: str | None) -> None:
    """Let another adapter compute and train, or none: then the model is the old one, all frozen.

    Raises:
        InvalidInputError: there is no such adapter, or one is merged.
    """
    state = state_of(model, unmerged=True)
    if name is not None:
        find(state, name)
    layers, parameters = dict(model.named_sublayers()), dict(model.named_parameters())
    old = () if state.active is None else state.adapters[state.active].train_also
    new = () if name is None else state.adapters[name].train_also
    if name != state.active:
        if state.active is not None:
            state.values[state.active] = {key: parameters[key].detach().clone() for key in old}
        with paddle.no_grad():
            for key in dict.fromkeys((*old, *new)):
                parameters[key].set_value(state.values[name if key in new else None][key])
    for adapter in state.adapters.values():
        for layer in adapter.layers:
            layers[layer].active_name = None
    if name is not None:
        for layer in state.adapters[name].layers:
            layers[layer].active_name = name
    state.active = name
    trained = {*new, *(() if name is None else adapter_parameters(model, name))}
    for key, parameter in parameters.items():
        parameter.stop_gradient = key not in trained


def find(state: State, name: str | None) -> AppliedAdapter:
    """Return an adapter; None: the active one.

    Raises:
        InvalidInputError: there is no such adapter, or none is active.
    """
    wanted = state.active if name is None else name
    found = None if wanted is None else state.adapters.get(wanted)
    if found is None:
        raise InvalidInputError(f"name: expected one of the adapters {list(state.adapters)}, got {name!r}")
    return found


@contextmanager
def disabled(model: nn.Layer) -> Iterator[None]:
    """Let the model be without its active adapter for a while, with its own values of ``train_also``.

    Raises:
        InvalidInputError: there are no adapters, or one is merged.
    """
    state = state_of(model, unmerged=True)
    previous = state.active
    set_adapter(model, None)
    try:
        yield
    finally:
        set_adapter(model, previous)


def delete_adapter(model: nn.Layer, name: str) -> None:
    """Remove an adapter; with the last one the model is as it was before :func:`apply`, gradients included.

    If it is the active one, none is active afterwards.

    Raises:
        InvalidInputError: there is no such adapter, or one is merged.
    """
    state = state_of(model, unmerged=True)
    adapter = find(state, name)
    if state.active == name:
        set_adapter(model, None)
    layers = dict(model.named_sublayers())
    for layer in adapter.layers:
        detach(layers[layer], name)
    del state.adapters[name], state.values[name]
    if not state.adapters:
        forget(model)


def forget(model: nn.Layer) -> None:
    """Remove all that peft knows of a model whose adapters are gone; give its parameters their gradients back."""
    state = model.__dict__.pop(_STATE)
    for key, parameter in model.named_parameters():
        parameter.stop_gradient = state.was_frozen.get(key, parameter.stop_gradient)


def adapters(model: nn.Layer) -> dict[str, AppliedAdapter]:
    """Return the adapters of a model by name; none if it has none."""
    state = model.__dict__.get(_STATE)
    return {} if state is None else dict(state.adapters)


def active_adapter(model: nn.Layer) -> str | None:
    """Return the name of the adapter that computes and trains, or None."""
    state = model.__dict__.get(_STATE)
    return None if state is None else state.active


def adapter_parameters(model: nn.Layer, name: str) -> dict[str, Tensor]:
    """Return the parameters of an adapter by structured name, without those of ``train_also``."""
    layers = dict(model.named_sublayers())
    return {
        f"{layer}.adapters.{name}.{key}": parameter
        for layer in find(state_of(model), name).layers
        for key, parameter in layers[layer].adapters[name].named_parameters()
    }


def trainable_parameters(model: nn.Layer) -> dict[str, Tensor]:
    """Return the parameters that get gradients, by structured name."""
    return {name: p for name, p in model.named_parameters() if not p.stop_gradient}


@dataclass(frozen=True)
class ParameterCounts:
    """How many numbers a model has, adapters included, and how many of them are trained."""

    trainable: int
    total: int

    @property
    def share(self) -> float:
        """Trained ones over all."""
        return self.trainable / self.total if self.total else 0.0

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({self.share:.2%})"


def count_parameters(model: nn.Layer) -> ParameterCounts:
    """Count the parameters of a model and those that get gradients."""
    sizes = [(int(p.size), not p.stop_gradient) for p in model.parameters()]
    return ParameterCounts(sum(n for n, is_trained in sizes if is_trained), sum(n for n, _ in sizes))
