"""Sphinx: Markdown pages and the API reference generated from the docstrings."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parent.parent

project = "paddle_infra"
author = "The paddle_infra authors"
release = runpy.run_path(str(ROOT / "paddle_infra/_version.py"))["__version__"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"paddle_infra {release}"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Shapes", "notes_style")]
nitpicky = False
# Type checkers see Paddle as untyped; links to its classes have no target here.
suppress_warnings = ["ref.python", "myst.xref_missing"]
