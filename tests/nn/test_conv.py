from __future__ import annotations

from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from paddle_infra import nn
from paddle_infra._core.errors import InvalidDtypeError, InvalidInputError
from tests.nn.padded import assert_padding_has_no_effect
from tests.nn.programs import assert_program_is_layer

CASES_1D = [
    {"kernel_size": 3},
    {"kernel_size": 4, "dilation": 2, "groups": 2, "norm": "layer", "activation": "gelu"},
    {"kernel_size": 3, "dilation": 3, "causal": True, "activation": "silu"},
    {"kernel_size": 1, "activation": "none"},
    {"kernel_size": 3, "groups": 4, "activation": "gelu"},
]


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def naive_conv1d(
    x: np.ndarray, layer: paddle.nn.Conv1D, before: int, dilation: int, groups: int
) -> np.ndarray:
    """One row ``[T, C]``; what is outside counts as 0."""
    weight, bias = layer.weight.numpy().astype("float64"), layer.bias.numpy()
    out_channels, group_in, kernel = weight.shape
    out = np.tile(bias.astype("float64"), (len(x), 1))
    for t in range(len(x)):
        for k in range(kernel):
            source = t - before + k * dilation
            if 0 <= source < len(x):
                for o in range(out_channels):
                    group = o // (out_channels // groups)
                    out[t, o] += weight[o, :, k] @ x[source, group * group_in : (group + 1) * group_in]
    return out


@pytest.mark.parametrize(
    ("options", "before"), list(zip([CASES_1D[i] for i in (0, 1, 2, 4)], (1, 2, 6, 1), strict=True))
)
def test_convolution_over_a_sequence_is_its_formula(options: dict, before: int) -> None:
    paddle.seed(0)
    options = {**options, "norm": "none", "activation": "none"}
    layer = nn.ConvBlock1D(4, 8, **options)
    x = array(2, 7, 4)
    got = layer(paddle.to_tensor(x)).numpy()
    for row in range(2):
        expected = naive_conv1d(
            x[row], layer.conv, before, options.get("dilation", 1), options.get("groups", 1)
        )
        np.testing.assert_allclose(got[row], expected, atol=1e-5)


@pytest.mark.parametrize("options", CASES_1D)
@pytest.mark.parametrize("kind", [nn.ConvBlock1D, nn.SeparableConv1D])
def test_padding_has_no_effect(kind: type, options: dict) -> None:
    paddle.seed(0)
    if kind is nn.SeparableConv1D:
        options = {name: value for name, value in options.items() if name != "groups"}
    layer = kind(4, 8, **options)
    assert_padding_has_no_effect(layer, lambda hidden, lengths, mask: [layer(hidden, mask)], 4)


def test_a_causal_block_does_not_look_ahead() -> None:
    paddle.seed(0)
    x, causal, other = paddle.to_tensor(array(1, 6, 4)), nn.ConvBlock1D(4, 4, 3, causal=True), None
    other = x.clone()
    other[0, 3] = 9.0
    changed = (causal(x) != causal(other)).any(axis=-1).numpy()[0]
    assert not changed[:3].any()
    assert changed[3]


def test_separable_convolution_is_a_product_of_two() -> None:
    paddle.seed(0)
    layer = nn.SeparableConv1D(4, 6, 3, activation="none")
    assert layer.depthwise.conv.weight.shape == [4, 1, 3]
    assert layer.pointwise.conv.weight.shape == [6, 4, 1]
    x = array(1, 5, 4)
    inner = naive_conv1d(x[0], layer.depthwise.conv, 1, 1, 4)
    expected = inner @ layer.pointwise.conv.weight.numpy()[:, :, 0].T + layer.pointwise.conv.bias.numpy()
    np.testing.assert_allclose(layer(paddle.to_tensor(x)).numpy()[0], expected, atol=1e-5)


