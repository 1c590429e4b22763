"""Imports point one way: parsed from the source, so that imports inside functions count too."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "paddle_infra"

# What each part may import. `_core` is below everything; `cli` is on top of everything.
ALLOWED = {
    "_core": set(),
    "ops": {"_core"},
    "nn": {"_core", "ops"},
    "models": {"_core", "ops", "nn"},
    "integrations": {"_core", "ops", "nn"},
    "peft": {"_core", "ops", "nn"},
    "data": {"_core"},
    "train": {"_core"},
    "explain": {"_core"},
    "export": {"_core", "ops"},
    "report": {"_core"},
    "summary": {"_core"},
    "cli": {
        "_core",
        "ops",
        "nn",
        "models",
        "peft",
        "data",
        "train",
        "explain",
        "export",
        "report",
        "summary",
    },
}
# Parts that must load without Paddle: a reader of files or of a report needs no deep-learning library.
WITHOUT_PADDLE = {"data", "report"}


def imported_modules(source: str) -> set[str]:
    modules = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            modules |= {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def parts_of(modules: set[str]) -> set[str]:
    split = [module.split(".") for module in modules]
    return {names[1] for names in split if names[0] == "paddle_infra" and len(names) > 1}


def files() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0]
    modules = imported_modules(path.read_text(encoding="utf-8"))
    wrong = parts_of(modules) - ALLOWED[part] - {part, "_version"}
    assert not wrong, f"{part} may import {sorted(ALLOWED[part])}, but {path.name} imports {sorted(wrong)}"
    if part in WITHOUT_PADDLE:
        assert not any(module.split(".")[0] == "paddle" for module in modules), f"{path.name} imports paddle"


def test_every_part_is_listed() -> None:
    parts = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert parts == set(ALLOWED)


def test_a_wrong_import_is_seen() -> None:
    source = "def f():\n    from paddle_infra.models import BertModel\n    import paddle_infra.cli.main\n"
    assert parts_of(imported_modules(source)) == {"models", "cli"}
    assert parts_of(imported_modules("from paddle_infra import ops\nimport paddle")) == {"ops"}


def test_no_catch_all_modules() -> None:
    names = {path.name for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils.py", "util.py", "common.py", "helpers.py", "misc.py"}


def test_the_trainer_can_be_read_in_one_sitting() -> None:
    lines = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in (PACKAGE / "train").rglob("*.py")
    }
    assert max(lines.values()) <= 400
    assert lines[PACKAGE / "train/trainer.py"] < 300
