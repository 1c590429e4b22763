from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import paddle
import pytest

from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.models import DecodingStep, EncoderDecoder, EncoderDecoderConfig, EncodingStep
from paddle_infra.models.generation import BeamSearch, GreedySearch, Sampling

TINY = EncoderDecoderConfig(
    vocab_size=20,
    hidden_size=16,
    num_layers=2,
    num_encoder_layers=2,
    num_heads=4,
    intermediate_size=24,
    dropout=0.0,
    max_positions=24,
)
KINDS = {
    "post-norm": TINY,
    "pre-norm, nothing shared": replace(
        TINY, norm_first=True, share_embeddings=False, source_vocab_size=15, tie_output=False
    ),
    "rms, rotary, grouped, gated": replace(
        TINY,
        norm="rms",
        norm_first=True,
        positions="rotary",
        num_kv_heads=2,
        activation="swiglu",
        use_bias=False,
        scale_embedding=False,
    ),
    "learned positions": replace(TINY, positions="learned", activation="gelu"),
}
SOURCE = np.random.default_rng(0).integers(3, 15, (3, 7))
LENGTHS = np.array([7, 4, 1])
LABELS = np.random.default_rng(1).integers(3, 20, (3, 6))
LABELS[1, 4:] = -100
LABELS[2, 1:] = -100


def new_model(config: EncoderDecoderConfig = TINY, seed: int = 0) -> EncoderDecoder:
    paddle.seed(seed)
    model = EncoderDecoder(config)
    for name, value in model.named_parameters():  # biases and norms too: all have an effect
        if value.ndim == 1:
            value.set_value(value + 0.2 * paddle.randn(value.shape))
        assert np.abs(value.numpy()).max() > 0, name
    model.eval()
    return model


def tensors(*arrays: np.ndarray) -> list[paddle.Tensor]:
    return [paddle.to_tensor(each) for each in arrays]


def padded(x: np.ndarray, count: int, fill: int | None = None) -> np.ndarray:
    garbage = np.random.default_rng(count).integers(0, 15, (len(x), count))
    return np.concatenate([x, garbage if fill is None else np.full_like(garbage, fill)], axis=1)


