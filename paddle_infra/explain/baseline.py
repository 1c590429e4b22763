"""Token ids that stand for "no information"."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np

from paddle_infra._core.checks import check_integer
from paddle_infra._core.errors import InvalidDtypeError


def token_baseline(input_ids: Any, baseline_id: int, *, keep: Collection[int] = ()) -> np.ndarray:
    """Replace every token but some special ones by one that says nothing.

    Args:
        input_ids: integers ``[batch, length]``.
        baseline_id: the id of the padding or mask token. The mask token has been seen in ordinary places by masked
            language models; padding is what is left for others.
        keep: ids that stay, and so get attribution 0: padding, and the tokens that every sequence has (``[CLS]``,
            ``[SEP]``).

    Returns:
        Integers of the same shape and dtype.

    Raises:
        InvalidDtypeError: not integers.
    """
    check_integer("baseline_id", baseline_id)
    ids = np.asarray(input_ids)
    if ids.dtype.kind not in "iu":
        raise InvalidDtypeError(f"input_ids: expected integers, got {ids.dtype}")
    return np.where(np.isin(ids, list(keep)), ids, baseline_id).astype(ids.dtype)
