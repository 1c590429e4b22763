"""Two real processes against one: the same windows give the same weights, and what one refuses both do."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.train import DataParallel, Sharding, SingleDevice, checkpoints_in, read_history
from tests.train import distributed_cases as cases
from tests.train.launching import launch
from tests.train.problem import SeekableLoader, make_trainer, tensors

KINDS = ("parallel", "overlap", "sharding", "gradients", "parameters")


@st.composite
def windows(draw: st.DrawFn, ranks: int) -> list[list[list[int]]]:
    """Windows of ``ranks`` processes: up to three micro-batches each, of 0 to 5 samples, some ignored.

    At least one sample is valid.
    """
    labels = st.lists(st.sampled_from([-100, 0, 1, 2, 9]), min_size=1, max_size=5)
    sizes = [draw(st.integers(0, 3)) for _ in range(ranks)]
    case = [[draw(labels) for _ in range(size)] for size in sizes]
    if all(label == -100 for window in case for batch in window for label in batch):
        case[draw(st.integers(0, ranks - 1))].append([draw(st.integers(0, 9))])
    return case


def drawn_cases(count: int) -> list[Any]:
    found: list[Any] = [[[[1], [2, 3]], []], [[[-100]], [[4]]], [[[1, -100], [-100]], [[2], [3]]]]

    @settings(max_examples=count, derandomize=True, database=None, deadline=None)
    @given(windows(2))
    def collect(case: Any) -> None:
        found.append(case)

    collect()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of one launch of two processes that does all checks."""
    path = tmp_path_factory.mktemp("checks")
    (path / "cases.json").write_text(json.dumps(drawn_cases(60)))
    launch("checks", path)
    return path


def notes(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]


def arrays(folder: Path, name: str, rank: int = 0) -> dict[str, np.ndarray]:
    return dict(np.load(folder / f"{name}-{rank}.npz"))


def assert_close(
    found: dict[str, np.ndarray], expected: dict[str, np.ndarray], tolerance: float = 1e-6
) -> None:
    assert found.keys() == expected.keys()
    worst = {name: float(np.abs(found[name] - expected[name]).max()) for name in found}
    assert max(worst.values()) <= tolerance, worst


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_two_processes_equal_one_with_twice_the_micro_batches(
    folder: Path, kind: str, accumulate: int
) -> None:
    single = make_trainer(model=cases.seeded_mlp(), accumulate=2 * accumulate)
    before = single.evaluate(SeekableLoader())
    state = single.fit(SeekableLoader(), SeekableLoader(), max_epochs=2)
    first, second = notes(folder, f"{kind}-{accumulate}")
    assert first["before"] == second["before"] == before  # metrics of uneven shares, to the last bit
    assert first["total"] == single.total_steps == state.step
    assert first["state"] == second["state"]
    for field in ("epoch", "batch", "step", "samples", "items"):
        assert first["state"][field] == getattr(state, field)
    assert first["state"]["loss"] == pytest.approx(state.loss, rel=1e-6)
    assert first["state"]["grad_norm"] == pytest.approx(state.grad_norm, rel=1e-5)
    assert_close(arrays(folder, f"{kind}-{accumulate}"), tensors(single))
    weights = [
        {
            name: value
            for name, value in arrays(folder, f"{kind}-{accumulate}", rank).items()
            if "model/" in name
        }
        for rank in (0, 1)
    ]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_without_a_valid_item(folder: Path, kind: str) -> None:
    single = make_trainer(model=cases.seeded_mlp(), accumulate=4)
    single.fit(cases.PatchyLoader(), max_epochs=2)
    assert_close(arrays(folder, f"{kind}-patchy"), tensors(single))


@pytest.mark.parametrize("kind", ["sharding", "gradients", "parameters"])
def test_a_transformer_in_parts_equals_whole_ones(folder: Path, kind: str) -> None:
    found, expected = arrays(folder, f"transformer-{kind}"), arrays(folder, "transformer-parallel")
    assert_close(found, expected)
    losses = [
        note["metrics"]["loss"] for k in (kind, "parallel") for note in notes(folder, f"transformer-{k}")
    ]
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)


