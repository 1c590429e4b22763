"""Models with their own names: configuration and weights written and read back, and every way they do not fit."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import nn
from safetensors.numpy import load_file, save_file

from paddle_infra._core.errors import InvalidInputError, StorageError, WeightError
from paddle_infra.models import ModelConfig, PretrainedModel


@dataclass(frozen=True)
class PartConfig(ModelConfig):
    model_type = "part"
    width: int = 3


@dataclass(frozen=True)
class NetConfig(ModelConfig):
    model_type = "net"
    size: int = 4
    rate: float = 0.5
    name: str | None = None
    kernels: tuple[int, ...] = (1, 2)
    pairs: tuple[tuple[str, int], ...] = ()
    is_wide: bool = False
    part: PartConfig = PartConfig()


class Net(PretrainedModel):
    config_class = NetConfig

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        self.first = nn.Linear(config.size, 2)
        self.norm = nn.BatchNorm1D(2)
        self.again = self.first  # tied
        self.register_buffer("steps", paddle.to_tensor([3, 4], dtype="int64"))
        self.register_buffer("scratch", paddle.zeros([1]), persistable=False)


class Lenient(Net):
    new_parts = ("norm.",)
    ignores_unexpected = True


CONFIG = NetConfig(kernels=(3,), pairs=(("a", 1), ("b", 2)), name="n", part=PartConfig(7))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    paddle.seed(0)
    model = Net(CONFIG)
    model.norm._mean.set_value(paddle.randn([2]))
    model.steps.set_value(np.array([8, 9], np.int64))
    model.save_pretrained(tmp_path)
    return tmp_path


def edit(directory: Path, change: dict[str, np.ndarray | None]) -> None:
    path = directory / "model.safetensors"
    values = {**load_file(path), **change}
    save_file({name: value for name, value in values.items() if value is not None}, path)


def test_everything_that_persists_comes_back(saved: Path) -> None:
    stored = load_file(saved / "model.safetensors")
    assert set(stored) == {
        "first.weight", "first.bias", "norm.weight", "norm.bias", "norm._mean", "norm._variance", "steps",
    }  # fmt: skip
    assert stored["first.weight"].shape == (4, 2), "Paddle's layout"
    model = Net.from_pretrained(saved)
    assert model.config == CONFIG
    for name, value in stored.items():
        np.testing.assert_array_equal(model.state_dict()[name].numpy(), value)
    assert abs(stored["norm._mean"]).max() > 0
    assert model.again is model.first
    report = model.load_report
    assert (report.loaded, report.missing, report.unexpected) == (tuple(sorted(stored)), (), ())
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert json.loads((saved / "config.json").read_text()) == {
        "size": 4, "rate": 0.5, "name": "n", "kernels": [3], "pairs": [["a", 1], ["b", 2]], "is_wide": False,
        "part": {"width": 7, "model_type": "part"}, "model_type": "net", "architectures": ["Net"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"norm._mean": None},
            r"expected 7 parameters, 1 are missing: norm\._mean; the file holds first\.bias",
        ),
        ({"more": np.zeros(1, np.float32)}, "expected only the 7 parameters of Net, got also more"),
        ({"first.bias": np.zeros(3, np.float32)}, r"first\.bias: expected shape \[2\] .*, got \[3\]"),
        ({"first.bias": np.zeros(2, np.int64)}, "expected a floating-point dtype, got int64"),
        ({"steps": np.zeros(2, np.int32)}, "steps: expected dtype int64, got int32"),
        ({"first.bias": np.array([0, np.inf], np.float32)}, "expected finite values, got NaN or infinity"),
        ({"first.bias": np.array([0, 1e300])}, "expected finite values, got NaN or infinity"),
    ],
)
def test_weights_that_do_not_fit(saved: Path, change: dict, message: str) -> None:
    edit(saved, change)
    with pytest.raises(WeightError, match=message):
        Net.from_pretrained(saved)


def test_what_a_model_may_lack_or_ignore(saved: Path) -> None:
    edit(saved, {"norm._mean": None, "more": np.zeros(1, np.float32)})
    report = Lenient.from_pretrained(saved).load_report
    assert (report.missing, report.unexpected) == (("norm._mean",), ("more",))
    edit(saved, {"first.bias": None})
    with pytest.raises(WeightError, match=r"1 are missing: first\.bias"):
        Lenient.from_pretrained(saved)


@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_floating_point_values_are_converted(saved: Path, dtype: str) -> None:
    edit(saved, {"first.bias": np.array([0.5, -1.25], dtype)})
    bias = Net.from_pretrained(saved).first.bias
    assert bias.dtype == paddle.float32
    assert bias.numpy().tolist() == [0.5, -1.25]


def test_bfloat16_is_read_exactly(saved: Path) -> None:
    values = load_file(saved / "model.safetensors")
    bits = {name: value.view(np.uint32) >> 16 for name, value in values.items() if value.dtype == np.float32}
    header, data = {}, b""
    for name, value in values.items():
        raw = bits[name].astype("<u2").tobytes() if name in bits else value.tobytes()
        kind = "BF16" if name in bits else "I64"
        header[name] = {
            "dtype": kind,
            "shape": value.shape,
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    text = json.dumps(header).encode()
    (saved / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    loaded = Net.from_pretrained(saved).state_dict()
    for name, value in bits.items():
        np.testing.assert_array_equal(loaded[name].numpy().view(np.uint32), value << 16)


def test_a_bfloat16_model_is_saved_and_loaded(saved: Path) -> None:
    class Half(Net):
        def __init__(self, config: NetConfig) -> None:
            super().__init__(config)
            self.first.bfloat16()

    first = Half(CONFIG)
    first.save_pretrained(saved)
    again = Half.from_pretrained(saved)
    assert again.first.weight.dtype == paddle.bfloat16
    np.testing.assert_array_equal(again.first.weight.numpy(), first.first.weight.numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": "4"}, "size: expected int, got '4'"),
        ({"size": True}, "size: expected int, got True"),
        ({"rate": None}, "rate: expected float, got None"),
        ({"is_wide": 1}, "is_wide: expected bool, got 1"),
        ({"kernels": 3}, "kernels: expected a list, got 3"),
        ({"kernels": ["x"]}, "kernels: expected int, got 'x'"),
        ({"pairs": [["a"]]}, "pairs: expected 2 values, got"),
        ({"part": {"width": 1.5}}, r"part: width: expected int, got 1\.5"),
        ({"part": {"model_type": "net"}}, "part: expected model_type 'part', got 'net'"),
        ({"model_type": "nets"}, r"config\.json: expected model_type 'net', got 'nets'"),
    ],
)
def test_wrong_configurations(saved: Path, change: dict, message: str) -> None:
    path = saved / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightError, match=message):
        Net.from_pretrained(saved)


def test_configurations_of_others(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"size": 9, "rate": 1, "transformers_version": "5", "name": null}')
    config = NetConfig.load(tmp_path)
    assert config == NetConfig(size=9, rate=1.0)
    assert isinstance(config.rate, float)
    hash(replace(CONFIG, size=5))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(WeightError, match="expected a JSON object, got list"):
        NetConfig.load(tmp_path)


def test_changes_are_fields(saved: Path) -> None:
    assert Net.from_pretrained(saved, rate=0.25).config.rate == 0.25
    with pytest.raises(
        InvalidInputError, match=r"expected fields of NetConfig \(is_wide, .*\), got \['ratio'\]"
    ):
        Net.from_pretrained(saved, ratio=1)


def test_a_failed_load_changes_nothing(saved: Path) -> None:
    from paddle_infra.models.pretrained import load_weights

    model = Net(CONFIG)
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    edit(saved, {"steps": None})
    with pytest.raises(WeightError, match="steps"):
        load_weights(model, saved)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_a_failed_save_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(tensors: object, path: Path, **options: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    before = (saved / "model.safetensors").read_bytes()
    monkeypatch.setattr("paddle_infra.models.pretrained.save_file", fail)
    with pytest.raises(StorageError, match="No space left"):
        Net(CONFIG).save_pretrained(saved)
    assert (saved / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]
