"""A small case for every kernel: what compute-sanitizer runs on a GPU, and what always runs emulated."""

from __future__ import annotations

import pytest

from tests.cuda.attention_decode_emulated import EmulatedDecode, check_decode
from tests.cuda.attention_emulated import DTYPES, check_backward, check_forward
from tests.cuda.attention_f32_emulated import EmulatedFloat32Attention, check_f32
from tests.cuda.linear_cross_entropy_emulated import check_float, check_half
from tests.cuda.linear_topk_emulated import check as check_topk
from tests.gpu.conftest import device_of
from tests.ops import linear_topk_cases
from tests.ops.attention_inputs import make_case
from tests.ops.linear_cross_entropy_cases import EVERYTHING
from tests.ops.linear_cross_entropy_cases import make_case as make_head_case

HALF = pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
FORMATS = pytest.mark.parametrize("dtype", list(DTYPES))
DIMS = pytest.mark.parametrize("head_dim", [32, 64, 96, 128])
#: Tails of every tile, two heads to one of keys, a bias whose gradient is a sum over its broadcast axes.
OPTIONS = {"causal": True, "dropout_p": 0.2, "bias": (1, 2, 70, 1), "softcap": 5.0, "kv_lengths": [61]}


@pytest.fixture(scope="module", params=["gpu", "emulated"])
def device(request):
    """Here the emulated ones are not slow."""
    return device_of(request.param)


@HALF
@DIMS
def test_attention(attention, dtype, head_dim):
    case = make_case(1, 70, 67, 2, 1, head_dim, dtype=dtype, **OPTIONS)
    check_forward(attention, case, seed=3)
    check_backward(attention, case, seed=3)


def test_attention_of_rows_that_are_not_aligned(attention):
    case = make_case(1, 70, 67, 2, 1, 17, dtype="bfloat16", bias=(1, 1, 1, 67))
    check_forward(attention, case)
    check_backward(attention, case)


@pytest.mark.parametrize("head_dim", [17, 32, 64, 96, 128, 256])
def test_float32_attention(attention, head_dim):
    kernels = EmulatedFloat32Attention(attention.emulator)
    check_f32(kernels, make_case(1, 70, 67, 2, 1, head_dim, **OPTIONS), seed=3)


@FORMATS
@DIMS
@pytest.mark.parametrize("seq_k", [70, 600], ids=["one_split", "splits"])
def test_attention_to_a_cache(attention, dtype, head_dim, seq_k):
    kernels = EmulatedDecode(attention.emulator)
    check_decode(kernels, make_case(1, 2, seq_k, 4, 2, head_dim, dtype=dtype, causal=True))


@FORMATS
@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize("rows", [20, 140], ids=["few_rows", "rows"])
def test_head(head, dtype, layout, rows):
    # So many classes that products are split along them, and their parts added up.
    case = make_head_case(rows, 40, 1100, **{**EVERYTHING, "weight_layout": layout})
    if dtype == "float32":
        check_float(head, case)
    else:
        check_half(head, case, dtype)


@FORMATS
@pytest.mark.parametrize("layout", ["vd", "dv"])
@pytest.mark.parametrize("rows", [20, 140], ids=["few_rows", "rows"])
def test_topk(topk, dtype, layout, rows):
    check_topk(topk, linear_topk_cases.make_case(rows, 40, 301, 5, has_bias=True, layout=layout), dtype)
