"""Attention on a GPU: what the emulated kernels are held to, on the real ones."""

from __future__ import annotations

from tests.cuda.test_attention_fwd import (  # noqa: F401  (pytest collects them here, with this folder's fixture)
    test_every_option_at_once,
    test_lengths_around_tiles,
    test_lengths_may_align_the_mask,
    test_other_head_dimensions_are_padded,
    test_queries_that_see_no_key,
    test_random_cases,
    test_results_do_not_depend_on_the_order_of_threads,
)
