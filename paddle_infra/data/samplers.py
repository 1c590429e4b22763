"""Which samples go together into a batch, as a pure function of (seed, epoch)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from paddle_infra._core.errors import InvalidInputError


class LengthBucketSampler:
    """Batches of samples of similar length, so that little is spent on padding.

    With ``shuffle``, the samples are put in random order, this order is cut into pools of ``pool_batches``
    batches, each pool is sorted by length and cut into batches, and the batches are put in random order.
    Without it, all samples are sorted by length (equal lengths in their given order) and cut: the least
    padding, the same in every epoch.

    Every index is in exactly one batch of an epoch; with ``drop_last`` the one batch that is not full is left
    out. The sampler keeps no state: the same (seed, epoch) gives the same batches in every process, which is
    what makes an exact resume possible.

    Args:
        lengths: length of every sample, [N].
        batch_size: samples per batch.
        shuffle: see above.
        seed: of the random orders, >= 0.
        drop_last: leave out the batch that is not full.
        pool_batches: batches per pool; more means less padding and less random batches.

    Raises:
        InvalidInputError: no lengths, a length or another argument out of range, or ``drop_last`` would leave
            no batch.
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        pool_batches: int = 50,
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        if self._lengths.ndim != 1 or not len(self._lengths):
            raise InvalidInputError(f"expected lengths of shape [N] with N >= 1, got {self._lengths.shape}")
        if self._lengths.min() < 1:
            raise InvalidInputError(f"expected lengths >= 1, got {self._lengths.min()}")
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("pool_batches", pool_batches, 1),
        ):
            if value < least:
                raise InvalidInputError(f"expected {name} >= {least}, got {value}")
        if drop_last and len(self._lengths) < batch_size:
            raise InvalidInputError(
                f"expected at least batch_size={batch_size} samples with drop_last, got {len(self._lengths)}"
            )
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed
        self._drop_last, self._pool_batches = drop_last, pool_batches

    @property
    def num_samples(self) -> int:
        """Number of samples to draw from."""
        return len(self._lengths)

    def __len__(self) -> int:
        """Return the number of batches in every epoch."""
        full, rest = divmod(len(self._lengths), self._batch_size)
        return full if self._drop_last or not rest else full + 1

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the batches of an epoch, each a list of sample indices.

        Raises:
            InvalidInputError: a negative epoch.
        """
        if epoch < 0:
            raise InvalidInputError(f"expected epoch >= 0, got {epoch}")
        size = self._batch_size
        if not self._shuffle:
            order = np.argsort(self._lengths, kind="stable")
            cut = [order[i : i + size].tolist() for i in range(0, len(order), size)]
            return cut[: len(self)]
        random = np.random.default_rng([self._seed, epoch])
        order = random.permutation(len(self._lengths))
        pool = size * self._pool_batches  # whole batches: only the last pool can end in one that is not full
        cut = []
        for start in range(0, len(order), pool):
            part = order[start : start + pool]
            part = part[np.argsort(self._lengths[part], kind="stable")]
            cut += [part[i : i + size].tolist() for i in range(0, len(part), size)]
        cut = cut[: len(self)]
        return [cut[i] for i in random.permutation(len(cut))]

    def padding_fraction(self, epoch: int = 0) -> float:
        """Return which part of an epoch's positions is padding, each batch padded to its longest sample."""
        real = padded = 0
        for batch in self.batches(epoch):
            lengths = self._lengths[batch]
            real += int(lengths.sum())
            padded += int(lengths.max()) * len(batch)
        return 1 - real / padded
