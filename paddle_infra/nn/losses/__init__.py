"""Losses of embeddings: what belongs together is near, what does not is far."""

from paddle_infra.nn.losses.contrastive import ContrastiveLoss
from paddle_infra.nn.losses.cosine import CoSENTLoss, CosineEmbeddingLoss
from paddle_infra.nn.losses.supervised_contrastive import SupervisedContrastiveLoss
from paddle_infra.nn.losses.triplet import BatchHardTripletLoss, TripletLoss

__all__ = [
    "BatchHardTripletLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineEmbeddingLoss",
    "SupervisedContrastiveLoss",
    "TripletLoss",
]
