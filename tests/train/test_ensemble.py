from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.export import to_inference
from paddle_infra.train import Ensemble, seed_everything
from tests.train.problem import CLASSES, clouds, mlp


class Named(paddle.nn.Layer):
    """Takes its input by name and returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = mlp()

    def forward(self, points: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"points": points, "logits": self.body(points)}


def models(cls: Any = mlp, count: int = 3) -> list[Any]:
    seed_everything(0)
    made = [cls() for _ in range(count)]
    for model in made:
        model.eval()
    return made


def points() -> paddle.Tensor:
    return paddle.to_tensor(clouds()[0][:5])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.0]])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_average_is_that_of_float64(average: Any, weights: list[float] | None) -> None:
    members = models()
    each = np.stack([model(points()).numpy().astype(np.float64) for model in members])
    expected = np.average(each if average == "logits" else softmax(each), axis=0, weights=weights)
    ensemble = Ensemble(members, average=average, weights=weights)
    np.testing.assert_allclose(ensemble(points()).numpy(), expected, atol=1e-6, rtol=0)
    with paddle.no_grad():
        assert ensemble(points()).stop_gradient
    ensemble(points()).sum().backward()
    has_gradient = [float(model[0].weight.grad.abs().sum()) > 0 for model in members]
    assert average == "probabilities" or has_gradient == [True, True, weights is None]


def test_parameters_and_modes_are_those_of_the_models() -> None:
    members = models()
    ensemble = Ensemble(members)
    assert len(ensemble.state_dict()) == 3 * len(members[0].state_dict())
    ensemble.train()
    assert all(model.training for model in members)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.5]])
@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_export_gives_the_same_values(tmp_path: Path, average: Any, weights: list[float] | None) -> None:
    ensemble = Ensemble(models(Named), average=average, weights=weights, output="logits")
    # The exporter runs the saved program in a fresh process and compares.
    to_inference(
        ensemble,
        tmp_path / "model",
        {"points": clouds()[0][:4]},
        dynamic_axes={"points": {0: "batch"}},
        output_names=["average"],
    )
    assert (tmp_path / "model/model.json").is_file()


def test_bad_arguments() -> None:
    one, two = models(count=2)
    for members, options, message in [
        ([], {}, "expected at least one layer, got"),
        ([one, one], {}, "expected different layers, got one of them twice"),
        ([one], {"average": "votes"}, "average: expected 'logits' or 'probabilities', got 'votes'"),
        ([one, two], {"weights": [1.0]}, "weights: expected 2 non-negative numbers .* got .1.0."),
        ([one, two], {"weights": [1.0, -1.0]}, "weights: expected 2 non-negative numbers"),
        ([one, two], {"weights": [0.0, 0.0]}, "that are not all zero"),
    ]:
        with pytest.raises(InvalidInputError, match=message):
            Ensemble(members, **options)
    with pytest.raises(InvalidInputError, match=rf"of one shape, got \[\[5, {CLASSES}\], \[5, 1\]\]"):
        Ensemble([one, paddle.nn.Linear(64, 1)])(points())