def torch_block(block: nn.ConvBlock2D, image, activation):  # type: ignore[no-untyped-def]
    """A block's numbers in evaluation mode, by PyTorch in float64."""
    torch = pytest.importorskip("torch")
    f = torch.nn.functional

    def parameter(tensor: paddle.Tensor | None):  # type: ignore[no-untyped-def]
        return None if tensor is None else torch.tensor(tensor.numpy()).double()

    conv = block.conv
    out = f.conv2d(
        image,
        parameter(conv.weight),
        parameter(conv.bias),
        stride=conv._stride,
        padding=conv._dilation[0] * (conv._kernel_size[0] // 2),
        dilation=conv._dilation,
        groups=conv._groups,
    )
    if isinstance(block.norm, paddle.nn.BatchNorm2D):
        norm = block.norm
        out = f.batch_norm(
            out, *(parameter(p) for p in (norm._mean, norm._variance, norm.weight, norm.bias)), eps=1e-5
        )
    elif block.norm is not None:
        out = f.group_norm(
            out, block.norm._num_groups, parameter(block.norm.weight), parameter(block.norm.bias)
        )
    return activation(out)


def shake(layer: paddle.nn.Layer) -> paddle.nn.Layer:
    """Give norms weights and statistics that are not 0 and 1."""
    for index, (name, value) in enumerate(layer.state_dict().items()):
        if "norm" in name:
            value.set_value(np.random.default_rng(index).uniform(0.5, 1.5, value.shape).astype("float32"))
    layer.eval()
    return layer


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_image_blocks_equal_pytorch(norm: str, stride: int) -> None:
    torch = pytest.importorskip("torch")
    paddle.seed(0)
    relu, nothing = torch.relu, lambda x: x
    image = array(2, 8, 9, 7)
    x = torch.tensor(image).double()
    block = shake(nn.ConvBlock2D(8, 4, 3, stride=stride, dilation=2, groups=2, norm=norm))
    expected = torch_block(block, x, relu)
    np.testing.assert_allclose(block(paddle.to_tensor(image)).numpy(), expected.numpy(), atol=2e-6)
    assert list(expected.shape[2:]) == [-(-9 // stride), -(-7 // stride)]

    separable = shake(nn.SeparableConv2D(8, 4, 3, stride=stride, norm=norm, activation="silu"))
    silu = torch.nn.functional.silu
    expected = torch_block(separable.pointwise, torch_block(separable.depthwise, x, silu), silu)
    np.testing.assert_allclose(separable(paddle.to_tensor(image)).numpy(), expected.numpy(), atol=2e-6)

    basic = shake(nn.ResidualBlock2D(8, 4, stride=stride, norm=norm))
    branch = torch_block(basic.conv2, torch_block(basic.conv1, x, relu), nothing)
    expected = relu(branch + torch_block(basic.shortcut, x, nothing))
    np.testing.assert_allclose(basic(paddle.to_tensor(image)).numpy(), expected.numpy(), atol=1e-5)

    bottleneck = shake(nn.BottleneckBlock2D(8, 4, stride=stride, norm=norm))
    branch = torch_block(bottleneck.conv2, torch_block(bottleneck.conv1, x, relu), relu)
    expected = relu(
        torch_block(bottleneck.conv3, branch, nothing) + torch_block(bottleneck.shortcut, x, nothing)
    )
    assert expected.shape[1] == 16
    np.testing.assert_allclose(bottleneck(paddle.to_tensor(image)).numpy(), expected.numpy(), atol=1e-5)


def test_a_shortcut_that_changes_nothing_has_no_weights() -> None:
    assert nn.ResidualBlock2D(4, 4).shortcut is None
    assert nn.BottleneckBlock2D(16, 4).shortcut is None
    layer = nn.ResidualBlock2D(4, 4)
    layer.conv2.conv.weight.set_value(paddle.zeros_like(layer.conv2.conv.weight))
    image = paddle.rand([1, 4, 5, 5])
    np.testing.assert_array_equal(layer(image).numpy(), image.numpy())


def test_programs(tmp_path: Path) -> None:
    paddle.seed(0)
    hidden = InputSpec([None, None, 4], "float32", "hidden")
    mask = InputSpec([None, None], "int64", "mask")
    inputs = [
        [paddle.rand([2, 5, 4]), paddle.to_tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])],
        [paddle.rand([1, 1, 4]), paddle.to_tensor([[1]])],
    ]
    assert_program_is_layer(nn.SeparableConv1D(4, 6, 3, norm="layer"), [hidden, mask], inputs, tmp_path)
    image = InputSpec([None, 3, None, None], "float32", "image")
    images = [[paddle.rand([2, 3, 8, 6])], [paddle.rand([1, 3, 5, 5])]]
    assert_program_is_layer(
        nn.BottleneckBlock2D(3, 2, stride=2, norm="group"), [image], images, tmp_path, tolerance=1e-5
    )


def test_parameter_names() -> None:
    def names(layer: paddle.nn.Layer) -> set[str]:
        return {name for name, _ in layer.named_parameters()}

    assert names(nn.ConvBlock1D(2, 2, 3, norm="layer")) == {
        "conv.weight",
        "conv.bias",
        "norm.weight",
        "norm.bias",
    }
    assert names(nn.ConvBlock2D(2, 2, 3)) == {
        "conv.weight",
        "norm.weight",
        "norm.bias",
        "norm._mean",
        "norm._variance",
    }
    parts = {
        f"{part}.{kind}" for part in ("conv1", "conv2", "shortcut") for kind in names(nn.ConvBlock2D(2, 2, 3))
    }
    assert names(nn.ResidualBlock2D(2, 4)) == parts
    assert {name.partition(".")[0] for name in names(nn.BottleneckBlock2D(2, 4))} == {
        "conv1",
        "conv2",
        "conv3",
        "shortcut",
    }
    assert {name.partition(".")[0] for name in names(nn.SeparableConv2D(2, 2, 3))} == {
        "depthwise",
        "pointwise",
    }


def test_errors() -> None:
    layer = nn.ConvBlock1D(4, 4, 3)
    with pytest.raises(InvalidInputError, match=r"hidden: expected shape \[-1, -1, 4\].*got \[2, 5, 3\]"):
        layer(paddle.rand([2, 5, 3]))
    with pytest.raises(InvalidInputError, match=r"attention_mask: expected shape \[2, 5\].*got \[2, 4\]"):
        layer(paddle.rand([2, 5, 4]), paddle.ones([2, 4]))
    with pytest.raises(InvalidDtypeError, match=r"attention_mask: expected dtype .* got uint8"):
        layer(paddle.rand([2, 5, 4]), paddle.ones([2, 5]).astype("uint8"))
    with pytest.raises(InvalidInputError, match=r"groups: expected a divisor of in_channels=4 .*got 3"):
        nn.ConvBlock1D(4, 6, 3, groups=3)
    with pytest.raises(InvalidInputError, match="norm: expected one of 'layer', 'none', got 'batch'"):
        nn.ConvBlock1D(4, 6, 3, norm="batch")
    with pytest.raises(InvalidInputError, match=r"activation: expected one of .*got 'swish'"):
        nn.ConvBlock2D(4, 6, 3, activation="swish")
    with pytest.raises(InvalidInputError, match="kernel_size: expected an odd number, got 2"):
        nn.ConvBlock2D(4, 6, 2)
    with pytest.raises(InvalidInputError, match="group norm expected a multiple of 32 channels, got 40"):
        nn.ConvBlock2D(4, 40, 3, norm="group")
    with pytest.raises(
        InvalidInputError, match=r"image: expected shape \[-1, 4, -1, -1\].*got \[1, 3, 5, 5\]"
    ):
        nn.ConvBlock2D(4, 4, 3)(paddle.rand([1, 3, 5, 5]))
    with pytest.raises(InvalidInputError, match="stride: expected a positive integer, got 0"):
        nn.ResidualBlock2D(4, 4, stride=0)
