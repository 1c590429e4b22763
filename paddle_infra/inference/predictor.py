"""One predictor over Paddle Inference, ONNX Runtime and OpenVINO."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import numpy as np

from paddle_infra._core.checks import check_choice, check_number
from paddle_infra._core.errors import DtypeMismatch, InvalidDtypeError, InvalidInputError, ValueMismatch
from paddle_infra.export._arrays import load_arrays
from paddle_infra.export.cases import resized
from paddle_infra.export.engines import Engine, Precision
from paddle_infra.export.manifest import EXAMPLES_NAME, Manifest
from paddle_infra.export.spec import Arrays, as_arrays, axis_sizes
from paddle_infra.inference._pool import EnginePool
from paddle_infra.inference.backends import (
    BACKENDS,
    Backend,
    Export,
    Settings,
    candidates,
    find_exports,
    open_engines,
    readable,
)
from paddle_infra.inference.buckets import Bucket, Padding
from paddle_infra.inference.decision import Candidate, Decision, check_same, decide

TOLERANCES: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 5e-2}
"""How far outputs of two engines may differ: ``tolerance * (1 + abs(output))``."""


class Predictor:
    """Runs an export on the CPU: call it with arrays by input name, get arrays by output name.

    Any number of threads may call it. ``concurrency`` calls run at the same time, further ones wait; Python's lock is
    given up while an engine computes. Results do not depend on which calls run together. Each of Paddle's further calls
    has memory of its own, a copy of the weights in the engine's form included.

    Args:
        path: an export folder, a folder of export folders, or a list of either: exports of one model.
        backend: ``"paddle"``, ``"onnxruntime"``, ``"openvino"``, or ``"auto"``: every installed engine that reads one
            of the exports runs ``examples``; all must agree, the fastest is taken, and :attr:`decision` says why.
        threads: of one call.
        precision: ``"float32"``, or ``"bfloat16"`` products (Paddle and OpenVINO, on processors that have them).
        concurrency: calls that may run at the same time.
        buckets: axes that are padded to few sizes. The examples are run with and without padding: a model that
            padding changes is refused.
        examples: typical inputs, to choose by and to try padding; the export's own by default.
        tolerance: how far two engines, or a padded and a plain run, may differ: ``tolerance * (1 + abs(output))``.
            None is 1e-4, for bfloat16 5e-2.

    Raises:
        ExportError: there is no export, none for this engine, or it cannot be loaded.
        VerificationError: a file has changed.
        MissingExtraError: the engine is not installed.
        UnsupportedError: no engine can run the model, or not in this precision.
        InvalidInputError, InvalidDtypeError: an argument cannot be used.
        ValueMismatch: engines disagree, or padding changes the outputs.

    Attributes:
        decision: the engine taken, the reason, and what was found of every candidate.
        engine: name and version of the engine.
        manifest: of the export that runs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        backend: Backend | Literal["auto"] = "auto",
        threads: int = 1,
        precision: Precision = "float32",
        concurrency: int = 1,
        buckets: Sequence[Bucket] = (),
        examples: Mapping[str, Any] | None = None,
        tolerance: float | None = None,
    ) -> None:
        check_choice("backend", backend, ("auto", *BACKENDS))
        settings = Settings(threads, precision, concurrency)
        bound = check_number("tolerance", TOLERANCES[precision] if tolerance is None else tolerance, 0.0)
        exports = find_exports(path)
        padding = Padding(exports[0].manifest, buckets)
        arrays = load_arrays(exports[0].folder / EXAMPLES_NAME) if examples is None else as_arrays(examples)
        sizes = axis_sizes(exports[0].manifest.inputs, arrays)
        if backend == "auto":
            padded = padding.pad(arrays, padding.sizes_for(sizes))
            self.decision, export, engines = decide(exports, settings, padded, bound)
        else:
            export = readable(backend, exports)
            engines = open_engines(backend, export, settings)
            self.decision = _asked_for(backend, export, exports)
        self.manifest: Manifest = export.manifest
        self.engine: str = engines[0].name
        self._padding, self._examples, self._process = padding, arrays, os.getpid()
        self._pool = EnginePool(engines)
        self._try_padding(bound)

    def __call__(self, inputs: Mapping[str, Any]) -> Arrays:
        """Run the model.

        Args:
            inputs: arrays by input name, or what numpy makes arrays of the right dtypes from.

        Returns:
            New arrays by output name, in the manifest's order.

        Raises:
            InvalidInputError: an input is empty or beyond the largest bucket; or the predictor is closed, or belongs to
                another process.
            NameMismatch, DtypeMismatch, AxisMismatch: the inputs are not those in the manifest.
        """
        self._check_process()
        arrays = as_arrays(inputs)
        sizes = axis_sizes(self.manifest.inputs, arrays)
        padded = self._padding.pad(arrays, self._padding.sizes_for(sizes))
        with self._pool.borrow() as (engine,):
            outputs = self._run(engine, padded)
        return self._padding.cut(outputs, sizes)

    def warm_up(self) -> int:
        """Run every combination of bucket sizes once in each engine, so that no later call pays for preparations.

        Axes without a bucket keep the size that they have in the examples.

        Returns:
            The number of shapes.
        """
        self._check_process()
        sizes = axis_sizes(self.manifest.inputs, self._examples)
        buckets = self._padding.buckets
        rng = np.random.default_rng(0)
        grid = [
            {**sizes, **dict(zip(buckets, combination, strict=True))}
            for combination in itertools.product(*(bucket.sizes for bucket in buckets.values()))
        ]
        with self._pool.borrow(self._pool.size) as engines:
            for shape in grid:
                inputs = resized(self._examples, self.manifest.inputs, shape, rng)
                for engine in engines:
                    self._run(engine, inputs)
        return len(grid)

    def close(self) -> None:
        """Wait for running calls, then give the engine's memory back; later calls raise InvalidInputError."""
        self._pool.close()

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise InvalidDtypeError(
            "Predictor: expected something that can be pickled or copied, got one that holds a loaded engine: open the "
            "export again in the other process"
        )

    def __repr__(self) -> str:
        return f"Predictor({self.engine}, inputs={[spec.name for spec in self.manifest.inputs]})"

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise InvalidInputError(
                f"predictor: expected to be called in the process {self._process}, which opened it, got process "
                f"{os.getpid()}: threads of an engine do not survive a fork; open the export here"
            )

    def _run(self, engine: Engine, inputs: Arrays) -> Arrays:
        found = engine.run(inputs)
        for spec in self.manifest.outputs:
            if str(found[spec.name].dtype) != spec.dtype:
                raise DtypeMismatch(
                    f"output {spec.name!r}: expected dtype {spec.dtype}, got {found[spec.name].dtype}"
                )
        return {spec.name: found[spec.name] for spec in self.manifest.outputs}

    def _try_padding(self, tolerance: float) -> None:
        """Run the examples as they are and padded beyond them, for each bucket."""
        for axis, bucket in self._padding.buckets.items():
            plain = _below(self._examples, self.manifest, axis, bucket.sizes[-1])
            sizes = axis_sizes(self.manifest.inputs, plain)
            larger = [size for size in bucket.sizes if size > sizes[axis]]
            if not larger:  # one size, 1: nothing is ever padded
                continue
            with self._pool.borrow() as (engine,):
                expected = self._run(engine, plain)
                padded = self._run(engine, self._padding.pad(plain, {**sizes, axis: larger[0]}))
            try:
                check_same(expected, self._padding.cut(padded, sizes), f"padded along {axis!r}", tolerance)
            except ValueMismatch as error:
                error.args = (
                    f"bucket {axis!r}: expected outputs that padding with {dict(bucket.pads)} leaves alone, "
                    f"got others: {error}",
                )
                raise


def _asked_for(backend: Backend, export: Export, exports: Sequence[Export]) -> Decision:
    chosen = Candidate(backend, export.folder)
    others = [Candidate(name, other.folder) for name, other in candidates(exports)]
    return Decision(chosen, "asked for", tuple(others))


def _below(examples: Arrays, manifest: Manifest, axis: str, limit: int) -> Arrays:
    """Return examples whose ``axis`` is shorter than ``limit``, if it can be: rows of a batch may be left out.

    Raises:
        InvalidInputError: another axis is too long.
    """
    size = axis_sizes(manifest.inputs, examples)[axis]
    if size < limit or limit == 1:
        return examples
    places = {
        spec.name: index for spec in manifest.inputs for index, name in spec.axes.items() if name == axis
    }
    if set(places.values()) != {0}:
        raise InvalidInputError(
            f"examples: expected axis {axis!r} shorter than the largest bucket, {limit}, to try padding, got {size}"
        )
    return {name: array[: limit - 1] if name in places else array for name, array in examples.items()}