def test_stage_2_keeps_half_of_the_gradients_and_stage_3_half_of_the_parameters(folder: Path) -> None:
    held = {
        kind: [note["held"] for note in notes(folder, f"transformer-{kind}")]
        for kind in ("sharding", "gradients", "parameters")
    }
    for stage_1, stage_2, stage_3 in zip(*held.values(), strict=True):
        assert stage_1["gradients"] == stage_1["parameters"] == stage_1["parameters in a layer"] == 1
        assert stage_2["parameters"] == 1
        for share in (stage_2["gradients"], stage_3["gradients"], stage_3["parameters"]):
            assert 0.4 < share < 0.6
        # Of four layers, each with a fifth of the parameters, one is whole.
        assert stage_3["parameters in a layer"] < 0.75
    for what in ("gradients", "parameters"):
        assert sum(shares[what] for shares in held["parameters"]) == pytest.approx(1)


def test_every_process_keeps_its_part_of_the_optimizer_and_process_0_saves_the_whole(folder: Path) -> None:
    parts = [set(note["own"]) for note in notes(folder, "sharding-1")]
    assert parts[0]
    assert parts[1]
    assert not parts[0] & parts[1]
    single = make_trainer(model=cases.seeded_mlp())
    single.fit(SeekableLoader(), max_steps=1)
    assert parts[0] | parts[1] == {n.removeprefix("optimizer/") for n in tensors(single) if n[:3] == "opt"}
    assert set(notes(folder, "parallel-1")[0]["own"]) == parts[0] | parts[1]


@pytest.mark.parametrize("kind", ["parallel", "overlap", "gradients"])
def test_a_parameter_that_one_process_uses_counts_and_one_that_none_uses_does_not(
    folder: Path, kind: str
) -> None:
    first, second = notes(folder, f"branches-{kind}")
    used = {f"{layer}.{name}" for layer in ("left", "right", "shared") for name in ("weight", "bias")}
    if kind == "gradients":  # each has its own
        assert sorted(first["gradients"] + second["gradients"]) == sorted(used)
    else:
        assert first["gradients"] == second["gradients"]
        assert set(first["gradients"]) == used
    found = [arrays(folder, f"branches-{kind}", rank) for rank in (0, 1)]
    if kind != "gradients":  # whose optimizer is whole in process 0 only
        assert found[0].keys() == found[1].keys()
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[1])
    single = cases.branches_trainer(0, accumulate=2)
    single.fit(SeekableLoader(), max_steps=1)
    assert_close(found[0], tensors(single))


@settings(max_examples=60, derandomize=True, database=None, deadline=None)
@given(windows(1))
def test_gradients_of_a_window_equal_one_large_batch(case: Any) -> None:
    assert max(cases.gradient_errors(case, SingleDevice()).values()) <= 1e-6


