"""What the operators do under ``paddle.amp.auto_cast``, which itself does not see custom operators.

* Matrix products (attention, linear layers, heads) take their float32 inputs in the 16-bit format of the context:
  as Paddle's own products do. Sums, softmax and losses stay float32 inside.
* Norms take 16-bit inputs in float32, as Paddle's own do.

The casts are part of the graph, so gradients come back in the format of the inputs. Paddle switches automatic
mixed precision off on a CPU; there nothing is cast.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle.base import core, framework


def narrow(*tensors: Any) -> tuple[Any, ...]:
    """Return the tensors, float32 ones in the format of automatic mixed precision where that is on."""
    name = _format()
    return tensors if name is None else _cast(tensors, (paddle.float32,), name)


def widen(*tensors: Any) -> tuple[Any, ...]:
    """Return the tensors, 16-bit ones in float32 where automatic mixed precision is on."""
    return tensors if _format() is None else _cast(tensors, (paddle.float16, paddle.bfloat16), "float32")


def _format() -> str | None:
    tracer = framework._dygraph_tracer()
    if tracer is None or tracer._amp_level == core.AmpLevel.O0:
        return None
    return str(tracer._amp_dtype)


def _cast(tensors: tuple[Any, ...], dtypes: tuple[paddle.dtype, ...], name: str) -> tuple[Any, ...]:
    # Whatever is no tensor is refused by the operator, with its name.
    return tuple(t.cast(name) if isinstance(t, paddle.Tensor) and t.dtype in dtypes else t for t in tensors)
