"""What kernels are called: ``kernel<arguments>``, with words for arguments that are only true or false."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable

GENERAL = ("plain", "general")
LAYOUT = ("weight_dv", "weight_vd")
LEFT, RIGHT = ("left_across", "left_inside"), ("right_across", "right_inside")
#: Template arguments of kernels, and of what they are made of, by the position of each: the words for false and true.
FLAGS = {
    "attention_fwd": {2: GENERAL},
    "attention_bwd_query": {2: GENERAL},
    "attention_bwd_key_value": {2: GENERAL},
    "attention_decode_mma": {2: GENERAL},
    "attention_decode_f32": {2: GENERAL},
    "attention_f32_fwd_kernel": {1: GENERAL},
    "attention_f32_bwd_keys": {1: GENERAL},
    "attention_f32_bwd_queries": {1: GENERAL},
    "linear_cross_entropy_fwd": {2: LAYOUT},
    "logit_gradients": {2: LAYOUT},
    "TileProduct": {3: LEFT, 4: RIGHT},
    "FloatProduct": {2: RIGHT},
}


def short_names(symbols: Iterable[str]) -> dict[str, str]:
    """Return ``kernel<arguments>`` of mangled names, without namespaces, parameters and return type."""
    symbols = list(symbols)
    filtered = subprocess.run(
        ["c++filt"], input="\n".join(symbols), capture_output=True, text=True, check=True
    ).stdout
    return {symbol: readable(text) for symbol, text in zip(symbols, filtered.splitlines(), strict=True)}


def readable(demangled: str) -> str:
    """Return the short name of one demangled name."""
    text = demangled.replace("(anonymous namespace)::", "").replace("paddle_infra::", "")
    return _with_words(re.sub(r"\(.*", "", text).removeprefix("void "))


def split_name(key: str) -> tuple[str, list[str]]:
    """Return the name of a kernel, or of a type, and its template arguments, which may be such types."""
    name, _, rest = key.strip().partition("<")
    if not rest:
        return name, []
    arguments, depth = [""], 0
    for character in rest.rstrip()[:-1]:
        depth += {"<": 1, ">": -1}.get(character, 0)
        if character == "," and depth == 0:
            arguments.append("")
        else:
            arguments[-1] += character
    return name, [argument.strip() for argument in arguments]


def _with_words(key: str) -> str:
    name, arguments = split_name(key)
    if not arguments:
        return name
    words = FLAGS.get(name, {})
    named = [words[i][a == "true"] if i in words else _with_words(a) for i, a in enumerate(arguments)]
    return f"{name}<{','.join(named)}>"
