"""The loggers: what each wrote is read back, as far as possible with its own program's reader."""

from __future__ import annotations

import csv
import json
import math
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import (
    CheckpointError,
    InvalidDtypeError,
    InvalidInputError,
    MissingExtraError,
    StorageError,
    UnsupportedError,
)
from paddle_infra.train import (
    Accuracy,
    BinaryRanking,
    Checkpoint,
    ClipByGlobalNorm,
    CSVLogger,
    Evaluator,
    History,
    Logger,
    MeanLoss,
    MLflowLogger,
    SingleDevice,
    TensorBoardLogger,
    VisualDLLogger,
    WandbLogger,
    read_history,
)
from paddle_infra.train.loggers.histogram import histogram_of
from paddle_infra.train.loggers.wandb_file import read_records
from tests.train.problem import CLASSES, SeekableLoader, evaluation_step, make_trainer, mlp

# What MLflow itself uses of SQLAlchemy.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")

Scalars = dict[str, dict[int, float]]
HPARAMS = {"rate": 0.5, "layers": 2, "name": "mlp", "is_small": True}
TEXTS = {"notes": "first *run*"}


def once(pairs: Iterator[tuple[str, int, float]]) -> Scalars:
    """By name and step; fails if a step is there twice."""
    found: Scalars = {}
    for name, step, value in pairs:
        assert step not in found.setdefault(name, {}), f"{name} of step {step} is there twice"
        found[name][step] = value
    return found


def visualdl_reader(folder: Path) -> Any:
    from visualdl import LogReader

    return LogReader(file_path=str(max(folder.glob("vdlrecords*"))))


def visualdl_scalars(folder: Path) -> Scalars:
    reader = visualdl_reader(folder)
    return once((t, i.id, i.value) for t in reader.get_tags()["scalar"] for i in reader.get_data("scalar", t))


