"""A Transformer decoder of text: the part that encoder-decoders, language models and image captioning share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor, nn

from paddle_infra import ops
from paddle_infra._core.checks import check_choice
from paddle_infra._core.errors import InvalidInputError, UnsupportedError
from paddle_infra.models.config import ModelConfig
from paddle_infra.models.generation import (
    BeamSearch,
    DecoderSteps,
    Generation,
    GenerationLimits,
    GreedySearch,
    LinearScores,
    Sampling,
    UncachedSteps,
    generate,
)
from paddle_infra.nn import (
    DecoderCache,
    LearnedPositions,
    RotaryEmbedding,
    SinusoidalPositions,
    TokenEmbedding,
    TransformerDecoder,
)


@dataclass(frozen=True)
class TextDecoderConfig(ModelConfig):
    """Sizes and kinds of the parts of a :class:`TextDecoder`; the defaults are those of the original Transformer.

    ``positions`` is ``"sinusoidal"``, ``"learned"`` or ``"rotary"``; ``scale_embedding`` multiplies word embeddings by
    the square root of ``hidden_size``; ``tie_output`` makes the word embedding the output's weight too.
    ``label_smoothing`` holds for the loss in training mode. ``begin_id`` is the first input of a decoder,
    ``end_id`` the last token of a sequence.
    """

    model_type = "text_decoder"
    vocab_size: int = 32000
    hidden_size: int = 512
    num_layers: int = 6
    num_heads: int = 8
    num_kv_heads: int | None = None
    intermediate_size: int = 2048
    activation: str = "relu"
    dropout: float = 0.1
    attention_dropout: float = 0.0
    max_positions: int = 512
    positions: str = "sinusoidal"
    norm: str = "layer"
    norm_first: bool = False
    epsilon: float = 1e-5
    use_bias: bool = True
    scale_embedding: bool = True
    tie_output: bool = True
    label_smoothing: float = 0.1
    pad_id: int = 0
    begin_id: int = 1
    end_id: int = 2

    def __post_init__(self) -> None:
        check_choice("positions", self.positions, ("sinusoidal", "learned", "rotary"))
        for name in ("pad_id", "begin_id", "end_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise InvalidInputError(
                    f"{name}: expected one of {self.vocab_size} tokens, got {getattr(self, name)}"
                )


class TextDecoder(nn.Layer):
    """Embedding, Transformer decoder and output layer, whose logits are never stored in training.

    Args:
        config: sizes and parts.
        cross_attention: whether it attends to a memory.
        memory_size: width of the memory; None: ``config.hidden_size``.

    Shapes:
        ``B`` sequences of ``T`` tokens; a memory of ``M`` states. input_ids int64 ``[B, T]`` to hidden states
        ``[B, T, hidden_size]``. A state depends on the tokens up to its own only, so padding on the right changes
        none before it.
    """

    def __init__(
        self, config: TextDecoderConfig, *, cross_attention: bool, memory_size: int | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding = new_embedding(config, config.vocab_size)
        self.stack = TransformerDecoder(
            config.num_layers,
            config.hidden_size,
            config.num_heads,
            config.intermediate_size,
            cross_attention=cross_attention,
            memory_size=memory_size,
            num_kv_heads=config.num_kv_heads,
            rotary=new_rotary(config),
            **layer_options(config),
        )
        self.output_weight = None
        if not config.tie_output:
            self.output_weight = self.create_parameter(
                [config.vocab_size, config.hidden_size],
                default_initializer=nn.initializer.Normal(0.0, config.hidden_size**-0.5),
            )

    def forward(
        self,
        input_ids: Tensor,
        *,
        memory: Tensor | None = None,
        memory_lengths: Tensor | None = None,
        lengths: Tensor | None = None,
        cache: DecoderCache | None = None,
    ) -> Tensor:
        """Return the hidden states.

        Args:
            input_ids: int64 ``[B, T]``; with a cache, the new tokens.
            memory: ``[B, M, memory_size]``; with a cache, needed in the first call only.
            memory_lengths: int ``[B]``: how many states of the memory exist (right-padded); None: all.
            lengths: int ``[B]``: how many of the tokens exist; needed with a cache only.
            cache: from :meth:`new_cache`, in evaluation mode and without gradients.
        """
        embedded = self.embedding(input_ids, lengths=None if cache is None else cache.lengths)
        return self.stack(
            embedded, memory=memory, memory_lengths=memory_lengths, kv_lengths=lengths, cache=cache
        )

    def new_cache(self, batch_size: int, capacity: int) -> DecoderCache:
        """Return an empty cache for ``capacity`` tokens of each sequence."""
        return self.stack.new_cache(batch_size, capacity)

    @property
    def weight(self) -> Tensor:
        """The output layer's weight, ``[vocab_size, hidden_size]``."""
        return self.embedding.word.weight if self.output_weight is None else self.output_weight

    def scores(self, hidden: Tensor) -> LinearScores:
        """Return the next tokens' scores after the states ``[rows, hidden_size]``."""
        return LinearScores(hidden, self.weight)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits ``[..., vocab_size]``."""
        return paddle.matmul(hidden, self.weight, transpose_y=True)

    def loss(self, hidden: Tensor, labels: Tensor, **options: Any) -> Tensor:
        """Return the mean cross entropy over the labels that are not -100 (0-D); the logits are never stored.

        Args:
            hidden: ``[B, T, hidden_size]``.
            labels: int64 ``[B, T]``: the token after each state.
            options: of :func:`paddle_infra.ops.linear_cross_entropy`. Unless it is among them, ``label_smoothing``
                is the configuration's in training mode and 0 in evaluation mode.
        """
        smoothing = self.config.label_smoothing if self.training else 0.0
        return ops.linear_cross_entropy(
            hidden, self.weight, labels, **{"label_smoothing": smoothing, **options}
        )

    def shifted(self, labels: Tensor) -> Tensor:
        """Return the inputs for which ``labels`` come next: ``begin_id``, then all but the last; padding for -100."""
        first = paddle.full_like(labels[:, :1], self.config.begin_id)
        inputs = paddle.concat([first, labels[:, :-1]], axis=1)
        return paddle.where(inputs < 0, paddle.full_like(inputs, self.config.pad_id), inputs)

    def generate(
        self,
        prompt: Tensor | None = None,
        prompt_lengths: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        memory_lengths: Tensor | None = None,
        method: GreedySearch | BeamSearch | Sampling | None = None,
        use_cache: bool = True,
        **limits: Any,
    ) -> Generation:
        """Return sequences that the decoder continues.

        Args:
            prompt: int64 ``[B, L]``, right-padded; None: ``begin_id`` for each row of the memory.
            prompt_lengths: int ``[B]``: how many tokens of the prompts exist; None: all.
            memory: as in :meth:`forward`.
            memory_lengths: as in :meth:`forward`.
            method: how to choose tokens; None: :class:`GreedySearch`.
            use_cache: False computes everything anew in each step, for comparison.
            limits: of :class:`GenerationLimits`; ``end_ids`` and ``pad_id`` are the configuration's unless given.

        Raises:
            UnsupportedError: the model is in training mode.
            InvalidInputError: arguments do not fit, or prompt and ``max_new_tokens`` are more than ``max_positions``.
        """
        if self.training:
            raise UnsupportedError("generate: expected evaluation mode, got training mode: call eval()")
        if prompt is None:
            if memory is None:
                raise InvalidInputError("prompt: expected a tensor, got None, and there is no memory")
            prompt = paddle.full([memory.shape[0], 1], self.config.begin_id, "int64")
        checked = GenerationLimits(
            **{"end_ids": (self.config.end_id,), "pad_id": self.config.pad_id, **limits}
        )
        capacity = prompt.shape[-1] + checked.max_new_tokens - 1  # the last token is not read
        if capacity > self.config.max_positions:
            raise InvalidInputError(
                f"max_new_tokens: expected prompt and new tokens to be at most {self.config.max_positions + 1}, "
                f"got {prompt.shape[-1]} and {checked.max_new_tokens}"
            )
        if use_cache:
            steps: Any = DecoderSteps(self, prompt.shape[0], capacity, memory, memory_lengths)
        else:
            steps = UncachedSteps(self, memory, memory_lengths)
        return generate(steps, prompt, checked, method or GreedySearch(), prompt_lengths=prompt_lengths)


def new_embedding(config: TextDecoderConfig, vocab_size: int) -> TokenEmbedding:
    """Return an embedding of tokens and, unless they are rotary, positions."""
    positions: SinusoidalPositions | LearnedPositions | None = None
    if config.positions == "sinusoidal":
        positions = SinusoidalPositions(config.hidden_size, config.max_positions)
    elif config.positions == "learned":
        positions = LearnedPositions(config.max_positions, config.hidden_size)
    scale = math.sqrt(config.hidden_size) if config.scale_embedding else 1.0
    embedding = TokenEmbedding(
        vocab_size, config.hidden_size, positions=positions, scale=scale, dropout=config.dropout
    )
    nn.initializer.Normal(0.0, config.hidden_size**-0.5)(embedding.word.weight)
    return embedding


def new_rotary(config: TextDecoderConfig) -> RotaryEmbedding | None:
    """Return what turns queries and keys, if positions are rotary."""
    if config.positions != "rotary":
        return None
    return RotaryEmbedding(config.hidden_size // config.num_heads, config.max_positions)


def layer_options(config: TextDecoderConfig) -> dict[str, Any]:
    """Return the arguments that encoder and decoder layers share."""
    return {
        "activation": config.activation,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "epsilon": config.epsilon,
        "norm": config.norm,
        "norm_first": config.norm_first,
        "use_bias": config.use_bias,
    }
