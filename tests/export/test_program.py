from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddle_infra._core.errors import ExportError, NameMismatch
from paddle_infra.export import ExportReport
from paddle_infra.export._program import Program
from paddle_infra.export.spec import TensorInfo


def program_with(tmp_path: Path, *operators: dict) -> Program:
    path = tmp_path / "model.json"
    path.write_text(
        json.dumps(
            {"program": {"regions": [{"#": "region_0", "blocks": [{"#": "block_0", "ops": operators}]}]}}
        )
    )
    return Program(path)


def test_a_saved_program_is_read(paddle_report: ExportReport) -> None:
    program = Program(paddle_report.path / "model.json")
    assert program.inputs == (
        TensorInfo("input_ids", "int64", (None, None)),
        TensorInfo("attention_mask", "int64", (None, None)),
    )
    assert program.outputs == (
        TensorInfo("logits", "float32", (None, 3)),
        TensorInfo("pooled", "float32", (None, 16)),
    )
    assert {"pd_op.embedding", "pd_op.leaky_relu", "pd_op.matmul"} <= set(program.operators)
    assert program.custom_operators == []
    assert sorted(info.shape for info in program.parameters) == [(3,), (8, 16), (16,), (16, 3), (50, 8)]
    assert not program.has_double_lists


def test_custom_operators_are_found_in_nested_blocks(tmp_path: Path) -> None:
    inner = {"#": "3.my_attention", "A": [], "I": [], "O": []}
    outer = {
        "#": "1.if",
        "A": [],
        "I": [],
        "O": [],
        "regions": [{"#": "region_1", "blocks": [{"ops": [inner]}]}],
    }
    assert program_with(tmp_path, outer).custom_operators == ["my_attention"]


def test_float64_attributes_are_retagged_and_nothing_else(tmp_path: Path) -> None:
    attributes = [
        {"N": "slope", "AT": {"#": "0.a_f64", "D": 0.2}},
        {"N": "name", "AT": {"#": "0.a_str", "D": "0.a_f64"}},
        {"N": "scale", "AT": {"#": "0.a_array", "D": [{"#": "0.a_f64", "D": 2.0}]}},
    ]
    program = program_with(tmp_path, {"#": "1.leaky_relu", "A": attributes, "I": [], "O": []})
    assert program.has_double_lists
    program.store_doubles_as_floats()
    program.save()
    saved = Program(program.path)
    assert not saved.has_double_lists
    assert saved.path.read_text().count('"0.a_f32"') == 2
    assert '"D":"0.a_f64"' in saved.path.read_text()


def test_the_number_of_outputs_must_fit(tmp_path: Path) -> None:
    with pytest.raises(NameMismatch, match=r"expected 1 outputs \['y'\], the program has 0"):
        program_with(tmp_path).rename_outputs(("y",))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"program"'])
def test_an_incomplete_program_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "model.json"
    path.write_text(text)
    with pytest.raises(ExportError, match="expected a PIR program in JSON, got an unreadable one"):
        Program(path)
