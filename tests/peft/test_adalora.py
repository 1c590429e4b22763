"""AdaLoRA: the budget is met exactly, ties are decided, scores are the paper's, and a resumed run is the same run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra import peft
from paddle_infra._core.errors import CheckpointError, InvalidInputError
from paddle_infra.peft.allocation import keep_largest
from paddle_infra.train import Callback, Checkpoint, adamw
from tests.peft.tiny import adapted, batch, logits, model
from tests.train.problem import SeekableLoader, assert_same_bits, make_trainer, mlp, tensors, training_step

CONFIG = peft.AdaLoRAConfig(rank=6, layers=["0", "4"])


def test_budget() -> None:
    values = [peft.budget(t, 60, 20, 10, 30, 100) for t in range(101)]
    assert values[:11] == [60] * 11
    assert values[70:] == [20] * 31
    assert all(a >= b for a, b in itertools.pairwise(values))
    for step in range(10, 70):
        exact = 20 + 40 * (1 - (step - 10) / 60) ** 3
        assert exact - 1e-9 <= values[step] < exact + 1 + 1e-9


def test_ties_go_to_the_first() -> None:
    scores = [np.array([1.0, 2.0, 1.0]), np.array([1.0, np.nan]), np.array([2.0, 1.0])]
    assert [mask.astype(int).tolist() for mask in keep_largest(scores, 4)] == [[1, 1, 1], [0, 0], [1, 0]]
    assert sum(mask.sum() for mask in keep_largest([np.zeros(5), np.zeros(5)], 7)) == 7
    assert keep_largest([np.zeros(2), np.zeros(2)], 3)[1].tolist() == [True, False]


def test_orthogonality_is_its_formula() -> None:
    made = adapted("adalora")
    expected = 0.0
    for name, p in peft.trainable_parameters(made).items():
        value = p.numpy().astype("float64")
        if name.endswith((".left", ".right")):
            product = value.T @ value if name.endswith(".left") else value @ value.T
            expected += ((product - np.eye(len(product))) ** 2).sum()
    np.testing.assert_allclose(float(peft.orthogonality(made)), expected, rtol=1e-5)
    step = peft.with_orthogonality(lambda network, inputs: paddle.to_tensor(2.0), 0.25)
    np.testing.assert_allclose(float(step(made, None)), 2.0 + 0.25 * expected, rtol=1e-5)
    with pytest.raises(
        InvalidInputError, match="expected a model whose active adapter is AdaLoRA and trains, got none"
    ):
        peft.orthogonality(model())


def trainer(allocation: peft.RankAllocation, *callbacks: Callback, **options: Any) -> Any:
    paddle.seed(0)
    network = mlp()
    peft.apply(network, CONFIG, train_also=("1",))
    return make_trainer(
        [allocation, *callbacks],
        model=network,
        optimizer=adamw(network, 2e-2, schedule="constant"),
        training_step=peft.with_orthogonality(training_step),
        **options,
    )


def allocation(**changes: Any) -> peft.RankAllocation:
    settings = {"initial_steps": 2, "final_steps": 3, "every_steps": 2}
    return peft.RankAllocation(2, **{**settings, **changes})


class Watch(Callback):
    """Keeps weights and gradients before every step, and how many triplets are not 0 after it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, tuple[np.ndarray, np.ndarray]]] = []
        self.nonzero: list[int] = []

    def on_gradients(self, trainer: Any) -> None:
        named = peft.trainable_parameters(trainer.model)
        self.seen.append({name: (p.numpy().copy(), p._grad_ivar().numpy()) for name, p in named.items()})

    def on_step_end(self, trainer: Any) -> None:
        named = peft.trainable_parameters(trainer.model)
        self.nonzero.append(
            sum(int((p != 0).sum()) for name, p in named.items() if name.endswith("diagonal"))
        )


def test_the_budget_is_met_exactly_and_scores_are_the_paper_s() -> None:
    watch = Watch()
    run = trainer(allocation(), watch)
    assert run.fit(SeekableLoader(), max_steps=12).step == 12
    kept = peft.kept_triplets(run.model)
    assert sum(kept.values()) == 4
    layers = [run.model[0].adapters["default"], run.model[4].adapters["default"]]
    masks = [layer.kept.numpy() for layer in layers]
    # The final allocation is after step 9, from the gradients of the first nine.
    smoothed: dict[str, np.ndarray] = {}
    for seen in watch.seen[:9]:
        for name, (value, gradient) in seen.items():
            new = np.abs(value.astype("float64") * gradient)
            i = 0.85 * smoothed.get(f"{name}/i", 0.0) + 0.15 * new
            smoothed[f"{name}/u"] = 0.85 * smoothed.get(f"{name}/u", 0.0) + 0.15 * np.abs(new - i)
            smoothed[f"{name}/i"] = i
    scores = []
    for index in (0, 4):
        s = {
            part: smoothed[f"{index}.adapters.default.{part}/i"]
            * smoothed[f"{index}.adapters.default.{part}/u"]
            for part in ("left", "diagonal", "right")
        }
        scores.append(s["diagonal"] + s["left"].mean(0) + s["right"].mean(1))
    best = np.sort(np.concatenate(scores))[-4]
    for mask, score in zip(masks, scores, strict=True):
        np.testing.assert_array_equal(mask.astype(bool), score >= best)
    budgets = {step: peft.budget(step, 12, 4, 2, 3, 12) for step in (2, 4, 6, 8, 9)}
    assert [watch.nonzero[step - 1] for step in budgets] == [12, *list(budgets.values())[1:]]
    assert list(budgets.values()) == [12, 7, 5, 5, 4]
    # What is out stays out: whatever its number, it changes nothing.
    run.model.eval()
    before = run.model(paddle.ones([2, 64])).numpy()
    for layer, mask in zip(layers, masks, strict=True):
        layer.diagonal.set_value(layer.diagonal + paddle.to_tensor(1.0 - mask))
    assert np.array_equal(run.model(paddle.ones([2, 64])).numpy(), before)


