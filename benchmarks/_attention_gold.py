"""Attention and its gradients in float64, straight from the definition: what accuracy is measured against."""

from __future__ import annotations

import numpy as np

from benchmarks._attention_cases import Case

RESULTS = ("out", "grad_query", "grad_key", "grad_value")


def gold(case: Case, data: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return the output and the gradients of query, key and value."""
    names = ("query", "key", "value", "grad")
    query, key, value, grad = (data[name].astype("float64") for name in names)
    out, grad_query = np.zeros_like(query), np.zeros_like(query)
    grad_key, grad_value = np.zeros_like(key), np.zeros_like(value)
    scale = case.head_dim**-0.5
    allowed = np.ones((case.seq_q, case.seq_k), bool)
    if case.causal:
        allowed = np.tri(case.seq_q, case.seq_k, case.seq_k - case.seq_q, dtype=bool)
    for b in range(case.batch):
        for h in range(case.heads):
            g = h * case.kv_heads // case.heads
            q, k, v, do = query[b, :, h], key[b, :, g], value[b, :, g], grad[b, :, h]
            scores = scale * q @ k.T
            if "bias" in data:
                scores += data["bias"][0, h]
            scores[~allowed] = -np.inf
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            out[b, :, h] = weights @ v
            grad_value[b, :, g] += weights.T @ do
            delta = np.sum(do * out[b, :, h], axis=1, keepdims=True)
            grad_scores = weights * (do @ v.T - delta)
            grad_query[b, :, h] = scale * grad_scores @ k
            grad_key[b, :, g] += scale * grad_scores.T @ q
    return [out, grad_query, grad_key, grad_value]
