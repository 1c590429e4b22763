"""What is timed on GPUs: cases of each kernel in bfloat16, with the operations and bytes that they need at least."""

from __future__ import annotations

from typing import NamedTuple


class Attention(NamedTuple):
    """Attention of a sequence to itself, or the gradients of that."""

    batch: int
    length: int
    heads: int
    head_dim: int
    is_causal: bool
    is_backward: bool = False

    @property
    def kernel(self) -> str:
        """What rows of the same kind have in common."""
        return "attention, backward" if self.is_backward else "attention, forward"

    @property
    def label(self) -> str:
        """The sizes."""
        sizes = f"{self.batch} × {self.length} × {self.heads} × {self.head_dim}"
        return sizes + (", causal" if self.is_causal else "")

    @property
    def operations(self) -> float:
        """Two per multiply-add of the pairs that are visible: two products forward, five backward."""
        pairs = self.length * (self.length + 1) / 2 if self.is_causal else self.length**2
        products = 5 if self.is_backward else 2
        return 2.0 * products * self.batch * self.heads * pairs * self.head_dim

    @property
    def bytes_moved(self) -> float:
        """Query, key, value and result, each once; backward also their gradients. Statistics of rows are little."""
        arrays = 8 if self.is_backward else 4
        return 2.0 * arrays * self.batch * self.length * self.heads * self.head_dim


class Decode(NamedTuple):
    """A new token of each sequence against a cache of ``length`` keys, all of them there."""

    batch: int
    length: int
    heads: int
    kv_heads: int
    head_dim: int

    kernel = "attention to a cache"

    @property
    def label(self) -> str:
        """The sizes."""
        return f"{self.batch} × {self.length} × {self.heads} ({self.kv_heads}) × {self.head_dim}"

    @property
    def operations(self) -> float:
        """Two per multiply-add."""
        return 4.0 * self.batch * self.heads * self.length * self.head_dim

    @property
    def bytes_moved(self) -> float:
        """The cache once, query and result."""
        return 4.0 * self.batch * self.head_dim * (self.length * self.kv_heads + self.heads)


class Head(NamedTuple):
    """Cross entropy of a linear layer, or that and its gradients."""

    rows: int
    features: int
    classes: int
    has_backward: bool = False

    @property
    def kernel(self) -> str:
        """What rows of the same kind have in common."""
        return "linear_cross_entropy, " + ("forward and backward" if self.has_backward else "forward")

    @property
    def label(self) -> str:
        """The sizes."""
        return f"{self.rows} × {self.features} × {self.classes}"

    @property
    def operations(self) -> float:
        """Two per multiply-add of one product, or three: what is computed twice to save memory does not count."""
        return 2.0 * (3 if self.has_backward else 1) * self.rows * self.features * self.classes

    @property
    def bytes_moved(self) -> float:
        """Hidden and weight once, their gradients once."""
        return (2.0 if self.has_backward else 1.0) * 2 * self.features * (self.rows + self.classes)


class Topk(NamedTuple):
    """The ``k`` most probable classes."""

    rows: int
    features: int
    classes: int
    k: int

    kernel = "linear_topk"

    @property
    def label(self) -> str:
        """The sizes."""
        return f"{self.rows} × {self.features} × {self.classes}, k = {self.k}"

    @property
    def operations(self) -> float:
        """Two per multiply-add."""
        return 2.0 * self.rows * self.features * self.classes

    @property
    def bytes_moved(self) -> float:
        """Hidden and weight once; the result is little."""
        return 2.0 * self.features * (self.rows + self.classes)


Case = Attention | Decode | Head | Topk

_LONG = ((32, 512, 16), (8, 2048, 16), (2, 8192, 16))
_SHORT = ((1, 512, 12), (64, 128, 12))
_HEADS = ((8192, 1024, 30522), (4096, 2048, 50304), (8192, 4096, 128256))

CASES: tuple[Case, ...] = (
    *(Attention(*s, d, causal) for d in (64, 128) for s in (*_LONG, *_SHORT) for causal in (False, True)),
    *(Attention(*s, d, causal, True) for d in (64, 128) for s in _LONG for causal in (False, True)),
    *(Decode(*s, 32, 8, 128) for s in ((1, 8192), (16, 4096), (64, 2048), (8, 32768))),
    Decode(32, 2048, 16, 16, 64),
    *(Head(*sizes, has_backward) for sizes in _HEADS for has_backward in (False, True)),
    Topk(4096, 768, 30522, 5),
    Topk(1, 4096, 128256, 1),
    Topk(32, 4096, 128256, 16),
)
#: Every kind, as small as can be: to try the benchmark itself.
TINY: tuple[Case, ...] = (
    Attention(1, 33, 2, 32, True),
    Attention(1, 33, 2, 32, True, True),
    Decode(2, 40, 4, 2, 32),
    Head(9, 16, 50),
    Head(9, 16, 50, True),
    Topk(5, 16, 40, 3),
)
