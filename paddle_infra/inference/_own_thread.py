"""An engine that runs in a thread of its own, whoever calls it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from paddle_infra.export.engines import Engine
from paddle_infra.export.spec import Arrays


class OwnThread:
    """Wraps ``engine``.

    Paddle's oneDNN keeps what it has prepared for each thread that ever ran a shape, and never forgets it: 290 more
    threads of one call each cost 22 MB (4 layers of width 256), with this class 4 MB; and what one thread has warmed up
    is cold for the next. Handing a call over takes about 0.1 ms.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.name, self.inputs, self.outputs = engine.name, engine.inputs, engine.outputs
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="paddle-infra-engine")

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the engine in its thread, wait for the outputs."""
        return self._thread.submit(self.engine.run, inputs).result()
