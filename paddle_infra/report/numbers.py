"""Numbers as text, the same way everywhere on the page."""

from __future__ import annotations

import math


def number(value: float | int | str) -> str:
    """Four significant digits, no needless zeros; integers in full; ``NaN`` and ``inf`` as what they are."""
    if isinstance(value, (str, bool)):
        return str(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    if 1e-3 <= abs(value) < 1e6:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return error_size(value)


def rate(value: float) -> str:
    """A share between 0 and 1 with four decimals, so that columns line up."""
    return f"{value:.4f}" if math.isfinite(value) else number(value)


def milliseconds(value: float) -> str:
    """A time in milliseconds with two decimals (one from 100 up)."""
    if not math.isfinite(value):
        return number(value)
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}"


def error_size(value: float) -> str:
    """Three significant digits in scientific notation, as short as can be: ``1e-4``, ``1.52e-6``."""
    if not math.isfinite(value) or value == 0:
        return number(value)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
