"""Explanations as HTML that needs nothing else: no script, no external address."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib import resources
from typing import Any

from markupsafe import Markup

from paddle_infra._core.atomic import write_text
from paddle_infra.explain.explanation import Explanation

_TEMPLATE, _STYLE = "explanations.html.j2", "explanations.css"


def explanations_html(
    explanations: Sequence[Explanation], *, title: str = "Explanations", is_page: bool = True
) -> str:
    """Return a page, or a fragment with its own style to put into one. Every text is escaped.

    Tokens are shown as running text on a coloured ground, columns of a table (those with ``values``) as bars, largest
    first. Blue speaks for the target, orange, and a dashed line below a token, against it; depth is relative to the
    example's largest attribution. The numbers are in the tooltips and in a table that unfolds. Colours follow the
    reader's light or dark setting.

    Args:
        explanations: one or several.
        title: heads the page.
        is_page: False for a fragment.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_package_text),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(
        examples=[_example(item) for item in explanations],
        title=title,
        is_page=is_page,
        style=Markup(_package_text(_STYLE)),
    )


def write_explanations(
    path: str | os.PathLike[str], explanations: Sequence[Explanation], *, title: str = "Explanations"
) -> None:
    """Write the page of :func:`explanations_html` to ``path``, atomically.

    Raises:
        StorageError: the file could not be written; an earlier one is kept.
    """
    write_text(path, explanations_html(explanations, title=title))


def _package_text(name: str) -> str:
    return resources.files("paddle_infra.explain").joinpath(name).read_text(encoding="utf-8")


def _example(explanation: Explanation) -> dict[str, Any]:
    largest = max((abs(value) for value in explanation.attributions), default=0.0)
    shares = [abs(value) / largest if largest else 0.0 for value in explanation.attributions]
    rows = [
        {
            "name": name,
            "value": explanation.values[index] if explanation.values else "",
            "number": f"{attribution:+.4f}",
            "side": "against" if attribution < 0 else "for",
            "share": shares[index],
        }
        for index, (name, attribution) in enumerate(
            zip(explanation.features, explanation.attributions, strict=True)
        )
    ]
    ordered = [rows[index] for index in sorted(range(len(rows)), key=lambda index: -shares[index])]
    return {
        "of": explanation, "rows": rows, "ordered": ordered, "is_table": bool(explanation.values), "largest": largest
    }  # fmt: skip
