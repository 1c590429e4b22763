"""Paddle's operators on a GPU, on its usual stream and on another, against float64.

Needs a Paddle with CUDA, and operators that were built with it (docs/install.md). The same tests run on the CPU, so
that they are known to work.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager

import numpy as np
import paddle
import pytest

from paddle_infra._core import extension
from paddle_infra.ops import attention_decode, attention_varlen
from tests.cuda.attention_decode_emulated import check_decode
from tests.cuda.attention_emulated import check_backward, check_forward
from tests.cuda.attention_f32_emulated import check_f32, check_results
from tests.cuda.linear_cross_entropy_emulated import check_float
from tests.cuda.linear_topk_emulated import check as check_topk
from tests.ops import attention_cases, linear_cross_entropy_cases, linear_topk_cases
from tests.ops.attention_cases import drawn_seed, make_case, tensors_of
from tests.ops.attention_gold import Gold, gold
from tests.ops.linear_cross_entropy_cases import EVERYTHING

HALF = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
FORMATS = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])


class OnPlace:
    """Has the methods that the checks of tests/cuda ask of kernels; computes with Paddle at a place."""

    def __init__(self, place: str, has_own_stream: bool) -> None:
        self.place, self.has_own_stream = place, has_own_stream

    @contextmanager
    def there(self):
        """Paddle computes at the place. What results are compared with is computed on the CPU, outside of this."""
        paddle.set_device(self.place)
        try:
            with ExitStack() as stack:
                if self.has_own_stream:
                    stack.enter_context(paddle.device.stream_guard(paddle.device.Stream()))
                yield
        finally:
            paddle.set_device("cpu")

    def attention(self, case, seed):
        """Results and gradients, if ``seed`` is of Paddle's generator."""
        with self.there():
            return attention_cases.run(case, "fused", seed)


class Attention(OnPlace):
    """For check_forward, check_backward and check_f32, whose seeds are those of dropout: here it has none."""

    def run(self, case, seed=0, align_to_lengths=False, pad=0):
        return self.attention(case, seed)

    def run_both(self, case, seed=0, align_to_lengths=False):
        found = self.attention(case, seed)
        return {name: value for name, value in found.items() if name not in ("out", "lse")}


class Decode(OnPlace):
    def run(self, case, align_to_lengths=True):
        with self.there(), paddle.no_grad():
            leaves, options = tensors_of(case)
            out = attention_decode(
                *(leaves[n].detach() for n in ("query", "key", "value")), impl="fused", **options
            )
            return {"out": out.astype("float32").numpy()}


class Head(OnPlace):
    def run(self, case, dtype="float32"):
        with self.there():
            return linear_cross_entropy_cases.run(case, "fused")


class Topk(OnPlace):
    def run(self, case, dtype="float32", shift=0):
        assert shift == 0  # Paddle says where its arrays begin
        with self.there():
            return linear_topk_cases.run(case, "auto")  # whatever takes tensors there


def missing_on_gpu() -> str | None:
    """Say why the operators cannot be tried on a GPU."""
    if not paddle.is_compiled_with_cuda():
        return "this Paddle was built without CUDA"
    if paddle.device.cuda.device_count() == 0:
        return "there is no GPU that Paddle can use"
    status = extension.load()
    if not status.is_loaded:
        return status.explain()
    return None if status.build["cuda"] else "the operators were built without CUDA (PADDLE_INFRA_CUDA=1)"


@pytest.fixture(params=[("gpu", False), ("gpu", True), ("cpu", False)], ids=["gpu", "gpu_stream", "cpu"])
def where(request):
    """Arguments of OnPlace."""
    if request.param[0] == "gpu" and (reason := missing_on_gpu()):
        pytest.skip(reason)
    return request.param


@HALF
def test_attention_in_16_bits(where, dtype):
    """With the logarithm of the sums, which has a gradient too."""
    case = make_case(2, 70, 90, 4, 2, 64, dtype=dtype, causal=True, bias=(1, 4, 70, 90), kv_lengths=[90, 33])
    check_forward(Attention(*where), case)
    check_backward(Attention(*where), case)


def test_attention_in_float32(where):
    case = make_case(2, 70, 90, 4, 2, 40, window=(30, 5), bias=(2, 1, 1, 90), alibi=(4,), softcap=5.0)
    check_f32(Attention(*where), case)


def test_dropout_drops_what_it_drops_on_a_cpu(where):
    case = make_case(1, 40, 50, 2, 1, 32, dropout_p=0.4)
    seed = drawn_seed(7)
    if where[0] == "gpu":
        with OnPlace(*where).there():
            seed = drawn_seed(7)
    check_results(Attention(*where).attention(case, 7), gold(case, seed=seed))


def test_packed_sequences(where):
    lengths = [(33, 33), (1, 70), (0, 3), (64, 20)]
    cases = [make_case(1, *each, 4, 2, 32, seed=seed, causal=True) for seed, each in enumerate(lengths)]
    joined = [np.concatenate([getattr(c, name)[0] for c in cases])
              for name in ("query", "key", "value", "grad_out")]  # fmt: skip
    starts = [np.concatenate([[0], np.cumsum(side)]) for side in zip(*lengths, strict=True)]
    with OnPlace(*where).there():
        query, key, value, grad = (paddle.to_tensor(x, stop_gradient=False) for x in joined)
        cu_seqlens = [paddle.to_tensor(x.astype("int32")) for x in starts]
        out = attention_varlen(query, key, value, *cu_seqlens, causal=True, impl="fused")
        out.backward(grad.detach())
        results = {"out": (0, out), "query": (0, query.grad), "key": (1, key.grad), "value": (1, value.grad)}
        found = {name: (side, tensor.numpy()) for name, (side, tensor) in results.items()}
    for b, case in enumerate(cases):
        case.grad_lse[...] = 0.0
        true = gold(case)
        rows = {name: x[None, starts[side][b] : starts[side][b + 1]] for name, (side, x) in found.items()}
        filled = {name: x for name, x in rows.items() if x.size}
        check_results(filled, Gold(true.results, true.magnitudes))


@FORMATS
def test_attention_to_a_cache(where, dtype):
    case = make_case(2, 2, 700, 4, 2, 64, dtype=dtype, causal=True, kv_lengths=[700, 333])
    check_decode(Decode(*where), case)


@pytest.mark.parametrize("options", [{}, EVERYTHING], ids=["plain", "everything"])
def test_loss_of_a_head(where, options):
    check_float(Head(*where), linear_cross_entropy_cases.make_case(65, 49, 257, **options))


@pytest.mark.parametrize("layout", ["vd", "dv"])
def test_most_probable_classes(where, layout):
    case = linear_topk_cases.make_case(65, 49, 257, 5, has_bias=True, layout=layout)
    check_topk(Topk(*where), case, "float32")
