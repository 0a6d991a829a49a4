"""The project's promises about itself: where files are, who imports whom, how large a room may be."""

from __future__ import annotations

import re
import shutil
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import server
from server import errors
from server.section import Section
from server.settings import Settings

ROOT = Path(__file__).parents[3]
PACKAGES = ("server", "learner", "env_adapters", "clients", "migrations")
ROOMS = (*PACKAGES, "tests", "benchmarks", "examples", "docs")
MOST_LINES = 350
MOST_FILES = 20


def modules() -> dict[Path, int]:
    """Return the lines of each module of the project."""
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return {path.relative_to(ROOT): len(path.read_text().splitlines()) for path in found}


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contracts of the checkout at `root`."""
    code = f"import sys; sys.path[:0] = [{str(root)!r}, {str(root / 'clients' / 'python')!r}]\n"
    code += "from importlinter.cli import lint_imports_command as lint; lint(['--no-cache'])"
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)


def test_the_imported_server_is_this_checkout() -> None:
    assert Path(server.__file__).parent == ROOT / "server"


def test_the_import_contracts_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line", "contract"),
    [
        ("server/store/base.py", "import server.app", "server: imports only point down"),
        ("server/rendering/load.py", "import server.engines.protocol", "server: imports only point down"),
        ("learner/horizon.py", "import learner.loop", "no circles between rooms or modules"),
        ("env_adapters/babyai/level.py", "import env_adapters.babyai.oracle", "no circles between rooms or modules"),
        ("learner/step.py", "import server.errors", "packages"),
        ("clients/python/upturn/manifest.py", "import env_adapters", "packages"),
    ],
)
def test_an_upward_import_or_a_circle_breaks_a_contract(tmp_path: Path, module: str, line: str, contract: str) -> None:
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__", "node_modules")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert re.search(rf"^{re.escape(contract)}.*?BROKEN", done.stdout, re.MULTILINE | re.DOTALL), done.stdout


@pytest.mark.parametrize(
    "module",
    ["server.app", "server.__main__", "upturn.client", "upturn.command", "env_adapters", "env_adapters.__main__"],
)
def test_the_server_and_clients_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_modules_are_small() -> None:
    lines = modules()
    assert {str(path): count for path, count in lines.items() if count > MOST_LINES} == {}
    assert statistics.median(count for path, count in lines.items() if path.name != "__init__.py") <= 130


def test_no_folder_holds_many_files() -> None:
    listed = subprocess.run(["git", "ls-files", *ROOMS], cwd=ROOT, capture_output=True, text=True, check=True)
    files = Counter(str(Path(name).parent) for name in listed.stdout.split())
    assert {folder: count for folder, count in files.items() if count > MOST_FILES} == {}


def test_every_error_class_is_in_the_drawn_tree() -> None:
    classes = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.UpturnError)
    ]
    assert [name for name in classes if name not in (errors.__doc__ or "")] == []


def test_every_setting_is_documented_in_the_code_and_in_the_docs() -> None:
    written = (ROOT / "docs" / "settings.md").read_text()
    for name, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, Section):
            for inner, its in section.model_fields.items():
                assert its.description, f"{name}.{inner} has no docstring"
                assert f"`{name}.{inner}`" in written, f"docs/settings.md lacks {name}.{inner}"
        else:
            assert field.description, f"{name} has no docstring"
            assert f"`{name}`" in written, f"docs/settings.md lacks {name}"


def test_each_test_file_has_a_name_of_its_own() -> None:
    listed = subprocess.run(["git", "ls-files", "tests"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = Counter(Path(name).name for name in listed.stdout.split() if Path(name).name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == [], "pytest imports one of them only"
