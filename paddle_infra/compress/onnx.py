"""Quantized ONNX exports, made by ONNX Runtime's quantizers of an export that exists."""

from __future__ import annotations

import fnmatch
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paddle_infra._core.checks import check_choice, check_number
from paddle_infra._core.errors import ExportError, InvalidInputError
from paddle_infra._core.extras import require
from paddle_infra.compress.gate import AccuracyGate, gated
from paddle_infra.export import ExportReport, read_manifest
from paddle_infra.export.derive import derive
from paddle_infra.export.spec import as_arrays, axis_sizes

METHODS = ("dynamic", "static", "int4")
_PRODUCTS = [
    "MatMul",
    "Gemm",
]  # what is rounded: linear layers; attention's products of two inputs stay float


def quantize_onnx(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    method: str,
    atol: float,
    gate: AccuracyGate | None = None,
    calibration: Sequence[Mapping[str, Any]] | None = None,
    exclude: Sequence[str] = (),
    block_size: int = 32,
    verify_inputs: Sequence[Mapping[str, Any]] | None = None,
) -> ExportReport:
    """Quantize the linear layers of an ONNX export with ONNX Runtime; the result is an export like any other.

    ============= ====================================================================================================
    ``method``    weights; activations
    ============= ====================================================================================================
    ``"dynamic"`` int8, a scale per output channel; uint8, with one scale for a whole tensor as it comes: **a row's
                  result depends a little on the other rows of its batch and on padding**
    ``"static"``  int8, a scale per output channel; int8 with fixed scales (``QDQ``), from the smallest and largest
                  number of each tensor on the ``calibration`` inputs: rows stay independent
    ``"int4"``    4 bits, a scale for ``block_size`` inputs of an output (``MatMulNBits``); float32
    ============= ====================================================================================================

    On processors without VNNI, ONNX Runtime adds up pairs of 8-bit products in 16 bits, which may saturate: measure
    there.
    Inputs, outputs, labels, files and metadata stay those of ``source``. The outputs are compared with those of
    ``source`` in a fresh process, and ``manifest.compression`` says what was done.

    Args:
        source: folder of an export of target ``onnx``.
        path: another folder, new, empty or an earlier export.
        method: see above.
        atol: largest absolute difference from ``source`` allowed in an output: rounding shows, so there is no default.
        gate: measures the new export and refuses it if it lost too much.
        calibration: inputs for ``"static"``: some dozens from the training data, of typical lengths.
        exclude: patterns (``*``, ``?``) of names of graph nodes to leave as they are. A head whose outputs go through a
            logarithm belongs here: a probability that is rounded to 0 becomes -∞.
        block_size: for ``"int4"``: 16, 32, 64, 128 or 256.
        verify_inputs: as for the exporters.

    Raises:
        MissingExtraError: ONNX Runtime, or a package that its quantizer needs, is not installed.
        InvalidInputError: an argument cannot be used, or ``source`` is no ONNX export.
        AccuracyLossError: the gate refused.
        ExportError: quantization failed, or nothing was quantized.
        VerificationError: the result differs from ``source`` by more than ``atol``; no file is left.
    """
    check_choice("method", method, METHODS)
    check_number("atol", atol, 0.0)
    if (calibration is not None) != (method == "static"):
        raise InvalidInputError(
            f"calibration: expected inputs with method='static' and only then, got method={method!r} and "
            f"{'none' if calibration is None else 'some'}"
        )
    _require(method)
    if (found := read_manifest(source).target) != "onnx":
        raise InvalidInputError(f"{source}: expected an export of target 'onnx', got {found!r}")
    excluded = _excluded(source, exclude)
    facts: dict[str, Any] = {"method": f"onnxruntime {method}", "excluded": excluded}
    if method == "dynamic":
        write = _dynamic(excluded)
        facts |= {"weights": "int8 per channel", "activations": "uint8 per tensor, as they come"}
    elif method == "static":
        assert calibration is not None  # checked above
        batches = _calibration(source, calibration)
        write = _static(excluded, batches)
        facts |= {
            "weights": "int8 per channel",
            "activations": "int8, fixed",
            "calibration_batches": len(batches),
        }
    else:
        if block_size not in (16, 32, 64, 128, 256):
            raise InvalidInputError(f"block_size: expected 16, 32, 64, 128 or 256, got {block_size!r}")
        write = _int4(excluded, block_size)
        facts |= {"weights": f"int4 in blocks of {block_size}", "activations": "float32"}

    def make(folder: str | os.PathLike[str]) -> ExportReport:
        return derive(source, folder, write, compression=facts, atol=atol, verify_inputs=verify_inputs)

    return make(path) if gate is None else gated(gate, make, path)