def tensorboard_events(folder: Path) -> Iterator[Any]:
    """Every event, with its checksums checked."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content, start = (folder / "events.out.tfevents.paddle_infra").read_bytes(), 0
    while start < len(content):
        length = int.from_bytes(content[start : start + 8], "little")
        body = content[start + 12 : start + 12 + length]
        for data, at in ((content[start : start + 8], start + 8), (body, start + 12 + length)):
            assert int.from_bytes(content[at : at + 4], "little") == masked_crc32c(data)
        yield Event.FromString(body)
        start += 16 + length


def tensorboard_scalars(folder: Path) -> Scalars:
    return once(
        (value.tag, event.step, value.simple_value)
        for event in tensorboard_events(folder)
        for value in event.summary.value
        if value.WhichOneof("value") == "simple_value" and not value.tag.startswith("_hparams_")
    )


def csv_scalars(folder: Path) -> Scalars:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return once((k, int(row["step"]), float(v)) for row in rows for k, v in row.items() if v and k != "step")


def wandb_history(folder: Path) -> Iterator[tuple[str, int, str]]:
    from wandb.proto.wandb_internal_pb2 import Record

    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for content in read_records(path):
            record = Record.FromString(content)
            if record.WhichOneof("record_type") == "history":
                for item in record.history.item:
                    yield "/".join(item.nested_key) or item.key, record.history.step.num, item.value_json


def wandb_scalars(folder: Path) -> Scalars:
    logged = ((n, s, v) for n, s, v in wandb_history(folder) if n.split("/")[0] in ("train", "eval"))
    return once((n, s, float(v)) for n, s, v in logged if "_curve" not in n)


def mlflow_client(folder: Path) -> tuple[Any, Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    return client, run


def mlflow_scalars(folder: Path) -> Scalars:
    client, run = mlflow_client(folder)
    names = list(run.data.metrics)
    return once((n, m.step, m.value) for n in names for m in client.get_metric_history(run.info.run_id, n))


Make = Callable[..., Logger]
BACK_ENDS: dict[str, tuple[str, Make, Callable[[Path], Scalars]]] = {
    "visualdl": ("visualdl", lambda folder, **o: VisualDLLogger(folder, **o), visualdl_scalars),
    "tensorboard": ("tensorboardX", lambda folder, **o: TensorBoardLogger(folder, **o), tensorboard_scalars),
    "csv": ("csv", lambda folder, **o: CSVLogger(folder / "metrics.csv", **o), csv_scalars),
    "wandb": ("wandb", lambda folder, **o: WandbLogger("test", folder, **o), wandb_scalars),
    "mlflow": (
        "mlflow",
        lambda folder, **o: MLflowLogger(
            "test", f"sqlite:///{folder}/mlflow.db", artifacts=folder / "files", **o
        ),
        mlflow_scalars,
    ),
}


@pytest.fixture(params=BACK_ENDS)
def back_end(request: pytest.FixtureRequest) -> tuple[Make, Callable[[Path], Scalars]]:
    module, make, scalars = BACK_ENDS[request.param]
    pytest.importorskip(module)
    return make, scalars


def step_with_scores(model: paddle.nn.Layer, batch: dict[str, Any]) -> dict[str, Any]:
    """Is it class 0?"""
    outputs = evaluation_step(model, batch)
    scores = paddle.nn.functional.softmax(outputs["logits"])[:, 0].numpy()
    labels = np.asarray(outputs["labels"])
    return outputs | {"scores": scores, "is_first": np.where(labels == -100, -100, labels == 0)}


class FirstClass(BinaryRanking):
    def update(self, *, is_first: Any = None, scores: Any = None, **_: Any) -> None:
        super().update(labels=is_first, scores=scores)


def evaluator() -> Evaluator:
    return Evaluator(step_with_scores, [MeanLoss(), Accuracy(CLASSES), FirstClass()])


def clipped() -> dict[str, Any]:
    model = mlp()
    clip = ClipByGlobalNorm(1.0)
    optimizer = paddle.optimizer.SGD(0.1, parameters=model.parameters(), grad_clip=clip)
    return {"model": model, "optimizer": optimizer, "evaluator": evaluator()}


def test_scalars_equal_the_history(back_end: Any, tmp_path: Path) -> None:
    make, scalars = back_end
    trainer = make_trainer([make(tmp_path / "log"), History(tmp_path / "h.jsonl")], **clipped())
    trainer.fit(SeekableLoader(), {"a": SeekableLoader(), "b": SeekableLoader()}, max_epochs=2)
    found, records = scalars(tmp_path / "log"), read_history(tmp_path / "h.jsonl")
    single = {"rel": 1e-6}  # VisualDL and TensorBoard keep float32
    steps = {r["step"]: r for r in records if r["kind"] == "train"}
    assert found["train/loss"] == pytest.approx({s: r["loss"] for s, r in steps.items()}, **single)
    assert found["train/lr"] == pytest.approx({s: r["lr"] for s, r in steps.items()}, **single)
    assert found["train/grad_norm"].keys() == steps.keys()
    assert found["train/grad_norm"][26] == pytest.approx(trainer.state.grad_norm, **single)
    assert min(found["train/samples_per_s"].values()) > 0
    assert "train/skipped" not in found
    for record in records:
        for name, value in record.get("metrics", {}).items():
            assert found[f"eval/{name}"][record["step"]] == pytest.approx(value, **single)


def test_resumed_run_has_every_step_once(back_end: Any, tmp_path: Path) -> None:
    make, scalars = back_end

    def fit(max_steps: int, resume: str | None = None, **options: Any) -> None:
        callbacks = [Checkpoint(tmp_path / "c", every_steps=4), make(tmp_path / "log")]
        make_trainer(callbacks, **options).fit(
            SeekableLoader(), SeekableLoader(), max_steps=max_steps, resume=resume
        )

    class BrokenError(Exception):
        pass

    calls = 0

    def breaks(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise BrokenError
        return evaluation_step(model, batch)["loss"]

    with pytest.raises(BrokenError):  # two steps beyond the checkpoint of step 4
        fit(9, training_step=breaks)
    assert list(scalars(tmp_path / "log")["train/loss"]) == [1, 2, 3, 4, 5, 6]
    fit(9, "latest")
    found = scalars(tmp_path / "log")
    assert list(found["train/loss"]) == list(range(1, 10))
    assert found["train/loss"].keys() == found["train/samples_per_s"].keys()
    assert list(found["eval/loss"]) == [9]
    fit(20, "latest")
    found = scalars(tmp_path / "log")
    assert list(found["train/loss"]) == list(range(1, 21))
    assert list(found["eval/loss"]) == [9, 13, 20]


def test_every_nth_step(back_end: Any, tmp_path: Path) -> None:
    make, scalars = back_end
    make_trainer([make(tmp_path, every_steps=3)]).fit(SeekableLoader(), max_steps=10)
    assert list(scalars(tmp_path)["train/loss"]) == [3, 6, 9]


def test_only_rank_0_writes(back_end: Any, tmp_path: Path) -> None:
    make, _ = back_end

    class SecondOfTwo(SingleDevice):
        rank = 1

    logger = make(tmp_path / "log")
    make_trainer([logger], strategy=SecondOfTwo()).fit(SeekableLoader(), SeekableLoader(), max_steps=2)
    logger.log_text("notes", "nothing", 1)
    assert not (tmp_path / "log").exists()


def test_lone_evaluation_writes_nothing(back_end: Any, tmp_path: Path) -> None:
    make, _ = back_end
    make_trainer([make(tmp_path / "log")], evaluator=evaluator()).evaluate(SeekableLoader())
    assert not (tmp_path / "log").exists()


@contextmanager
def full_disk(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, in this process and its children."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def new_wandb_service() -> Iterator[None]:
    """The process that writes for wandb is started anew within, and ended afterwards."""
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()
    yield
    if "wandb" in sys.modules:
        sys.modules["wandb"].teardown()


def test_full_disk_is_an_error(back_end: Any, tmp_path: Path) -> None:
    make, _ = back_end
    logger = make(tmp_path / "log")
    if isinstance(logger, MLflowLogger):  # its empty database is larger than the limit
        make_trainer([make(tmp_path / "log")]).fit(SeekableLoader(), max_steps=1)
    message = r"cannot write|expected the \d+ values"
    with new_wandb_service(), full_disk(3000), pytest.raises(StorageError, match=message):
        make_trainer([logger]).fit(SeekableLoader(), max_steps=120)


@pytest.mark.parametrize("name", ["visualdl", "tensorboard", "csv"])
def test_full_disk_leaves_whole_records(name: str, tmp_path: Path) -> None:
    _, make, scalars = BACK_ENDS[name]
    trainer = make_trainer([make(tmp_path)])
    with full_disk(3000), pytest.raises(StorageError, match="File too large"):
        trainer.fit(SeekableLoader(), max_steps=120)
    assert list(scalars(tmp_path)["train/loss"])[:5] == [1, 2, 3, 4, 5]


def test_folder_that_cannot_be_made(back_end: Any, tmp_path: Path) -> None:
    make, _ = back_end
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        make_trainer([make(tmp_path / "file" / "log")]).fit(SeekableLoader(), max_steps=1)


@pytest.mark.parametrize("name", [name for name in BACK_ENDS if name != "csv"])
def test_missing_package_is_explained(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, make, _ = BACK_ENDS[name]
    for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, module, None)
    extra = {"visualdl": "visualdl", "tensorboardX": "tensorboard"}.get(module, module)
    with pytest.raises(MissingExtraError, match=rf"needs the package '{module}': .*\[{extra}\]"):
        make_trainer([make(tmp_path)]).fit(SeekableLoader(), max_steps=1)


def rich_run(logger: Logger) -> Any:
    """Two epochs with everything that a logger can log, resumed in between; returns the trainer."""
    folder = logger.directory.parent  # type: ignore[attr-defined]
    for epochs, resume in ((1, None), (2, "latest")):
        trainer = make_trainer([Checkpoint(folder / "c"), logger], **clipped())
        trainer.fit(
            SeekableLoader(), {"a": SeekableLoader(), "b": SeekableLoader()}, max_epochs=epochs, resume=resume
        )
    return trainer


EVERYTHING: dict[str, Any] = {"hparams": HPARAMS, "texts": TEXTS, "histograms_every": 10}


def test_visualdl_shows_everything(tmp_path: Path) -> None:
    trainer = rich_run(VisualDLLogger(tmp_path / "log", **EVERYTHING))
    reader = visualdl_reader(tmp_path / "log")
    tags = reader.get_tags()
    names = [name for name, p in trainer.model.named_parameters() if not p.stop_gradient]
    assert set(tags["histogram"]) == {f"{what}/{n}" for what in ("weights", "gradients") for n in names}
    histograms = reader.get_data("histogram", f"weights/{names[0]}")
    assert [item.id for item in histograms] == [10, 20]
    assert sum(histograms[1].histogram.hist) == trainer.model.state_dict()[names[0]].size
    assert [(i.id, i.text.encoded_text_string) for i in reader.get_data("text", "notes")] == [
        (0, TEXTS["notes"])
    ]
    (hparam,) = reader.get_data("hyper_parameters", "hparam")  # not written again by the resumed run
    assert {info.name for info in hparam.hparam.hparamInfos} == set(HPARAMS)
    assert set(tags["pr_curve"]) == {"eval/a/precision_recall", "eval/b/precision_recall"}
    curves = reader.get_data("pr_curve", "eval/b/precision_recall")
    assert [item.id for item in curves] == [13, 26]
    expected = trainer.evaluator.metrics[-1].curves()["precision_recall"]
    assert list(curves[1].pr_curve.TP) == expected.true_positives.tolist()
    assert list(curves[1].pr_curve.precision) == pytest.approx(expected.precision.tolist())


def test_tensorboard_shows_everything(tmp_path: Path) -> None:
    trainer = rich_run(TensorBoardLogger(tmp_path / "log", **EVERYTHING))
    events = list(tensorboard_events(tmp_path / "log"))
    assert events[0].file_version == "brain.Event:2"
    values = [(value.tag, event.step, value) for event in events for value in event.summary.value]
    steps: dict[str, list[int]] = {}
    for tag, step, _ in values:
        steps.setdefault(tag, []).append(step)
    assert steps["weights/0.weight"] == steps["gradients/0.weight"] == [10, 20]
    assert steps["notes/text_summary"] == [0]
    assert steps["_hparams_/session_start_info"] == [0]
    assert steps["eval/a/precision_recall"] == steps["eval/b/precision_recall"] == [13, 26]
    curve = [value for tag, _, value in values if tag == "eval/b/precision_recall"][-1]
    rows = np.array(curve.tensor.float_val).reshape([d.size for d in curve.tensor.tensor_shape.dim])
    expected = trainer.evaluator.metrics[-1].curves()["precision_recall"]
    np.testing.assert_array_equal(rows[0], expected.true_positives)
    np.testing.assert_allclose(rows[5], expected.recall, rtol=1e-6)
    weights = [value for tag, _, value in values if tag == "weights/0.weight"][-1].histo
    assert (weights.num, sum(weights.bucket)) == (64 * 32, 64 * 32)


def test_tensorboard_itself_reads_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    rich_run(TensorBoardLogger(tmp_path / "log", **EVERYTHING))
    shown = EventAccumulator(str(tmp_path / "log"), size_guidance={"histograms": 0, "tensors": 0})  # all
    shown.Reload()
    own = tensorboard_scalars(tmp_path / "log")
    assert {e.step: e.value for e in shown.Scalars("train/loss")} == own["train/loss"]
    assert [e.step for e in shown.Scalars("eval/b/loss")] == [13, 26]
    assert [e.step for e in shown.Histograms("gradients/0.weight")] == [10, 20]
    assert [e.step for e in shown.Tensors("eval/a/precision_recall")] == [13, 26]
    assert [e.step for e in shown.Tensors("notes/text_summary")] == [0]


def test_wandb_keeps_everything(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    logger = WandbLogger("test", tmp_path / "log", **EVERYTHING)
    rich_run(logger)
    history = list(wandb_history(tmp_path / "log"))
    assert [s for n, s, _ in history if n == "weights/0.weight/values"] == [10, 20]
    counts = [json.loads(v) for n, _, v in history if n == "gradients/0.weight/values"]
    assert [sum(c) for c in counts] == [64 * 32] * 2
    assert [s for n, s, _ in history if n == "eval/b/precision_recall_curve/nrows"] == [13, 26]
    config: dict[str, Any] = {}
    paths = sorted((tmp_path / "log" / "wandb").glob("offline-run-*/*.wandb"))
    assert [path.name for path in paths] == [f"run-{logger.run_id}.wandb"] * 2
    for content in read_records(paths[0]):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") == "config":
            config |= {item.key: json.loads(item.value_json) for item in record.config.update}
    assert {name: config[name] for name in HPARAMS} == HPARAMS
    assert config["notes"] == TEXTS["notes"]


def test_mlflow_keeps_everything(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    options = {"hparams": HPARAMS, "texts": TEXTS, "artifacts": tmp_path / "files"}
    logger = MLflowLogger("test", uri, name="mine", **options)
    logger.directory = tmp_path / "log"  # type: ignore[attr-defined]
    trainer = rich_run(logger)
    client, run = mlflow_client(tmp_path)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "mine")
    assert run.data.params == {name: str(value) for name, value in HPARAMS.items()}
    files = tmp_path / "files" / run.info.run_id / "artifacts"
    assert (files / "texts/notes-00000000.md").read_text() == TEXTS["notes"]
    curve = json.loads((files / "curves/eval/b/precision_recall-00000026.json").read_text())
    assert curve["recall"] == trainer.evaluator.metrics[-1].curves()["precision_recall"].recall.tolist()
    assert client.get_metric_history(run.info.run_id, "train/loss")[-1].step == 26

    failing = make_trainer([MLflowLogger("failing", uri)], training_step=lambda model, batch: None)
    with pytest.raises(InvalidInputError):
        failing.fit(SeekableLoader(), max_steps=1)
    (run,) = client.search_runs([client.get_experiment_by_name("failing").experiment_id])
    assert run.info.status == "FAILED"


def test_csv_adds_columns_and_keeps_every_digit(tmp_path: Path) -> None:
    trainer = make_trainer([CSVLogger(tmp_path / "metrics.csv")])
    trainer.fit(SeekableLoader(), SeekableLoader(), max_epochs=1)
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[0].startswith(
        "step,train/loss,train/lr,train/grad_norm,train/samples_per_s,eval/loss,eval/acc"
    )
    assert len(lines) == 1 + 13 + 1
    assert csv_scalars(tmp_path)["train/loss"][13] == trainer.state.loss
    assert csv_scalars(tmp_path)["eval/loss"][13] == trainer.state.metrics["loss"]


def test_csv_refuses_a_foreign_table(tmp_path: Path) -> None:
    callbacks = [Checkpoint(tmp_path / "c"), CSVLogger(tmp_path / "metrics.csv")]
    make_trainer(callbacks).fit(SeekableLoader(), max_steps=2)
    (tmp_path / "metrics.csv").write_text("name,value\na,1\n")
    with pytest.raises(CheckpointError, match="expected a table whose first column is 'step', got 'name'"):
        make_trainer(callbacks).fit(SeekableLoader(), max_steps=3, resume="latest")
    assert (tmp_path / "metrics.csv").read_text() == "name,value\na,1\n"


def test_skipped_windows_leave_no_histogram(tmp_path: Path) -> None:
    """The gradients shown for a step are those it was made with, not those of a window that was skipped."""
    calls = 0

    def training_step(model: Any, batch: Any) -> Any:
        nonlocal calls
        calls += 1
        loss = evaluation_step(model, batch)["loss"]
        return loss * math.inf if calls == 2 else loss

    logger = VisualDLLogger(tmp_path, histograms_every=2)
    make_trainer([logger], training_step=training_step, non_finite="skip").fit(SeekableLoader(), max_steps=4)
    reader = visualdl_reader(tmp_path)
    assert [item.id for item in reader.get_data("histogram", "gradients/0.weight")] == [2, 4]
    assert list(visualdl_scalars(tmp_path)["train/skipped"].items()) == [(2, 1.0), (3, 1.0), (4, 1.0)]


def test_histogram_of_values_that_are_not_finite() -> None:
    histogram = histogram_of(np.array([1.0, 3.0, math.nan, math.inf]), bins=2)
    assert histogram is not None
    assert (histogram.counts.tolist(), histogram.edges.tolist()) == ([1, 1], [1.0, 2.0, 3.0])
    assert (histogram.size, histogram.sum, histogram.sum_squares) == (2, 4.0, 10.0)
    assert histogram_of(np.array([math.nan])) is None
    assert histogram_of(paddle.ones([3], "bfloat16")).counts.sum() == 3  # type: ignore[union-attr]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInputError, match="VisualDLLogger: every_steps: expected a positive integer, got 0"
    ):
        VisualDLLogger(tmp_path, every_steps=0)
    with pytest.raises(InvalidInputError, match="histograms_every: expected a positive integer, got True"):
        VisualDLLogger(tmp_path, histograms_every=True)
    with pytest.raises(
        InvalidDtypeError, match=r"hparams\['layers'\]: expected a bool, int, float or str, got list"
    ):
        TensorBoardLogger(tmp_path, hparams={"layers": [1]})
    with pytest.raises(UnsupportedError, match="MLflowLogger: histograms_every: expected None"):
        MLflowLogger("test", histograms_every=5)
    with pytest.raises(UnsupportedError, match="CSVLogger has no place for texts, got 'notes'"):
        CSVLogger(tmp_path / "a.csv").write_text("notes", "…", 1)
    with pytest.raises(InvalidInputError, match="mode: expected 'offline' or 'online', got 'disabled'"):
        WandbLogger("test", mode="disabled")  # type: ignore[arg-type]
