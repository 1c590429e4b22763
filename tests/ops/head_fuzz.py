"""Random shapes and options of the losses of a linear layer."""

from __future__ import annotations

from typing import Any

import numpy as np


def random_shape_and_options(seed: int, kind: str) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """A case in which every option is on or off by chance; class counts cover the three modes of the kernels."""
    rng = np.random.default_rng([11, seed])

    def one_of(*values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    most = one_of(17, 17, 60, 500, 500, 2048, 4500)
    # Rows and features are few where classes are many; some cases have more rows than a block of them.
    rows = int(rng.integers(1, 400 if most <= 60 or rng.random() < 0.1 else 80))
    shape = rows, int(rng.integers(1, 70)), int(rng.integers(2, most))
    options: dict[str, Any] = {
        "seed": seed,
        "scale": one_of(0.1, 1.0, 10.0),
        "bias": one_of(True, False),
        "class_weight": one_of(True, False),
        "token_weight": one_of(True, False),
        "softcap": one_of(0.0, 2.0, 30.0),
        "reduction": one_of("mean", "sum", "none"),
        "weight_layout": one_of("vd", "dv"),
    }
    if kind != "binary":
        options["ignored"] = one_of(0.0, 0.3, 0.9)
    if kind == "cross_entropy":
        options |= {"label_smoothing": one_of(0.0, 0.1), "z_loss": one_of(0.0, 1e-3)}
    if kind == "focal":
        options["gamma"] = one_of(0.0, 0.5, 1.0, 2.0, 5.0)
    if kind == "binary":
        options["soft"] = one_of(True, False)
    return shape, options
