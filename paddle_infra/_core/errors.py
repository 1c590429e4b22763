"""Every exception the package raises on purpose.

All derive from :class:`PaddleInfraError`. Each message says what was expected and what was found. Classes also derive
from the built-in exception that a caller would guess (``ValueError`` for a bad argument, and so on).
"""

from __future__ import annotations

from pathlib import Path


class PaddleInfraError(Exception):
    """Base of all errors raised by this package."""


class InvalidInputError(PaddleInfraError, ValueError):
    """An argument has a value or a shape that cannot be used."""


class InvalidDtypeError(PaddleInfraError, TypeError):
    """An argument has a dtype or a type that cannot be used."""


class UnsupportedError(PaddleInfraError, RuntimeError):
    """No implementation can take these inputs; the message lists every reason."""


class ExtensionUnavailableError(PaddleInfraError, RuntimeError):
    """The compiled operators cannot be loaded; the message says exactly why."""


class MissingExtraError(PaddleInfraError, ImportError):
    """An optional dependency is needed; the message names the extra that installs it."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(f"{purpose} needs the package {package!r}: pip install 'paddle_infra[{extra}]'")


class StorageError(PaddleInfraError, OSError):
    """A file could not be written completely; nothing was left behind."""


class ConfigError(PaddleInfraError, ValueError):
    """A configuration file has an unknown key, a wrong type or a bad value."""


class DataError(PaddleInfraError, ValueError):
    """A data file is not as expected; carries the file and the line."""

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        self.path, self.line = path, line
        where = "" if path is None else f"{path}:{line}: " if line is not None else f"{path}: "
        super().__init__(where + message)


class ResourceError(PaddleInfraError, RuntimeError):
    """A pinned package could not be fetched or unpacked."""


class HashMismatchError(ResourceError):
    """A fetched or cached file is not the pinned one."""


class WeightError(PaddleInfraError, ValueError):
    """A weight file is damaged, or its names or shapes do not fit the model."""


class TrainingError(PaddleInfraError, RuntimeError):
    """Training cannot go on."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite; carries step and batch."""


class SampleError(DataError):
    """Reading or collating one sample failed; the message names its index."""


class CheckpointError(PaddleInfraError, RuntimeError):
    """A checkpoint is missing, damaged or does not fit."""


class ExportError(PaddleInfraError, RuntimeError):
    """A model could not be exported; no file is left behind."""


class VerificationError(ExportError):
    """An exported model is not the model it was exported from."""


class AccuracyLossError(VerificationError):
    """A compressed model lost more than was allowed; carries the metric before and after."""

    def __init__(self, message: str, *, reference: float, compressed: float) -> None:
        self.reference, self.compressed = reference, compressed
        super().__init__(message)


class NameMismatch(VerificationError):  # noqa: N818 - public name
    """Input or output names differ."""


class DtypeMismatch(VerificationError):  # noqa: N818 - public name
    """An input or output has another dtype."""


class AxisMismatch(VerificationError):  # noqa: N818 - public name
    """An axis declared dynamic is not, or an output has another shape."""


class ValueMismatch(VerificationError):  # noqa: N818 - public name
    """An output differs by more than the tolerance; carries the first bad element.

    ``case`` names the inputs, ``layer`` the first layer that differs, if that was asked for.
    """

    def __init__(
        self,
        message: str,
        *,
        output: str,
        index: tuple[int, ...],
        expected: float,
        got: float,
        tolerance: float,
        case: str = "",
        layer: str | None = None,
    ) -> None:
        self.output, self.index = output, index
        self.expected, self.got, self.tolerance = expected, got, tolerance
        self.case, self.layer = case, layer
        super().__init__(message)

    def in_layer(self, layer: str) -> ValueMismatch:
        """Return this error with the first layer that differs; an empty name means that none does."""
        where = f"the first layer that differs is {layer!r}" if layer else "no layer's own output differs"
        return ValueMismatch(
            f"{self}; {where}",
            output=self.output,
            index=self.index,
            expected=self.expected,
            got=self.got,
            tolerance=self.tolerance,
            case=self.case,
            layer=layer,
        )
