"""Names for attributions, words, text and HTML."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from paddle_infra._core.errors import InvalidInputError
from paddle_infra.explain import (
    Attributions,
    Explanation,
    explanations_html,
    feature_explanations,
    token_explanations,
    write_explanations,
)
from paddle_infra.explain.html import _package_text
from tests.report.test_report_browser import BROWSER, open_page

TOKENS = Explanation(
    ("[CLS]", "un", "##happy", "<b>&"), (0.0, -0.5, -0.25, 1.0), "yes", 1, 0.75, 1.5, 1.25, "occlusion", title="<i>One"
)  # fmt: skip
TABLE = Explanation(
    ("age", "income"), (0.1, -2.0), "bad", 1, 0.9, 2.0, 3.9, "integrated gradients", ("31", "<missing>")
)


def attributions(**values: list[object]) -> Attributions:
    arrays = {name: np.array(value, np.float64) for name, value in values.items()}
    return Attributions(
        arrays, np.array([0, 1]), np.array([0.5, 0.6]), np.array([1.0, 2.0]), np.zeros(2), "occlusion"
    )


def test_tokens_sum_over_the_width() -> None:
    found = token_explanations(
        attributions(e=[[[1, 2], [3, -4]], [[5, 6], [0, 0]]]), "e", [["a", "b"], ["c"]], labels=["no", "yes"]
    )
    assert [item.attributions for item in found] == [(3.0, -1.0), (11.0,)]
    assert [item.label for item in found] == ["no", "yes"]
    assert found[0].delta == 2.0 - 1.0


def test_padding_with_an_attribution_is_refused() -> None:
    with pytest.raises(
        InvalidInputError, match="tokens: expected one for each of 2 places of row 0 that is no padding"
    ):
        token_explanations(attributions(e=[[1, 2], [3, 4]]), "e", [["a"], ["b", "c"]])
    with pytest.raises(InvalidInputError, match=r"name: expected one of \['e'\], got 'x'"):
        token_explanations(attributions(e=[[1], [2]]), "x", [["a"], ["b"]])
    with pytest.raises(InvalidInputError, match="tokens: expected 2, one for each row, got 1"):
        token_explanations(attributions(e=[[1], [2]]), "e", [["a"]])


def test_columns_and_embedded_categories() -> None:
    given = attributions(
        numbers=[[1, 2], [3, 4]], town=[[0.5, 0.5], [1, 1]], kinds=[[[1, 1], [2, 2]], [[0, 0], [0, 1]]]
    )
    found = feature_explanations(
        given,
        {"numbers": ["age", "income"], "town": "town", "kinds": ["k1", "k2"]},
        values=[[31.25, float("nan"), "Ulm", 1, None], [1, 2, 3, 4, 5]],
    )
    assert found[0].features == ("age", "income", "town", "k1", "k2")
    assert found[0].attributions == (1.0, 2.0, 1.0, 2.0, 4.0)
    assert found[0].values == ("31.25", "missing", "Ulm", "1", "missing")
    assert found[1].label == "class 1"
    with pytest.raises(InvalidInputError, match=r"names\['numbers'\]: expected 2 names, got 1"):
        feature_explanations(given, {"numbers": ["age"], "town": "town", "kinds": "k"})
    with pytest.raises(InvalidInputError, match="names: expected those of"):
        feature_explanations(given, {"numbers": ["a", "b"]})
    with pytest.raises(InvalidInputError, match="labels: expected a name for class 1, got 1 names"):
        feature_explanations(given, {"numbers": ["a", "b"], "town": "t", "kinds": "k"}, labels=["only"])


def test_sub_words_to_words() -> None:
    words = TOKENS.grouped([None, 0, 0, 1], ["unhappy", "<b>&"])
    assert words.features == ("unhappy", "<b>&")
    assert words.attributions == (-0.75, 1.0)
    by_offsets = TOKENS.grouped_by_offsets([(0, 0), (0, 2), (2, 7), (7, 12)], "unhappy <b>&")
    assert by_offsets.features == words.features
    assert by_offsets.attributions == words.attributions
    assert sum(words.attributions) == sum(TOKENS.attributions)
    with pytest.raises(
        InvalidInputError, match=r"groups: expected one for 'un', which has attribution -0\.5, got None"
    ):
        TOKENS.grouped([None, None, 0, 1], ["a", "b"])
    with pytest.raises(InvalidInputError, match="groups: expected 4, one for each feature, got 1"):
        TOKENS.grouped([0], ["a"])
    with pytest.raises(InvalidInputError, match="groups: expected below 1 names, got 1"):
        TOKENS.grouped([None, 0, 0, 1], ["a"])


def test_text_shows_every_feature_with_its_side() -> None:
    lines = str(TOKENS).splitlines()
    assert lines[0] == "<i>One: yes, probability 0.7500 (occlusion, delta +0)"
    assert re.fullmatch(r"un +-0\.5000 +-{10}\|", lines[2])
    assert re.fullmatch(r"<b>& +\+1\.0000 +\|\+{20}", lines[4])
    assert "<missing>" in str(TABLE)
    assert TABLE.top(1) == [("income", -2.0)]
    assert json.loads(json.dumps(TABLE.to_dict()))["values"] == ["31", "<missing>"]


def test_sizes_must_agree() -> None:
    with pytest.raises(InvalidInputError, match="got 1 features, 2 attributions, 0 values"):
        Explanation(("a",), (1.0, 2.0), "x", 0, 0.5, 0.0, 0.0, "occlusion")


def test_page_is_escaped_and_needs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_explanations(path, [TOKENS, TABLE], title="<Title>")
    page = path.read_text(encoding="utf-8")
    assert page.lstrip().startswith("<!doctype html>")
    for raw in ("<b>&", "<i>One", "<missing>", "<Title>"):
        assert raw not in page
    assert "&lt;b&gt;&amp;" in page
    assert "&lt;missing&gt;" in page
    tags = set(re.findall(r"<([a-z][a-z0-9]*)", page))
    assert tags.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "form", "a"})
    assert not re.search(r"https?:|url\(|@import", page)
    assert page.count("<section>") == page.count("</section>") == 2
    for tag in ("div", "table", "details", "span", "p", "ul", "li", "tr"):
        assert page.count(f"<{tag}>") + page.count(f"<{tag} ") == page.count(f"</{tag}>"), tag


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on PATH")
def test_the_page_opens_without_a_console_message(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_explanations(path, [TOKENS, TABLE])
    dom, console = open_page(path, tmp_path / "profile")
    assert console == []  # a load that its policy refused would be written here
    assert "&lt;b&gt;&amp;</span>" in dom


def test_tokens_and_bars_carry_side_and_depth() -> None:
    page = explanations_html([TOKENS, TABLE], is_page=False)
    assert "<html" not in page
    assert '<span class="token against shown" style="--share:0.500" title="-0.5000">un</span>' in page
    assert '<span class="token for" style="--share:0.000" title="+0.0000">[CLS]</span>' in page
    assert '<span class="against" style="--share:1.000"></span>' in page
    assert page.index("income") < page.index("age</th>")  # largest first


def test_nothing_to_show_is_shown() -> None:
    empty = Explanation(("a",), (0.0,), "x", 0, 0.5, 0.0, 0.0, "occlusion")
    assert "--share:0.000" in explanations_html([empty])
    assert str(empty).splitlines()[1] == "a  +0.0000                      |"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_readable_on_the_deepest_ground(scheme: str) -> None:
    """Contrast of WCAG 2.2: 4.5 for text; and the two sides differ for those who do not tell red from green."""
    light, dark = _package_text("explanations.css").split("@media (prefers-color-scheme: dark)")
    style = light if scheme == "light" else dark

    def colour(name: str) -> np.ndarray:
        hexadecimal = re.search(rf"--{name}: #(\w{{6}})", style)
        if hexadecimal:
            return np.array([int(hexadecimal[1][i : i + 2], 16) for i in (0, 2, 4)])
        numbers = re.search(rf"--{name}: (\d+), (\d+), (\d+)", style)
        assert numbers
        return np.array([int(number) for number in numbers.groups()])

    def luminance(rgb: np.ndarray) -> float:
        share = rgb / 255
        linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    deep = int(re.search(r"--deep: (\d+)%", style)[1]) / 100  # type: ignore[index]
    for side in ("for", "against"):
        ground = deep * colour(side) + (1 - deep) * colour("sheet")
        bright, dim = sorted((luminance(ground), luminance(colour("ink"))), reverse=True)
        assert (bright + 0.05) / (dim + 0.05) >= 4.5, side
    assert colour("for")[2] > colour("against")[2] + 100  # blue against orange
