"""OpenVINO on the CPU, behind the interface of the exporters' engines."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paddle_infra._core.errors import NameMismatch, UnsupportedError
from paddle_infra._core.extras import require
from paddle_infra.export.engines import Precision
from paddle_infra.export.manifest import Manifest
from paddle_infra.export.spec import Arrays, TensorInfo, TensorSpec

_PRECISION_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoEngine:
    """An ONNX export in OpenVINO; only one thread may run it at a time, another one its :meth:`clone`.

    Each of the ``concurrency`` calls that may run at once gets a stream of ``threads`` threads. The precision is always
    said: OpenVINO's own choice is bfloat16 wherever the processor has it.
    """

    def __init__(
        self, folder: Path, manifest: Manifest, threads: int, precision: Precision, concurrency: int
    ) -> None:
        openvino = require("openvino", extra="openvino", purpose="backend='openvino'")
        hint = _PRECISION_HINTS[precision]
        properties = {
            "INFERENCE_NUM_THREADS": threads * concurrency,
            "NUM_STREAMS": concurrency,
            "INFERENCE_PRECISION_HINT": hint,
        }
        self.name = f"openvino {openvino.__version__.split('-')[0]}"
        self._model = openvino.Core().compile_model(str(folder / manifest.model), "CPU", properties)
        used = self._model.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != hint:
            raise UnsupportedError(f"openvino: expected precision {hint}, it uses {used} on this processor")
        self.inputs = _infos(self._model.inputs, manifest.inputs)
        self.outputs = _infos(self._model.outputs, manifest.outputs)
        self._request = self._model.create_infer_request()

    def clone(self) -> OpenVinoEngine:
        """Return an engine of the same model that may run at the same time."""
        twin = copy.copy(self)
        twin._request = self._model.create_infer_request()
        return twin

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the model; the arrays returned are copies."""
        found = self._request.infer(dict(inputs))
        return {info.name: found[index] for index, info in enumerate(self.outputs)}


def _infos(ports: Any, specs: tuple[TensorSpec, ...]) -> tuple[TensorInfo, ...]:
    """Describe ports, which have many names each, by the manifest's."""
    infos = []
    for port, spec in zip(ports, specs, strict=True):
        if spec.name not in port.get_names():
            raise NameMismatch(f"expected a tensor named {spec.name!r}, got {sorted(port.get_names())}")
        shape = tuple(dim.get_length() if dim.is_static else None for dim in port.get_partial_shape())
        infos.append(TensorInfo(spec.name, str(np.dtype(port.get_element_type().to_dtype())), shape))
    return tuple(infos)
