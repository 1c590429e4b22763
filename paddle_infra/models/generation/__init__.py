"""Token-by-token generation of sequences: greedy, beam search and sampling, for any model that scores next tokens."""

from paddle_infra.models.generation.methods import BeamSearch, GenerationLimits, GreedySearch, Sampling
from paddle_infra.models.generation.result import Generation
from paddle_infra.models.generation.scores import LinearScores
from paddle_infra.models.generation.search import generate
from paddle_infra.models.generation.steps import DecoderSteps, Steps, UncachedSteps

__all__ = [
    "BeamSearch",
    "DecoderSteps",
    "Generation",
    "GenerationLimits",
    "GreedySearch",
    "LinearScores",
    "Sampling",
    "Steps",
    "UncachedSteps",
    "generate",
]
