from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import models
from paddle_infra._core.errors import InvalidInputError
from tests.nn.programs import assert_program_is_layer

CONFIG = models.ResNetConfig(
    in_channels=1, blocks=(1, 1), channels=(8, 16), stem="small", labels=tuple("abc")
)


def make(**changes: object) -> models.ResNet:
    paddle.seed(0)
    return models.ResNet(dataclasses.replace(CONFIG, **changes))  # type: ignore[arg-type]


def their_name(name: str) -> str:
    """The name in ``paddle.vision.models.resnet*`` of one of our parameters."""
    names = {"stem.conv": "conv1", "stem.norm": "bn1", "head.classifier": "fc"}
    for ours, theirs in names.items():
        if name.startswith(ours):
            return theirs + name[len(ours) :]
    _, stage, block, part, kind, tensor = name.split(".")
    prefix = f"layer{int(stage) + 1}.{block}."
    if part == "shortcut":
        return f"{prefix}downsample.{int(kind == 'norm')}.{tensor}"
    return f"{prefix}{'conv' if kind == 'conv' else 'bn'}{part[-1]}.{tensor}"


@pytest.mark.parametrize("depth", [18, 50])
def test_equals_the_one_of_paddle_vision(depth: int) -> None:
    paddle.seed(0)
    theirs = getattr(paddle.vision.models, f"resnet{depth}")(num_classes=5)
    ours = models.ResNet(models.ResNetConfig.of_depth(depth, labels=tuple("abcde")))
    state, used = theirs.state_dict(), set()
    for index, (name, value) in enumerate(ours.state_dict().items()):
        other = their_name(name)
        used.add(other)
        if "norm" in name:
            noise = np.random.default_rng(index).uniform(0.5, 1.0, value.shape)
            state[other].set_value(noise.astype("float32"))
        value.set_value(state[other])
    assert used == set(state)
    image = paddle.to_tensor(np.random.default_rng(0).standard_normal((2, 3, 48, 40)).astype("float32"))
    ours.eval(), theirs.eval()
    expected = theirs(image).numpy()
    np.testing.assert_allclose(ours(image).numpy(), expected, atol=1e-5 * np.abs(expected).max())
    assert [list(m.shape[2:]) for m in ours.feature_maps(image)] == [[12, 10], [6, 5], [3, 3], [2, 2]]


def test_loss_is_the_cross_entropy_of_the_logits() -> None:
    model = make(dropout=0.0)
    model.eval()
    image, labels = paddle.rand([4, 1, 8, 8]), paddle.to_tensor([0, 1, 2, 1])
    expected = paddle.nn.functional.cross_entropy(model(image), labels)
    np.testing.assert_allclose(float(model.loss(image, labels=labels)), float(expected), rtol=1e-6)
    assert model.features(image).shape == [4, 16]


def test_round_trip_keeps_the_statistics_of_norms(tmp_path: Path) -> None:
    model = make()
    model(paddle.rand([4, 1, 8, 8]))  # in training mode: moves them
    model.eval()
    model.save_pretrained(tmp_path)
    other = models.ResNet.from_pretrained(tmp_path)
    other.eval()
    image = paddle.rand([2, 1, 8, 8])
    assert model.stem.norm._mean.numpy().any()
    np.testing.assert_array_equal(other.stem.norm._mean.numpy(), model.stem.norm._mean.numpy())
    np.testing.assert_array_equal(model(image).numpy(), other(image).numpy())
    assert other.config == CONFIG


def test_programs(tmp_path: Path) -> None:
    specs = [InputSpec([None, 1, None, None], "float32", "image")]
    inputs = [[paddle.rand([2, 1, 8, 6])], [paddle.rand([1, 1, 5, 5])]]
    assert_program_is_layer(make(norm="group"), specs, inputs, tmp_path, tolerance=1e-5)
    assert_program_is_layer(make(), specs, inputs, tmp_path, trains=False, tolerance=1e-5)


def test_parameter_names() -> None:
    tops = {name.partition(".")[0] for name, _ in make().named_parameters()}
    assert tops == {"stem", "stages", "head"}
    names = {name.rpartition(".")[0] for name, _ in make(block="bottleneck").named_parameters()}
    assert names == {
        "stem.conv",
        "stem.norm",
        "head.classifier",
        *(
            f"stages.{stage}.0.{part}.{kind}"
            for stage in range(2)
            for part in ("conv1", "conv2", "conv3", "shortcut")
            for kind in ("conv", "norm")
        ),
    }


def test_errors() -> None:
    with pytest.raises(InvalidInputError, match="depth: expected one of 18, 34, 50, 101, 152, got 20"):
        models.ResNetConfig.of_depth(20)
    with pytest.raises(
        InvalidInputError, match=r"expected a number for each stage, got \(1,\) and \(8, 16\)"
    ):
        make(blocks=(1,))
    with pytest.raises(InvalidInputError, match="stem: expected one of 'large', 'small', got 'tiny'"):
        make(stem="tiny")
    with pytest.raises(InvalidInputError, match=r"labels: expected at least 2 names, got \['a'\]"):
        make(labels=("a",))
    with pytest.raises(
        InvalidInputError, match=r"image: expected shape \[-1, 1, -1, -1\].*got \[2, 3, 8, 8\]"
    ):
        make()(paddle.rand([2, 3, 8, 8]))


def test_learns_digits() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    image = (digits.images[:, None] / 16.0).astype("float32")
    labels = digits.target.astype("int64")
    order = np.random.default_rng(0).permutation(len(labels))
    image, labels = image[order], labels[order]
    model = make(labels=tuple("0123456789"))
    optimizer = paddle.optimizer.AdamW(1e-2, parameters=model.parameters())
    for epoch in range(3):
        for rows in np.random.default_rng(epoch).permutation(1400).reshape(-1, 50):
            loss = model.loss(paddle.to_tensor(image[rows]), labels=paddle.to_tensor(labels[rows]))
            loss.backward()
            optimizer.step()
            optimizer.clear_grad()
    model.eval()
    right = model(paddle.to_tensor(image[1400:])).argmax(axis=-1).numpy() == labels[1400:]
    assert right.mean() > 0.95