def _require(method: str) -> None:
    purpose = f"quantizing ONNX models, method={method!r},"
    for package in ("onnx", "onnxruntime", "ml_dtypes", *(["onnx_ir"] if method == "int4" else [])):
        require(package, extra="quantize", purpose=purpose)


def _calibration(
    source: str | os.PathLike[str], batches: Sequence[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    if not batches:
        raise InvalidInputError("calibration: expected at least one set of inputs, got an empty list")
    inputs = read_manifest(source).inputs
    arrays = [as_arrays(batch) for batch in batches]
    for batch in arrays:
        axis_sizes(inputs, batch)
    return list(arrays)


def _excluded(source: str | os.PathLike[str], patterns: Sequence[str]) -> list[str]:
    """Return the names of the nodes that fit a pattern and would be quantized."""
    if not patterns:
        return []
    onnx = require("onnx", extra="quantize", purpose="quantizing ONNX models")
    graph = onnx.load(str(Path(source) / read_manifest(source).model), load_external_data=False).graph
    names = [node.name for node in graph.node if node.op_type in _PRODUCTS]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InvalidInputError(f"exclude: expected a pattern that fits one of {names}, got {pattern!r}")
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def _dynamic(exclude: list[str]) -> Callable[[Path, Path], None]:
    def write(old: Path, new: Path) -> None:
        with _quantizing(old, new) as (quantization, prepared):
            quantization.quantize_dynamic(
                prepared,
                new,
                op_types_to_quantize=_PRODUCTS,
                per_channel=True,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=exclude,
                extra_options={"MatMulConstBOnly": True},
            )

    return write


def _static(exclude: list[str], batches: Sequence[Mapping[str, Any]]) -> Callable[[Path, Path], None]:
    def write(old: Path, new: Path) -> None:
        with _quantizing(old, new) as (quantization, prepared):
            remaining = iter(batches)

            class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
                def get_next(self) -> Any:
                    return next(remaining, None)

            quantization.quantize_static(
                prepared,
                new,
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=_PRODUCTS,
                per_channel=True,
                activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8,
                nodes_to_exclude=[*exclude, *_products_of_inputs(prepared)],
                extra_options={"WeightSymmetric": True},
            )

    return write


def _int4(exclude: list[str], block_size: int) -> Callable[[Path, Path], None]:
    def write(old: Path, new: Path) -> None:
        with _quantizing(old, new):
            onnx = require("onnx", extra="quantize", purpose="quantizing ONNX models")
            quantizer = require(
                "onnxruntime.quantization.matmul_nbits_quantizer", extra="quantize", purpose="method='int4'"
            )
            made = quantizer.MatMulNBitsQuantizer(
                onnx.load(str(old)),
                bits=4,
                block_size=block_size,
                is_symmetric=True,
                nodes_to_exclude=exclude,
            )
            made.process()
            made.model.save_model_to_file(str(new), False)

    return write


@contextmanager
def _quantizing(old: Path, new: Path) -> Iterator[tuple[Any, Path]]:
    """Give the quantizers and a prepared model; afterwards check what was written."""
    onnx = require("onnx", extra="quantize", purpose="quantizing ONNX models")
    quantization = require("onnxruntime.quantization", extra="quantize", purpose="quantizing ONNX models")
    if old.with_name(old.name + ".data").exists():
        raise ExportError(
            f"{old}: expected a model in one file (below 2 GiB), got weights in a file of their own"
        )
    logger, level = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)  # the quantizers advise and report in the root logger
    try:
        with tempfile.TemporaryDirectory(prefix="paddle-infra-quantize-") as temporary:
            prepared = Path(temporary) / "model.onnx"
            # Shapes only: without them the quantizers leave out what they cannot place.
            onnx.save(onnx.shape_inference.infer_shapes(onnx.load(str(old))), str(prepared))
            yield quantization, prepared
    except Exception as error:
        raise ExportError(
            f"ONNX Runtime cannot quantize {old.name}: {type(error).__name__}: {error}"
        ) from error
    finally:
        logger.setLevel(level)
    before, after = onnx.load(str(old)), onnx.load(str(new))
    if _operators(before) == _operators(after):
        raise ExportError(
            f"{old}: expected linear layers (MatMul or Gemm with constant weights) to quantize, found none: "
            f"operators {sorted(set(_operators(before)))}"
        )
    after.producer_name = "paddle_infra"
    onnx.helper.set_model_props(after, {prop.key: prop.value for prop in before.metadata_props})
    onnx.save(after, str(new))


def _products_of_inputs(path: Path) -> list[str]:
    """Return the products of attention: those whose second factor is no constant."""
    onnx = require("onnx", extra="quantize", purpose="quantizing ONNX models")
    graph = onnx.load(str(path)).graph
    constants = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type in _PRODUCTS and node.input[1] not in constants]


def _operators(model: Any) -> list[str]:
    return sorted(node.op_type for node in model.graph.node)
