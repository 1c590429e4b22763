"""Two-tower model, DeepFM and DIN: against PyTorch formulas, padding, saving, programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra import models
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError, WeightError
from tests.nn.saved_program import runs_alike
from tests.nn.torch_gold import agrees, rows, torch

F = torch.nn.functional
FEATURES = models.FeaturesConfig(vocab_sizes=(7, 4), num_numbers=2, bag_vocab_sizes=(6,))
TWO_TOWER = models.TwoTowerConfig(
    user=FEATURES,
    item=models.FeaturesConfig(vocab_sizes=(9,)),
    embedding_size=5,
    hidden_sizes=(8,),
    output_size=6,
    learned_temperature=True,
)
DEEPFM = models.DeepFMConfig(
    vocab_sizes=(7, 4), num_numbers=2, bag_vocab_sizes=(6,), embedding_size=5, hidden_sizes=(8, 6)
)
DIN = models.DINConfig(
    item_vocab_sizes=(9, 4),
    vocab_sizes=(7,),
    num_numbers=2,
    embedding_size=5,
    attention_sizes=(8, 4),
    hidden_sizes=(8, 6),
)


def columns(size: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    numbers = rng.standard_normal((size, 2)).astype(np.float32)
    numbers[0, 1] = np.nan
    return {
        "categories": np.stack([rng.integers(0, 7, size), rng.integers(0, 4, size)], axis=1),
        "numbers": numbers,
        "bags": rng.integers(0, 6, (size, 1, 3)),
        "bag_lengths": rng.integers(0, 4, (size, 1)),
    }


def visits(size: int, seed: int = 0, length: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    items = np.stack(
        [rng.integers(0, 9, (size, length + 1)), rng.integers(0, 4, (size, length + 1))], axis=-1
    )
    return {
        "target": items[:, 0],
        "history": items[:, 1:],
        "lengths": rng.integers(0, length + 1, size),
        "categories": rng.integers(0, 7, (size, 1)),
        "numbers": columns(size, seed)["numbers"],
    }


def tensors(batch: dict[str, np.ndarray]) -> dict[str, paddle.Tensor]:
    return {name: paddle.to_tensor(value) for name, value in batch.items()}


def spread(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Parameters, drawn anew and larger, so that every part of a model matters."""
    parameters = dict(model.named_parameters())
    for seed, parameter in enumerate(parameters.values()):
        parameter.set_value(rows(*parameter.shape, seed=seed, scale=0.5))
    return parameters


def bag_mean(table, ids: np.ndarray, lengths: np.ndarray):
    means = []
    for row, length in zip(ids, lengths, strict=True):
        picked = table[torch.tensor(row[:length])]
        means.append(picked.sum(0) / max(length, 1))
    return torch.stack(means)


def table_vectors(p, prefix: str, batch: dict[str, np.ndarray]):
    ids = torch.tensor(batch["categories"])
    fields = [p[f"{prefix}fields.tables.{i}.weight"][ids[:, i]] for i in range(ids.shape[1])]
    if "bags" in batch:
        table = p[f"{prefix}bags.embedding.tables.0.weight"]
        fields.append(bag_mean(table, batch["bags"][:, 0], batch["bag_lengths"][:, 0]))
    return torch.stack(fields, 1)


def known(batch: dict[str, np.ndarray]):
    numbers = torch.tensor(batch["numbers"]).double()
    return torch.nan_to_num(numbers), torch.isnan(numbers).double()


def dense(p, prefix: str, x, count: int, activate=F.relu):
    for i in range(count):
        x = activate(x @ p[f"{prefix}layers.{i}.weight"] + p[f"{prefix}layers.{i}.bias"], i)
    return x


def relu(x, _):
    return F.relu(x)


def linear(p, name: str, x):
    return x @ p[name + ".weight"] + p[name + ".bias"]


