"""Norms wherever Paddle runs operators: programs in training, saved programs, Paddle Inference, recompute, ONNX."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

from paddle_infra.ops import add_norm, add_norm_with_sum, embedding_norm, implementation
from tests.ops.fresh_process import python

# Paddle's own, from capturing a program with a gradient.
pytestmark = pytest.mark.filterwarnings("ignore:Tensor do not have 'place' interface:UserWarning")
WORDS, POSITIONS, TYPES, WIDTH = 30, 130, 2, 24


class Block(paddle.nn.Layer):
    """Embeddings, a post-norm and a pre-norm sub-layer, with options by name."""

    def __init__(self, *options: str) -> None:
        super().__init__()
        self.options = options
        self.norm = "rms" if "rms" in options else "layer"
        self.dropout_p = 0.3 if "dropout" in options else 0.0
        self.word = self.create_parameter([WORDS, WIDTH])
        self.position = self.create_parameter([POSITIONS, WIDTH]) if "position" in options else None
        self.token_type = self.create_parameter([TYPES, WIDTH]) if "type" in options else None
        one = paddle.nn.initializer.Constant(1.0)
        self.weights = paddle.nn.ParameterList(
            [self.create_parameter([WIDTH], default_initializer=one) for _ in range(4)]
        )
        self.biases = [None] * 4
        if "bias" in options:
            self.biases = paddle.nn.ParameterList(
                [self.create_parameter([WIDTH], is_bias=True) for _ in range(4)]
            )
        self.linears = paddle.nn.LayerList([paddle.nn.Linear(WIDTH, WIDTH) for _ in range(2)])

    def forward(self, ids, types):
        common = {"norm": self.norm, "dropout_p": self.dropout_p, "training": self.training}
        hidden = embedding_norm(
            ids,
            self.word,
            self.position,
            self.token_type,
            self.weights[0],
            self.biases[0],
            token_type_ids=types if self.token_type is not None else None,
            epsilon=1e-5,
            **common,
        )
        hidden = add_norm(self.linears[0](hidden), hidden, self.weights[1], self.biases[1], **common)
        hidden, stream = add_norm_with_sum(
            self.linears[1](hidden), hidden, self.weights[2], self.biases[2], **common
        )
        return add_norm(hidden + stream, None, self.weights[3], self.biases[3], **common)


def batch(rows=2, length=7):
    rng = np.random.default_rng([rows, length])
    return rng.integers(0, WORDS, (rows, length)), rng.integers(0, TYPES, (rows, length))


def tensors(*arrays):
    return [paddle.to_tensor(array) for array in arrays]


def train(layer, forward):
    optimizer = paddle.optimizer.Adam(0.02, parameters=layer.parameters())
    losses = []
    for step in range(7):
        ids, types = tensors(*batch(2 + step % 2, 7 + step % 3))
        target = paddle.cos(ids.astype("float32")).unsqueeze(-1)
        loss = ((forward(ids, types) - target) ** 2).mean()
        loss.backward()
        assert all(parameter.grad is not None for parameter in layer.parameters())
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize("impl", ["fused", "reference"])
@pytest.mark.parametrize("full_graph", [True, False], ids=["ast", "sot"])
@pytest.mark.parametrize(
    "options",
    [("bias", "position", "type"), (), ("bias", "rms", "position"), ("type",), ("rms",)],
    ids="-".join,
)
def test_to_static_training_equals_dygraph(impl, full_graph, options):
    results = []
    for is_static in (False, True):
        paddle.seed(5)
        layer = Block(*options)
        with implementation(impl):
            forward = paddle.jit.to_static(layer, full_graph=full_graph) if is_static else layer
            results.append(train(layer, forward))
    assert results[1] == pytest.approx(results[0], rel=1e-4)
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
    found = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
    again = loaded(*(paddle.to_tensor(data[name]) for name in ("ids", "types"))).numpy()
    for result in (found, again):
        print("error", result.shape == data["out"].shape, abs(result - data["out"]).max())
ids, types = (paddle.to_tensor(data[name]) for name in ("ids", "types"))
long = paddle.zeros([1, 131], "int64")
for bad in ((ids + 100, types), (ids, types[:, :2]), (long, long)):
    try:
        loaded(*bad)
    except ValueError as error:
        print("refused", " ".join(str(error).split()))
"""


def save(layer, path):
    spec = [paddle.static.InputSpec([None, None], "int64", name=name) for name in ("ids", "types")]
    with implementation("fused"):
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(path))


