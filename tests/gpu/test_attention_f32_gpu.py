"""Float32 attention and its gradients on a GPU: what the emulated kernels are held to, on the real ones.

pytest collects the tests here, with the fixtures of this folder.
"""

from __future__ import annotations

from tests.cuda.test_attention_f32 import *  # noqa: F403
