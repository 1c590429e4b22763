r"""Streaming metrics for retrieval and recommendation: how high the relevant candidates of each query rank.

With candidates by falling score, :math:`g_i` the relevance of the *i*-th and *R* the number of relevant ones,

.. math:: \mathrm{MRR} = \frac{1}{\min\{i : g_i > 0\}}, \quad
    \mathrm{recall@}k = \frac{|\{i \le k : g_i > 0\}|}{R}, \quad
    \mathrm{NDCG@}k = \frac{\sum_{i \le k} g_i / \log_2(i + 1)}{\text{the same in the best order}}

each averaged over the queries that have a relevant candidate.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train.batches import IGNORE_INDEX
from paddle_infra.train.metrics.base import ExactSum


class RetrievalMetrics:
    """``mrr``, ``recall_at_<k>`` and ``ndcg_at_<k>`` (linear gains, as in scikit-learn).

    The evaluation step returns ``scores`` and ``labels``, both [queries, candidates]: the relevance of each
    candidate, 0 or more; ``ignore_index`` where a query has fewer candidates. Of equal scores the earlier candidate
    ranks first. A query without a relevant candidate says nothing and is left out.

    Args:
        k: how many candidates count.
        ignore_index: label of entries that are no candidates.

    Attributes:
        queries: number of queries that count.
    """

    def __init__(self, k: int = 10, *, ignore_index: int = IGNORE_INDEX) -> None:
        if k < 1:
            raise InvalidInputError(f"RetrievalMetrics: k: expected at least 1, got {k}")
        self.k, self.ignore_index = k, ignore_index
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self.queries = 0
        self._sums = {name: ExactSum() for name in ("mrr", f"recall_at_{self.k}", f"ndcg_at_{self.k}")}

    def update(self, *, labels: Any = None, scores: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, the shapes do not fit, a relevance is negative or a score NaN.
        """
        if labels is None or scores is None:
            raise InvalidInputError("RetrievalMetrics: expected the evaluation outputs 'labels' and 'scores'")
        gains, values = np.asarray(labels, np.float64), np.asarray(scores, np.float64)
        if gains.ndim != 2 or gains.shape != values.shape:
            raise InvalidInputError(
                "RetrievalMetrics: expected labels and scores of one shape [queries, candidates], "
                f"got {list(gains.shape)} and {list(values.shape)}"
            )
        is_candidate = gains != self.ignore_index
        wrong = gains[is_candidate & ~(gains >= 0)]
        if wrong.size or np.isnan(values[is_candidate]).any():
            got = f"the relevance {wrong[0]}" if wrong.size else "the score nan"
            raise InvalidInputError(
                f"RetrievalMetrics: expected a relevance of 0 or more and a number as score, got {got}"
            )
        gains = np.where(is_candidate, gains, 0.0)  # ranked last, and worth nothing
        order = np.lexsort((-values, ~is_candidate), axis=-1)
        ranked = np.take_along_axis(gains, order, axis=-1)[(gains > 0).any(axis=-1)]
        if not ranked.size:
            return
        best = -np.sort(-ranked, axis=-1)
        discount = 1 / np.log2(np.arange(2, ranked.shape[1] + 2))
        discount[self.k :] = 0.0
        per_query = {
            "mrr": 1 / (1.0 + (ranked > 0).argmax(axis=-1)),
            f"recall_at_{self.k}": (ranked[:, : self.k] > 0).sum(axis=-1) / (ranked > 0).sum(axis=-1),
            # Row by row: the order in which NumPy sums must not depend on the other queries.
            f"ndcg_at_{self.k}": [
                math.fsum(row * discount) / math.fsum(ideal * discount)
                for row, ideal in zip(ranked, best, strict=True)
            ],
        }
        self.queries += len(ranked)
        for name, query_values in per_query.items():
            self._sums[name].add_all(query_values)

    def state(self) -> tuple[int, dict[str, list[float]]]:
        """Return the number of queries and the sums, in exact parts."""
        return self.queries, {name: list(total.parts) for name, total in self._sums.items()}

    def add_state(self, state: tuple[int, dict[str, list[float]]]) -> None:
        """Add the queries of another process."""
        self.queries += state[0]
        for name, parts in state[1].items():
            for part in parts:
                self._sums[name].add(part)

    def compute(self) -> dict[str, float]:
        """Return the means; NaN if no query had a relevant candidate."""
        return {
            name: total.value() / self.queries if self.queries else math.nan
            for name, total in self._sums.items()
        }