def test_saved_program_runs_in_a_fresh_process_with_other_sizes(tmp_path):
    layer = Block("bias", "position", "type", "dropout")
    layer.eval()
    save(layer, tmp_path / "block")
    program = (tmp_path / "block.json").read_text()
    for name in ("embedding_norm_position_type", "add_norm_bias", "add_norm_sum_bias", "norm_bias"):
        assert f"paddle_infra_{name}" in program
    sizes = [(1, 1), (2, 7), (5, 3), (3, 130)]
    for i, size in enumerate(sizes):
        ids, types = batch(*size)
        with paddle.no_grad():
            out = layer(*tensors(ids, types))
        np.savez(tmp_path / f"data{i}.npz", ids=ids, types=types, out=out.numpy())
    lines = [line.split(maxsplit=1) for line in python(PREDICT, str(tmp_path), str(len(sizes))).splitlines()]
    errors = [text.split() for kind, text in lines if kind == "error"]
    assert len(errors) == 2 * len(sizes)
    for same_shape, error in errors:
        assert same_shape == "True"
        assert float(error) < 1e-5
    refused = [text for kind, text in lines if kind == "refused"]
    assert len(refused) == 3
    assert "embedding_norm: ids[0, 0]: expected a number in [0, 30), got 1" in refused[0]
    assert "embedding_norm: token_type_ids: expected shape [3, 130] or [130], got [3, 2]" in refused[1]
    assert (
        "embedding_norm: position: expected at least 131 rows, a position for each token, got 130"
        in refused[2]
    )


class Dropout(paddle.nn.Layer):
    """Linear in its parameter as long as the mask is the same."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = self.create_parameter([1], default_initializer=paddle.nn.initializer.Constant(1.0))

    def forward(self, hidden):
        _, stream = add_norm_with_sum(
            self.factor * hidden, paddle.zeros_like(hidden), dropout_p=0.5, impl="fused"
        )
        return stream


@pytest.fixture
def hidden():
    return paddle.to_tensor(np.random.default_rng(0).standard_normal((3, 5, 8)).astype("float32"))


def test_dropout_of_a_program_is_new_in_every_run_and_repeats_with_the_seed(hidden, tmp_path):
    program = paddle.jit.to_static(
        Dropout(), input_spec=[paddle.static.InputSpec([None, None, 8], "float32")], full_graph=True
    )
    paddle.jit.save(program, str(tmp_path / "dropout"))
    for forward in (program, paddle.jit.load(str(tmp_path / "dropout"))):
        runs = []
        for seed in (3, 3, 4):
            paddle.seed(seed)
            runs.append([forward(hidden).numpy() for _ in range(2)])
        np.testing.assert_array_equal(runs[0], runs[1])
        assert (runs[0][0] != runs[0][1]).any()
        assert (runs[0][0] != runs[2][0]).any()
    paddle.seed(3)
    np.testing.assert_array_equal(Dropout()(hidden).numpy(), runs[0][0])


@pytest.mark.parametrize("is_static", [False, True])
def test_backward_drops_what_forward_dropped(hidden, is_static):
    layer = paddle.jit.to_static(Dropout(), full_graph=True) if is_static else Dropout()
    hidden.stop_gradient = False
    out = layer(hidden)
    out.sum().backward()
    assert float((hidden.grad * hidden).sum()) == pytest.approx(float(out.sum()), rel=1e-4)


def test_recompute_with_dropout_gives_the_same_gradient():
    rng = np.random.default_rng(2)
    arrays = [rng.standard_normal(shape).astype("float32") for shape in ([4, 8], [4, 8], [8], [8])]

    def forward(hidden, residual, weight, bias):
        out, stream = add_norm_with_sum(hidden, residual, weight, bias, dropout_p=0.4)
        return add_norm(out, stream, weight, norm="rms", dropout_p=0.4)

    gradients = []
    for again in (False, True):
        paddle.seed(11)
        leaves = [paddle.to_tensor(array, stop_gradient=False) for array in arrays]
        for _ in range(2):  # the second call draws other masks
            out = recompute(forward, *leaves) if again else forward(*leaves)
            (out**2).sum().backward()
        gradients.append([leaf.grad.numpy() for leaf in leaves])
    for plain, recomputed in zip(*gradients, strict=True):
        np.testing.assert_array_equal(plain, recomputed)


@pytest.mark.parametrize("options", [("bias", "position", "type"), ("rms", "position", "type")], ids="-".join)
def test_onnx(options, tmp_path):
    pytest.importorskip("paddle2onnx")
    pytest.importorskip("onnxruntime")
    from paddle_infra.export import to_onnx

    layer = Block(*options)
    layer.weights[1].stop_gradient = True  # the reference takes another way for frozen weights
    layer.eval()
    ids, types = batch(3, 9)
    axes = {name: {0: "batch", 1: "length"} for name in ("ids", "types")}
    report = to_onnx(
        layer, tmp_path / "block", {"ids": ids, "types": types}, dynamic_axes=axes, output_names=("out",)
    )
    assert report.verification.max_error < 1e-5
