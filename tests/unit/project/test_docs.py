"""The documentation's promises: paths and links lead somewhere, and prose is idiomatic."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.support import prose

ROOT = Path(__file__).parents[3]
PATH = re.compile(
    r"(?<![\w/.-])(?:server|learner|env_adapters|migrations|clients|tests|benchmarks|examples|docs|deploy)/(?:[\w.-]+/)*[\w.-]*\w/?"
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def tracked(*endings: str) -> list[Path]:
    """Return the tracked files with these endings, figures left out."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    return [ROOT / name for name in listed if name.endswith(endings) and "benchmarks/results/" not in name]


def test_every_path_that_prose_names_exists() -> None:
    missing = set()
    for file in tracked(".md", ".py", ".toml", ".yml", ".yaml"):
        if not file.is_file() or file.name.startswith(("CHANGELOG.md", "CONTRIBUTING.md", "test_docs.py", "test_add_")):
            continue
        for found in PATH.findall(file.read_text()):
            path = found.rstrip("/.")
            named = re.search(r"\.(py|md|js|toml|svg|png|txt|json|ya?ml|conf|service)$", path) and "NAME" not in path
            if named and not (ROOT / path).exists():
                missing.add(f"{file.relative_to(ROOT)}: {found}")
    assert missing == set()


def test_every_link_leads_to_a_file() -> None:
    broken = [
        f"{file.relative_to(ROOT)}: {target}"
        for file in tracked(".md")
        for target in LINK.findall(re.sub(r"```.*?```", "", file.read_text(), flags=re.DOTALL))
        if not (file.parent / target).exists()
    ]
    assert broken == []


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text()
    assert [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in index] == []


def test_every_path_in_the_readmes_straight_line_exists() -> None:
    line = (ROOT / "README.md").read_text().split("### The straight line", 1)[1].split("\n## ", 1)[0]
    paths = re.findall(r"(?<![\w/])(?:[a-z_]+/)+(?:[a-z_]+\.[a-z]+)?", line)
    assert len(paths) > 12
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_prose_is_idiomatic() -> None:
    found = [str(finding) for path in prose.files([]) for finding in prose.findings(path)]
    assert found == []


@pytest.mark.parametrize(
    ("name", "text", "construction"),
    [
        ("a.py", '"""The settings and those of others."""\n', "those of others"),
        ("a.py", "x = 1  # this goes on for long\n", "goes on"),
        ("a.py", 'raise ValueError("the cron expression never comes")\n', "never comes"),
        ("a.py", 'x = Option(help="how far it gives way to others")\n', "gives way"),
        ("a.md", "Rewards of before count too.\n", "of before"),
        ("a.md", "What it does\nonce\nmore.\n", "once more"),
        ("a.md", "The optimiser of the learner.\n", "optimiser"),
    ],
)
def test_the_prose_check_finds_an_unidiomatic_construction(
    tmp_path: Path, name: str, text: str, construction: str
) -> None:
    (tmp_path / name).write_text(text)
    assert construction in [finding.found.lower() for finding in prose.findings(tmp_path / name)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.py", 'x = "those of others"\n'),
        ("a.py", "x = 1  # goes on  (prose: ok)\n"),
        ("a.md", "```\nit goes on\n```\n"),
        ("a.md", "The key `goes on` is code.\n"),
    ],
)
def test_the_prose_check_ignores_data_and_code(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert prose.findings(tmp_path / name) == []


def test_the_examples_of_contributing_are_the_ones_that_tests_run() -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    assert len(examples) > 5
    run = "\n".join(file.read_text() for file in (ROOT / "tests" / "unit" / "project").glob("test_add_*.py"))
    lines = [line.strip() for example in examples for line in example.splitlines()]
    registry_lines = [line for line in lines if re.match(r'"\w', line)]
    assert len(registry_lines) == 3
    assert [line for line in lines if line not in run and line not in registry_lines] == []
