from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import (
    AxisMismatch,
    DtypeMismatch,
    ExportError,
    InvalidInputError,
    NameMismatch,
    VerificationError,
)
from paddle_infra.export import ExportReport, load_predictor
from tests.export.models import token_examples


@pytest.mark.parametrize("kind", ["paddle", "onnx"])
def test_both_engines_give_the_models_outputs(
    kind: str, request: pytest.FixtureRequest, classifier: paddle.nn.Layer
) -> None:
    predict = load_predictor(request.getfixturevalue(f"{kind}_report").path, threads=2)
    classifier.eval()
    for batch, length in ((1, 3), (4, 17)):
        inputs = token_examples(batch, length)
        expected = classifier(**{name: paddle.to_tensor(value) for name, value in inputs.items()})
        outputs = predict(inputs)
        assert list(outputs) == [spec.name for spec in predict.manifest.outputs]
        np.testing.assert_allclose(outputs["logits"], expected["logits"].numpy(), atol=1e-5)
    classifier.train()
    classifier.hidden.eval()
    assert predict.engine.split()[0] == {"paddle": "paddle.inference", "onnx": "onnxruntime"}[kind]


@pytest.mark.parametrize("kind", ["paddle", "onnx"])
def test_threads_take_turns(kind: str, request: pytest.FixtureRequest) -> None:
    predict = load_predictor(request.getfixturevalue(f"{kind}_report").path)
    batches = [token_examples(1 + i % 4, 6 + i) for i in range(8)]
    expected = [predict(batch)["logits"] for batch in batches]
    wrong: list[int] = []

    def work() -> None:
        for _ in range(10):
            wrong.extend(
                i for i, b in enumerate(batches) if not np.array_equal(predict(b)["logits"], expected[i])
            )

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_wrong_inputs_are_refused_before_the_engine_sees_them(paddle_report: ExportReport) -> None:
    predict = load_predictor(paddle_report.path)
    good = token_examples()
    with pytest.raises(NameMismatch, match=r"expected tensors named \['input_ids', 'attention_mask'\], got"):
        predict({"input_ids": good["input_ids"]})
    with pytest.raises(DtypeMismatch, match="'input_ids': expected dtype int64, got int32"):
        predict({**good, "input_ids": good["input_ids"].astype("int32")})
    with pytest.raises(AxisMismatch, match=r"axis 0 \(batch\): expected size 4, got 3"):
        predict({**good, "attention_mask": good["attention_mask"][:3]})
    with pytest.raises(AxisMismatch, match=r"expected shape \['batch', 'length'\], got \[9\]"):
        predict({**good, "input_ids": good["input_ids"][0]})
    with pytest.raises(InvalidInputError, match=r"expected at least one element, got shape \(0, 9\)"):
        predict({name: value[:0] for name, value in good.items()})


def test_a_changed_file_is_not_loaded(
    onnx_report: ExportReport, copy_of: Callable[[ExportReport], Path], tmp_path: Path
) -> None:
    folder = copy_of(onnx_report)
    (folder / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(VerificationError, match=r"model\.onnx: the file has changed"):
        load_predictor(folder)
    with pytest.raises(ExportError, match=r"the engine cannot load model\.onnx"):
        load_predictor(folder, check_hashes=False)
    with pytest.raises(ExportError, match="expected an export"):
        load_predictor(tmp_path / "nowhere")
    with pytest.raises(InvalidInputError, match="threads: expected at least 1, got 0"):
        load_predictor(onnx_report.path, threads=0)
