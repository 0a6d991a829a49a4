"""Sphinx's settings: the same Markdown as in the repository, as pages with a search and a table of contents.

`python3 run.py docs` builds them into `build/docs`. The sections of `docs/README.md` are the table of contents.
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
INDEX = "docs/README"

project = "Upturn"
author = "the Upturn authors"
version = release = re.findall(
    r'__version__ = "(.+)"', (ROOT / "clients" / "python" / "upturn" / "__init__.py").read_text()
)[0]
extensions = ["myst_parser"]
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "docs/**/*.md", "clients/*/README.md"]
exclude_patterns = ["docs/site"]
root_doc = "README"
myst_heading_anchors = 4
myst_all_links_external = False
html_theme = "furo"
html_title = f"Upturn {version}"
html_favicon = "favicon.svg"
html_static_path: list[str] = []
html_copy_source = False
html_show_sphinx = False
suppress_warnings = [
    "myst.header",  # A page of the repository may begin with any level.
    "misc.highlighting_failure",  # Excerpts of JSON with "..." in them.
]


def contents() -> str:
    """Return the table of contents: the sections of the index and the pages that each lists."""
    text, parts = (ROOT / f"{INDEX}.md").read_text(), []
    for caption, listed in re.findall(r"^\*\*(.+)\*\*\n\n((?:(?:- |  ).*\n)+)", text, re.MULTILINE):
        found = re.findall(r"^- \[[^\]]*\]\(([^)]+)\.md\)", listed, re.MULTILINE)
        pages = [normpath(f"docs/{page}") for page in found]
        parts.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]))
    return "\n\n".join(parts)


def add_contents(_app: Any, name: str, source: list[str]) -> None:
    """Add the table of contents to the first page, and the pages of its folder to the first page of a folder."""
    if name == root_doc:
        index = "```{toctree}\n:hidden:\n\n" + INDEX + "\n```\n\n"
        clients = "```{toctree}\n:hidden:\n:glob:\n:caption: Clients\n\nclients/*/README\n```\n"
        source[0] += f"\n\n{index}{contents()}\n\n{clients}"
    elif name.startswith("docs/") and name.endswith("/README") and name != INDEX:
        source[0] += "\n\n```{toctree}\n:hidden:\n:glob:\n\n*\n```\n"


def setup(app: Any) -> None:
    """Connect the table of contents."""
    app.connect("source-read", add_contents)
