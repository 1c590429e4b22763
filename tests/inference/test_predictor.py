from __future__ import annotations

import copy
import multiprocessing
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import (
    AxisMismatch,
    DtypeMismatch,
    ExportError,
    InvalidDtypeError,
    InvalidInputError,
    MissingExtraError,
    NameMismatch,
    UnsupportedError,
    VerificationError,
)
from paddle_infra._core.runtime import CpuInfo, cpu_info
from paddle_infra.inference import Predictor, backends
from tests.inference.models import ENGINES, token_inputs


@pytest.fixture(scope="session")
def predictors(tagger_exports: Path) -> Callable[[str], Predictor]:
    """Predictors that may run four calls at once, opened once."""
    opened: dict[str, Predictor] = {}

    def get(backend: str) -> Predictor:
        if backend not in opened:
            opened[backend] = Predictor(tagger_exports, backend=backend, concurrency=4)
        return opened[backend]

    return get


@pytest.mark.parametrize("backend", ENGINES)
def test_a_transformer_gives_the_models_numbers(
    backend: str, predictors: Callable[[str], Predictor], tagger: paddle.nn.Layer
) -> None:
    predictor = predictors(backend)
    for batch, length in ((1, 1), (3, 17), (5, 32)):
        inputs = token_inputs(batch, length, seed=length)
        expected = tagger(**{name: paddle.to_tensor(value) for name, value in inputs.items()}).numpy()
        outputs = predictor(inputs)
        assert list(outputs) == ["logits"]
        np.testing.assert_allclose(outputs["logits"], expected, atol=1e-5, rtol=0)
    assert predictor.engine.split()[0].split(".")[0] == backend
    assert predictor.decision.chosen.backend == backend
    assert predictor.decision.reason == "asked for"


