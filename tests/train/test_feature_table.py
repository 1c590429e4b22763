"""The table of features in docs/train.md: every claim of ours names a test, and the test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/train.md"
COLUMNS = (
    "feature",
    "paddle_infra",
    "Hugging Face",
    "Lightning",
    "PaddleNLP",
    "PaddleFormers",
    "paddle.Model",
    "test",
)
ANSWER = re.compile(r"(yes|no)( \(.+\))?|partly \(.+\)|not found")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def rows_of(page: str) -> list[list[str]]:
    """The cells of every line of every table, without the lines below headers."""
    lines = [line for line in page.splitlines() if line.startswith("|") and not line.startswith("|---")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def functions_of(path: Path) -> set[str]:
    """The names of the test functions that pytest collects from a file."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {node.name for node in body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def problems_of(page: str) -> list[str]:
    """What is wrong with the tables of a page."""
    problems = []
    for row in rows_of(page):
        if tuple(row) == COLUMNS:
            continue
        if len(row) != len(COLUMNS):
            problems.append(f"{row[0]}: expected {len(COLUMNS)} cells, got {len(row)}")
            continue
        feature, *answers, tests = row
        problems += [f"{feature}: {cell!r}" for cell in answers if not ANSWER.fullmatch(cell)]
        found = TEST.findall(tests)
        if ", ".join(f"`{file}::{name}`" for file, name in found) != tests:
            problems.append(f"{feature}: expected `tests/file.py::test_name`, got {tests!r}")
        if answers[0].startswith(("yes", "partly")) and not found:
            problems.append(f"{feature}: no test shows it")
        for file, name in found:
            if not (ROOT / file).is_file():
                problems.append(f"{feature}: there is no {file}")
            elif name not in functions_of(ROOT / file):
                problems.append(f"{feature}: there is no {name} in {file}")
    return problems


def test_every_claim_names_a_test_that_exists() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = rows_of(page)
    headers = [row for row in rows if tuple(row) == COLUMNS]
    assert len(headers) == page.count("\n|---")
    features = [row[0] for row in rows if tuple(row) != COLUMNS]
    assert len(features) == len(set(features)) > 20
    assert not problems_of(page)


@pytest.mark.parametrize(
    ("ours", "tests", "problem"),
    [
        ("yes", "`tests/train/test_feature_table.py::test_of_yesterday`", "there is no test_of_yesterday in"),
        ("yes", "`tests/train/test_nothing.py::test_x`", "there is no tests/train/test_nothing.py"),
        ("yes", "", "no test shows it"),
        ("partly (half)", "soon", "expected `tests/file.py::test_name`, got 'soon'"),
        ("of course", "`tests/train/test_feature_table.py::functions_of`", "'of course'"),
    ],
)
def test_a_claim_without_proof_is_found(ours: str, tests: str, problem: str) -> None:
    others = ["yes", "no (why)", "partly (how)", "not found", "no"]
    page = "| " + " | ".join(["a feature", ours, *others, tests]) + " |"
    assert any(problem in found for found in problems_of(page))


def test_a_row_that_is_too_short_is_found() -> None:
    assert problems_of("| a feature | yes |") == ["a feature: expected 8 cells, got 2"]
