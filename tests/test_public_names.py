"""Every public name says what it is, and every Layer which shapes it takes."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import paddle
import pytest

PACKAGES = ("ops", "nn", "models", "peft", "train", "export", "summary", "explain")


def public(*packages: str) -> list[Any]:
    found = []
    for package in packages:
        module = importlib.import_module(f"paddle_infra.{package}")
        found += [pytest.param(getattr(module, name), id=f"{package}.{name}") for name in module.__all__]
    return found


def documentation(thing: Any) -> str:
    """What it says itself; a subclass's that is inherited does not count."""
    return (
        inspect.cleandoc(vars(thing).get("__doc__") or "")
        if inspect.isclass(thing)
        else inspect.getdoc(thing) or ""
    )


def is_ours(thing: Any) -> bool:
    """Whether it is a class or function of this package, and no constant or name of a type."""
    is_code = inspect.isclass(thing) or inspect.isfunction(thing)
    return is_code and thing.__module__.startswith("paddle_infra.") and not hasattr(thing, "__supertype__")


DOCUMENTED = [p for p in public(*PACKAGES) if is_ours(p.values[0])]


@pytest.mark.parametrize("thing", DOCUMENTED)
def test_a_public_name_is_documented(thing: Any) -> None:
    text = documentation(thing)
    assert len(text.split("\n", 1)[0]) > 15, f"{thing}: expected a summary line"


LAYERS = [
    p
    for p in public("nn", "models")
    if inspect.isclass(p.values[0]) and issubclass(p.values[0], paddle.nn.Layer)
]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_says_its_shapes(layer: type[paddle.nn.Layer]) -> None:
    own = documentation(layer) + (inspect.getdoc(layer.forward) or "")
    has_shapes = "``[" in own or "shapes as" in own.replace("\n", " ").lower() or ":class:" in own
    assert has_shapes, f"{layer.__name__}: expected its shapes, or the class that it shares them with"


def test_there_are_layers_to_look_at() -> None:
    assert len(LAYERS) > 60
    assert len(DOCUMENTED) > 250
