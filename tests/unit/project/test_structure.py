"""The project's own promises about itself: where files are, who imports whom, what is documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import server
from server import errors
from server.section import Section
from server.settings import Settings

ROOT = Path(__file__).parents[3]


def test_the_imported_server_is_this_checkout() -> None:
    assert Path(server.__file__).parent == ROOT / "server"


def test_the_import_contract_holds() -> None:
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("module", ["server.app", "server.__main__", "upturn.client", "env_adapters"])
def test_the_server_and_clients_import_no_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in ("server", "learner", "clients", "env_adapters")
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 400
    }
    assert long == {}


def test_every_path_in_the_readmes_straight_line_exists() -> None:
    line = (ROOT / "README.md").read_text().split("## The straight line", 1)[1].split("\n## ", 1)[0]
    paths = re.findall(r"(?<![\w/])(?:[a-z_]+/)+(?:[a-z_]+\.[a-z]+)?", line)
    assert len(paths) > 12
    assert [path for path in paths if not (ROOT / path).exists()] == []


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


def test_every_error_class_is_in_the_drawn_tree() -> None:
    classes = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.UpturnError)
    ]
    assert [name for name in classes if name not in (errors.__doc__ or "")] == []
