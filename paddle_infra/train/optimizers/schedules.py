r"""Learning-rate schedules as factors on the peak rate, each with a linear warm-up.

The learning rate of step *s* (from 0) is the peak times

.. math::
    f(s) = \begin{cases} (s + 1) / w & s < w \\
    m + (1 - m) \, g\big((s - w) / (T - w)\big) & w \le s < T \\
    m + (1 - m) \, g(1) & s \ge T \end{cases}

with *w* warm-up steps, *T* steps in all and the lowest factor *m*. The first step already learns: :math:`f(0) > 0`.

================  ==============================================================================================
schedule          :math:`g(x)` for x from 0 to 1
================  ==============================================================================================
"constant"        1
"linear"          :math:`1 - x`
"cosine"          :math:`(1 + \cos \pi y) / 2`, where *y* is the fractional part of *x* times the number of cycles
                  (1 at the end): after each cycle the rate jumps back to the peak
"polynomial"      :math:`(1 - x)^p`
"inverse_sqrt"    has no end: :math:`f(s) = \max(m, \sqrt{\max(w, 1) / (s + 1)})` after the warm-up
================  ==============================================================================================

References: cosine with restarts, arXiv:1608.03983; inverse square root, arXiv:1706.03762, section 5.3 (their
:math:`d^{-1/2}` is part of the peak rate here).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

from paddle_infra._core.errors import InvalidInputError

Schedule = Literal["linear", "cosine", "constant", "polynomial", "inverse_sqrt"]
_NAMES = get_args(Schedule)
_ENDLESS = ("constant", "inverse_sqrt")


def schedule_factor(
    schedule: Schedule,
    warmup_steps: int,
    total_steps: int | None,
    *,
    minimum: float = 0.0,
    cycles: int = 1,
    power: float = 1.0,
) -> Callable[[int], float]:
    """Return the function from a step (from 0) to its factor on the peak learning rate.

    Args:
        schedule: what follows the warm-up.
        warmup_steps: steps of linear warm-up.
        total_steps: steps of the whole run; needed unless the schedule is "constant" or "inverse_sqrt".
        minimum: lowest factor after the warm-up, from 0 to 1.
        cycles: how often "cosine" comes down.
        power: exponent of "polynomial".

    Raises:
        InvalidInputError: the schedule is unknown, the numbers of steps do not fit, or an argument is out of range
            or none of this schedule's.
    """
    if schedule not in _NAMES:
        names = ", ".join(map(repr, _NAMES[:-1]))
        raise InvalidInputError(f"schedule: expected {names} or {_NAMES[-1]!r}, got {schedule!r}")
    if warmup_steps < 0:
        raise InvalidInputError(f"warmup_steps: expected 0 or more, got {warmup_steps}")
    if schedule not in _ENDLESS and (total_steps is None or total_steps <= warmup_steps):
        raise InvalidInputError(
            f"total_steps: expected more than warmup_steps ({warmup_steps}) for schedule {schedule!r}, "
            f"got {total_steps}"
        )
    _check_shape(schedule, minimum, cycles, power)

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        if schedule == "constant":
            return 1.0
        if schedule == "inverse_sqrt" or total_steps is None:
            return max(minimum, math.sqrt(max(warmup_steps, 1) / (step + 1)))
        done = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return minimum + (1.0 - minimum) * _decline(schedule, done, cycles, power)

    return factor


def _decline(schedule: Schedule, done: float, cycles: int, power: float) -> float:
    if schedule == "cosine":
        within = math.fmod(done * cycles, 1.0) if done < 1.0 else 1.0
        return (1.0 + math.cos(math.pi * within)) / 2.0
    return 1.0 - done if schedule == "linear" else (1.0 - done) ** power


def _check_shape(schedule: Schedule, minimum: float, cycles: int, power: float) -> None:
    if not 0.0 <= minimum <= 1.0:
        raise InvalidInputError(f"minimum: expected a factor from 0 to 1, got {minimum!r}")
    if minimum > 0.0 and schedule == "constant":
        raise InvalidInputError(f"minimum: expected 0.0 for schedule 'constant', got {minimum!r}")
    if isinstance(cycles, bool) or not isinstance(cycles, int) or cycles < 1:
        raise InvalidInputError(f"cycles: expected a positive integer, got {cycles!r}")
    if cycles > 1 and schedule != "cosine":
        raise InvalidInputError(f"cycles: expected 1 for schedule {schedule!r}, got {cycles}")
    if not power > 0.0 or not math.isfinite(power):
        raise InvalidInputError(f"power: expected a positive number, got {power!r}")
    if power != 1.0 and schedule != "polynomial":
        raise InvalidInputError(f"power: expected 1.0 for schedule {schedule!r}, got {power!r}")
