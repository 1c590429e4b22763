"""Which layer of a model is the first whose output an export gets wrong.

The model is traced once more with the outputs of all its layers as further outputs. That program has the same
operators as the exported one, in the same order, so it tells which value of the exported file each layer's output is;
those values become outputs of a copy of the file, which runs beside the Python model.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from paddle_infra._core.errors import ExportError, UnsupportedError
from paddle_infra._core.extras import require
from paddle_infra.export._dygraph import Layer, named_outputs, run_reference, save_program
from paddle_infra.export._program import Program
from paddle_infra.export.compare import is_close
from paddle_infra.export.engines import open_engine
from paddle_infra.export.lowering import convert
from paddle_infra.export.manifest import Manifest
from paddle_infra.export.spec import Arrays, TensorSpec
from paddle_infra.ops import implementation


def first_wrong_layer(
    folder: Path, manifest: Manifest, model: Layer, inputs: Arrays, *, atol: float, rtol: float = 0.0
) -> str:
    """Return the name of the first layer, in the order in which they end, whose output differs from the model's.

    The name is the layer's place in the model, ``encoder.layers.1.norm``. It is empty if no layer differs: then the
    fault lies in what the model computes outside its layers, in the names or order of the outputs, or in what an engine
    fuses only where nothing looks at the values between.

    Raises:
        UnsupportedError: the export has no such values: it is paddle2onnx's, or layers run in branches or loops.
        ExportError: the file has other operators than the model.
    """
    if manifest.converter is not None and not manifest.converter.startswith("native"):
        raise UnsupportedError(
            f"bisect: expected an export by the native converter, got {manifest.converter!r}"
        )
    names = [spec.name for spec in manifest.outputs]
    probe = _Probe(model, names)
    with probe.watching():
        run_reference(probe, inputs, names)
        expected = [(layer, value.numpy()) for layer, value in probe.seen]
    taps = [f"tap_{index}" for index in range(len(expected))]
    with tempfile.TemporaryDirectory(prefix="paddle-infra-bisect-") as temporary:
        traced, copied = Path(temporary, "traced"), Path(temporary, "copied")
        traced.mkdir()
        with (
            probe.watching(taps),
            implementation("reference") if manifest.operators == "standard" else nullcontext(),
        ):
            try:
                program = save_program(probe, traced, manifest.inputs, [*names, *taps])
            except ExportError as error:
                raise UnsupportedError(
                    f"bisect: the model cannot be traced layer by layer: {error}"
                ) from error
        program.drop_unneeded(names)  # as in the exported program
        program.save()
        shutil.copytree(folder, copied)
        tap = _tap_paddle if manifest.target == "paddle" else _tap_onnx
        kept = {info.name for info in program.outputs}
        seen = {name: value for name, (_, value) in zip(taps, expected, strict=True) if name in kept}
        found = tap(copied, manifest, traced, seen)
        got = open_engine(copied, manifest, 1).run(inputs)
    for name, (layer, want) in zip(taps, expected, strict=True):
        if name in found and not is_close(want, got[found[name]], atol=atol, rtol=rtol):
            return layer
    return ""


class _Probe(paddle.nn.Layer):
    """A model that, while it is watched, notes the output of each of its layers, and returns them as ``taps``."""

    def __init__(self, model: Layer, output_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.output_names = list(output_names)
        self.taps: Sequence[str] = ()
        self.seen: list[tuple[str, Any]] = []
        self.gather = paddle.jit.not_to_static(self._gather)

    @contextmanager
    def watching(self, taps: Sequence[str] = ()) -> Iterator[None]:
        self.taps = taps
        handles = [
            layer.register_forward_post_hook(self._note(name)) for name, layer in self.model.named_sublayers()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def forward(self, **inputs: Any) -> Any:
        self.seen.clear()
        result = self.model(**inputs)
        return self.gather(result)

    def _gather(self, result: Any) -> dict[str, Any]:
        """Return the outputs by name, and the layers' as far as the tracing wants them."""
        values = named_outputs(result, self.output_names)
        if self.taps and len(self.taps) != len(self.seen):
            raise UnsupportedError(
                f"expected {len(self.taps)} outputs of layers, the program has {len(self.seen)}"
            )
        # Copies, since a program returns a value only once, and layers pass on what others have made.
        copies = [paddle.assign(value) for _, value in self.seen] if self.taps else []
        return {**values, **dict(zip(self.taps, copies, strict=True))}

    def _note(self, name: str) -> Any:
        def note(layer: Layer, inputs: Any, outputs: Any) -> None:
            self.seen.extend((name, value) for value in _tensors(outputs))

        return note


def _tensors(value: Any) -> Iterator[Any]:
    """Yield the tensors in a layer's result, in order."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif hasattr(value, "stop_gradient"):  # of a program or not
        yield value


def _tap_paddle(
    copied: Path, manifest: Manifest, traced: Path, taps: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Make the copied program return the layers' outputs too; say under which name each is returned."""
    program = Program(copied / manifest.model)
    found = program.fetch_like(Program(traced / manifest.model), list(taps))
    program.save()
    return found


def _tap_onnx(
    copied: Path, manifest: Manifest, traced: Path, taps: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Do the same to a graph: what the same conversion calls a layer's output now, the file calls it too."""
    onnx = require("onnx", extra="onnx", purpose="looking into an ONNX export")
    exported = onnx.load(str(copied / manifest.model))
    specs = [TensorSpec(tap, str(value.dtype), value.shape) for tap, value in taps.items()]
    assert manifest.opset is not None  # of an ONNX export
    outputs, attention = [*manifest.outputs, *specs], _attention(exported)
    probed = convert(traced / "model", manifest.inputs, outputs, opset=manifest.opset, attention=attention)
    copies = {node.output[0]: node.input[0] for node in probed.graph.node if node.op_type == "Identity"}
    made = {name for node in exported.graph.node for name in node.output}
    found = {}
    for tap in taps:
        source = tap
        while source in copies:
            source = copies[source]
        if source in made:
            exported.graph.node.append(onnx.helper.make_node("Identity", [source], [tap]))
            exported.graph.output.append(onnx.ValueInfoProto(name=tap))
            found[tap] = tap
    onnx.save(exported, str(copied / manifest.model))
    return found


def _attention(exported: Any) -> str:
    """Return which form of attention a graph was written with."""
    kinds = {(node.domain, node.op_type) for node in exported.graph.node}
    if ("", "Attention") in kinds:
        return "standard"
    return "contrib" if ("com.microsoft", "MultiHeadAttention") in kinds else "decomposed"