@pytest.mark.parametrize("kind", ["post-norm", "pre-norm, nothing shared"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_loss_and_gradients_are_those_of_pytorch_in_float64(kind: str, smoothing: float) -> None:
    torch = pytest.importorskip("torch")
    from tests.models.torch_seq2seq import TorchEncoderDecoder

    model = new_model(KINDS[kind])
    gold = TorchEncoderDecoder(model)
    inputs = model.decoder.shifted(paddle.to_tensor(LABELS)).numpy()
    assert inputs[:, 0].tolist() == [1, 1, 1]
    assert inputs[1].tolist() == [1, *LABELS[1, :4], 0], (
        "the begin, then the labels, padding for what is ignored"
    )
    expected = gold.logits(SOURCE, LENGTHS, inputs)
    source, lengths, target, labels = tensors(SOURCE, LENGTHS, inputs, LABELS)
    with paddle.no_grad():
        np.testing.assert_allclose(
            model(source, target, lengths).numpy(), expected.detach().numpy(), rtol=1e-4, atol=1e-5
        )
    loss = model.loss(source, labels, lengths, label_smoothing=smoothing)
    wanted = torch.nn.functional.cross_entropy(
        expected.flatten(0, 1), torch.tensor(LABELS).flatten(), label_smoothing=smoothing
    )
    np.testing.assert_allclose(float(loss), wanted.item(), rtol=1e-6)
    loss.backward()
    wanted.backward()
    for name, value in model.named_parameters():
        found, right = value.grad.numpy(), gold.leaves[name].grad.numpy()
        np.testing.assert_allclose(
            found, right, rtol=1e-3, atol=1e-6 + 1e-5 * np.abs(right).max(), err_msg=name
        )


def test_smoothing_is_for_training_only() -> None:
    model = new_model()
    source, lengths, labels = tensors(SOURCE, LENGTHS, LABELS)
    plain = float(model.loss(source, labels, lengths))
    assert plain == float(model.loss(source, labels, lengths, label_smoothing=0.0))
    model.train()
    assert float(model.loss(source, labels, lengths)) == float(
        model.loss(source, labels, lengths, label_smoothing=0.1)
    )
    assert float(model.loss(source, labels, lengths)) != plain


@pytest.mark.parametrize("kind", KINDS)
def test_results_do_not_depend_on_padding(kind: str) -> None:
    config = KINDS[kind]
    results = []
    for extra in (0, 1, 7):
        model = new_model(config)
        source, lengths, labels = tensors(padded(SOURCE, extra), LENGTHS, padded(LABELS, extra, -100))
        loss = model.loss(source, labels, lengths)
        loss.backward()
        gradients = {name: value.grad.numpy() for name, value in model.named_parameters()}
        found = model.generate(source, lengths, method=BeamSearch(3, 3), max_new_tokens=9)
        target = paddle.to_tensor(padded(np.maximum(LABELS, 0), extra))
        with paddle.no_grad():
            logits = model(source, target, lengths).numpy()[:, :6]
        results.append((float(loss), gradients, found, logits))
    loss, gradients, found, logits = results[0]
    for other_loss, other_gradients, other_found, other_logits in results[1:]:
        np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
        np.testing.assert_allclose(other_logits, logits, rtol=1e-4, atol=1e-5)
        for name, value in gradients.items():
            np.testing.assert_allclose(
                other_gradients[name], value, rtol=1e-4, atol=1e-6 + 1e-5 * np.abs(value).max(), err_msg=name
            )
        np.testing.assert_array_equal(other_found.tokens, found.tokens)
        np.testing.assert_allclose(other_found.scores, found.scores, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "method",
    [GreedySearch(), BeamSearch(3, 3), Sampling(0, 2, temperature=1.5)],
    ids=lambda x: type(x).__name__,
)
def test_a_cache_changes_no_token(kind: str, method: object) -> None:
    model = new_model(KINDS[kind])
    source, lengths = tensors(SOURCE, LENGTHS)
    options = {"method": method, "max_new_tokens": 10, "min_new_tokens": 4}
    prompt, prompt_lengths = tensors(np.array([[1, 5, 6], [1, 9, 9], [1, 4, 9]]), np.array([3, 1, 2]))
    for prompts in ({}, {"prompt": prompt, "prompt_lengths": prompt_lengths}):
        found = model.generate(source, lengths, **options, **prompts)
        slow = model.generate(source, lengths, **options, **prompts, use_cache=False)
        np.testing.assert_array_equal(found.tokens, slow.tokens)
        np.testing.assert_allclose(found.scores, slow.scores, rtol=1e-5)
        assert found.steps == slow.steps
        for row in range(3):
            one = {name: value[row : row + 1] for name, value in prompts.items()}
            if isinstance(method, Sampling):
                one["method"] = replace(method, seed=(0,))
                continue  # its draws depend on the place in the batch unless seeds are given
            alone = model.generate(source[row : row + 1], lengths[row : row + 1], **{**options, **one})
            width = alone.tokens.shape[-1]
            np.testing.assert_array_equal(alone.tokens[0], found.tokens[row, :, :width])
            np.testing.assert_allclose(alone.scores[0], found.scores[row], rtol=1e-5)


def test_scores_of_a_beam_are_those_of_the_model() -> None:
    model = new_model()
    source, lengths = tensors(SOURCE, LENGTHS)
    found = model.generate(source, lengths, method=BeamSearch(4, 4, 0.5), max_new_tokens=8)
    for place in range(4):
        tokens = found.tokens[:, place]
        labels = np.where(np.arange(tokens.shape[1]) < found.lengths[:, place, None], tokens, -100)
        for row in range(3):
            loss = model.loss(
                source[row : row + 1], paddle.to_tensor(labels[row : row + 1]), lengths[row : row + 1]
            )
            total = -float(loss) * found.lengths[row, place]
            np.testing.assert_allclose(found.log_probs[row, place], total, rtol=1e-5)
            np.testing.assert_allclose(
                found.scores[row, place], total / found.lengths[row, place] ** 0.5, rtol=1e-5
            )


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_exactly(kind: str, tmp_path: Path) -> None:
    model = new_model(KINDS[kind])
    model.save_pretrained(tmp_path)
    again = EncoderDecoder.from_pretrained(tmp_path)
    again.eval()
    assert again.config == KINDS[kind]
    assert again.load_report.missing == again.load_report.unexpected == ()
    source, target, lengths = tensors(SOURCE, np.maximum(LABELS, 0), LENGTHS)
    with paddle.no_grad():
        np.testing.assert_array_equal(
            again(source, target, lengths).numpy(), model(source, target, lengths).numpy()
        )


def test_parameter_names_are_frozen() -> None:
    names = {
        name for name, _ in new_model(replace(TINY, num_layers=1, num_encoder_layers=1)).named_parameters()
    }
    linear = {"attention.query", "attention.key", "attention.value", "attention.output", "attention_norm"}
    linear |= {"intermediate", "output", "output_norm"}
    cross = {f"cross_attention.{part}" for part in ("query", "key", "value", "output")} | {
        "cross_attention_norm"
    }
    expected = {f"encoder.layers.0.{part}.{kind}" for part in linear for kind in ("weight", "bias")}
    expected |= {
        f"decoder.stack.layers.0.{part}.{kind}" for part in linear | cross for kind in ("weight", "bias")
    }
    assert names == expected | {"decoder.embedding.word.weight"}
    other = {name for name, _ in new_model(KINDS["pre-norm, nothing shared"]).named_parameters()}
    assert {name for name in other if ".layers." not in name} == {
        "source_embedding.word.weight",
        "decoder.embedding.word.weight",
        "decoder.output_weight",
        *(f"{part}.norm.{kind}" for part in ("encoder", "decoder.stack") for kind in ("weight", "bias")),
    }


def test_training_inside_a_program_gives_the_same_loss_and_gradients() -> None:
    source, lengths, labels = tensors(SOURCE, LENGTHS, LABELS)
    small = replace(TINY, num_layers=1, num_encoder_layers=1)
    model, captured = new_model(small), new_model(small)
    model.train()
    captured.train()  # its dropout is 0; in evaluation mode a program gives no gradients
    loss = model.loss(source, labels, lengths)
    loss.backward()
    spec = [
        paddle.static.InputSpec([None, None], "int64"),
        paddle.static.InputSpec([None, None], "int64"),
        paddle.static.InputSpec([None], "int64"),
    ]
    run = paddle.jit.to_static(captured.loss, input_spec=spec, full_graph=True)
    other = run(source, labels, lengths)
    other.backward()
    np.testing.assert_allclose(float(other), float(loss), rtol=1e-6)
    for (name, value), (_, wanted) in zip(captured.named_parameters(), model.named_parameters(), strict=True):
        np.testing.assert_allclose(
            value.grad.numpy(), wanted.grad.numpy(), rtol=1e-4, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize(
    "kind", ["post-norm", *(pytest.param(kind, marks=pytest.mark.slow) for kind in list(KINDS)[1:])]
)
@paddle.no_grad()
def test_saved_programs_of_encoding_and_of_one_step_generate_the_same(kind: str, tmp_path: Path) -> None:
    model = new_model(replace(KINDS[kind], num_encoder_layers=1, num_layers=2 if "rms" in kind else 1))
    config = model.config
    heads, width = config.num_kv_heads or config.num_heads, config.hidden_size // config.num_heads
    spec = paddle.static.InputSpec
    arrays = [spec([config.num_layers, None, None, heads, width], "float32") for _ in range(4)]
    tokens, lengths = spec([None, None], "int64"), spec([None], "int64")
    paddle.jit.save(EncodingStep(model), str(tmp_path / "encoding"), [tokens, lengths])
    paddle.jit.save(
        DecodingStep(model.decoder),
        str(tmp_path / "step"),
        [spec([None, 1], "int64"), spec([None], "int32"), *arrays, lengths],
    )
    encoding, step = (paddle.jit.load(str(tmp_path / name)) for name in ("encoding", "step"))
    for batch in (3, 1):  # the programs know neither batch size nor lengths
        source, lengths = tensors(SOURCE[:batch, : 7 - batch], np.minimum(LENGTHS, 7 - batch)[:batch])
        found = model.generate(source, lengths, max_new_tokens=8, min_new_tokens=8)
        keys_and_values = encoding(source, lengths)
        cache = [paddle.zeros([config.num_layers, batch, 9, heads, width]) for _ in range(2)]
        token = paddle.full([batch, 1], config.begin_id, "int64")
        texts = []
        for place in range(8):
            past = paddle.full([batch], place, "int32")
            logits, *cache = step(token, past, *cache, *keys_and_values, lengths)
            scores = logits.numpy()
            scores[:, config.end_id] = -np.inf
            texts.append(scores.argmax(-1))
            token = paddle.to_tensor(texts[-1][:, None])
        np.testing.assert_array_equal(np.stack(texts, 1), found.tokens[:, 0])


def test_errors() -> None:
    model = new_model()
    source, lengths = tensors(SOURCE, LENGTHS)
    with pytest.raises(InvalidInputError, match="new tokens to be at most 25, got 1 and 25"):
        model.generate(source, lengths, max_new_tokens=25)
    with pytest.raises(InvalidInputError, match="end_id: expected one of 20 tokens, got 20"):
        EncoderDecoderConfig(vocab_size=20, end_id=20)
    with pytest.raises(
        InvalidInputError, match=r"source_vocab_size: expected None or vocab_size=20 .*, got 7"
    ):
        replace(TINY, source_vocab_size=7)
    with pytest.raises(InvalidInputError, match=r"positions: expected one of 'sinusoidal', .*, got 'none'"):
        replace(TINY, positions="none")
    model.train()
    with pytest.raises(UnsupportedError, match=r"generate: expected evaluation mode, got training mode"):
        model.generate(source, lengths)


def test_it_learns_to_reverse() -> None:
    """Sequences of 3 to 8 of 10 letters; 200 that were never seen; exact matches of whole sequences."""
    rng = np.random.default_rng(0)

    def batch(count: int) -> list[paddle.Tensor]:
        lengths = rng.integers(3, 9, count)
        source = rng.integers(3, 13, (count, 8))
        labels = np.full((count, 9), -100)
        for row, length in enumerate(lengths):
            labels[row, :length] = source[row, :length][::-1]
            labels[row, length] = 2
        return tensors(source, labels, lengths)

    paddle.seed(0)
    config = EncoderDecoderConfig(
        vocab_size=13,
        hidden_size=64,
        num_layers=2,
        num_encoder_layers=2,
        num_heads=4,
        intermediate_size=128,
        dropout=0.0,
        max_positions=16,
        norm_first=True,
        label_smoothing=0.0,
    )
    model = EncoderDecoder(config)
    rate = paddle.optimizer.lr.OneCycleLR(3e-3, 500, end_learning_rate=1e-5)
    optimizer = paddle.optimizer.Adam(rate, parameters=model.parameters(), beta2=0.98)
    for _ in range(500):
        model.loss(*batch(64)).backward()
        optimizer.step()
        optimizer.clear_grad()
        rate.step()
    model.eval()
    source, labels, lengths = batch(200)
    exact = {}
    for method in (GreedySearch(), BeamSearch(4)):
        found = model.generate(source, lengths, method=method, max_new_tokens=9)
        tokens = np.pad(found.tokens[:, 0], ((0, 0), (0, 9 - found.tokens.shape[-1])))
        wanted = np.where(labels.numpy() < 0, 0, labels.numpy())
        exact[type(method).__name__] = (tokens == wanted).all(axis=1).mean()
    print(exact)
    assert min(exact.values()) > 0.9, exact
