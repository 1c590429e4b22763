"""Two towers: users and items as vectors in one space, for retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from paddle import Tensor, nn

from paddle_infra.models.base import PretrainedModel
from paddle_infra.models.config import ModelConfig
from paddle_infra.nn import ContrastiveLoss, DenseStack, Linear, TableFeatures
from paddle_infra.nn._geometry import unit


@dataclass(frozen=True)
class FeaturesConfig(ModelConfig):
    """The columns of a row: see :class:`paddle_infra.nn.TableFeatures`."""

    model_type = "features"
    vocab_sizes: tuple[int, ...] = ()
    num_numbers: int = 0
    bag_vocab_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class TwoTowerConfig(ModelConfig):
    """Sizes of a :class:`TwoTowerModel`.

    ``embedding_size`` is the width of a column's vector, ``hidden_sizes`` those of each tower's layers, ``output_size``
    that of the space that both share. ``temperature`` divides the cosines in the loss.
    """

    model_type = "two_tower"
    user: FeaturesConfig = field(default_factory=lambda: FeaturesConfig(vocab_sizes=(1,)))
    item: FeaturesConfig = field(default_factory=lambda: FeaturesConfig(vocab_sizes=(1,)))
    embedding_size: int = 32
    hidden_sizes: tuple[int, ...] = (64,)
    output_size: int = 32
    dropout: float = 0.0
    temperature: float = 0.1
    learned_temperature: bool = False


class Tower(nn.Layer):
    """The columns of a row to one vector of length 1; inputs as of :class:`paddle_infra.nn.TableFeatures`."""

    def __init__(self, features: FeaturesConfig, config: TwoTowerConfig) -> None:
        super().__init__()
        self.features = TableFeatures(
            features.vocab_sizes, features.num_numbers, features.bag_vocab_sizes, width=config.embedding_size
        )
        self.stack = DenseStack(self.features.size, config.hidden_sizes, dropout=config.dropout)
        self.output = Linear(self.stack.size, config.output_size)

    def forward(
        self,
        categories: Tensor | None = None,
        numbers: Tensor | None = None,
        bags: Tensor | None = None,
        bag_lengths: Tensor | None = None,
    ) -> Tensor:
        """Return the vectors, ``[batch_size, output_size]``."""
        return unit(self.output(self.stack(self.features(categories, numbers, bags, bag_lengths))))


class TwoTowerModel(PretrainedModel):
    """A tower for users and one for items; the cosine of their vectors says how well they fit.

    Both take the columns of a row as keyword arguments ``categories``, ``numbers``, ``bags`` and ``bag_lengths`` (see
    :class:`paddle_infra.nn.TableFeatures`), here as a mapping of these names. For retrieval, encode all items once and
    find the nearest to a user's vector; ``model.user`` and ``model.item`` are Layers that can be exported each on its
    own.

    References:
        Covington et al., "Deep neural networks for YouTube recommendations", RecSys 2016; Yi et al.,
        "Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019.
    """

    config_class = TwoTowerConfig

    def __init__(self, config: TwoTowerConfig) -> None:
        super().__init__(config)
        self.user = Tower(config.user, config)
        self.item = Tower(config.item, config)
        self.contrast = ContrastiveLoss(
            config.temperature, learned=config.learned_temperature, normalize=False
        )

    def encode_users(self, **features: Tensor) -> Tensor:
        """Return the users' vectors, of length 1: ``[batch_size, output_size]``."""
        return self.user(**features)

    def encode_items(self, **features: Tensor) -> Tensor:
        """Return the items' vectors, of length 1: ``[batch_size, output_size]``."""
        return self.item(**features)

    def forward(self, user: Mapping[str, Tensor], item: Mapping[str, Tensor]) -> Tensor:
        """Return the cosine of each user with the item in the same row: ``[batch_size]``, from -1 to 1."""
        return (self.user(**user) * self.item(**item)).sum(axis=-1)

    def loss(
        self,
        user: Mapping[str, Tensor],
        item: Mapping[str, Tensor],
        *,
        item_ids: Tensor | None = None,
        log_probability: Tensor | None = None,
        negatives: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Return the loss of finding the item of each user among the items of the batch.

        Args:
            user: the users' columns.
            item: the columns of the item that each user chose.
            item_ids: int64 ``[batch_size]``; an item that is there twice then counts once, and is no negative of its
                own users.
            log_probability: log of each item's share of all choices, float ``[batch_size]``: items that are often in a
                batch are often negatives, which this makes up for.
            negatives: columns of further items, negatives of all users.

        Returns:
            0-D; see :class:`paddle_infra.nn.ContrastiveLoss`.

        Raises:
            InvalidDtypeError: an argument has an unsuitable dtype.
            InvalidInputError: shapes do not fit, or columns are missing.
        """
        return self.contrast(
            self.user(**user),
            self.item(**item),
            None if negatives is None else self.item(**negatives),
            ids=item_ids,
            log_probability=log_probability,
        )