def test_two_tower_loss() -> None:
    model = models.TwoTowerModel(TWO_TOWER)
    parameters = {name: p for name, p in spread(model).items() if name != "contrast.log_scale"}
    model.contrast.log_scale.set_value(np.array([1.5], np.float32))
    parameters["contrast.log_scale"] = model.contrast.log_scale
    user, items, other = columns(4), np.array([[3], [8], [3], [0]]), np.array([[5], [1]])
    probability = np.array([0.4, 0.1, 0.4, 0.2], np.float32)

    def tower(p, prefix: str, batch: dict[str, np.ndarray]):
        parts = [table_vectors(p, prefix + ".features.", batch).flatten(1)]
        parts += known(batch) if "numbers" in batch else []
        hidden = dense(p, prefix + ".stack.", torch.cat(list(parts), 1), 1, relu)
        return F.normalize(linear(p, prefix + ".output", hidden), dim=-1)

    def gold(**p):
        candidates = tower(p, "item", {"categories": np.concatenate([items[[0, 1, 3]], other])})
        logits = p["contrast.log_scale"].exp() * tower(p, "user", user) @ candidates.T
        logits[:, :3] = logits[:, :3] - torch.tensor(np.log(probability[[0, 1, 3]])).double()
        return F.cross_entropy(logits, torch.tensor([0, 1, 0, 2]))

    agrees(
        lambda: model.loss(
            tensors(user),
            tensors({"categories": items}),
            item_ids=paddle.to_tensor(items[:, 0]),
            log_probability=paddle.to_tensor(np.log(probability)),
            negatives=tensors({"categories": other}),
        ),
        gold,
        {},
        parameters,
        rtol=2e-5,
    )
    encoded = model.encode_users(**tensors(user)), model.encode_items(**tensors({"categories": items}))
    score = model(tensors(user), tensors({"categories": items}))
    np.testing.assert_allclose((encoded[0] * encoded[1]).sum(-1).numpy(), score.numpy(), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(encoded[0].numpy(), axis=1), 1.0, rtol=1e-5)


def test_deepfm_loss() -> None:
    model = models.DeepFM(DEEPFM)
    parameters, batch, labels = spread(model), columns(5), np.array([1.0, 0.0, 0.0, 1.0, 1.0], np.float32)

    def gold(**p):
        numbers, missing = known(batch)
        vectors = torch.cat(
            [table_vectors(p, "features.", batch), numbers[..., None] * p["number_vectors"]], 1
        )
        first = table_vectors(p, "linear.", batch).sum((1, 2)) + (numbers @ p["number_weights"])[:, 0]
        fields = vectors.shape[1]
        pairs = sum((vectors[:, i] * vectors[:, j]).sum(-1) for i in range(fields) for j in range(i))
        deep = dense(p, "deep.", torch.cat([vectors.flatten(1), missing], 1), 2, relu)
        logits = first + pairs + linear(p, "output", deep)[:, 0]
        return F.binary_cross_entropy_with_logits(logits, torch.tensor(labels).double())

    agrees(lambda: model.loss(**tensors(batch), labels=paddle.to_tensor(labels)), gold, {}, parameters)
    model.eval()
    logits = model(**tensors(batch)).numpy()
    np.testing.assert_allclose(model.predict(**tensors(batch)).numpy(), 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("normalized", [True, False])
def test_din_loss(normalized: bool) -> None:
    model = models.DIN(models.DINConfig(**{**DIN.__dict__, "normalize_attention": normalized}))
    parameters, batch = spread(model), visits(5)
    batch["lengths"][:2] = 0, 4  # none, and all
    labels = np.array([1.0, 0.0, 0.0, 1.0, 1.0], np.float32)
    mask = torch.tensor(np.arange(4) < batch["lengths"][:, None])

    def gold(**p):
        def item(ids: np.ndarray):
            ids = torch.tensor(ids)
            return torch.cat([p[f"items.tables.{i}.weight"][ids[..., i]] for i in range(2)], -1)

        def dice(prefix: str, counts):
            def activate(x, i):
                kept = x[counts]
                mean, variance = kept.mean(0), kept.var(0, unbiased=False)
                share = torch.sigmoid((x - mean) / (variance + 1e-8).sqrt())
                return (share + (1 - share) * p[f"{prefix}dice.{i}.alpha"]) * x

            return activate

        target, history = item(batch["target"]), item(batch["history"])
        wide = target[:, None].expand_as(history)
        pairs = torch.cat([history, wide, history - wide, history * wide], -1)
        score = linear(p, "attention_output", dense(p, "attention.", pairs, 2, dice("attention.", mask)))[
            ..., 0
        ]
        if normalized:
            score = torch.softmax(score.masked_fill(~mask, -1e30), -1)
        interest = (score.masked_fill(~mask, 0.0)[..., None] * history).sum(1)
        numbers, missing = known(batch)
        rest = torch.cat([table_vectors(p, "features.", batch).flatten(1), numbers, missing], 1)
        everything = dice("stack.", torch.ones(5, dtype=torch.bool))
        hidden = dense(p, "stack.", torch.cat([interest, target, rest], 1), 2, everything)
        return F.binary_cross_entropy_with_logits(
            linear(p, "output", hidden)[:, 0], torch.tensor(labels).double()
        )

    agrees(
        lambda: model.loss(**tensors(batch), labels=paddle.to_tensor(labels)), gold, {}, parameters, rtol=5e-5
    )


@pytest.mark.parametrize("extra", [0, 1, 7])
@pytest.mark.parametrize("activation", ["dice", "relu"])
def test_padding_of_histories_changes_nothing(extra: int, activation: str) -> None:
    batch = visits(5)
    is_padding = np.arange(4) >= batch["lengths"][:, None]
    padded = {**batch, "history": np.where(is_padding[..., None], -7, batch["history"])}
    padded["history"] = np.pad(padded["history"], ((0, 0), (0, extra), (0, 0)), constant_values=10**6)
    labels, results = paddle.to_tensor([1.0, 0.0, 0.0, 1.0, 1.0]), []
    for inputs in (batch, padded):
        model = models.DIN(models.DINConfig(**{**DIN.__dict__, "activation": activation}))
        spread(model)
        loss = model.loss(**tensors(inputs), labels=labels)
        loss.backward()
        buffers = [value.numpy() for value in model.state_dict().values()]
        results.append([loss.numpy(), *(p.grad.numpy() for p in model.parameters()), *buffers])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5 * max(1.0, np.abs(one).max()))