@pytest.mark.parametrize("backend", ENGINES)
def test_interpolation(backend: str, image_exports: Path) -> None:
    image = np.random.default_rng(5).standard_normal((2, 3, 8, 8)).astype("float32")
    with Predictor(image_exports, backend="onnxruntime") as reference:
        expected = reference({"image": image})["larger"]
    with Predictor(image_exports, backend=backend) as predictor:
        larger = predictor({"image": image})["larger"]
    assert larger.shape == (2, 4, 16, 16)
    np.testing.assert_allclose(larger, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("backend", ENGINES)
def test_eight_threads_get_the_serial_results(backend: str, predictors: Callable[[str], Predictor]) -> None:
    predictor = predictors(backend)
    batches = [token_inputs(1 + i % 4, 3 + 2 * i, seed=i) for i in range(12)]
    expected = [predictor(batch)["logits"] for batch in batches]
    wrong: list[int] = []
    counted: list[int] = []

    def work(number: int) -> None:
        for turn in range(60):
            index = (number * 5 + turn) % len(batches)
            if not np.array_equal(predictor(batches[index])["logits"], expected[index]):
                wrong.append(index)
            counted.append(index)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(counted) == 8 * 60
    assert wrong == []


def test_paddle_meets_one_thread_for_each_engine(
    predictors: Callable[[str], Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its oneDNN keeps memory for every thread that it ever met."""
    predictor, seen = predictors("paddle"), []
    for engine in predictor._pool._idle:
        run = engine.engine._run
        monkeypatch.setattr(
            engine.engine, "_run", lambda run=run: (seen.append(threading.get_ident()), run())
        )
    for index in range(12):
        thread = threading.Thread(target=predictor, args=(token_inputs(1, 3 + index),))
        thread.start()
        thread.join()
    assert len(seen) == 12
    assert len(set(seen)) <= 4
    assert threading.get_ident() not in seen


class _Counter:
    """A thread that counts whenever it may run."""

    def __init__(self) -> None:
        self.count, self._is_running = 0, True
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        while self._is_running:
            self.count += 1

    def __enter__(self) -> _Counter:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_running = False
        self._thread.join()


@pytest.mark.parametrize("backend", ENGINES)
def test_other_threads_run_while_the_engine_computes(
    backend: str, predictors: Callable[[str], Predictor], monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, old = token_inputs(16, 128), sys.getswitchinterval()
    sys.setswitchinterval(0.3)  # longer than a call: the thread counts only if the lock is given up by itself
    try:
        with predictors(backend)._pool.borrow() as (lent,):
            engine = getattr(lent, "engine", lent)

            def counted() -> int:
                engine.run(inputs)
                with _Counter() as counter:
                    before = counter.count
                    engine.run(inputs)
                    return counter.count - before

            assert any(counted() > 1000 for _ in range(5))  # the other thread must also be given a core
            if backend == "paddle":  # Paddle's own call does keep the lock: the test can tell
                monkeypatch.setattr(engine, "_run", engine._predictor.run)
                assert min(counted() for _ in range(2)) < 1000
    finally:
        sys.setswitchinterval(old)


def test_auto_takes_the_fastest_and_says_why(tagger_exports: Path) -> None:
    predictor = Predictor([tagger_exports / "paddle", tagger_exports / "onnx"], examples=token_inputs(2, 7))
    decision = predictor.decision
    measured = {found.backend: found.median_ms for found in decision.candidates if not found.refusal}
    assert {"paddle", "onnxruntime"} <= set(measured)
    assert min(measured, key=lambda backend: measured[backend]) == decision.chosen.backend
    assert predictor.engine.split()[0].split(".")[0] == decision.chosen.backend
    assert "the fastest of" in decision.reason
    assert "input_ids [2, 7]" in decision.reason
    lines = str(decision).splitlines()
    assert lines[0] == f"{decision.chosen.backend}: {decision.reason}"
    assert len(lines) == 1 + len(decision.candidates)


def test_auto_leaves_out_what_cannot_run(
    tagger_exports: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: None)
    decision = Predictor(tagger_exports, concurrency=2).decision
    assert decision.chosen.backend == "paddle"
    refusals = {found.backend: found.refusal for found in decision.candidates}
    assert "pip install 'paddle_infra[onnx]'" in refusals["onnxruntime"]
    assert "pip install 'paddle_infra[openvino]'" in refusals["openvino"]
    with pytest.raises(UnsupportedError, match=r"no engine can run the model:\nonnxruntime with .*\[onnx\]"):
        Predictor(tagger_exports / "onnx")
    with pytest.raises(
        MissingExtraError, match=r"backend='openvino' needs the package 'openvino'.*\[openvino\]"
    ):
        Predictor(tagger_exports, backend="openvino")


def test_auto_refuses_engines_that_disagree(tagger_exports: Path) -> None:
    with pytest.raises(VerificationError, match=r"case onnxruntime beside paddle: expected .* tolerance"):
        Predictor(tagger_exports, tolerance=0.0)


@pytest.mark.parametrize("backend", ENGINES)
def test_bfloat16(backend: str, plain_export: Path, tagger_exports: Path) -> None:
    if not {"avx512_bf16", "amx_bf16"} & set(cpu_info().features):
        pytest.skip("needs a processor with bfloat16")
    exports = [plain_export, tagger_exports / "onnx"]
    if backend == "onnxruntime":
        with pytest.raises(
            UnsupportedError, match=r"onnxruntime: expected precision 'float32'.* got 'bfloat16'"
        ):
            Predictor(exports, backend=backend, precision="bfloat16")
        return
    inputs = token_inputs(4, 33)
    exact = Predictor(exports, backend=backend)(inputs)["logits"]
    rounded = Predictor(exports, backend=backend, precision="bfloat16")(inputs)["logits"]
    assert rounded.dtype == np.float32
    assert 1e-6 < abs(rounded - exact).max() < 5e-2


def test_a_processor_without_bfloat16_is_told(tagger_exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "cpu_info", lambda: CpuInfo("x", "y", 1, ("avx2",)))
    with pytest.raises(
        UnsupportedError, match=r"expected a processor with avx512_bf16 or amx_bf16, got \['avx2'\]"
    ):
        Predictor(tagger_exports, precision="bfloat16")


def test_wrong_inputs(predictors: Callable[[str], Predictor]) -> None:
    predictor, good = predictors("paddle"), token_inputs(4, 9)
    cases: list[tuple[type[Exception], str, Any]] = [
        (NameMismatch, "expected tensors named", {"input_ids": good["input_ids"]}),
        (
            DtypeMismatch,
            "'input_ids': expected dtype int64, got int32",
            {**good, "input_ids": good["input_ids"].astype("int32")},
        ),
        (AxisMismatch, "expected size 4, got 3", {**good, "attention_mask": good["attention_mask"][:3]}),
        (InvalidInputError, r"expected at least one element, got shape \(0, 9\)", token_inputs(0, 9)),
        (InvalidDtypeError, "expected numbers or booleans", {**good, "input_ids": [["a"]]}),
    ]
    for kind, text, inputs in cases:
        with pytest.raises(kind, match=text):
            predictor(inputs)


def test_an_error_of_the_engine_harms_nobody(predictors: Callable[[str], Predictor]) -> None:
    predictor, good = predictors("paddle"), token_inputs(2, 9)
    expected = predictor(good)["logits"]
    with pytest.raises(
        ExportError, match=r"(?s)Paddle Inference failed: .*expected a number in \[0, 97\), got 97"
    ):
        predictor({**good, "input_ids": np.full((2, 9), 97)})
    np.testing.assert_array_equal(predictor(good)["logits"], expected)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "backend",
            "tensorrt",
            "backend: expected one of 'auto', 'paddle', 'onnxruntime', 'openvino', got 'tensorrt'",
        ),
        ("threads", 0, "threads: expected a positive integer, got 0"),
        ("concurrency", 1.5, "concurrency: expected a positive integer, got 1.5"),
        ("precision", "int8", "precision: expected one of 'float32', 'bfloat16', got 'int8'"),
        ("tolerance", -1.0, "tolerance: expected a finite number"),
        ("examples", {}, "example_inputs: expected a non-empty dict"),
    ],
)
def test_wrong_arguments(tagger_exports: Path, name: str, value: Any, text: str) -> None:
    with pytest.raises(InvalidInputError, match=text):
        Predictor(tagger_exports, **{name: value})


def test_what_cannot_be_opened(
    tagger_exports: Path, image_exports: Path, plain_export: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="expected an export with a manifest"):
        Predictor(tmp_path)
    with pytest.raises(ExportError, match="expected an export folder, got a file"):
        Predictor(tagger_exports / "onnx" / "model.onnx")
    with pytest.raises(ExportError, match="got an empty list"):
        Predictor([])
    with pytest.raises(ExportError, match="expected an export of the same model as"):
        Predictor([tagger_exports, image_exports])
    with pytest.raises(ExportError, match="backend='paddle': expected one export for target 'paddle', got"):
        Predictor(tagger_exports / "onnx", backend="paddle")
    with pytest.raises(ExportError, match="expected one export for target 'paddle', got"):
        Predictor([tagger_exports, plain_export], backend="paddle")
    changed = Path(shutil.copytree(tagger_exports / "onnx", tmp_path / "changed"))
    (changed / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(VerificationError, match="the file has changed"):
        Predictor(changed)


def test_a_closed_predictor_says_so(image_exports: Path) -> None:
    image = {"image": np.zeros((1, 3, 8, 8), "float32")}
    with Predictor(image_exports, backend="paddle") as predictor:
        predictor(image)
    predictor.close()
    for call in (lambda: predictor(image), predictor.warm_up):
        with pytest.raises(InvalidInputError, match="expected an open one, got one that was closed"):
            call()


def test_it_is_neither_pickled_nor_copied(predictors: Callable[[str], Predictor]) -> None:
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(InvalidDtypeError, match="open the export again in the other process"):
            action(predictors("paddle"))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_is_refused(predictors: Callable[[str], Predictor]) -> None:
    predictor, inputs = predictors("onnxruntime"), token_inputs(1, 3)
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe()

    def child() -> None:
        try:
            predictor(inputs)
        except InvalidInputError as error:
            sender.send(str(error))

    process = context.Process(target=child)
    process.start()
    assert receiver.poll(20)
    assert "threads of an engine do not survive a fork" in receiver.recv()
    process.join()


def test_it_is_quiet(tagger_exports: Path, plain_export: Path) -> None:
    script = (
        "import numpy, sys\n"
        "from paddle_infra.inference import Predictor\n"
        "ids = numpy.ones((2, 5), 'int64')\n"
        "for path in sys.argv[1:]:\n"
        "    predictor = Predictor(path, concurrency=2)\n"
        "    predictor({'input_ids': ids, 'attention_mask': ids})\n"
        "    predictor.close()\n"
    )
    command = [sys.executable, "-c", script, str(tagger_exports), str(plain_export)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_library_without_the_entry_is_said(tagger_exports: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paddle_infra.export import _unlocked

    class Old:
        def __init__(self, path: str) -> None: ...

    monkeypatch.setattr(_unlocked.ctypes, "CDLL", Old)
    with pytest.warns(
        UserWarning, match="other threads of Python stand still while Paddle computes: .* is older"
    ):
        predictor = Predictor(tagger_exports, backend="paddle")
    assert predictor(token_inputs(1, 4))["logits"].shape == (1, 4, 3)
