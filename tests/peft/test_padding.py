"""Results and gradients do not depend on how much padding a batch has."""

from __future__ import annotations

import numpy as np
import pytest

from tests.peft.tiny import METHODS, adapted, gradients, logits

RATES = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("method", METHODS)
def test_padding_changes_nothing(method: str, pooling: str) -> None:
    model = adapted(method, pooling=pooling, **RATES)
    expected, expected_gradients = logits(model), gradients(model)
    assert all(np.abs(value).max() > 0 for value in expected_gradients.values())
    for padding in (1, 7):
        np.testing.assert_allclose(logits(model, padding), expected, atol=2e-6)
        found = gradients(model, padding)
        for name, value in expected_gradients.items():
            np.testing.assert_allclose(
                found[name], value, atol=2e-6 * max(1.0, np.abs(value).max()), err_msg=name
            )
