"""Why a model said what it said: attributions to tokens and columns, and how to show them."""

from paddle_infra.explain.attributions import Attributions
from paddle_infra.explain.baseline import token_baseline
from paddle_infra.explain.explanation import Explanation, feature_explanations, token_explanations
from paddle_infra.explain.html import explanations_html, write_explanations
from paddle_infra.explain.integrated_gradients import integrated_gradients
from paddle_infra.explain.occlusion import occlusion

__all__ = [
    "Attributions",
    "Explanation",
    "explanations_html",
    "feature_explanations",
    "integrated_gradients",
    "occlusion",
    "token_baseline",
    "token_explanations",
    "write_explanations",
]