def test_gradients_of_windows_in_two_processes_equal_one_large_batch(folder: Path) -> None:
    first, second = (note["errors"] for note in notes(folder, "properties"))
    assert len(first) >= 50
    names = {name for name, _ in cases.seeded_mlp().named_parameters()}
    for case, *of_processes in zip(drawn_cases(60), first, second, strict=True):
        for kind in ("parallel", "overlap", "gradients", "parameters"):
            own = [errors[kind] for errors in of_processes]
            assert max(error for errors in own for error in errors.values()) <= 1e-6, case
            if kind in ("gradients", "parameters"):  # each process has its part
                assert not own[0].keys() & own[1].keys()
                assert own[0].keys() | own[1].keys() == names
            else:
                assert own[0].keys() == own[1].keys() == names


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("float16", "UnsupportedError: parameters .*: expected float32 or bfloat16 on CPUs, got float16.*inf"),
        ("different", "InvalidInputError: model: expected the same in all processes, got .*10.*0 .*11.*process 1"),
        ("parts", "UnsupportedError: tensor-parallel parameters .*: expected GPUs .NCCL., got gloo.*c_identity"),
        ("around", "UnsupportedError: training step: expected one backward pass .*Sharding.*, got FGM: .*DataParallel"),
        ("sparse in parts", r"UnsupportedError: embeddings \['embedding'\]: expected dense gradients .*got sparse=Tr"),
        ("average", r"UnsupportedError: EMA: expected .* every process has all parameters, got Sharding"),
        ("histograms", r"UnsupportedError: VisualDLLogger.histograms_every=.*: expected .* all parameters, got Sh"),
        ("called elsewhere", "UnsupportedError: Sharding: expected the model to be called by the training step or"),
        ("few parameters", "InvalidInputError: Sharding: expected at most 1 processes, .*, got 2"),
        ("few batches", "InvalidInputError: train_loader: expected at least one batch for each of the 2 .*, got 1"),
        ("plain loader", "InvalidInputError: loader: expected one with iterate.*for 2 processes.*got list"),
        ("two calls", r"InvalidInputError: DataParallel.overlap=True.: expected .* the model once, got 2 calls"),
        ("sparse", "UnsupportedError: gradients of .*: expected dense ones in several processes, got sparse ones"),
        ("folder", "CheckpointError: .*refused: expected no checkpoint ahead of this run.*found step-00000001"),
        ("full disk", "StorageError: .*cannot write the checkpoint: No space left"),
        ("different checkpoints", r"CheckpointError: expected the same checkpoint in all processes, .*step 1.*step 2"),
    ],
)  # fmt: skip
def test_all_processes_refuse_together(folder: Path, what: str, message: str) -> None:
    for note in notes(folder, "refusals"):
        assert re.match(message, note[what]), note[what]


def test_the_error_of_one_process_is_an_error_in_all(folder: Path) -> None:
    first, second = notes(folder, "refusals")
    assert second["only one fails"] == "KeyError: 'only here'"
    assert first["only one fails"].startswith("TrainingError: KeyError: 'only here'")
    for what in ("not finite", "not finite in parts"):
        assert "the loss of another process is not finite" in first[what]
        assert "NonFiniteLossError: step 1, epoch 1, batch 2: expected a finite loss, got nan" in second[what]
    assert (
        "NonFiniteLossError: step 1, epoch 1, batch 2: expected a finite loss, got nan"
        in second["not finite"]
    )


def test_process_0_logs_and_the_others_keep_quiet(folder: Path) -> None:
    first, second = notes(folder, "logging")
    assert "train 4" in first["screen"]
    assert "evaluate 7/7" in first["screen"]
    assert second["screen"] == ""
    records = read_history(folder / "logged/history.jsonl")
    assert [record["step"] for record in records if record["kind"] == "train"] == [1, 2, 3, 4]
    assert len(list((folder / "logged/visualdl").glob("*vdlrecords*"))) == 1
    assert [path.name for path in checkpoints_in(folder / "logged/checkpoints")] == [
        "step-00000002",
        "step-00000004",
    ]


def test_processes_have_the_same_weights_and_other_dropout(folder: Path) -> None:
    first, second = notes(folder, "logging")
    assert first["weights"] == second["weights"]
    assert first["dropped"] != second["dropped"]


def test_a_program_started_without_the_launcher_is_told_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PADDLE_TRAINERS_NUM", raising=False)
    for strategy in (DataParallel, Sharding):
        with pytest.raises(
            InvalidInputError, match=r"expected a process of Paddle's launcher.*paddle.distributed.launch"
        ):
            strategy()
    with pytest.raises(InvalidInputError, match="stage: expected 1, 2 or 3, got 4"):
        Sharding(4)


def test_one_process_under_the_launcher_is_a_single_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "0")
    expected = make_trainer(accumulate=2)
    expected.fit(SeekableLoader(), SeekableLoader(), max_steps=4)
    for strategy in (DataParallel(overlap=True), Sharding()):
        trainer = make_trainer(accumulate=2, strategy=strategy)
        trainer.fit(SeekableLoader(), SeekableLoader(), max_steps=4)
        assert_close(tensors(trainer), tensors(expected), tolerance=0.0)
