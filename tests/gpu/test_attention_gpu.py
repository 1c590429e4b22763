"""Attention on a GPU: what the emulated kernels are held to, on the real ones."""

from __future__ import annotations

import inspect

from tests.cuda import test_attention_bwd, test_attention_fwd


def _without_counting(module):
    """The tests of a module that do not count instructions, which only the emulator can."""
    tests = {name: test for name, test in vars(module).items() if name.startswith("test_")}
    return {name: test for name, test in tests.items() if "take_counters" not in inspect.getsource(test)}


# pytest collects them here, with the fixture of this folder.
globals().update({f"{name}_forward": test for name, test in _without_counting(test_attention_fwd).items()})
globals().update({f"{name}_backward": test for name, test in _without_counting(test_attention_bwd).items()})