@pytest.mark.parametrize(
    ("cls", "config"),
    [(models.TwoTowerModel, TWO_TOWER), (models.DeepFM, DEEPFM), (models.DIN, DIN)],
    ids=["two_tower", "deepfm", "din"],
)
def test_save_and_load_give_the_same_model(cls: type, config: models.ModelConfig, tmp_path: Path) -> None:
    model = cls(config)
    spread(model)
    for name, buffer in model.named_buffers():
        buffer.set_value(np.abs(rows(*buffer.shape, seed=len(name))) + 0.1)
    model.save_pretrained(tmp_path)
    loaded = cls.from_pretrained(tmp_path)
    assert loaded.config == config
    assert (loaded.load_report.missing, loaded.load_report.unexpected) == ((), ())
    state = loaded.state_dict()
    assert sorted(state) == sorted(model.state_dict())
    for name, value in model.state_dict().items():
        assert np.array_equal(state[name].numpy(), value.numpy()), name
    with pytest.raises(WeightError, match="expected model_type 'tabular', got"):
        models.TabularModel.from_pretrained(tmp_path)


NUMBERS = ["categories", "numbers", "bags", "bag_lengths"]
SPECS = {
    "categories": ([None, 2], "int64"),
    "numbers": ([None, 2], "float32"),
    "bags": ([None, 1, None], "int64"),
    "bag_lengths": ([None, 1], "int64"),
}


@pytest.mark.parametrize("kind", ["deepfm", "user"])
def test_columns_saved_with_a_dynamic_batch(kind: str, tmp_path: Path) -> None:
    model = models.DeepFM(DEEPFM) if kind == "deepfm" else models.TwoTowerModel(TWO_TOWER).user
    spread(model)
    batches = [columns(n, n) for n in (3, 1, 7)]
    batches[1]["bags"] = batches[1]["bags"][:, :, :2].clip(max=5)
    batches[1]["bag_lengths"] = np.array([[2]])
    runs_alike(
        model, tmp_path, [SPECS[name] for name in NUMBERS], *(list(batch.values()) for batch in batches)
    )


def test_din_saved_with_dynamic_batch_and_length(tmp_path: Path) -> None:
    model = models.DIN(DIN)
    spread(model)
    specs = [
        ([None, 2], "int64"),
        ([None, None, 2], "int64"),
        ([None], "int64"),
        ([None, 1], "int64"),
        ([None, 2], "float32"),
    ]
    batches = [visits(3), visits(1, length=1), visits(7, length=9)]
    # Training would move the running statistics of Dice: test_features.py has that.
    runs_alike(model, tmp_path, specs, *(list(batch.values()) for batch in batches), trains=False)


