"""The page with the table of exports: complete, of this form, and not out of date in what it says."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest
from paddle import nn

import paddle_infra as pi
from tests.export.in_process import worker_in_process
from tests.export.make_table import PAGE, TARGETS, cell
from tests.export.table_cases import LAYERS, NOT_EXPORTED
from tests.export.table_models import MODELS

NUMBER = re.compile(r"\d\.\de[-+]\d\d")
ROWS = {
    name: cells
    for name, *cells in (
        [part.strip(" `") for part in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if "|" in line
    )
}


def layers_of(package: ModuleType) -> set[str]:
    found = {name: getattr(package, name) for name in package.__all__}
    return {n for n, kind in found.items() if inspect.isclass(kind) and issubclass(kind, nn.Layer)}


def test_every_public_layer_and_model_is_there() -> None:
    assert layers_of(pi.nn) | layers_of(pi.models) == set(LAYERS) | set(MODELS) | set(NOT_EXPORTED)
    for name in {**LAYERS, **MODELS}:
        assert len(ROWS[name]) == len(TARGETS), name
    for name, reason in NOT_EXPORTED.items():
        assert f"- `{name}`: {reason}" in PAGE.read_text()


def test_every_refusal_has_its_reason() -> None:
    text = PAGE.read_text()
    for name in {**LAYERS, **MODELS}:
        for target, found in zip(TARGETS, ROWS[name], strict=True):
            assert (NUMBER.fullmatch(found) is None) == (f"\n- {name}, {target}: " in text), (name, target)


def test_nearly_everything_is_exported() -> None:
    """To our own targets; paddle2onnx is there to compare."""
    found = [
        cells[index] for name, cells in ROWS.items() if name in {**LAYERS, **MODELS} for index in range(5)
    ]
    assert sum(NUMBER.fullmatch(text) is not None for text in found) >= 0.95 * len(found)
    assert all(float(text) <= 1e-4 for text in found if NUMBER.fullmatch(text))


@pytest.mark.parametrize("name", ["MLP", "LSTM"])
@pytest.mark.parametrize("target", ["Paddle, standard", "ONNX, decomposed"])
def test_the_page_says_what_is_measured(name: str, target: str, tmp_path: Path) -> None:
    """To one decimal power or better: the last bits depend on the machine."""
    exporter, options = TARGETS[target]
    with worker_in_process():
        text, reason = cell(LAYERS[name], exporter, options, tmp_path / "export")
    assert not reason
    said = float(ROWS[name][list(TARGETS).index(target)])
    assert float(text) <= max(10 * said, 1e-6)
