"""BLEU of generated texts, by sacreBLEU."""

from __future__ import annotations

from typing import Any

import numpy as np

from paddle_infra._core.errors import InvalidInputError
from paddle_infra._core.extras import require


class BLEU:
    """Corpus BLEU from 0 to 100, as ``bleu``: exactly sacreBLEU's ``corpus_bleu`` with its defaults.

    Only the counts of n-grams are kept. The evaluation step returns ``texts`` (a list of generated texts) and
    ``references``: one text per generated one, or a list of as many for each.

    Args:
        tokenize: sacreBLEU's tokenizer: "13a", "zh", "char", "intl", …

    Raises:
        MissingExtraError: sacreBLEU is not installed.

    References:
        Post, A call for clarity in reporting BLEU scores, arXiv:1804.08771.
    """

    def __init__(self, *, tokenize: str = "13a") -> None:
        self._bleu = require("sacrebleu", extra="text", purpose="BLEU").BLEU(tokenize=tokenize)
        self.reset()

    def reset(self) -> None:
        """Forget everything added."""
        self._counts = np.zeros(2 * self._bleu.max_ngram_order + 2, np.int64)

    def update(self, *, texts: Any = None, references: Any = None, **_: Any) -> None:
        """Add one batch.

        Raises:
            InvalidInputError: an input is missing, or their numbers differ.
        """
        if texts is None or references is None:
            raise InvalidInputError("BLEU: expected the evaluation outputs 'texts' and 'references'")
        texts, references = np.asarray(texts), np.asarray(references)
        if texts.ndim != 1 or references.ndim not in (1, 2) or len(references) != len(texts):
            raise InvalidInputError(
                "BLEU: expected texts [n] and references [n] or [n, references per text], got the shapes "
                f"{list(texts.shape)} and {list(references.shape)}"
            )
        if len(texts):
            columns = references.reshape(len(texts), -1).T.tolist()
            found = self._bleu.corpus_score(texts.tolist(), columns)
            self._counts += np.array([found.sys_len, found.ref_len, *found.counts, *found.totals])

    def state(self) -> Any:
        """Return the counts."""
        return self._counts

    def add_state(self, state: Any) -> None:
        """Add the counts of another process."""
        self._counts = self._counts + state

    def compute(self) -> dict[str, float]:
        """Return the score; 0 if there was no text."""
        order = self._bleu.max_ngram_order
        length, reference_length, *counts = self._counts.tolist()
        found = self._bleu.compute_bleu(
            correct=counts[:order],
            total=counts[order:],
            sys_len=length,
            ref_len=reference_length,
            smooth_method=self._bleu.smooth_method,
            smooth_value=self._bleu.smooth_value,
            effective_order=self._bleu.effective_order,
            max_ngram_order=order,
        )
        return {"bleu": float(found.score)}
