"""Whatever the README and the guides tell a user to type exists, and their Python runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from paddle_infra.cli.config import load_config
from paddle_infra.cli.main import parser

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "README.zh-CN.md", "CONTRIBUTING.md", "docs/install.md", "docs/command_line.md"]
# Their Python is run here; the other guides' by tests of their own packages.
RUN = [
    "README.md",
    "README.zh-CN.md",
    "docs/tutorial.md",
]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[list[str]]:
    lines = (line for block in blocks(page, "shell") for line in block.splitlines())
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


def without_variables(words: list[str]) -> list[str]:
    return [
        word
        for index, word in enumerate(words)
        if "=" not in word or any("=" not in w for w in words[:index])
    ]


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    found = commands(page)
    assert found, f"{page} has no commands: the test has lost sight of them"
    for words in map(without_variables, found):
        program, *arguments = words
        if program == "make":
            assert {word for word in arguments if "=" not in word} <= targets, words
        elif program == "paddle-infra":
            parser().parse_args(arguments)
            for name in (word for word in arguments if word.startswith("examples/")):
                load_config(ROOT / name)
        elif program == "python":
            assert (ROOT / arguments[0]).is_file(), words
        else:
            assert (program, arguments[0]) == ("pip", "install"), words


def test_a_wrong_command_is_seen() -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["trane"])


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(((?!http)[^)#]+)", (ROOT / page).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", RUN)
def test_python_runs_as_typed(page: str, tmp_path: Path) -> None:
    script = "\n".join(blocks(page, "python"))
    assert script.strip()
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_the_configuration_shown_is_complete() -> None:
    """The annotated example of the guide names every key, with valid values."""
    import dataclasses

    import yaml

    (text,) = blocks("docs/command_line.md", "yaml")

    def keys(values: dict, prefix: str = "") -> set[str]:
        return {
            name
            for key, value in values.items()
            for name in (keys(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key})
        }

    config = load_config(ROOT / "examples/ner_conll2003.yaml")
    assert keys(yaml.safe_load(text)) == keys(dataclasses.asdict(config))


@pytest.mark.parametrize("chinese", ["README.zh-CN.md"])
def test_both_readmes_show_the_same_commands(chinese: str) -> None:
    assert commands(chinese) == commands("README.md")
    assert blocks(chinese, "python")[0].count("\n") == blocks("README.md", "python")[0].count("\n")
