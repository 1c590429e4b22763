"""The inference engines behind one small interface: Paddle Inference and ONNX Runtime."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import paddle
import paddle.inference

from paddle_infra._core.errors import ExportError, PaddleInfraError
from paddle_infra._core.extras import require
from paddle_infra.export._program import Program
from paddle_infra.export._unlocked import unlocked
from paddle_infra.export.library import check_library
from paddle_infra.export.manifest import BFLOAT16_ENGINE, Manifest
from paddle_infra.export.spec import Arrays, TensorInfo

Precision = Literal["float32", "bfloat16"]
"""What an engine multiplies in; inputs and outputs stay as they are."""

_ONNX_DTYPES = {
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
}


class Engine(Protocol):
    """A loaded model. ``inputs`` and ``outputs`` are what the *file* declares, whatever a manifest says."""

    name: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Return the outputs by name."""
        ...


class PaddleEngine:
    """Paddle Inference on the CPU; only one thread may run it at a time, another one its :meth:`clone`.

    ``keeps_lock`` says why Python's lock is kept during a run; it is empty if it is not.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int, precision: Precision = "float32"
    ) -> None:
        program = Program(folder / manifest.model)
        check_library(folder, program.custom_operators, manifest.library)
        self.name = f"paddle.inference {paddle.__version__}"
        parameters = str(folder / manifest.parameters) if manifest.parameters else ""
        config = paddle.inference.Config(str(folder / manifest.model), parameters)
        config.disable_glog_info()
        config.set_cpu_math_library_num_threads(threads)
        if program.has_double_lists:  # interpolate: Paddle 3.3's oneDNN instructions refuse such an attribute
            config.delete_pass("onednn_placement_pass")
        if precision == "bfloat16" or BFLOAT16_ENGINE in manifest.compression:
            config.enable_onednn_bfloat16()
        self._take(paddle.inference.create_predictor(config))
        declared = {info.name: info for info in program.inputs}
        self.inputs = tuple(declared[name] for name in self._predictor.get_input_names())
        self.outputs = program.outputs

    def clone(self) -> PaddleEngine:
        """Return an engine with the same parameters and memory of its own; nobody may run this one meanwhile."""
        twin = copy.copy(self)
        twin._take(self._predictor.clone())
        return twin

    def _take(self, predictor: paddle.inference.Predictor) -> None:
        self._predictor = predictor
        self._run, self.keeps_lock = unlocked(predictor)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Copy in, run, copy out."""
        for name, array in inputs.items():
            self._predictor.get_input_handle(name).copy_from_cpu(np.asarray(array, order="C"))
        self._run()
        names = self._predictor.get_output_names()
        return {name: self._predictor.get_output_handle(name).copy_to_cpu() for name in names}


class OnnxEngine:
    """ONNX Runtime on the CPU."""

    def __init__(self, folder: Path, manifest: Manifest, threads: int) -> None:
        runtime = require("onnxruntime", extra="onnx", purpose="running an ONNX export")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.name = f"onnxruntime {runtime.__version__}"
        self._session = runtime.InferenceSession(
            str(folder / manifest.model), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = tuple(_onnx_info(node) for node in self._session.get_inputs())
        self.outputs = tuple(_onnx_info(node) for node in self._session.get_outputs())

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the session."""
        names = [info.name for info in self.outputs]
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))


def open_engine(folder: str | os.PathLike[str], manifest: Manifest, threads: int) -> Engine:
    """Load the model of an export with the engine it was made for.

    Raises:
        ExportError: the engine cannot load it; the message holds the engine's own.
    """
    engines: dict[str, type[PaddleEngine] | type[OnnxEngine]] = {"paddle": PaddleEngine, "onnx": OnnxEngine}
    if manifest.target not in engines:
        raise ExportError(f"{folder}: expected target among {sorted(engines)}, got {manifest.target!r}")
    try:
        return engines[manifest.target](Path(folder), manifest, threads)
    except PaddleInfraError:
        raise
    except Exception as error:
        raise ExportError(f"{folder}: the engine cannot load {manifest.model}: {error}") from error


def _onnx_info(node: object) -> TensorInfo:
    name, kind, shape = node.name, node.type, node.shape  # type: ignore[attr-defined]
    dims = tuple(size if isinstance(size, int) else None for size in shape)
    return TensorInfo(name, _ONNX_DTYPES.get(kind, kind), dims)