@pytest.mark.parametrize("kind", ["deepfm", "din"])
def test_logits_of_1e4_and_a_batch_of_one(kind: str) -> None:
    model = models.DeepFM(DEEPFM) if kind == "deepfm" else models.DIN(DIN)
    batch = tensors(columns(1) if kind == "deepfm" else visits(1))
    spread(model)
    model.output.bias.set_value(np.array([1e4], np.float32))
    for label, expected in ((1.0, 0.0), (0.0, 1e4)):
        loss = model.loss(**batch, labels=paddle.to_tensor([label]))
        loss.backward()
        assert float(loss) == pytest.approx(expected, rel=1e-2, abs=1e-6)
        assert all(np.isfinite(p.grad.numpy()).all() for p in model.parameters() if p.grad is not None)


def test_parameter_names() -> None:
    tower = ["output.bias", "output.weight", "stack.layers.0.bias", "stack.layers.0.weight"]
    user = ["bags.embedding.tables.0.weight", "fields.tables.0.weight", "fields.tables.1.weight"]
    user += ["scaling.mean", "scaling.std"]
    assert sorted(models.TwoTowerModel(TWO_TOWER).state_dict()) == sorted(
        ["contrast.log_scale", "item.features.fields.tables.0.weight"]
        + [f"{side}.{name}" for side in ("user", "item") for name in tower]
        + [f"user.features.{name}" for name in user]
    )
    assert sorted(models.DeepFM(DEEPFM).state_dict()) == sorted(
        [f"deep.layers.{i}.{name}" for i in range(2) for name in ("weight", "bias")]
        + [f"features.{name}" for name in user]
        + [f"linear.{name}" for name in user if "scaling" not in name]
        + ["number_vectors", "number_weights", "output.weight", "output.bias"]
    )
    assert sorted(models.DIN(DIN).state_dict()) == sorted(
        [
            f"{stack}.{name}"
            for stack in ("attention", "stack")
            for i in range(2)
            for name in (
                f"layers.{i}.weight",
                f"layers.{i}.bias",
                f"dice.{i}.alpha",
                f"dice.{i}.mean",
                f"dice.{i}.variance",
            )
        ]
        + ["features.fields.tables.0.weight", "features.scaling.mean", "features.scaling.std"]
        + ["items.tables.0.weight", "items.tables.1.weight"]
        + [f"{layer}.{name}" for layer in ("attention_output", "output") for name in ("weight", "bias")]
    )


def test_errors() -> None:
    model, batch = models.DIN(DIN), tensors(visits(3))
    with pytest.raises(InvalidInputError, match=r"lengths\[2\]: expected a length in \[0, 4\], got 5"):
        model(**{**batch, "lengths": paddle.to_tensor([1, 2, 5])})
    with pytest.raises(InvalidInputError, match=r"history: expected shape \[-1, -1, 2\] .*, got \[3, 4, 1\]"):
        model(**{**batch, "history": batch["history"][..., :1]})
    with pytest.raises(InvalidInputError, match=r"target: expected shape \[3, 2\] .*, got \[2, 2\]"):
        model(**{**batch, "target": batch["target"][:2]})
    with pytest.raises(InvalidInputError, match=r"labels: expected numbers in \[0, 1\], got 2"):
        model.loss(**batch, labels=paddle.to_tensor([0.0, 1.0, 2.0]))
    with pytest.raises(
        InvalidDtypeError, match="labels: expected dtype bool or float32 or float64, got int64"
    ):
        model.loss(**batch, labels=paddle.to_tensor([0, 1, 1]))
    with pytest.raises(
        InvalidInputError, match=r"labels: expected shape \[3\] \(\[batch_size\]\), got \[3, 1\]"
    ):
        model.loss(**batch, labels=paddle.zeros([3, 1]))
    with pytest.raises(InvalidInputError, match="bags: expected a tensor, got None"):
        models.DeepFM(DEEPFM)(*(tensors(columns(3))[name] for name in NUMBERS[:2]))
