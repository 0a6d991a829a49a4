"""The documentation's pages: built without a warning, with every page in the table of contents, and searchable."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_pages_are_built_from_the_repositorys_markdown(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-c",
        "docs/site",
        ".",
        str(tmp_path / "out"),
    ]
    built = subprocess.run([*command, "-d", str(tmp_path / "trees")], cwd=ROOT, capture_output=True, text=True)
    assert (built.returncode, built.stderr) == (0, "")
    first = (tmp_path / "out" / "README.html").read_text()
    linked = set(re.findall(r'<a class="reference internal" href="([^"#]+)\.html"', first))
    pages = {page.relative_to(ROOT).with_suffix("").as_posix() for page in (ROOT / "docs").glob("**/*.md")}
    assert pages - linked == set(), "not in the table of contents"
    assert "documentation_options" in first or "searchindex" in (tmp_path / "out" / "search.html").read_text()
    assert (tmp_path / "out" / "searchindex.js").stat().st_size > 50_000
