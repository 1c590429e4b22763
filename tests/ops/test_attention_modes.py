"""Attention wherever Paddle runs operators: programs in training, saved programs, Paddle Inference, recompute."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

from paddle_infra.ops import attention, attention_with_lse, implementation
from tests.ops.fresh_process import python

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
HEADS, KV_HEADS, HEAD_DIM, MOST = 4, 2, 8, 16
WIDTH = HEADS * HEAD_DIM


class Block(paddle.nn.Layer):
    """Projections and attention, with options by name."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.query = paddle.nn.Linear(WIDTH, WIDTH)
        self.key_value = paddle.nn.Linear(WIDTH, 2 * KV_HEADS * HEAD_DIM)
        self.bias = self.create_parameter([1, HEADS, MOST, MOST]) if "bias" in options else None
        self.has_lse = "lse" in options
        self.is_masked = "masked" in options
        self.dropout_p = 0.4 if "dropout" in options else 0.0

    def forward(self, hidden, kv_lengths, mask):
        batch, length = hidden.shape[0], hidden.shape[1]
        query = self.query(hidden).reshape([batch, length, HEADS, HEAD_DIM])
        key, value = self.key_value(hidden).reshape([batch, length, 2 * KV_HEADS, HEAD_DIM]).split(2, axis=2)
        bias = mask if self.is_masked else None
        if self.bias is not None:
            bias = self.bias[:, :, :length, :length]
        out, lse = attention_with_lse(
            query,
            key,
            value,
            bias=bias,
            causal=not self.is_masked,
            window=(5, None),
            kv_lengths=kv_lengths if self.is_masked else None,
            softcap=3.0,
            dropout_p=self.dropout_p,
        )
        # Rows that see no key have an lse of -infinity.
        return (out, paddle.clip(lse, min=-30.0)) if self.has_lse else out


def batch(rows=2, length=7):
    rng = np.random.default_rng([rows, length])
    hidden = rng.standard_normal((rows, length, WIDTH)).astype("float32")
    mask = rng.random((rows, 1, 1, length)) < 0.8
    return hidden, rng.integers(0, length + 1, rows), mask


def tensors(*arrays):
    return [paddle.to_tensor(array) for array in arrays]


def train(layer, forward):
    optimizer = paddle.optimizer.Adam(0.02, parameters=layer.parameters())
    losses = []
    for step in range(7):
        hidden, kv_lengths, mask = tensors(*batch(2 + step % 2, 7 + step % 3))
        result = forward(hidden, kv_lengths, mask)
        out, lse = result if layer.has_lse else (result, paddle.zeros([1]))
        loss = ((out - paddle.tanh(hidden).reshape(out.shape)) ** 2).mean() + 0.01 * (lse**2).mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("full_graph", [True, False], ids=["ast", "sot"])
@pytest.mark.parametrize(
    "options", [(), ("bias",), ("lse",), ("bias", "lse"), ("masked",), ("masked", "lse")]
)
def test_to_static_training_equals_dygraph(impl, full_graph, options):
    results = []
    for is_static in (False, True):
        paddle.seed(5)
        layer = Block(*options)
        with implementation(impl):
            forward = paddle.jit.to_static(layer, full_graph=full_graph) if is_static else layer
            results.append(train(layer, forward))
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[0][6] < results[0][0]  # of the same batch


PREDICT = """
import sys
import numpy as np
import paddle_infra, paddle
from paddle_infra._core import extension

extension.require()
folder, count = sys.argv[1], int(sys.argv[2])
config = paddle.inference.Config(folder + "/block.json", folder + "/block.pdiparams")
config.disable_glog_info()
predictor = paddle.inference.create_predictor(config)
loaded = paddle.jit.load(folder + "/block")
for i in range(count):
    data = np.load(f"{folder}/data{i}.npz")
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(data[name])
    predictor.run()
    for j, name in enumerate(predictor.get_output_names()):
        found = predictor.get_output_handle(name).copy_to_cpu()
        print("error", found.shape == data[f"out{j}"].shape, abs(found - data[f"out{j}"]).max())
    inputs = [paddle.to_tensor(data[name]) for name in ("hidden", "kv_lengths", "mask")]
    for j, found in enumerate(loaded(*inputs)):
        print("error", found.shape == list(data[f"out{j}"].shape), abs(found.numpy() - data[f"out{j}"]).max())
hidden, kv_lengths, mask = inputs
for bad in ((hidden, kv_lengths + 100, mask), (hidden, kv_lengths, mask[..., :3]), (hidden, kv_lengths[:1], mask)):
    try:
        loaded(*bad)
    except ValueError as error:
        print("refused", " ".join(str(error).split()))
"""