@pytest.mark.parametrize("stop", [5, 9, 10])
def test_a_resumed_run_is_the_same_run(tmp_path: Path, stop: int) -> None:
    whole = trainer(allocation(total_steps=12))
    whole.fit(SeekableLoader(), max_steps=12)
    first = trainer(allocation(total_steps=12), Checkpoint(tmp_path, every_steps=1))
    early = pytest.warns(UserWarning, match="ended after 5 steps, before the final allocation after 9")
    if stop < 9:
        with early:
            first.fit(SeekableLoader(), max_steps=stop)
    else:
        first.fit(SeekableLoader(), max_steps=stop)
    second = trainer(allocation(total_steps=12), Checkpoint(tmp_path, every_steps=1), seed=7)
    second.fit(SeekableLoader(), max_steps=12, resume="latest")
    assert_same_bits(tensors(whole), tensors(second))
    assert sum(peft.kept_triplets(second.model).values()) == 4
    other = trainer(peft.RankAllocation(3, final_steps=3), Checkpoint(tmp_path))
    with pytest.raises(CheckpointError, match="target_rank: expected the checkpoint's 2, got 3"):
        other.fit(SeekableLoader(), max_steps=14, resume="latest")


def test_a_skipped_step_does_not_count() -> None:
    callback = allocation(total_steps=12)
    run = trainer(callback, non_finite="skip")
    callback.on_fit_begin(run)
    for parameter in peft.trainable_parameters(run.model).values():
        parameter._grad_ivar()  # none yet
    callback.on_gradients(run)
    assert not callback.state_tensors()
    callback.on_step_end(run)
    assert callback.state_tensors()


def test_pruned_adapters_are_saved_and_merged(tmp_path: Path) -> None:
    run = trainer(allocation())
    run.fit(SeekableLoader(), max_steps=12)
    run.model.eval()
    expected = run.model(paddle.ones([2, 64])).numpy()
    peft.save_adapter(run.model, tmp_path)
    weights = {name: t for name, t in run.model.state_dict().items() if ".adapters." not in name}
    other = mlp()
    other.set_state_dict(weights)
    other.eval()
    peft.load_adapter(other, tmp_path)
    assert np.array_equal(other(paddle.ones([2, 64])).numpy(), expected)
    assert peft.kept_triplets(other) == peft.kept_triplets(run.model)
    peft.merge(other)
    np.testing.assert_allclose(other(paddle.ones([2, 64])).numpy(), expected, atol=1e-5)


def test_it_has_every_hook_of_the_trainer_s_callbacks() -> None:
    public = {name for name in dir(Callback) if not name.startswith("_")}
    assert public <= set(dir(peft.RankAllocation))
    for name in public:
        ours, theirs = getattr(peft.RankAllocation, name), getattr(Callback, name)
        if callable(theirs):
            assert (
                ours.__code__.co_varnames[: ours.__code__.co_argcount]
                == (theirs.__code__.co_varnames[: theirs.__code__.co_argcount])
            )
        else:
            assert ours == theirs


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: peft.RankAllocation(0), "target_rank: expected a positive integer, got 0"),
        (lambda: peft.RankAllocation(2, final_steps=0), "final_steps: expected a positive integer, got 0"),
        (lambda: peft.RankAllocation(2, initial_steps=-1), "initial_steps: expected 0 or more, got -1"),
        (
            lambda: trainer(peft.RankAllocation(7)).fit(SeekableLoader(), max_steps=2),
            "at most the adapter's rank 6",
        ),
        (
            lambda: trainer(allocation()).fit(SeekableLoader(), max_steps=4),
            r"initial_steps \+ final_steps: expected at most the 4 steps of the run, got 2 \+ 3",
        ),
        (
            lambda: make_trainer([allocation()]).fit(SeekableLoader(), max_steps=12),
            "active adapter is AdaLoRA and trains, got none",
        ),
    ],
)
def test_refusals(make, message) -> None:
    with pytest.raises(InvalidInputError, match=message):
        make()


def test_the_length_must_be_known() -> None:
    class Endless:
        def __iter__(self):
            return iter(SeekableLoader())

    with pytest.raises(
        InvalidInputError, match="total_steps: expected a number, since the Trainer does not know it"
    ):
        trainer(allocation()).fit(Endless(), max_epochs=2)


def test_triplets_that_are_out_change_no_logit() -> None:
    made = adapted("adalora")
    for layer in made.sublayers():
        if isinstance(layer, peft.AdaLoRALinear):
            layer.kept.set_value(paddle.zeros_like(layer.kept))
    found = logits(made)
    head = {name: p for name, p in made.named_parameters() if name.startswith("head.")}
    plain = model()
    for name, p in plain.named_parameters():
        if name in head:
            p.set_value(head[name])
    np.testing.assert_allclose(found, plain(**batch()).numpy(), atol=1e-6)