def save(layer, path):
    spec = [
        paddle.static.InputSpec([None, None, WIDTH], "float32", name="hidden"),
        paddle.static.InputSpec([None], "int64", name="kv_lengths"),
        paddle.static.InputSpec([None, 1, 1, None], "bool", name="mask"),
    ]
    with implementation("fused"):
        program = paddle.jit.to_static(layer, input_spec=spec, full_graph=True)
        paddle.jit.save(program, str(path))


def test_saved_program_runs_in_a_fresh_process_with_other_sizes(tmp_path):
    layer = Block("masked", "lse")
    layer.eval()
    save(layer, tmp_path / "block")
    assert "paddle_infra_attention" in (tmp_path / "block.json").read_text()
    sizes = [(1, 1), (2, 7), (5, 3), (3, 130)]
    for i, size in enumerate(sizes):
        hidden, kv_lengths, mask = batch(*size)
        with paddle.no_grad():
            out, lse = layer(*tensors(hidden, kv_lengths, mask))
        arrays = {"hidden": hidden, "kv_lengths": kv_lengths, "mask": mask}
        np.savez(tmp_path / f"data{i}.npz", **arrays, out0=out.numpy(), out1=lse.numpy())
    lines = [line.split(maxsplit=1) for line in python(PREDICT, str(tmp_path), str(len(sizes))).splitlines()]
    errors = [text.split() for kind, text in lines if kind == "error"]
    assert len(errors) == 4 * len(sizes)
    for same_shape, error in errors:
        assert same_shape == "True"
        assert float(error) < 1e-5
    refused = [text for kind, text in lines if kind == "refused"]
    assert len(refused) == 3
    assert "attention: kv_lengths[0]: expected a length in [0, 130], got " in refused[0]
    assert "attention: bias: expected each axis 1 or as in [3, 4, 130, 130], got [3, 1, 1, 3]" in refused[1]
    assert "attention: kv_lengths: expected shape [3], got [1]" in refused[2]


class Dropout(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.factor = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.0))

    def forward(self, query, key, value):
        return attention(query, key, self.factor * value, dropout_p=0.5, impl="fused")


def qkv(seed=0, length=9):
    rng = np.random.default_rng(seed)
    return tensors(*rng.standard_normal((3, 2, length, 2, 4)).astype("float32"))


def test_dropout_of_a_program_is_new_in_every_run_and_repeats_with_the_seed():
    program = paddle.jit.to_static(Dropout(), full_graph=True)
    query, key, value = qkv()
    runs = []
    for seed in (3, 3, 4):
        paddle.seed(seed)
        runs.append([program(query, key, value).numpy() for _ in range(2)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][0] != runs[0][1]).any()
    assert (runs[0][0] != runs[2][0]).any()
    paddle.seed(3)
    np.testing.assert_array_equal(Dropout()(query, key, value).numpy(), runs[0][0])


def test_dropout_of_a_saved_program_is_new_in_every_run(tmp_path):
    query, key, value = qkv()
    spec = [paddle.static.InputSpec([None, None, 2, 4], "float32") for _ in range(3)]
    paddle.jit.save(
        paddle.jit.to_static(Dropout(), input_spec=spec, full_graph=True), str(tmp_path / "dropout")
    )
    loaded = paddle.jit.load(str(tmp_path / "dropout"))
    runs = []
    for _ in range(2):
        paddle.seed(3)
        runs.append([loaded(query, key, value).numpy() for _ in range(2)])
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0][0] != runs[0][1]).any()


@pytest.mark.parametrize("is_static", [False, True])
def test_backward_drops_what_forward_dropped(is_static):
    layer = paddle.jit.to_static(Dropout(), full_graph=True) if is_static else Dropout()
    query, key, value = qkv()
    value.stop_gradient = False
    out = layer(query, key, value)
    out.sum().backward()
    # The result is linear in the values as long as the mask is the same.
    assert float((value.grad * value).sum()) == pytest.approx(float(out.sum()), rel=1e-5)


def test_recompute_with_dropout_gives_the_same_gradient():
    gradients = []
    for again in (False, True):
        paddle.seed(11)
        layer = Block("dropout", "bias")
        hidden, kv_lengths, mask = tensors(*batch())
        hidden.stop_gradient = False
        forward = (lambda *inputs, layer=layer: recompute(layer, *inputs)) if again else layer
        for _ in range(2):  # the second call draws another mask
            (forward(hidden, kv_lengths, mask) ** 2).sum().backward()
        gradients.append([hidden.grad.numpy(), *(p.grad.numpy() for p in layer.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        np.testing.assert_array_equal(plain, recomputed)
